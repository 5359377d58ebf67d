"""The frames of a run: which are trained on and which validate, drawn by the seed.

Test sets never change. Seed 0, on which learning rates are tuned, has the bundled splits. Every
other seed draws training and validation frames anew from both together, so that the intervals of a
study hold the luck of the split. Of every configuration type as many trajectories validate as in
the bundled splits; a trajectory is never divided, and frames that are no part of one, such as
strained cells, are drawn one by one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ase_finetune.data.read import is_isolated_atom
from ase_finetune.data.splits import Splits
from ase_finetune.errors import DataError
from ase_finetune.study.plan import TUNING_SEED

if TYPE_CHECKING:
    from ase import Atoms

    from ase_finetune.study.plan import Run


def splits_of_run(run: Run) -> Splits:
    """Return the frames of a run of a bundled system.

    Raises
    ------
    DataError
        If a frame does not tell which trajectory it belongs to.
    """
    from systems import get_system

    splits = Splits.from_named(get_system(run.system).frames())
    if run.resplit and run.seed != TUNING_SEED:
        splits = redrawn(splits, run.seed)
    if run.fraction < 1.0:
        splits = thinned(splits, run.fraction, run.seed)
    return splits


def redrawn(splits: Splits, seed: int) -> Splits:
    """Draw training and validation frames anew from both together.

    Raises
    ------
    DataError
        If a frame does not tell which trajectory it belongs to.
    """
    rng = np.random.default_rng([seed, 1])
    pool = [*splits.train, *splits.valid]
    groups: dict[str, dict[str, list[int]]] = {}
    for index, frame in enumerate(pool):
        if not is_isolated_atom(frame):
            kind, trajectory = _trajectory(frame)
            groups.setdefault(kind, {}).setdefault(trajectory, []).append(index)
    first = len(splits.train)
    held: set[int] = set()
    for rows in groups.values():
        names = sorted(rows)
        count = sum(all(index >= first for index in rows[name]) for name in names)
        for k in rng.choice(len(names), size=count, replace=False):
            held.update(rows[names[k]])
    train = [frame for index, frame in enumerate(pool) if index not in held]
    return Splits(train, [pool[index] for index in sorted(held)], splits.tests)


def thinned(splits: Splits, fraction: float, seed: int) -> Splits:
    """Keep a fraction of the training frames of every configuration type, at least one of each.

    Smaller fractions are subsets of larger ones. Isolated atoms stay.
    """
    rng = np.random.default_rng([seed, 2])
    kinds: dict[str, list[int]] = {}
    keep = []
    for index, frame in enumerate(splits.train):
        if is_isolated_atom(frame):
            keep.append(index)
        else:
            kinds.setdefault(_kind(frame), []).append(index)
    for rows in kinds.values():
        order = rng.permutation(rows)
        keep += [int(i) for i in order[: max(1, round(fraction * len(rows)))]]
    return Splits([splits.train[i] for i in sorted(keep)], splits.valid, splits.tests)


def split_note(resplit: bool) -> str:
    """Say in one sentence what a seed changes."""
    if not resplit:
        return "A seed sets the data order; all seeds have the bundled splits."
    return (
        "A seed sets the data order and draws training and validation frames, whole trajectories "
        "of each configuration type, from the bundled ones; test sets are fixed."
    )


def _kind(frame: Atoms) -> str:
    return str(frame.info.get("config_type", "default"))


def _trajectory(frame: Atoms) -> tuple[str, str]:
    """Configuration type, and what of it must not be divided.

    The ids of bundled frames are TYPE_FRAME, or TYPE_TRAJECTORY_FRAME for dynamics.
    """
    kind, name = _kind(frame), str(frame.info.get("id", ""))
    if "trajectory" in frame.info:
        return kind, str(frame.info["trajectory"])
    if not name.startswith(f"{kind}_"):
        raise DataError(
            f"The frame {name!r} of type {kind!r} does not tell its trajectory, so seeds cannot "
            "draw splits; use --no-resplit."
        )
    rest = name[len(kind) + 1 :]
    return kind, rest.rsplit("_", 1)[0] if "_" in rest else rest


def frame_counts(splits: Splits) -> dict[str, int]:
    """Return the number of frames of each set."""
    return {name: len(frames) for name, frames in splits.items()}


def folder_of(root: str | Path, run: Run) -> Path:
    """Return the folder of a run."""
    return Path(root).joinpath(*run.path.split("/"))
