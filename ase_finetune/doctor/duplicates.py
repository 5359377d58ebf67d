"""Frames that are nearly the same, in one set or in two, and trajectories cut between two sets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ase_finetune.data.duplicates import fingerprint, same_frame, shared_frames
from ase_finetune.data.read import ENERGY_KEY
from ase_finetune.doctor.finding import Finding, of_frames

Array = NDArray[np.float64]

SAME = 2e-5  # A, largest displacement; files round positions to 1e-6 or 1e-8
NEAR = 1e-3  # A; phonon displacements start at 5e-3
_WAVES = 8
_LABEL_NOISE = 1e-3  # eV/atom
_FOLLOWING = 0.7  # of the usual distance between frames of the two sets
_CANDIDATES = 6
_INSIDE = 0.9
_MOST_LOOKED_AT = 500
_LEAST_ATOMS = 4


@dataclass(frozen=True)
class Twins:
    """Pairs (i, j), i < j, of frames in one list of atoms order: ``same`` to 2e-5 A, ``near``."""

    same: list[tuple[int, int]]
    near: list[tuple[int, int]]


def twins(frames: Sequence[Atoms]) -> Twins:
    """Find frames that differ by less than 1e-3 A; molecules up to a rigid motion."""
    same: list[tuple[int, int]] = []
    near: list[tuple[int, int]] = []
    for rows in _groups(frames).values():
        group = [frames[i] for i in rows]
        points = _points(group)
        for a, b in cKDTree(points).query_pairs(_radius(group[0])):
            far = farthest(group[a], group[b])
            if far < NEAR:
                pair = (min(rows[a], rows[b]), max(rows[a], rows[b]))
                (same if far < SAME else near).append(pair)
    return Twins(sorted(same), sorted(near))


def farthest(a: Atoms, b: Atoms) -> float:
    """Largest displacement of an atom (A) between two frames with the same order of atoms.

    Cells that differ count by what they move; molecules are superposed first.
    """
    shift = displacement(a, b)
    moved = float(np.linalg.norm(shift, axis=1).max())
    return max(moved, float(np.abs(a.cell.array - b.cell.array).max()) if a.pbc.any() else 0.0)


def displacement(a: Atoms, b: Atoms) -> Array:
    """Displacements (N, 3) from a to b, by the nearest image or after superposition."""
    if a.pbc.any():
        cell = np.asarray(a.cell.complete().array)
        shift = b.positions - a.positions
        scaled = shift @ np.linalg.inv(cell)
        wrapped: Array = shift - np.where(a.pbc, np.round(scaled), 0.0) @ cell
        return wrapped
    place, other = (f.positions - f.positions.mean(axis=0) for f in (a, b))
    left, _, right = np.linalg.svd(other.T @ place)
    proper = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    turned: Array = other @ (left @ proper @ right) - place
    return turned


def _groups(frames: Sequence[Atoms]) -> dict[tuple[bytes, bytes], list[int]]:
    groups: dict[tuple[bytes, bytes], list[int]] = defaultdict(list)
    for index, frame in enumerate(frames):
        if len(frame) > 1 or frame.pbc.any():
            groups[frame.numbers.tobytes(), frame.pbc.tobytes()].append(index)
    return groups


def _points(group: Sequence[Atoms]) -> Array:
    """Numbers that change by less than `_radius` where atoms move by less than 1e-3 A."""
    rng = np.random.default_rng(0)
    size = len(group[0])
    if not group[0].pbc.any():
        first, second = np.triu_indices(size, 1)
        chosen = rng.permutation(len(first))[: 3 * _WAVES]
        i, j = first[chosen], second[chosen]
        return np.array([np.linalg.norm(f.positions[i] - f.positions[j], axis=1) for f in group])
    phases = np.exp(2j * np.pi * rng.random((size, _WAVES)))
    waves = rng.integers(-1, 2, (3, _WAVES)).astype(float)
    waves[:, ~waves.any(axis=0)] = 1.0
    waves[~group[0].pbc] = 0.0
    points = []
    for frame in group:
        cell = np.asarray(frame.cell.complete().array)
        scaled = frame.positions @ np.linalg.inv(cell)
        sums = (phases * np.exp(2j * np.pi * scaled @ waves)).sum(axis=0)
        # In A: a displacement u of every atom changes the sum by about 2 pi u sqrt(N) / length.
        length = float(np.linalg.norm(cell, axis=1).min())
        sums *= length / (2 * np.pi * np.sqrt(size))
        points.append(np.concatenate([cell.ravel(), sums.real, sums.imag]))
    return np.array(points)


def _radius(frame: Atoms) -> float:
    # Molecules: 2 NEAR in each distance. Cells: up to sqrt(3) waves, and a common shift of all
    # atoms adds up like N instead of sqrt(N); random phases keep that near sqrt(N).
    return float(2 * NEAR * np.sqrt(3 * _WAVES) * (1.0 if not frame.pbc.any() else 2.0))


def check_twins(
    found: Twins, frames: Sequence[Atoms], rows: Sequence[int], name: str, fitted: bool
) -> list[Finding]:
    """Judge repeated frames in one set.

    Parameters
    ----------
    found
        Of `twins`.
    frames, rows, name
        Frames with finite labels, their numbers, and the set.
    fitted
        Whether the set is trained on; elsewhere repeats are only noted.
    """
    level = "warning" if fitted else "note"
    findings = []
    for code, pairs, how in (
        ("duplicates", found.same, "repeat earlier ones exactly"),
        ("near_duplicates", found.near, f"differ from earlier ones by less than {NEAR:g} A"),
    ):
        later = sorted({b for _, b in pairs})
        if later:
            a, b = pairs[0]
            findings.append(
                Finding(
                    level,
                    code,
                    f"{of_frames(len(later), len(frames))} {how} (first: {rows[b]} is {rows[a]}).",
                    "Drop the repeats: they weigh double and can hide in both halves of a split.",
                    name,
                    tuple(rows[r] for r in later),
                )
            )
    disagree = [
        (a, b)
        for a, b in found.same
        if abs(frames[a].info[ENERGY_KEY] - frames[b].info[ENERGY_KEY])
        > _LABEL_NOISE * len(frames[a])
    ]
    if disagree:
        a, b = disagree[0]
        change = frames[b].info[ENERGY_KEY] - frames[a].info[ENERGY_KEY]
        findings.append(
            Finding(
                "error",
                "duplicates_disagree",
                f"The same structure has different energies in {len(disagree)} pairs of frames "
                f"(first: {rows[a]} and {rows[b]}, {change:+.3g} eV).",
                "Find out which is right; two codes, settings or references seem to be mixed.",
                name,
                tuple(sorted({rows[r] for pair in disagree for r in pair})),
            )
        )
    return findings


def check_pair(
    first: Sequence[Atoms], second: Sequence[Atoms], names: tuple[str, str], level: str
) -> list[Finding]:
    """Find frames of the first set in the second, also nearly or as the next in a trajectory.

    Parameters
    ----------
    first, second
        Frames of two sets.
    names
        Their names.
    level
        Of a leak between them: ``error``, or ``note`` where neither is trained on.
    """
    findings = []
    source = f"{names[0]} and {names[1]}"
    leaked = shared_frames(first, second)
    rows = sorted({j for _, j in leaked})
    if rows:
        i, j = leaked[0]
        findings.append(
            Finding(
                level,
                "leakage",
                f"{of_frames(len(rows), len(second))} of {names[1]} are in {names[0]} too "
                f"(first: {j} is {i}).",
                "Remove them from one of the two, or the errors will look better than they are.",
                source,
                tuple(rows),
            )
        )
    near, following = _neighbors(first, second, set(rows))
    if near:
        findings.append(
            Finding(
                "warning" if level == "error" else "note",
                "near_leakage",
                f"{of_frames(len(near), len(second))} of {names[1]} differ from a frame of "
                f"{names[0]} by less than {NEAR:g} A.",
                "Remove them from one of the two.",
                source,
                tuple(near),
            )
        )
    if following:
        findings.append(
            Finding(
                "warning" if level == "error" else "note",
                "trajectory_split",
                f"{of_frames(len(following), len(second))} of {names[1]} lie between frames of "
                f"{names[0]}, as neighbors in one trajectory do.",
                "Split by whole trajectories or blocks (--split-by trajectory), not frame by "
                "frame.",
                source,
                tuple(following),
            )
        )
    return findings


def _neighbors(
    first: Sequence[Atoms], second: Sequence[Atoms], leaked: set[int]
) -> tuple[list[int], list[int]]:
    near, following = [], []
    others = _groups(second)
    for key, rows in _groups(first).items():
        columns = others.get(key, [])
        if not columns:
            continue
        group, rest = [first[i] for i in rows], [second[j] for j in columns]
        points = _points([*group, *rest])
        gaps, nearest = cKDTree(points[: len(group)]).query(
            points[len(group) :], k=min(_CANDIDATES, len(group))
        )
        gaps, nearest = (np.reshape(x, (len(rest), -1)) for x in (gaps, nearest))
        for place in np.flatnonzero(gaps[:, 0] < _radius(rest[0])):
            if any(farthest(group[int(a)], rest[place]) < NEAR for a in nearest[place]):
                near.append(columns[place])
        if len(rest[0]) < _LEAST_ATOMS or len(group) < 8:
            continue
        # Of many frames a part shows as well whether they lie between the others.
        looked_at = np.unique(np.linspace(0, len(rest) - 1, _MOST_LOOKED_AT).astype(int))
        limit = _FOLLOWING * _typical(group, rest)
        between = [
            columns[place]
            for place in looked_at
            if columns[place] not in leaked
            and _lies_between(rest[place], group, nearest[place], limit)
        ]
        if len(between) >= max(3, 0.2 * len(looked_at)):
            following += between
    near = [column for column in near if column not in leaked]
    return sorted(near), sorted(following)


def _lies_between(
    frame: Atoms, group: Sequence[Atoms], nearest: NDArray[np.int64], limit: float
) -> bool:
    """Whether the two nearest of a group follow each other and are farther apart than from it.

    In independent frames they follow each other by chance only.
    """
    apart = sorted((_apart(group[int(a)], frame), int(a)) for a in nearest)
    if len(apart) < 2 or apart[1][0] > limit:
        return False
    one, other = apart[0][1], apart[1][1]
    if abs(one - other) != 1:
        return False
    return apart[1][0] < _INSIDE * _apart(group[one], group[other])


def _typical(first: Sequence[Atoms], second: Sequence[Atoms]) -> float:
    rng = np.random.default_rng(0)
    pairs = zip(rng.integers(len(first), size=40), rng.integers(len(second), size=40), strict=True)
    return float(np.median([_apart(first[int(a)], second[int(b)]) for a, b in pairs]))


def _apart(a: Atoms, b: Atoms) -> float:
    """Root mean square displacement, A; the motion of the cell counts."""
    shift = displacement(a, b)
    if a.pbc.any():
        shift = shift - shift.mean(axis=0)
    return float(np.sqrt((shift**2).sum(axis=1).mean()))


def check_equivalent(
    frames: Sequence[Atoms], rows: Sequence[int], name: str, known: set[tuple[int, int]]
) -> list[Finding]:
    """Note frames that equal others by symmetry or in another order of atoms."""
    pairs: list[tuple[int, int]] = []
    groups: dict[tuple[bytes, bytes], list[int]] = defaultdict(list)
    for index, frame in enumerate(frames):
        groups[np.sort(frame.numbers).tobytes(), frame.pbc.tobytes()].append(index)
    for members in groups.values():
        if len(members) > 1:
            points = np.array([fingerprint(frames[i]) for i in members])
            for a, b in cKDTree(points).query_pairs(1.0):
                i, j = sorted((members[a], members[b]))
                if (rows[i], rows[j]) not in known and same_frame(frames[i], frames[j]):
                    pairs.append((rows[i], rows[j]))
    pairs.sort()
    if not pairs:
        return []
    i, j = pairs[0]
    return [
        Finding(
            "note",
            "equivalent_frames",
            f"{len({b for _, b in pairs})} frames equal others up to a rotation, a reflection or "
            f"the order of atoms (first: {j} is {i}).",
            "Fine, but they carry no new information.",
            name,
            tuple(sorted({b for _, b in pairs})),
        )
    ]
