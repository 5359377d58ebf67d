"""Pages of the command line, one per command, made from what ``--help`` prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

COLUMNS = 1000  # so wide that every flag stands on one line
ROW = re.compile(r"│ (?P<must>\*)?\s*(?P<names>.+?)\s+<(?P<kind>[^<>]*)>\s+(?P<help>.*?)\s*│")
PANEL = re.compile(r"╭─ (?P<title>.+?) ─+╮")
RUN = "import sys; sys.argv[0] = 'ase-finetune'; from ase_finetune.cli import main; main()"


def command_names() -> list[str]:
    """Return the commands in the order of ``ase-finetune --help``."""
    from ase_finetune.cli.app import app

    found: list[str] = []
    for command in app.registered_commands:
        name = command.name or str(getattr(command.callback, "__name__", ""))
        found.append(name.replace("_", "-"))
    return found


def help_text(*arguments: str) -> str:
    """Return what ``ase-finetune ARGUMENTS --help`` prints, without colors, on long lines."""
    environment = os.environ | {"COLUMNS": str(COLUMNS), "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments, "--help"],
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    return done.stdout


def page(name: str, text: str) -> str:
    """Return the page of a command.

    Raises
    ------
    ValueError
        If a line of the help is not understood, so that no flag is lost silently.
    """
    title = f"ase-finetune {name}"
    parts = [f"{title}\n{'=' * len(title)}"]
    panel = ""
    prose: list[str] = []
    for line in text.splitlines():
        if found := PANEL.match(line):
            if not panel:
                parts += _prose(prose)
            panel = found["title"]
            parts.append(f".. rubric:: {panel}")
            if panel == "Options":
                parts.append(f".. program:: {title}")
        elif line.startswith("│"):
            row = ROW.fullmatch(line)
            if row is None:
                raise ValueError(f"The help of {title} has a line of unknown form: {line.strip()}")
            parts.append(_entry(row, panel))
        elif not panel:
            prose.append(line.strip())
        elif line.strip(" ╰─╯"):
            raise ValueError(f"The help of {title} has a line of unknown form: {line.strip()}")
    return "\n\n".join(parts) + "\n"


def _prose(lines: list[str]) -> list[str]:
    """Return the usage as a listing, and the paragraphs after it."""
    paragraphs = [" ".join(p.split("\n")) for p in "\n".join(lines).split("\n\n")]
    kept = [p.strip() for p in paragraphs if p.strip()]
    usage = kept[0].removeprefix("Usage: ")
    return [f".. code-block:: text\n\n   {usage}", *map(_escaped, kept[1:])]


def _entry(row: re.Match[str], panel: str) -> str:
    names = re.split(r"[,\s]+", row["names"])
    text = _escaped(row["help"])
    if panel != "Options":
        return f"``{row['names']}`` ({row['kind']})\n   {text}"
    value = "" if row["kind"] == "bool" else f" <{row['kind']}>"
    return f".. option:: {', '.join(name + value for name in names)}\n\n   {text}"


def _escaped(text: str) -> str:
    """Return text without markup, but for flags, whose hyphens must stay two."""
    text = re.sub(r"([*|\\]|_(?=\W|$))", r"\\\1", text)
    return re.sub(r"(?<![\w`-])(--[A-Za-z][\w-]*)", r"``\1``", text)


def write_pages(folder: Path) -> None:
    """Write ``index.rst`` and one page per command, where they changed."""
    folder.mkdir(parents=True, exist_ok=True)
    names = command_names()
    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(help_text, names))
    pages = {name: page(name, text) for name, text in zip(names, texts, strict=True)}
    pages["index"] = _index(names, texts)
    for stale in folder.glob("*.rst"):
        if stale.stem not in pages:
            stale.unlink()
    for name, content in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")


def _index(names: list[str], texts: list[str]) -> str:
    rows, tree = [], []
    for name, text in zip(names, texts, strict=True):
        first = [line.strip() for line in text.splitlines() if line.strip()][1]  # after the usage
        rows.append(f"   * - :doc:`{name}`\n     - {_escaped(first)}")
        tree.append(f"   {name}")
    head = (
        "Command line\n============\n\n"
        "Each page holds what the command prints with ``--help``. Hyphens and underscores in the "
        "names of flags are the same. Settings in a YAML file (``--config``) are overruled by "
        "flags. Bad input ends with one sentence and an exit status that is not zero.\n\n"
    )
    table = ".. list-table::\n   :widths: 30 70\n\n" + "\n".join(rows)
    return head + table + "\n\n.. toctree::\n   :hidden:\n\n" + "\n".join(tree) + "\n"
