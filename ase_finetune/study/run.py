"""One run of a study, in its own folder: what a worker executes, and executes again if it dies.

``run.json`` is written last and at once, so its presence means that the run is finished.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_finetune.errors import CheckpointError, UserError
from ase_finetune.results import write_text
from ase_finetune.study.data import folder_of, frame_counts, splits_of_run
from ase_finetune.study.plan import Run

if TYPE_CHECKING:
    from ase_finetune.checkpoint import Checkpoint
    from ase_finetune.config import TrainConfig
    from ase_finetune.data.splits import Splits

RUN_FILE = "run.json"
ATTEMPTS_FILE = "attempts.jsonl"
_CURVE_POINTS = 30
Progress = Callable[[Mapping[str, Any]], None]


def execute(
    root: str, run: Run, *, threads: int = 1, progress: Progress | None = None
) -> dict[str, Any]:
    """Do a run, or go on with it, and return the content of its ``run.json``.

    Parameters
    ----------
    root
        Folder of the study.
    run
        What to do.
    threads
        For torch; the number decides the last bits of a result.
    progress
        Called with the record of each epoch or iteration.

    Returns
    -------
    dict
        ``outcome`` is ``ok`` or ``failed`` with its ``reason``: a diverged training, or whatever
        else an optimizer may raise, is a result.

    Raises
    ------
    UserError, OSError
        On bad data or settings and on files that cannot be written: no result of the run.
    """
    from ase_finetune.trainer import TrainingDivergedError

    folder = folder_of(root, run)
    finished = read_run(folder)
    if finished is not None:
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    row: dict[str, Any] = {"run": dataclasses.asdict(run), "attempts": _begin(folder)}
    begun = time.perf_counter()
    with _threads(threads):
        try:
            row |= {"outcome": "ok", "reason": None, **_result(root, folder, run, progress)}
        except TrainingDivergedError as error:
            row |= {"outcome": "failed", "reason": str(error)}
        except (UserError, OSError):
            raise
        except Exception as error:
            row |= {"outcome": "failed", "reason": f"{type(error).__name__}: {error}"}
    row["attempt_s"] = time.perf_counter() - begun
    write_run(folder, row)
    (folder / "state.pt").unlink(missing_ok=True)
    return row


def read_run(folder: Path) -> dict[str, Any] | None:
    """Return the content of a finished run's ``run.json``, or None.

    Raises
    ------
    CheckpointError
        If it is damaged.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is damaged; delete it to repeat that run.") from error
    if not isinstance(row, dict) or not {"run", "outcome"} <= row.keys():
        raise CheckpointError(f"{path} is not of a study; delete it to repeat that run.")
    return row


