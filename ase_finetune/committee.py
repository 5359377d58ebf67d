"""Which frames to label next: active learning by a committee of potentials.

Potentials that were trained differently agree where their training frames say what forces are, and
differ where these say little (query by committee). How far they differ ranks frames; it is no error
bar, since members with one foundation and the same frames err together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from ase_finetune.calculator import FineTunedCalculator
from ase_finetune.calculator_checks import check_configuration
from ase_finetune.data.checks import overlap
from ase_finetune.data.duplicates import shared_frames
from ase_finetune.data.read import place_of
from ase_finetune.environments import Rows, environments, nearest, scale_of
from ase_finetune.errors import ConfigError, DataError

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]
_AT_ONCE = 32  # frames
LEAST = 1e-4  # eV/A; below, forces vanish by symmetry or potentials agree
IMPOSSIBLE = "a cell or positions that nothing can be calculated for"
OVERLAPPING = "overlapping atoms"
KNOWN = "labels already"
NO_FORCES = "no finite forces"
BELOW = "disagreement below at-least"
ABOVE = "disagreement above at-most"
COPIES = "environments that are all among the chosen ones"


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
    remaining
        Of each chosen frame, eV/A, what of its disagreement those before it left: it falls along
        the list.
    left_out
        Indices of frames that were not to choose from, by reason.
    """

    indices: tuple[int, ...]
    disagreement: Array
    atoms: NDArray[np.int64]
    remaining: tuple[float, ...]
    left_out: Mapping[str, tuple[int, ...]]


