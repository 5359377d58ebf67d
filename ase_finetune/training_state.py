"""Everything that a continued training needs, as tensors and plain data only."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ase_finetune.checkpoint import write_synced
from ase_finetune.errors import CheckpointError
from ase_finetune.weights import MovingAverage, Weights, restore, snapshot

STATE_FILE = "state.pt"


@dataclass
class TrainingState:
    """Where a training stands.

    Attributes
    ----------
    epoch, step
        Finished epochs and steps.
    best_score, best_epoch, best
        Lowest validation force RMSE (meV/A), its epoch counted from 0, and the weights there.
    failures, noted
        How often an epoch was begun again because the loss was not finite, and how many of these
        the records tell of.
    wall_s
        Time spent on finished epochs.
    records
        One record per finished epoch.
    """

    epoch: int = 0
    step: int = 0
    best_score: float = math.inf
    best_epoch: int = -1
    best: Weights = field(default_factory=dict)
    failures: int = 0
    noted: int = 0
    wall_s: float = 0.0
    records: list[dict[str, Any]] = field(default_factory=list)


def pack(
    state: TrainingState,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
) -> dict[str, Any]:
    """Return copies of all that :func:`unpack` puts back."""
    return {
        "state": {
            **{
                f.name: getattr(state, f.name)
                for f in dataclasses.fields(state)
                if f.name not in ("records", "best")
            },
            "records": json.dumps(state.records),
        },
        "best": state.best,
        "parameters": snapshot(module),
        "optimizer": _copied(optimizer.state_dict()),
        "average": None
        if average is None
        else {
            "updates": average.updates,
            "values": {k: v.clone() for k, v in average.values.items()},
        },
    }


def unpack(
    packed: Mapping[str, Any],
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
) -> TrainingState:
    """Put weights, optimizer and average back, and return the state.

    The optimizer may take over tensors of ``packed``; pack again before going on.
    """
    plain = dict(packed["state"])
    records = json.loads(plain.pop("records"))
    restore(module, packed["parameters"])
    optimizer.load_state_dict(packed["optimizer"])
    if average is not None:
        average.updates = packed["average"]["updates"]
        average.values = {k: v.clone() for k, v in packed["average"]["values"].items()}
    return TrainingState(**plain, best=dict(packed["best"]), records=records)


def write_state(folder: Path, packed: Mapping[str, Any]) -> None:
    """Write ``state.pt`` atomically.

    Raises
    ------
    CheckpointError
        If it cannot be written; an earlier one is then still there.
    """
    buffer = io.BytesIO()
    torch.save(dict(packed), buffer)
    target, temporary = folder / STATE_FILE, folder / f".{STATE_FILE}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_synced(temporary, buffer.getvalue())
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"Cannot write {target}: {error.strerror}.") from error


def read_state(folder: Path | None, identity: str, device: str) -> dict[str, Any]:
    """Read the ``state.pt`` of the run with this identity.

    Raises
    ------
    CheckpointError
        If it is absent, damaged or of another run.
    """
    if folder is None or not (folder / STATE_FILE).is_file():
        raise CheckpointError("There is no state.pt to resume from in the output folder.")
    path = folder / STATE_FILE
    try:
        saved: Any = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}).") from error
    if not isinstance(saved, dict):
        raise CheckpointError(f"{path} holds a {type(saved).__name__}, not the state of a run.")
    if saved.get("identity") != identity:
        raise CheckpointError(
            f"{path} belongs to a run with other settings, data or foundation; "
            "resume with the same ones or choose another output folder."
        )
    return saved


def _copied(value: Any) -> Any:
    """Copy a nested optimizer state: torch's state_dict shares its tensors with the optimizer."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(v) for v in value)
    return value
