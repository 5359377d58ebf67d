"""What a study shows while it runs: one bar, what goes on, and how long it will take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ase_finetune.stop import stop_if_told
from ase_finetune.study.plan import Run

Rows = Mapping[str, Mapping[str, Any]]


def remaining_s(coming: Sequence[Run], rows: Rows, workers: int) -> float | None:
    """Estimate how long the runs to come take, from what finished ones of their systems took.

    Returns
    -------
    float or None
        None while a system has no finished run to judge by.
    """
    spent: dict[str, list[float]] = {}
    for row in rows.values():
        if row["outcome"] == "ok" and row["budget"]["gradient_equivalents"] > 0:
            total = spent.setdefault(row["run"]["system"], [0.0, 0.0])
            # Of a run that was continued, only the last attempt is timed as a whole.
            total[0] += max(float(row["budget"]["wall_s"]), float(row.get("attempt_s", 0.0)))
            total[1] += float(row["budget"]["gradient_equivalents"])
    seconds = 0.0
    for run in coming:
        if run.cost == 0.0:
            continue
        if run.system not in spent:
            return None
        wall, gradients = spent[run.system]
        seconds += run.cost * wall / gradients
    return seconds / max(workers, 1)


def spoken(seconds: float | None) -> str:
    """Return an estimate as people say it."""
    if seconds is None:
        return "time left not known yet"
    minutes = math.ceil(seconds / 60)
    if minutes <= 1:
        return "about a minute left"
    if minutes < 90:
        return f"about {minutes} min left"
    return f"about {minutes / 60:.1f} h left"


class StudyView:
    """One progress bar over all runs; where nobody watches, one line per finished run."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[state]}"),
            console=self.console,
        )
        self.task = self.progress.add_task("runs", total=None, state="")
        self.state = ""

    def __enter__(self) -> StudyView:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def note(self, text: str) -> None:
        """Print one line above the bar."""
        self.progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def update(self, rows: Rows, coming: Sequence[Run], workers: int) -> None:
        """Show where the study stands; ``coming`` holds the runs that go on, too."""
        stop_if_told()
        left = spoken(remaining_s(coming, rows, workers)) if coming else "done"
        self.state = f"{workers} worker{'s' if workers != 1 else ''}, {left}"
        self.progress.update(
            self.task, completed=len(rows), total=len(rows) + len(coming), state=self.state
        )

    def finished(self, run: Run, row: Mapping[str, Any], rows: Rows, total: int) -> None:
        """Tell of a run that failed, and of every one where nobody watches."""
        name = run.path.removeprefix("runs/")
        if row["outcome"] != "ok":
            self.note(f"{name}: failed: {row['reason']}")
        elif not self.console.is_terminal:
            value = row["valid_force_rmse_meV_per_A"]
            self.note(f"{name}: valid {value:.1f} meV/A  ({len(rows)} of {total}, {self.state})")

    def record(self, record: Mapping[str, Any]) -> None:
        """Show an epoch or iteration of the run that goes on in this process."""
        stop_if_told()
        refining = record["stage"] == "refined"
        done, total = (
            (record["evaluations"], record["budget"])
            if refining
            else (record["epoch"], record["epochs"])
        )
        word = "evaluation" if refining else "epoch"
        value = record["valid_force_rmse_meV_per_A"]
        self.progress.update(
            self.task, state=f"{self.state}; {word} {done:g} of {total}, valid {value:.1f} meV/A"
        )
