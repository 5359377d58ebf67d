"""A single energy far from those of all frames like it, also where a set is small."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_finetune.doctor.finding import Finding, of_frames

Array = NDArray[np.float64]

_ENOUGH = 10  # frames like each other
_LIKE = 2.0  # times the usual distance from the middle of all
_HOT = 1.35  # times the usual force; a temperature twice as high gives 1.41
_SCORE = 10.0  # robust standard deviations
_GAP = 2.5  # over the next energy
_FLOOR = 0.22  # eV per root of the number of atoms
_FEW = 20  # of so many frames, one may be wrong


def lone_energies(
    frames: Sequence[Atoms], energy: Array, distance: Array, force: Array
) -> dict[int, float]:
    """Find energies far from the median of frames of one composition that are alike.

    Parameters
    ----------
    frames
        Frames, of any compositions.
    energy
        (F,), eV, what to judge: labels, or labels less predictions.
    distance
        (F,), how far each frame is from the others of its composition.
    force
        (F,), size of the forces. Only frames with a usual distance and force are judged, by one
        another, and the most unusual one is not accused: a rare structure or a hotter one has
        another energy by right.

    Returns
    -------
    dict
        Row -> eV off the median.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row, frame in enumerate(frames):
        groups[np.bincount(frame.numbers).tobytes()].append(row)
    found: dict[int, float] = {}
    for rows in groups.values():
        near = distance[rows] <= _LIKE * np.median(distance[rows])
        usual = near & (force[rows] <= _HOT * np.median(force[rows]))
        alike = [row for row, kept in zip(rows, usual, strict=True) if kept]
        if len(alike) < _ENOUGH:
            continue
        far = _far(alike, energy[alike], _FLOOR * float(np.sqrt(len(frames[alike[0]]))))
        others = [row for row in alike if row not in far]
        ordinary = (distance <= distance[others].max()) & (force <= force[others].max())
        found |= {row: off for row, off in far.items() if ordinary[row]}
    return found


def distances(frames: Sequence[Atoms], features: Array) -> Array:
    """How far each structure is from the median of its composition.

    Parameters
    ----------
    frames, features
        Frames and (F, K) of `geometry.geometry`.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row, frame in enumerate(frames):
        groups[np.bincount(frame.numbers).tobytes()].append(row)
    out = np.zeros(len(frames))
    for rows in groups.values():
        part = features[rows]
        out[rows] = np.linalg.norm(part - np.median(part, axis=0), axis=1)
    return out


def _far(rows: Sequence[int], energy: Array, floor: float) -> dict[int, float]:
    off = energy - np.median(energy)
    least = max(_SCORE * 1.4826 * float(np.median(np.abs(off))), floor)
    order = np.argsort(np.abs(off))
    for count in range(max(1, len(rows) // _FEW), 0, -1):
        lower, upper = (float(abs(off[order[-count - i]])) for i in (1, 0))
        if upper > least and upper > _GAP * lower:
            return {rows[int(i)]: float(off[i]) for i in order[-count:]}
    return {}


def lone_finding(wrong: dict[int, float], total: int, beside: str, name: str) -> Finding:
    """Report what `lone_energies` found, by the numbers of the frames in their set.

    Parameters
    ----------
    wrong
        Number of the frame -> eV.
    total
        Frames judged.
    beside
        What the energies stick out of.
    name
        Of the set.
    """
    first = max(wrong, key=lambda row: abs(wrong[row]))
    return Finding(
        "warning",
        "energy_outlier",
        f"The energy of {of_frames(len(wrong), total)} lies far from {beside} although structure "
        f"and forces are ordinary (frame {first} by {wrong[first]:+.2f} eV).",
        "Look whether these calculations converged; compute them again or drop them.",
        name,
        tuple(sorted(wrong)),
    )
