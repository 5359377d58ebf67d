"""Frames that are in two sets at once, whatever the order and wrapping of their atoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ase_finetune.data.read import place_of
from ase_finetune.errors import DataError

SAME_WITHIN = 1e-4  # A; frames this close share their labels to well below a meV
_WAVES = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]])

Array = NDArray[np.float64]


def check_leakage(named: Mapping[str, Sequence[Atoms]]) -> None:
    """Stop if a frame is in two sets; isolated atoms may be in several.

    Raises
    ------
    DataError
        Naming the two sets, the number of shared frames and the first of them.
    """
    for (first, frames), (second, others) in combinations(named.items(), 2):
        shared = shared_frames(frames, others)
        if shared:
            i, j = shared[0]
            raise DataError(
                f"{len({pair[1] for pair in shared})} of {len(others)} frames of the {second} set "
                f"are in the {first} set too, the first being {place_of(others, j, second)}, which "
                f"is {place_of(frames, i, first)}: remove them from one of the two."
            )


def shared_frames(first: Sequence[Atoms], second: Sequence[Atoms]) -> list[tuple[int, int]]:
    """Find pairs of equal frames.

    Equal means: the same species, cell and periodicity, and positions that agree within 1e-4 A up
    to wrapping and the order of the atoms; molecules also up to translation, rotation and
    reflection, under which energies and forces do not change.

    Returns
    -------
    list of (int, int)
        Indices into `first` and `second`, sorted.
    """
    groups: dict[bytes, tuple[list[int], list[int]]] = {}
    for side, frames in enumerate((first, second)):
        for index, frame in enumerate(frames):
            if len(frame) > 1 or frame.pbc.any():
                key = np.sort(frame.numbers).tobytes() + frame.pbc.tobytes()
                groups.setdefault(key, ([], []))[side].append(index)
    found = []
    for rows, others in groups.values():
        if not rows or not others:
            continue
        left, right = (
            np.array([fingerprint(frames[i]) for i in indices])
            for frames, indices in ((first, rows), (second, others))
        )
        near = cKDTree(left).query_ball_tree(cKDTree(right), r=1.0)
        for a, candidates in enumerate(near):
            for b in candidates:
                if same_frame(first[rows[a]], second[others[b]]):
                    found.append((rows[a], others[b]))
    return sorted(found)


def fingerprint(frame: Atoms) -> Array:
    """Numbers that differ by less than about one in norm where frames are equal."""
    weights = 1 + frame.numbers / 100
    if not frame.pbc.any():
        center = (weights[:, None] * frame.positions).sum(axis=0) / weights.sum()
        radii = np.linalg.norm(frame.positions - center, axis=1)
        # Radii sorted per species tell frames apart and bear every rigid motion.
        order = np.lexsort((radii, frame.numbers))
        sorted_radii: Array = radii[order] / (4 * SAME_WITHIN * np.sqrt(len(frame)))
        return sorted_radii
    cell = frame.cell.complete().array
    scaled = np.linalg.solve(cell.T, frame.positions.T).T
    waves = np.exp(2j * np.pi * scaled @ _WAVES[_periodic_waves(frame)].T)
    factors = (weights[:, None] * waves).sum(axis=0)
    lengths = np.linalg.norm(cell, axis=1)
    slack = 4 * np.pi * weights.sum() * np.sqrt(len(_WAVES)) * SAME_WITHIN * (3 / lengths.min())
    return np.concatenate(
        [cell.ravel() / (9 * SAME_WITHIN), factors.real / slack, factors.imag / slack]
    )


def _periodic_waves(frame: Atoms) -> NDArray[np.bool_]:
    allowed: NDArray[np.bool_] = np.all(_WAVES[:, ~frame.pbc] == 0, axis=1)
    return allowed


def same_frame(a: Atoms, b: Atoms) -> bool:
    if not a.pbc.any():
        return all(
            np.allclose(x, y, rtol=0, atol=2 * SAME_WITHIN)
            for x, y in zip(_distances(a), _distances(b), strict=True)
        )
    cell = a.cell.complete().array
    if np.abs(cell - b.cell.complete().array).max() > SAME_WITHIN:
        return False
    for number in np.unique(a.numbers):
        rows, others = a.positions[a.numbers == number], b.positions[b.numbers == number]
        shift = np.linalg.solve(cell.T, (rows[:, None] - others[None]).reshape(-1, 3).T).T
        shift[:, a.pbc] -= np.round(shift[:, a.pbc])
        apart = np.linalg.norm(shift @ cell, axis=1).reshape(len(rows), len(others))
        if (apart.min(axis=1) > SAME_WITHIN).any() or (apart.min(axis=0) > SAME_WITHIN).any():
            return False
    return True


def _distances(frame: Atoms) -> list[Array]:
    """Sorted distances, one array per pair of species."""
    first, second = np.triu_indices(len(frame), 1)
    distance = np.linalg.norm(frame.positions[first] - frame.positions[second], axis=1)
    low = np.minimum(frame.numbers[first], frame.numbers[second])
    high = np.maximum(frame.numbers[first], frame.numbers[second])
    kinds = low * 1000 + high
    return [np.sort(distance[kinds == kind]) for kind in np.unique(kinds)]