def write_run(folder: Path, row: Mapping[str, Any]) -> None:
    """Write ``run.json`` atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RUN_FILE, json.dumps(_rounded(row), allow_nan=False) + "\n")


def _rounded(value: Any) -> Any:
    """Seven digits, so that results stay small; what is not finite has no place in JSON."""
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if abs(value) < float("inf") else None
    return value


def _begin(folder: Path) -> int:
    """Note who works here since when, and return how often that was."""
    path = folder / ATTEMPTS_FILE
    line = {"host": socket.gethostname(), "pid": os.getpid(), "date": time.strftime("%FT%T%z")}
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return len(path.read_text(encoding="utf-8").splitlines())


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _result(root: str, folder: Path, run: Run, progress: Progress | None) -> dict[str, Any]:
    from ase_finetune.checkpoint import versions
    from ase_finetune.refinement import refine
    from ase_finetune.start import prepare

    splits = splits_of_run(run)
    found: dict[str, Any] = {"n_frames": frame_counts(splits), "data_hash": splits.data_hash()}
    if run.purpose == "zero_shot":
        start = prepare(splits, dataclasses.replace(run, lr=1e-3).config()).checkpoint
        errors = errors_on(start, splits, dataclasses.replace(run, lr=1e-3).config())
        valid = errors["errors"]["valid"]["force_rmse_meV_per_A"]
        found |= {"foundation": dict(start.foundation), "versions": versions()}
        return {**found, **errors, **_spent(valid, 0.0, 0.0)}
    if run.refine is None:
        tuned, note = _tuned(run, splits, folder, progress)
        if note is not None:
            found["note"] = note
    else:
        from ase_finetune.config import RefineConfig, from_mapping

        parent, note = _parent(root, run, splits, folder, progress)
        if note is not None:
            found["note"] = note
        shared = {"device": run.config().device, "accelerate": run.config().accelerate}
        settings = from_mapping(RefineConfig, {**shared, **run.refine})
        tuned = refine(parent, splits, settings, progress=progress)
        found |= {key: tuned.metrics[key] for key in ("accepted", "ended")}
    metrics = tuned.metrics
    if run.purpose != "tuning":
        tuned.save(folder / "checkpoint")
    return {
        **found,
        **_spent(
            metrics["valid_force_rmse_meV_per_A"],
            metrics["gradient_equivalents"],
            metrics["wall_s"],
        ),
        **({"best_epoch": metrics["best_epoch"]} if "best_epoch" in metrics else {}),
        "curve": _curve(metrics["history"]),
        **errors_on(tuned, splits, run.config()),
    }


def _spent(valid: float, gradients: float, wall_s: float) -> dict[str, Any]:
    return {
        "valid_force_rmse_meV_per_A": valid,
        "budget": {"gradient_equivalents": gradients, "wall_s": wall_s},
    }


def _tuned(
    run: Run, splits: Splits, folder: Path, progress: Progress | None
) -> tuple[Checkpoint, str | None]:
    """Train, or go on from ``state.pt``; a state that cannot be used is dropped, and that noted."""
    from ase_finetune.start import prepare
    from ase_finetune.trainer import check_state, finetune

    config, note = run.config(), None
    start = prepare(splits, config)
    resume = (folder / "state.pt").is_file()
    if resume:
        try:
            check_state(splits, config, start, folder)
        except CheckpointError as error:
            resume, note = False, f"Begun anew: {error}"
    tuned = finetune(splits, config, start=start, out=folder, progress=progress, resume=resume)
    return tuned, note


def _parent(
    root: str, run: Run, splits: Splits, folder: Path, progress: Progress | None
) -> tuple[Checkpoint, str | None]:
    """Return the weights to refine; trained again where they were not kept."""
    from ase_finetune.checkpoint import Checkpoint

    assert run.parent is not None
    stored = Path(root) / run.parent / "checkpoint"
    if stored.is_dir():
        return Checkpoint.load(stored), None
    again = dataclasses.replace(run, refine=None, parent=None)
    tuned, note = _tuned(again, splits, folder, progress)
    said = "The weights to refine had not been kept and were trained again."
    return tuned, said if note is None else f"{said} {note}"


def errors_on(checkpoint: Checkpoint, splits: Splits, config: TrainConfig) -> dict[str, Any]:
    """Return the errors on every set, and by configuration type, as ``run.json`` holds them."""
    from ase_finetune.evaluate import predict_frames

    sets = dict(splits.items())
    # In one call: building the model takes longer than evaluating a small set.
    predictions = predict_frames(
        checkpoint,
        [frame for frames in sets.values() for frame in frames],
        dtype=config.default_dtype,
        device=config.device,
        accelerate=config.accelerate,
    )
    owner = np.repeat(list(sets), [len(frames) for frames in sets.values()])
    errors, by_type = {}, {}
    for name in sets:
        own = predictions.select(owner == name)
        errors[name] = dataclasses.asdict(own.errors())
        by_type[name] = {kind: dataclasses.asdict(e) for kind, e in own.errors_by_type().items()}
    return {"errors": errors, "errors_by_type": by_type}


def _curve(history: list[Mapping[str, Any]]) -> list[list[float]]:
    """Gradient equivalents and validation force RMSE (meV/A), evenly thinned, the last kept."""
    step = max(1, -(-len(history) // _CURVE_POINTS))
    kept = [row for k, row in enumerate(history, 1) if k % step == 0 or k == len(history)]
    return [[r["gradient_equivalents"], r["valid_force_rmse_meV_per_A"]] for r in kept]


def drop_checkpoint(folder: Path) -> None:
    """Remove the weights of a finished run."""
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