def atom_disagreement(forces_var: Array) -> Array:
    """Return the root mean square distance of the members' forces from their mean, eV/A.

    Its largest value over the atoms of a frame is the model deviation (``max_devi_f``) of DP-GEN
    (Y. Zhang et al., Comput. Phys. Commun. 253, 107206 (2020)). The variance is that of the
    population: of two members it is half of what lies between them.

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
    at_least: float = LEAST,
    at_most: float = float("inf"),
    progress: Progress | None = None,
) -> Selection:
    """Choose frames to label.

    One after another, the frame is taken that has the atom whose force is least certain. What is
    uncertain of an atom is the variance of the members' forces on it; of that remains
    ``1 - exp(-d^2 / l^2)`` where an environment of the same element at a distance d is among the
    chosen ones, as of the variance of a Gaussian process with the kernel ``exp(-d^2 / (2 l^2))``
    of which one point is known. Distances are of the first member's invariant features;
    l^2 is the mean of d^2 over pairs of atoms of the element in the pool. So neighbors of one
    trajectory are not taken twice.

    Only forces count. Where they vanish by symmetry, as in strained primitive cells, potentials can
    be far apart in energy and stress; such frames are left out.

    Parameters
    ----------
    frames
        The pool: structures without labels, as of molecular dynamics.
    committee
        A calculator of two potentials or more.
    count
        How many to choose at most.
    known
        Frames that have labels; equal ones of the pool are left out. They count for nothing
        else, since the members are held to be trained on them.
    at_least, at_most
        eV/A, of a frame's largest disagreement. Where it is some eV/A, frames are seldom of use:
        the potentials have broken down.
    progress
        Called with (done, total) steps.

    Returns
    -------
    Selection
        With fewer than `count` frames if no more are to choose from.

    Raises
    ------
    ConfigError
        If there are not two different potentials, or a number makes no sense.
    DataError
        If the pool is empty, holds an element that a member does not know, or a known frame is
        broken.
    """
    check_numbers(count, at_least, at_most)
    _check(frames, committee)
    usable, left_out = _usable(frames, known)
    disagreement, atoms = np.full(len(frames), np.nan), np.full(len(frames), -1)
    candidates: list[int] = []
    apart: list[Array] = []
    for first in range(0, len(usable), _AT_ONCE):
        part = usable[first : first + _AT_ONCE]
        for i, spread in zip(part, _spreads([frames[i] for i in part], committee), strict=True):
            if spread is None:
                left_out.setdefault(NO_FORCES, []).append(i)
                continue
            disagreement[i], atoms[i] = spread.max(), spread.argmax()
            if disagreement[i] < at_least:
                left_out.setdefault(BELOW, []).append(i)
            elif disagreement[i] > at_most:
                left_out.setdefault(ABOVE, []).append(i)
            else:
                candidates.append(i)
                apart.append(spread)
        if progress is not None:
            progress(first + len(part), 2 * len(usable))
    chosen: list[tuple[int, float]] = []
    if candidates:
        pool = [frames[i] for i in candidates]
        rows = environments(
            committee.checkpoint,
            pool,
            dtype=committee.dtype,
            device=committee.device,
            progress=progress and (lambda n, total: progress(len(usable) + n, len(usable) + total)),
        )
        chosen = _spread_out(pool, apart, rows, count)
    taken = [candidates[i] for i, _ in chosen]
    if len(taken) < min(count, len(candidates)):
        left_out[COPIES] = sorted(set(candidates) - set(taken))
    return Selection(
        tuple(taken),
        disagreement,
        atoms,
        tuple(left for _, left in chosen),
        {why: tuple(indices) for why, indices in left_out.items()},
    )


def check_numbers(count: int, at_least: float, at_most: float) -> None:
    """Refuse settings that make no sense.

    Raises
    ------
    ConfigError
        Naming the setting.
    """
    if count < 1:
        raise ConfigError(f"The count is {count}; choose one frame or more.")
    if not 0.0 < at_least < np.inf:
        raise ConfigError(f"at-least is {at_least:g}; give a number of eV/A above zero.")
    if not at_most > at_least:
        raise ConfigError(f"at-most is {at_most:g}; give more eV/A than at-least, {at_least:g}.")


def _check(frames: Sequence[Atoms], committee: FineTunedCalculator) -> None:
    members = committee.checkpoints
    if not len({member.fingerprint() for member in members}) == len(members) > 1:
        raise ConfigError(
            "A committee is two potentials or more, no two of them equal, best of different "
            "optimizers."
        )
    if not frames:
        raise DataError("The pool is empty: give frames to choose from.")
    known = set.intersection(*(set(member.numbers) for member in members))
    for i, frame in enumerate(frames):
        lacking = sorted(set(frame.numbers.tolist()) - known)
        if lacking:
            raise DataError(
                f"There is {chemical_symbols[lacking[0]]} in {place_of(frames, i, 'pool')}, which "
                "not every potential knows: drop such frames."
            )


def _usable(
    frames: Sequence[Atoms], known: Sequence[Atoms]
) -> tuple[list[int], dict[str, list[int]]]:
    """Return the frames that can be evaluated, and the others by reason."""
    for i, frame in enumerate(known):
        try:
            check_configuration(frame)
        except DataError as error:
            raise DataError(f"{place_of(known, i, 'known')}: {error}") from error
    left_out: dict[str, list[int]] = {}
    sound = []
    for i, frame in enumerate(frames):
        try:
            check_configuration(frame)
        except DataError:
            left_out.setdefault(IMPOSSIBLE, []).append(i)
            continue
        if overlap(frame) is not None:
            left_out.setdefault(OVERLAPPING, []).append(i)
        else:
            sound.append(i)
    labelled = {sound[j] for _, j in shared_frames(known, [frames[i] for i in sound])}
    if labelled:
        left_out[KNOWN] = sorted(labelled)
    return [i for i in sound if i not in labelled], left_out


def _spreads(frames: Sequence[Atoms], committee: FineTunedCalculator) -> list[Array | None]:
    """Return the disagreement on the atoms of each frame, None where there are no forces."""
    try:
        results = committee.evaluate_batch(frames)
    except DataError:
        if len(frames) == 1:
            return [None]
        return [one for frame in frames for one in _spreads([frame], committee)]
    return [atom_disagreement(result["forces_var"]) for result in results]


def _spread_out(
    frames: Sequence[Atoms], apart: Sequence[Array], rows: Sequence[Rows], count: int
) -> list[tuple[int, float]]:
    """Take frames one by one, and after each what is like it becomes less wanted."""
    numbers = np.concatenate([frame.numbers for frame in frames])
    features, left = np.concatenate(rows), np.square(np.concatenate(apart))
    starts = np.cumsum([0, *(len(frame) for frame in frames)])[:-1]
    of = {int(z): np.flatnonzero(numbers == z) for z in np.unique(numbers)}
    features_of = {z: features[atoms] for z, atoms in of.items()}
    scales = {z: scale_of(features_of[z]) for z in of}
    del features
    remains = np.ones(len(left))
    chosen: list[tuple[int, float]] = []
    taken = np.zeros(len(frames), dtype=bool)
    while len(chosen) < min(count, len(frames)):
        wanted = np.maximum.reduceat(left * remains, starts)
        wanted[taken] = 0.0
        best = int(wanted.argmax())
        if wanted[best] == 0.0:
            break
        chosen.append((best, float(np.sqrt(wanted[best]))))
        taken[best] = True
        for z in np.unique(frames[best].numbers).tolist():
            near = nearest(features_of[z], rows[best][frames[best].numbers == z])
            still = np.where(near <= scales[z].rounding, 0.0, -np.expm1(-near / scales[z].pairs))
            remains[of[z]] = np.minimum(remains[of[z]], still)
    return chosen
