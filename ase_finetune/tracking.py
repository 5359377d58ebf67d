"""TensorBoard events of a run, written beside its log when asked."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ase_finetune.errors import ConfigError

FOLDER = "tensorboard"
# What numbers a record rather than being measured.
COUNTERS = ("epoch", "epochs", "evaluations", "budget")
_ASKED: ContextVar[bool] = ContextVar("tensorboard", default=False)


@contextmanager
def tensorboard_asked() -> Iterator[None]:
    """Ask that the runs within write TensorBoard events too.

    It is no setting of the training: it changes no result, so neither the stored configuration
    nor the identity of a run that is continued may hold it.

    Raises
    ------
    ConfigError
        If tensorboard is not installed.
    """
    _summary_writer()
    token = _ASKED.set(True)
    try:
        yield
    finally:
        _ASKED.reset(token)


class Events:
    """Event files of a run, one folder per stage so that TensorBoard draws both in one chart.

    Parameters
    ----------
    out : Path
        Folder of the run; the events are in ``tensorboard/finetuned`` and
        ``tensorboard/refined``. Nothing is written unless :func:`tensorboard_asked` holds.

    Notes
    -----
    Every number of a record becomes a scalar of the same name, its step being the epoch or the
    iteration of the refinement. A run that is continued appends to its events: those of epochs
    that are done again are hidden, those from before TensorBoard was asked for are not made up.
    """

    def __init__(self, out: Path) -> None:
        self.folder = out / FOLDER
        self.asked = _ASKED.get()
        self.writers: dict[str, Any] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of one epoch or iteration, at once, so that a kill loses none."""
        if not self.asked:
            return
        stage, step = str(record["stage"]), int(record["epoch"])
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


__all__ = ["Events", "tensorboard_asked"]
