"""The main job: fine-tune, refine, evaluate, compute properties, and keep it all in a folder."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_finetune.config import RefineConfig, TrainConfig
from ase_finetune.data.splits import Splits
from ase_finetune.distributed import is_first
from ase_finetune.errors import ConfigError
from ase_finetune.lock import check_unlocked, locked
from ase_finetune.refinement import loss_weights
from ase_finetune.replay import Replay, replay_frames, share_replay
from ase_finetune.results import FIGURES
from ase_finetune.stages import Job, Reporter
from ase_finetune.start import prepare
from ase_finetune.tracking import FOLDER as EVENTS
from ase_finetune.tracking import Tracking
from ase_finetune.trainer import check_state, finetune

if TYPE_CHECKING:
    from systems.system import System

FILES = (
    "results.json",
    "config.yaml",
    "log.jsonl",
    "steps.jsonl",
    "predictions.npz",
    "curves.json",
    "report.html",
    "state.pt",
)
_DRAWN = (FIGURES, EVENTS)  # folders


def check_folder(out: Path, *, overwrite: bool, resume: bool) -> None:
    """Never mix two runs in one folder.

    Raises
    ------
    ConfigError
        If it holds a run and neither ``overwrite`` nor ``resume`` is asked for, or is a file.
    LockedError
        If another process is writing a run there.
    """
    if overwrite and resume:
        raise ConfigError("Choose --overwrite or --resume, not both.")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; choose another --out.")
    check_unlocked(out)
    present = [name for name in (*FILES, "checkpoints", *_DRAWN) if (out / name).exists()]
    if present and not (overwrite or resume):
        raise ConfigError(
            f"{out} already holds a run; continue it with --resume, replace it with --overwrite, "
            "or choose another --out."
        )


def make_folder(out: Path, *, keep: bool) -> None:
    """Make the folder, and empty it of an earlier run unless that is continued."""
    out.mkdir(parents=True, exist_ok=True)
    if not keep:
        for name in FILES:
            (out / name).unlink(missing_ok=True)
        for stage in ("finetuned", "refined", "refused"):
            shutil.rmtree(out / "checkpoints" / stage, ignore_errors=True)
        for name in _DRAWN:
            shutil.rmtree(out / name, ignore_errors=True)
    for unfinished in (out / "checkpoints").glob(".*.tmp"):  # by a process that was killed
        shutil.rmtree(unfinished, ignore_errors=True)


def _written(out: Path) -> dict[str, int]:
    """Return when the files of a run were written."""
    return {n: (out / n).stat().st_mtime_ns for n in FILES if (out / n).exists()}


@contextlib.contextmanager
def own_folder(out: Path, before: Mapping[str, int], *, keep: bool) -> Iterator[None]:
    """Make the folder and keep other runs out of it for the body.

    Parameters
    ----------
    out
        Folder of the run.
    before
        Its files when it was checked, as from `_written`.
    keep
        As for :func:`make_folder`.

    Raises
    ------
    LockedError
        If another process is writing a run there.
    ConfigError
        If one has done so since the folder was checked.
    """
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        if _written(out) != before:
            raise ConfigError(f"Another run has been written to {out} meanwhile; choose another.")
        make_folder(out, keep=keep)
        yield


def run_job(
    splits: Splits,
    config: TrainConfig,
    refine_config: RefineConfig | None,
    out: Path,
    reporter: Reporter,
    *,
    system: System | None = None,
    properties: Sequence[str] = (),
    resume: bool = False,
    replay: Path | None = None,
    tracking: Tracking | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Fine-tune, refine, evaluate and compute properties, writing everything to a folder.

    Of several processes started by ``torchrun``, the first does all this and the others share its
    mini-batch stage only.

    Parameters
    ----------
    splits, config, refine_config
        Data and settings; None refines nothing.
    out
        Folder of the run, see :func:`check_folder`; made once the data have passed their checks.
    reporter
        Where progress goes.
    system, properties
        The system and the names of its properties to compute at every stage.
    resume
        Continue the mini-batch stage from its ``state.pt``.
    replay
        Frames of the foundation's own domain, whose force errors become the set ``replay``; with
        ``config.replay_weight``, half of them are trained on.
    tracking
        What is written beside the log (None: nothing).
    provenance
        Added to ``results["provenance"]``.

    Returns
    -------
    dict
        The content of results.json; empty in a process that only shares the training.
    """
    before = _written(out)
    start = prepare(splits, config)
    first = is_first()
    seen_again = Replay()
    if first or config.replay_weight > 0:
        seen_again = replay_frames(replay, start.checkpoint)
    if config.replay_weight > 0:
        splits, seen_again = share_replay(
            splits, seen_again, start.checkpoint, config.replay_weight
        )
    if not first:
        finetune(splits, config, start=start, out=out, resume=resume)
        return {}
    if resume:
        check_state(splits, config, start, out)
    if refine_config is not None:
        loss_weights(config.resolved(), refine_config)  # refused now, not after the training
    job = Job(
        splits=splits,
        config=config,
        refine_config=refine_config,
        start=start,
        out=out,
        reporter=reporter,
        tracking=tracking or Tracking(),
        system=system,
        properties=properties,
        replay=seen_again,
        provenance=provenance or {},
    )
    with own_folder(out, before, keep=resume):
        return job.run(resume)
