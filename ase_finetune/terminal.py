"""What the commands show: progress on stderr, tables on stdout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ase_finetune.stop import stop_if_told

STAGES = {"zero_shot": "zero-shot", "finetuned": "fine-tuned", "refined": "refined"}


class TerminalReporter:
    """Progress bars with an estimate for everything a run does."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=self.console,
        )
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> TerminalReporter:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def note(self, text: str) -> None:
        """Print one line above the bars."""
        self.progress.console.print(text, highlight=False, markup=False)

    def _task(self, title: str, total: int) -> TaskID:
        if title not in self.tasks:
            self.tasks[title] = self.progress.add_task(title, total=total, state="")
        return self.tasks[title]

    def record(self, record: Mapping[str, Any]) -> None:
        """Show an epoch or iteration."""
        stop_if_told()
        if "note" in record:
            self.note(record["note"])
        refining = record["stage"] == "refined"
        title = "refining" if refining else "fine-tuning"
        done = record["evaluations"] if refining else record["epoch"]
        total = record["budget"] if refining else record["epochs"]
        self.progress.update(
            self._task(title, total),
            completed=done,
            state=f"valid {record['valid_force_rmse_meV_per_A']:.1f} meV/A",
        )

    def steps(self, title: str) -> Callable[[int, int], None]:
        """Return a callback that moves a bar of known length."""

        def move(done: int, total: int) -> None:
            stop_if_told()
            self.progress.update(self._task(title, total), completed=done, total=total)

        return move


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def error_table(errors: Mapping[str, Mapping[str, Mapping[str, Any]]], title: str) -> Table:
    """Make a table of errors: set by set (or type by type), one row per stage."""
    table = Table(title=title, title_justify="left")
    table.add_column("frames", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("stage", no_wrap=True)
    for label in ("E meV/atom", "F meV/A", "S meV/A^3"):
        table.add_column(label, justify="right", no_wrap=True)
    for name in dict.fromkeys(name for rows in errors.values() for name in rows):
        for k, (stage, rows) in enumerate(errors.items()):
            row = rows[name]
            table.add_row(
                "" if k else name,
                "" if k else str(row["n_frames"]),
                STAGES.get(stage, stage),
                _number(row["energy_rmse_meV_per_atom"]),
                _number(row["force_rmse_meV_per_A"], 1),
                _number(row["stress_rmse_meV_per_A3"]),
                end_section=k == len(errors) - 1,
            )
    return table


def property_table(properties: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """Make a table of properties beside their references, the relative error in brackets."""
    table = Table(title="Properties (relative error)", title_justify="left")
    table.add_column("property", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("reference", justify="right", no_wrap=True)
    for stage in properties:
        table.add_column(STAGES.get(stage, stage), justify="right", no_wrap=True)
    rows = {name: row for stage in properties.values() for name, row in stage.items()}
    for name, row in rows.items():
        reference = "-" if "_rmse" in name else _significant(row["reference"])
        cells: list[str] = [name, str(row["unit"]), reference]
        for found in properties.values():
            here = found.get(name)
            cells.append("-" if here is None else _with_error(here))
        table.add_row(*cells)
    return table


def _with_error(row: Mapping[str, Any]) -> str:
    error = row["relative_error"]
    text = _significant(row["value"])
    return text if error is None else f"{text} ({100 * error:+.1f} %)"


def _significant(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def table_console() -> Console:
    """Return the console of tables; where nobody watches, wide enough that nothing is cut."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 140)
    return console
