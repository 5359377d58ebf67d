"""Pages of the command line, one per command, with what ``--help`` prints."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import indent

COLUMNS = 88  # fits the page; narrower screens scroll


def command_names() -> list[str]:
    """Return the commands in the order of ``ase-finetune --help``."""
    from ase_finetune.cli.app import app

    found = []
    for command in app.registered_commands:
        name = command.name or getattr(command.callback, "__name__", "")
        found.append(name.replace("_", "-"))
    return found


def help_text(*arguments: str) -> str:
    """Return what ``ase-finetune ARGUMENTS --help`` prints, without colors."""
    environment = os.environ | {"COLUMNS": str(COLUMNS), "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-m", "ase_finetune.cli", *arguments, "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.rstrip() for line in done.stdout.strip("\n").splitlines()]
    return "\n".join(line for k, line in enumerate(lines) if line or (k and lines[k - 1]))


def write_pages(folder: Path) -> list[Path]:
    """Write ``index.rst`` and one page per command, where they changed."""
    folder.mkdir(parents=True, exist_ok=True)
    names = command_names()
    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(lambda name: help_text(name), names))
    pages = {"index": _index(names)}
    for name, text in zip(names, texts, strict=True):
        title = f"ase-finetune {name}"
        pages[name] = f"{title}\n{'=' * len(title)}\n\n{_literal(text)}"
    for stale in folder.glob("*.rst"):
        if stale.stem not in pages:
            stale.unlink()
    written = []
    for name, content in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")
        written.append(path)
    return written


def _index(names: list[str]) -> str:
    title = "Command line"
    tree = "\n".join(f"   {name}" for name in names)
    return (
        f"{title}\n{'=' * len(title)}\n\n"
        "Each page is what the command prints with ``--help``. Hyphens and underscores in the "
        "names of flags are the same; settings in a YAML file (``--config``) are overruled by "
        "flags; bad input ends with one sentence and a non-zero exit status.\n\n"
        f"{_literal(help_text())}\n.. toctree::\n   :maxdepth: 1\n\n{tree}\n"
    )


def _literal(text: str) -> str:
    return f".. code-block:: text\n\n{indent(text, '   ')}\n"
