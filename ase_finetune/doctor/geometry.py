"""Distances in every frame: overlapping atoms, the unit of the positions, and energy features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.neighborlist import neighbor_list
from matscipy.neighbours import neighbour_list
from numpy.typing import NDArray

from ase_finetune.data.checks import OVERLAP_DISTANCE, OVERLAP_FRACTION
from ase_finetune.doctor.finding import Finding, Progress, of_frames

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

CUTOFF = 5.0  # A
_BINS = (10, 6, 4)
_FIRST = 0.7  # A, center of the first Gaussian
_NOBLE = (2, 10, 18, 36, 54, 86)  # bound too weakly for covalent radii to mean anything
# Nearest neighbors lie at 0.85 (molecules, bcc) to 1.2 (Mg, K, Pb) times the sum of the radii;
# a bohr read as an angstrom makes that 1.6 to 2.3, the opposite mistake 0.45 to 0.64.
_SPACINGS = (0.7, 1.4)
_SPACINGS_LOOKED_AT = 500  # frames
BOHR = 0.529177


@dataclass(frozen=True)
class Geometry:
    """What the distances of F frames say.

    Attributes
    ----------
    features
        (F, K), per atom: composition, smooth counts of pair distances and of densities.
    spacing
        (F,), median over the atoms of the nearest distance over the sum of covalent radii; NaN
        for single atoms, noble gases and, of many frames, those not looked at.
    overlaps
        Row -> what overlaps.
    """

    features: Array
    spacing: Array
    overlaps: dict[int, str]


def bins_for(count: int, elements: int) -> int:
    """Return the Gaussians per pair of elements that so many frames can tell apart."""
    kinds = elements * (elements + 1) // 2
    for bins in _BINS:
        if count >= 3 * (kinds * bins + 3 * elements):
            return bins
    return _BINS[-1]


def geometry(
    frames: Sequence[Atoms], bins: int, progress: Progress | None = None, title: str = "distances"
) -> Geometry:
    """Look at the distances below 5 A in every frame.

    Parameters
    ----------
    frames
        With finite positions and sound cells.
    bins
        Gaussians per pair of elements.
    progress
        Called with (title, done, total).
    """
    elements = sorted({int(z) for f in frames for z in f.numbers})
    table = np.zeros(119, dtype=np.int64)
    table[elements] = np.arange(len(elements))
    features, spacing, overlaps = [], np.full(len(frames), np.nan), {}
    stride = max(1, len(frames) // _SPACINGS_LOOKED_AT)
    for row, frame in enumerate(frames):
        first, second, distance = close_pairs(frame, CUTOFF)
        features.append(_features(table[frame.numbers], first, second, distance, elements, bins))
        radii = covalent_radii[frame.numbers]
        if len(distance):
            bond = radii[first] + radii[second]
            if row % stride == 0:
                spacing[row] = _spacing(frame, first, second, distance / bond)
            limit = np.maximum(OVERLAP_DISTANCE, OVERLAP_FRACTION * bond)
            bad = np.flatnonzero(distance < limit)
            if len(bad):
                worst = bad[np.argmin(distance[bad])]
                i, j = int(first[worst]), int(second[worst])
                overlaps[row] = (
                    f"atoms {i} ({chemical_symbols[frame.numbers[i]]}) and {j} "
                    f"({chemical_symbols[frame.numbers[j]]}) are {distance[worst]:.2f} A apart"
                )
        if progress is not None and (row % 50 == 49 or row == len(frames) - 1):
            progress(title, row + 1, len(frames))
    return Geometry(np.array(features), spacing, overlaps)


def close_pairs(frame: Atoms, cutoff: float) -> tuple[Ints, Ints, Array]:
    """Return every pair within the cutoff once (first <= second), images included."""
    cell, pbc = np.asarray(frame.cell.complete().array), frame.pbc
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    if len(frame) > 300 or np.any(heights[pbc] < 2 * cutoff):
        if pbc.all():
            first, second, distance = neighbour_list("ijd", frame, cutoff)
        else:
            first, second, distance = neighbor_list("ijd", frame, cutoff)
        # Every pair comes twice, pairs of an atom with its own image too.
        half = first < second
        own = np.flatnonzero(first == second)
        keep = np.concatenate([np.flatnonzero(half), own[::2]])
        return first[keep], second[keep], distance[keep]
    first, second = _every_pair(len(frame))
    vector = frame.positions[second] - frame.positions[first]
    if pbc.any():
        scaled = vector @ np.linalg.inv(cell)
        # A vector shorter than half of every height is its own minimum image.
        vector -= np.where(pbc, np.round(scaled), 0.0) @ cell
    squares = np.einsum("ij,ij->i", vector, vector)
    near = np.flatnonzero(squares < cutoff**2)
    return first[near], second[near], np.sqrt(squares[near])


@lru_cache(maxsize=32)
def _every_pair(size: int) -> tuple[Ints, Ints]:
    return np.triu_indices(size, 1)


def _features(
    species: Ints, first: Ints, second: Ints, distance: Array, elements: list[int], bins: int
) -> Array:
    count, size = len(elements), len(species)
    composition = np.bincount(species, minlength=count) / size
    centers = np.linspace(_FIRST, CUTOFF, bins + 1)[:-1]
    width = centers[1] - centers[0]
    switch = (1 - (distance / CUTOFF) ** 2) ** 2
    waves = np.exp(-(((distance[:, None] - centers) / width) ** 2)) * switch[:, None]
    low = np.minimum(species[first], species[second])
    high = np.maximum(species[first], species[second])
    kind = high * (high + 1) // 2 + low
    kinds = count * (count + 1) // 2
    pairs = np.zeros((kinds, bins))
    if len(kind):
        order = np.argsort(kind, kind="stable")
        starts = np.flatnonzero(np.diff(kind[order], prepend=-1))
        pairs[kind[order][starts]] = np.add.reduceat(waves[order], starts, axis=0)
    # Metals need more than pairs: the square root of a density, as embedded atoms have it.
    pull = np.exp(-distance) * switch
    density = np.bincount(first, weights=pull, minlength=size)
    density += np.bincount(second, weights=pull, minlength=size)
    root = np.bincount(species, weights=np.sqrt(density), minlength=count)
    square = np.bincount(species, weights=density**2, minlength=count)
    return np.concatenate([composition, pairs.ravel() / size, root / size, square / size])


def _spacing(frame: Atoms, first: Ints, second: Ints, ratio: Array) -> float:
    nearest = np.full(len(frame), np.inf)
    far_first = np.argsort(-ratio)
    for side in (first[far_first], second[far_first]):
        # Of several values for one atom the last, smallest one stays.
        closest = np.full(len(frame), np.inf)
        closest[side] = ratio[far_first]
        nearest = np.minimum(nearest, closest)
    bound = nearest[~np.isin(frame.numbers, _NOBLE) & np.isfinite(nearest)]
    return float(np.median(bound)) if len(bound) else float("nan")


def check_geometry(
    found: Geometry, rows: Sequence[int], name: str, total: int
) -> tuple[list[Finding], float]:
    """Find overlapping atoms and positions in the wrong unit.

    Returns
    -------
    (findings, factor)
        The factor that would bring the positions to angstrom, 1 where they seem right.
    """
    findings: list[Finding] = []
    factor = 1.0
    spacing = found.spacing[np.isfinite(found.spacing)]
    if len(spacing):
        middle = float(np.median(spacing))
        if middle > _SPACINGS[1]:
            factor = BOHR
            findings.append(
                _unit(name, middle, "bohr: multiply positions and cell by 0.529177", "farther")
            )
        elif middle < _SPACINGS[0] and middle * (1 / BOHR) < _SPACINGS[1]:
            factor = 1 / BOHR
            findings.append(
                _unit(name, middle, "converted to A twice: divide them by 0.529177", "closer")
            )
    if found.overlaps:
        row = min(found.overlaps)
        findings.append(
            Finding(
                "error",
                "overlap",
                f"Atoms overlap in {of_frames(len(found.overlaps), total)}; in frame "
                f"{rows[row]} {found.overlaps[row]}.",
                "Drop these frames, or correct their positions, cell or unit.",
                name,
                tuple(rows[r] for r in sorted(found.overlaps)),
            )
        )
    return findings, factor


def _unit(name: str, middle: float, looks: str, how: str) -> Finding:
    return Finding(
        "error",
        "positions_unit",
        f"Nearest neighbors are {middle:.2f} times the sum of their covalent radii apart, much "
        f"{how} than atoms that are bound.",
        f"Check the unit of positions and cell, which look {looks}.",
        name,
    )
