"""Which frames to label next: those on which the members of a committee disagree.

The forces of potentials that agree on their training frames differ where these say little. How far
ranks frames; it is no error bar, since members with one foundation and the same frames err
together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_finetune.calculator import FineTunedCalculator
from ase_finetune.data.checks import check_elements, overlap
from ase_finetune.data.duplicates import shared_frames
from ase_finetune.environments import environments, lengths, nearest
from ase_finetune.errors import ConfigError, DataError

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]
_AT_ONCE = 32  # frames
_ROUNDING = 1e-6  # of the variance; copies have that left
EMPTY = "no atoms"
NOT_FINITE = "positions or cell that are not finite"
OVERLAPPING = "overlapping atoms"
KNOWN = "labels already"
BELOW = "less disagreement than the least"
ABOVE = "more disagreement than the most"


@dataclass(frozen=True, eq=False)
class Selection:
    """Frames of a pool, and how far the members are apart on all of them.

    Attributes
    ----------
    indices
        Of the chosen frames in the pool, the most wanted first.
    disagreement
        (n,), eV/A, of each frame of the pool: the largest of `atom_disagreement` over its atoms.
        NaN where the frame was not evaluated.
    atoms
        (n,), the atom where it is largest; -1 where the frame was not evaluated.
    left_out
        Indices of frames that were not to choose from, by reason.
    """

    indices: tuple[int, ...]
    disagreement: Array
    atoms: NDArray[np.int64]
    left_out: Mapping[str, tuple[int, ...]]


def atom_disagreement(forces_var: Array) -> Array:
    """Return the root mean square distance of the members' forces from their mean, eV/A.

    Parameters
    ----------
    forces_var, shape (N, 3)
        (eV/A)^2, as a committee gives it.

    Returns
    -------
    ndarray, shape (N,)
    """
    spread: Array = np.sqrt(np.asarray(forces_var).sum(axis=1))
    return spread


def select_frames(
    frames: Sequence[Atoms],
    committee: FineTunedCalculator,
    count: int,
    *,
    known: Sequence[Atoms] = (),
    at_least: float = 0.0,
    at_most: float = float("inf"),
    progress: Progress | None = None,
) -> Selection:
    """Choose frames to label.

    One after another, the frame is taken that has the atom whose force is least certain. What is
    uncertain of an atom is the variance of the members' forces on it; of that remains
    ``1 - exp(-d^2 / l^2)`` once an environment of the same element at a distance d is among the
    chosen, as of the variance of a Gaussian process with the kernel ``exp(-d^2 / (2 l^2))``
    of which one point is known. Distances are of the first member's invariant features,
    l is their median over pairs of environments of the element in the pool. So neighbors of one
    trajectory are not taken twice.

    Parameters
    ----------
    frames
        The pool: structures without labels, as of molecular dynamics.
    committee
        A calculator of two potentials or more.
    count
        How many to choose at most.
    known
        Frames that have labels; equal ones of the pool are left out.
    at_least, at_most
        eV/A, of a frame's largest disagreement. Above some eV/A frames are seldom of use: there
        the potentials have broken down.
    progress
        Called with (done, total) frames.

    Returns
    -------
    Selection
        With fewer than `count` frames if no more are to choose from.

    Raises
    ------
    ConfigError
        If there are not two different potentials, or a number makes no sense.
    DataError
        If the pool is empty, or holds an element that a member does not know.
    """
    _check(frames, committee, count, at_least, at_most)
    usable, left_out = _usable(frames, known)
    disagreement, atoms = np.full(len(frames), np.nan), np.full(len(frames), -1)
    candidates: list[int] = []
    apart: list[Array] = []
    for first in range(0, len(usable), _AT_ONCE):
        part = usable[first : first + _AT_ONCE]
        for i, result in zip(
            part, committee.evaluate_batch([frames[i] for i in part]), strict=True
        ):
            spread = atom_disagreement(result["forces_var"])
            disagreement[i], atoms[i] = spread.max(), spread.argmax()
            if disagreement[i] < at_least:
                left_out.setdefault(BELOW, []).append(i)
            elif disagreement[i] > at_most:
                left_out.setdefault(ABOVE, []).append(i)
            else:
                candidates.append(i)
                apart.append(spread)
        if progress is not None:
            progress(first + len(part), len(usable))
    chosen: list[int] = []
    if candidates:
        pool = [frames[i] for i in candidates]
        rows = environments(
            committee.checkpoint, pool, dtype=committee.dtype, device=committee.device
        )
        chosen = [candidates[i] for i in _spread_out(pool, apart, rows, count)]
    reasons = {why: tuple(indices) for why, indices in left_out.items()}
    return Selection(tuple(chosen), disagreement, atoms, reasons)


def _check(
    frames: Sequence[Atoms],
    committee: FineTunedCalculator,
    count: int,
    at_least: float,
    at_most: float,
) -> None:
    members = committee.checkpoints
    if len({member.fingerprint() for member in members}) < 2:
        raise ConfigError(
            "A committee needs two different potentials or more, best of different optimizers."
        )
    if count < 1 or not 0.0 <= at_least < at_most:
        raise ConfigError(
            f"Choose one frame or more (not {count}), and a least disagreement that is not "
            f"negative and below the most (not {at_least:g} and {at_most:g})."
        )
    if not frames:
        raise DataError("The pool is empty: give frames to choose from.")
    for member in members:
        check_elements(frames, member.numbers, "pool")


def _usable(
    frames: Sequence[Atoms], known: Sequence[Atoms]
) -> tuple[list[int], dict[str, list[int]]]:
    """Return the frames that can be evaluated, and the others by reason."""
    left_out: dict[str, list[int]] = {}
    sound = []
    for i, frame in enumerate(frames):
        if len(frame) == 0:
            left_out.setdefault(EMPTY, []).append(i)
        elif not (np.isfinite(frame.positions).all() and np.isfinite(frame.cell.array).all()):
            left_out.setdefault(NOT_FINITE, []).append(i)
        elif overlap(frame) is not None:
            left_out.setdefault(OVERLAPPING, []).append(i)
        else:
            sound.append(i)
    labelled = {sound[j] for _, j in shared_frames(known, [frames[i] for i in sound])}
    if labelled:
        left_out[KNOWN] = sorted(labelled)
    return [i for i in sound if i not in labelled], left_out


def _spread_out(
    frames: Sequence[Atoms],
    apart: Sequence[Array],
    rows: Sequence[NDArray[np.float32]],
    count: int,
) -> list[int]:
    """Take frames one by one, and after each what is like it becomes less wanted."""
    numbers = np.concatenate([frame.numbers for frame in frames])
    features, left = np.concatenate(rows), np.square(np.concatenate(apart))
    starts = np.cumsum([0, *(len(frame) for frame in frames)])[:-1]
    scale = lengths(numbers, features)
    of = {z: np.flatnonzero(numbers == z) for z in scale}
    remains = np.ones(len(left))
    chosen: list[int] = []
    while len(chosen) < min(count, len(frames)):
        wanted = np.maximum.reduceat(left * remains, starts)
        wanted[chosen] = -1.0
        best = int(wanted.argmax())
        if wanted[best] <= 0.0:
            break  # the rest are copies of what is chosen, or the members agree on it
        chosen.append(best)
        for z in np.unique(frames[best].numbers):
            new = rows[best][frames[best].numbers == z]
            still = -np.expm1(-nearest(features[of[z]], new) / scale[int(z)] ** 2)
            still[still < _ROUNDING] = 0.0
            remains[of[z]] = np.minimum(remains[of[z]], still)
    return chosen
