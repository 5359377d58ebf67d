"""The `report` command: one run's page again, or a page that compares many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ase_finetune.cli.arguments import Json
from ase_finetune.cli.guard import guarded
from ase_finetune.errors import ConfigError

COMPARISON = "compare.html"


@guarded
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Folders of run, train, properties or evaluate."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help=f"The page  (default: DIR/report.html, or {COMPARISON} for several)"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the page of one run again, or one that compares several, system by system."""
    from ase_finetune.report.compare import document, read_runs, write_comparison
    from ase_finetune.report.page import MARK, read_run, write_report

    target = out if len(folders) == 1 else out or Path(COMPARISON)
    if target is not None and target.is_dir():
        raise ConfigError(f"{target} is a folder; give --out a file such as {COMPARISON}.")
    if target is not None and target.exists() and MARK not in _content(target):
        raise ConfigError(f"{target} exists and is no page of ours; choose another --out.")
    if len(folders) == 1:
        page = write_report(folders[0], target)
        runs = {folders[0].resolve().name: read_run(folders[0], predictions=False)}
    else:
        runs = read_runs(folders)
        page = write_comparison(runs, Path(COMPARISON) if target is None else target)
    if as_json:
        typer.echo(json.dumps({"report": str(page), **document(runs)}, indent=1))
    else:
        typer.echo(f"Report: {page}")


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from error
