"""Checks that stop a wrong run early, each with one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

from ase_finetune.data.read import (
    ENERGY_KEY,
    FORCES_KEY,
    STRESS_KEY,
    WEIGHT_KEY,
    first_of,
    is_isolated_atom,
    label_keys,
    place_of,
)
from ase_finetune.data.units import check_physics
from ase_finetune.errors import DataError

OVERLAP_FRACTION = 0.4  # of the sum of covalent radii; Mo at 6000 K under 40 GPa reaches 0.61
OVERLAP_DISTANCE = 0.5  # A; the shortest bond, H2, is 0.74
_ZEROED_FRAMES_LOOKED_AT = 20


def check_frames(
    frames: Sequence[Atoms],
    *,
    stress: bool,
    elements: Sequence[int] | None = None,
    name: str = "data",
) -> None:
    """Stop on frames that must not be trained on.

    Parameters
    ----------
    frames
        Frames as `read_frames` gives them.
    stress
        Whether the stress is trained on and must be there.
    elements
        Atomic numbers that the foundation has, or None to skip that check.
    name
        What the frames are called in messages.

    Raises
    ------
    DataError
        For an empty list; labels that are missing, not finite or of the wrong shape; a periodic
        cell without volume; an element that the foundation lacks; overlapping atoms; forces
        zeroed by constraints; forces or stress whose sign or unit contradicts the energies.
    """
    check_structures(frames, stress=stress, elements=elements, name=name)
    check_physics(frames, stress=stress, name=name)


def check_structures(
    frames: Sequence[Atoms], *, stress: bool, elements: Sequence[int] | None, name: str
) -> None:
    """Do the part of `check_frames` that looks at one frame at a time."""
    if not frames:
        raise DataError(f"The {name} set is empty: give it at least one frame.")
    _check_labels(frames, stress, name)
    _check_finite(frames, stress, name)
    _check_weights(frames, name)
    if elements is not None:
        _check_elements(frames, elements, name)
    _check_overlaps(frames, name)
    _check_zeroed(frames, name)


def _check_labels(frames: Sequence[Atoms], stress: bool, name: str) -> None:
    without = [i for i, f in enumerate(frames) if ENERGY_KEY not in f.info]
    _missing(without, frames, "energy", name)
    without = [i for i, f in enumerate(frames) if FORCES_KEY not in f.arrays]
    _missing(without, frames, "forces", name)
    for index, frame in enumerate(frames):
        shape = np.shape(frame.arrays[FORCES_KEY])
        if shape != (len(frame), 3):
            raise DataError(
                f"The forces of {place_of(frames, index, name)} have shape {shape}: "
                f"give ({len(frame)}, 3)."
            )
        voigt = np.shape(frame.info.get(STRESS_KEY, np.zeros(6)))
        if voigt != (6,):
            raise DataError(
                f"The stress of {place_of(frames, index, name)} has shape {voigt}: give six "
                "numbers in the order xx yy zz yz xz xy."
            )
    if not stress:
        return
    # A free atom has no stress, and isolated atoms in a set of crystals are welcome.
    meant = [i for i, f in enumerate(frames) if not is_isolated_atom(f)]
    open_ones = [i for i in meant if not frames[i].pbc.all()]
    if open_ones:
        raise DataError(
            f"A stress is asked for, but {len(open_ones)} of {len(frames)} frames of the {name} "
            f"set (first: {first_of(frames, open_ones)}) are not periodic in all directions and "
            "have none: train without it (stress weight 0)."
        )
    without = [i for i in meant if STRESS_KEY not in frames[i].info]
    if without:
        others = label_keys(frames)["stress"]
        hint = f" or name its key ({', '.join(others)}) with --stress-key" if others else ""
        raise DataError(
            f"A stress is asked for, but {len(without)} of {len(frames)} frames of the {name} set "
            f"(first: {first_of(frames, without)}) have none: "
            f"train without it (stress weight 0){hint}."
        )


def _missing(without: Sequence[int], frames: Sequence[Atoms], kind: str, name: str) -> None:
    if not without:
        return
    key = {"energy": ENERGY_KEY, "forces": FORCES_KEY}[kind]
    others = [name for name in label_keys(frames)[kind] if name != key]
    hint = f" (keys that look like it: {', '.join(others)})" if others else ""
    raise DataError(
        f"{len(without)} of {len(frames)} frames of the {name} set "
        f"(first: {first_of(frames, without)}) have no "
        f"{kind} under {key}{hint}: label them, drop them, or name the key with --{kind}-key."
    )


def _check_finite(frames: Sequence[Atoms], stress: bool, name: str) -> None:
    for index, frame in enumerate(frames):
        values = {
            "energy": frame.info[ENERGY_KEY],
            "forces": frame.arrays[FORCES_KEY],
            "positions": frame.positions,
            "cell": frame.cell.array,
        }
        if stress and STRESS_KEY in frame.info:
            values["stress"] = frame.info[STRESS_KEY]
        for what, value in values.items():
            if not np.all(np.isfinite(value)):
                raise DataError(
                    f"The {what} of {place_of(frames, index, name)} is not finite (NaN or "
                    "infinity): drop the frame or compute it again."
                )
        if len(frame) == 0:
            raise DataError(f"There are no atoms in {place_of(frames, index, name)}: drop it.")
        if frame.pbc.any() and abs(frame.cell.complete().volume) < 1e-3 * len(frame):
            raise DataError(
                f"The cell of {place_of(frames, index, name)} is periodic but has no volume: "
                "give it a cell or turn periodicity off."
            )
        if any(frame.pbc[i] and not frame.cell.array[i].any() for i in range(3)):
            raise DataError(
                f"The cell of {place_of(frames, index, name)} is periodic along a vector of length "
                "zero: give it a cell or turn periodicity off."
            )


def _check_weights(frames: Sequence[Atoms], name: str) -> None:
    for index, frame in enumerate(frames):
        weight = frame.info.get(WEIGHT_KEY, 1.0)
        real = isinstance(weight, (int, float, np.integer, np.floating))
        if not real or isinstance(weight, bool) or not 0.0 <= float(weight) < np.inf:
            raise DataError(
                f"The weight ({WEIGHT_KEY}) of {place_of(frames, index, name)} is {weight!r}: give "
                "a number that is not negative."
            )


def _check_elements(frames: Sequence[Atoms], elements: Sequence[int], name: str) -> None:
    present = {int(z) for frame in frames for z in np.unique(frame.numbers)}
    lacking = sorted(present - {int(z) for z in elements})
    if lacking:
        raise DataError(
            f"The foundation lacks {_symbols(lacking)}, which the {name} set contains "
            f"(it has {_symbols(sorted(int(z) for z in elements))}): choose another foundation "
            "or drop those frames."
        )


def _symbols(numbers: Iterable[int]) -> str:
    symbols = [chemical_symbols[z] for z in numbers]
    return ", ".join(symbols if len(symbols) <= 12 else [*symbols[:12], "..."])


def _check_overlaps(frames: Sequence[Atoms], name: str) -> None:
    for index, frame in enumerate(frames):
        found = overlap(frame)
        if found is not None:
            i, j, distance = found
            raise DataError(
                f"Atoms {i} ({frame.symbols[i]}) and {j} ({frame.symbols[j]}) of "
                f"{place_of(frames, index, name)} overlap ({distance:.2f} A apart): drop "
                "the frame or correct its positions or cell."
            )


def overlap(frame: Atoms) -> tuple[int, int, float] | None:
    """Return the two atoms that overlap most and their distance (A), or None if none do."""
    radii = covalent_radii[frame.numbers]
    longest = max(OVERLAP_DISTANCE, 2 * OVERLAP_FRACTION * float(radii.max()))
    first, second, distance = _close_pairs(frame, longest)
    limit = np.maximum(OVERLAP_DISTANCE, OVERLAP_FRACTION * (radii[first] + radii[second]))
    bad = np.flatnonzero(distance < limit)
    if not len(bad):
        return None
    worst = bad[np.argmin(distance[bad])]
    return int(first[worst]), int(second[worst]), float(distance[worst])


def _close_pairs(
    frame: Atoms, cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    cell, pbc = frame.cell.complete().array, frame.pbc
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    # A vector shorter than half of every height is its own minimum image.
    if len(frame) > 300 or np.any(heights[pbc] < 2 * cutoff):
        return neighbor_list("ijd", frame, cutoff)  # type: ignore[no-any-return]
    first, second = np.triu_indices(len(frame), 1)
    vector = frame.positions[second] - frame.positions[first]
    if pbc.any():
        scaled = np.linalg.solve(cell.T, vector.T).T
        vector -= np.where(pbc, np.round(scaled), 0.0) @ cell
    distance = np.linalg.norm(vector, axis=1)
    near = distance < cutoff
    return first[near], second[near], distance[near]


def _check_zeroed(frames: Sequence[Atoms], name: str) -> None:
    bad: list[int] = []
    rows = 0
    looked_at = 0
    for index, frame in enumerate(frames):
        forces = frame.arrays[FORCES_KEY]
        zero = ~forces.any(axis=1)
        if len(frame) == 1 or not zero.any() or looked_at == _ZEROED_FRAMES_LOOKED_AT:
            continue
        held = zero & constrained(frame)
        if not held.any() and zero.sum() < 2:
            continue
        rest = forces[~zero]
        if len(rest) and np.sqrt((rest**2).sum(axis=1).mean()) < 0.02:
            continue  # near a minimum, forces printed with few digits round to zero
        looked_at += 1
        count = int((zero & lopsided_forces(frame)).sum())
        if count >= (1 if held.any() else 2):
            bad.append(index)
            rows += count
    if bad:
        raise DataError(
            f"{rows} forces in {len(bad)} frames of the {name} set "
            f"(first: {first_of(frames, bad)}) are exactly zero although the surroundings are not "
            "symmetric, as constraints leave them: export them without constraints (in ASE "
            "get_forces(apply_constraint=False))."
        )


def constrained(frame: Atoms) -> NDArray[np.bool_]:
    mask = np.zeros(len(frame), dtype=bool)
    for constraint in frame.constraints:
        if hasattr(constraint, "get_indices"):
            mask[constraint.get_indices()] = True
    return mask


def lopsided_forces(frame: Atoms) -> NDArray[np.bool_]:
    """Tell which atoms have surroundings that no symmetry forbids to exert a force."""
    cutoff = 5.0
    first, second, distance, vector = neighbor_list("ijdD", frame, cutoff)
    pull = np.zeros((len(frame), 3))
    weight = frame.numbers[second] * np.exp(-distance / 1.5) * (1 - distance / cutoff) ** 2
    np.add.at(pull, first, weight[:, None] * vector / distance[:, None])
    scale = np.bincount(first, weights=weight, minlength=len(frame))
    lopsided: NDArray[np.bool_] = np.linalg.norm(pull, axis=1) > 1e-3 * np.maximum(scale, 1e-12)
    return lopsided
