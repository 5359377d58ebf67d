"""What a run writes beside its log when asked: TensorBoard events, and a line per step."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase_finetune.errors import ConfigError

FOLDER = "tensorboard"
# What numbers a record rather than being measured.
COUNTERS = ("step", "epoch", "epochs", "evaluations", "budget")


@dataclass(frozen=True)
class Tracking:
    """What a run writes beside its log.

    It is no setting of the training: it changes no result, so neither the stored configuration nor
    the identity of a run that is continued may hold it.

    Attributes
    ----------
    tensorboard
        TensorBoard events.
    steps
        A line per optimizer step.

    Raises
    ------
    ConfigError
        If tensorboard is asked for and not installed.
    """

    tensorboard: bool = False
    steps: bool = False

    def __post_init__(self) -> None:
        if self.tensorboard:
            _summary_writer()


class StepLog:
    """One JSON line per optimizer step, in a file of its own: there may be very many.

    Parameters
    ----------
    path : Path
        Of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.last = path, -1

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a step; of steps that are done again only the last try stays."""
        step = int(record["step"])
        if self.path.exists() and (self.last < 0 or step <= self.last):
            self._cut(step)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.last = step

    def _cut(self, step: int) -> None:
        # Half a line, left by a kill, is of a step that is done again.
        whole = self.path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines(keepends=True)
        kept = [line.rstrip("\n") + "\n" for line in whole if json.loads(line)["step"] < step]
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        os.replace(temporary, self.path)


class Events:
    """Event files of a run, one folder per stage so that TensorBoard draws both in one chart.

    Parameters
    ----------
    out : Path
        Folder of the run; the events are in ``tensorboard/finetuned`` and
        ``tensorboard/refined``, those of steps in ``tensorboard/steps``.
    asked : bool
        Whether anything is written.

    Notes
    -----
    Every number of a record becomes a scalar of the same name, its step being the epoch or the
    iteration of the refinement. A run that is continued appends to its events: those of epochs
    that are done again are hidden, those from before TensorBoard was asked for are not made up.
    """

    def __init__(self, out: Path, asked: bool) -> None:
        self.folder, self.asked = out / FOLDER, asked
        self.writers: dict[str, Any] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of one epoch or iteration, at once, so that a kill loses none."""
        if not self.asked:
            return
        by_step = "step" in record
        stage = "steps" if by_step else str(record["stage"])
        step = int(record["step" if by_step else "epoch"])
        if stage not in self.writers:
            self.writers[stage] = self._begin(stage, step)
        for name, value in record.items():
            if name not in COUNTERS and isinstance(value, (int, float)):
                self.writers[stage].add_scalar(name, value, step)
        self.writers[stage].flush()

    def close(self) -> None:
        """End the files; they are whole without it too."""
        for writer in self.writers.values():
            writer.close()

    def _begin(self, stage: str, step: int) -> Any:
        folder = self.folder / stage
        if step == 1:
            # A stage from its start, as every refinement of a continued run is.
            shutil.rmtree(folder, ignore_errors=True)
        try:
            return _summary_writer()(str(folder), purge_step=step if folder.is_dir() else None)
        except OSError as error:
            raise ConfigError(f"Cannot write {folder}: {error.strerror}.") from error


def _summary_writer() -> Any:
    try:
        importlib.import_module("tensorboard")
        return importlib.import_module("torch.utils.tensorboard").SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "--tensorboard needs the package tensorboard, which cannot be imported "
            f"({error}); install it with pip install 'ase-finetune[tracking]'."
        ) from error


__all__ = ["Events", "StepLog", "Tracking"]
