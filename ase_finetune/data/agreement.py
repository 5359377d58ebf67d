"""Labels beside a foundation's predictions: a sign or unit that is wrong shows in their slope.

It shows there even where no two frames are near enough for `check_physics` to compare energies with
the work of the forces.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_finetune.data.physics import label_consistency
from ase_finetune.data.read import ENERGY_KEY, FORCES_KEY
from ase_finetune.data.units import FORCE_SLOPES, nearest_factors
from ase_finetune.errors import DataError

Array = NDArray[np.float64]

# DFT labels of five systems against the bundled seed: correlation 0.95 and more, slope 0.99 to
# 1.23 of forces; 0.68 and more, 0.87 to 1.50 of energies.
CORRELATION = 0.8
SLOPES = (0.25, 4.0)
_LEAST_FORCE = 0.05  # eV/A in its unit, the largest component of a frame
_LEAST_COMPONENTS = 30
_LEAST_FREEDOM = 8  # frames less compositions
_FORCE_UNITS = {
    1 / 51.4221: "hartree/bohr",
    1 / 27.2114: "hartree/A",
    1 / 25.7110: "Ry/bohr",
    23.0605: "kcal/mol/A",
    96.4853: "kJ/mol/A",
}
_ENERGY_UNITS = {
    1 / 27.2114: "hartree",
    1 / 13.6057: "Ry",
    23.0605: "kcal/mol",
    96.4853: "kJ/mol",
}


def contradiction(
    frames: Sequence[Atoms],
    energy: Array,
    forces: Array,
    foundation: str,
    name: str | None = None,
) -> tuple[str, str] | None:
    """Say what about labels contradicts a foundation so much that it must be their sign or unit.

    Parameters
    ----------
    frames
        Frames with labels.
    energy, forces
        (n,), eV, and (A, 3), eV/A, of the foundation on all frames, in their order. Energies may
        be off by a constant of each composition.
    foundation
        What it is called.
    name
        What the set is called.

    Returns
    -------
    (what is wrong, what to do) or None
        Forces that run against the foundation's (correlation below -0.8), or along them at less
        than 1/4 or more than 4 times their size, count over 30 components or more; energies
        likewise, within compositions, over 8 degrees of freedom or more. Labels whose energies
        change between nearby frames by the work of the forces have the right sign, and energies
        then the unit of the forces: it is the foundation that is wrong.
    """
    of = "" if name is None else f" of the {name} set"
    of_forces = _along(*_force_components(frames, forces), _LEAST_COMPONENTS)
    of_energies = _along(*_energy_changes(frames, energy), _LEAST_FREEDOM)
    if _plausible(of_forces) and _plausible(of_energies):
        return None
    work = label_consistency(frames).forces
    consistent = work is not None and work.clear and FORCE_SLOPES[0] < work.value < FORCE_SLOPES[1]
    if of_forces is not None:
        slope, correlation = of_forces
        if slope < 0 and not consistent:
            return (
                f"The forces{of} run against those of the foundation {foundation} (correlation "
                f"{correlation:.2f}), so their sign is probably flipped",
                "give forces, which are minus the gradients of the energy",
            )
        if slope > 0 and not SLOPES[0] < slope < SLOPES[1]:
            return (
                f"The forces{of} are {slope:.3g} times those of the foundation {foundation} "
                f"(correlation {correlation:.2f}), so they look like {_unit(slope, _FORCE_UNITS)}",
                "give eV/A",
            )
    if of_energies is None or _plausible(of_energies) or consistent:
        return None
    slope, correlation = of_energies
    if slope < 0:
        return (
            f"The energies{of} run against those of the foundation {foundation} (correlation "
            f"{correlation:.2f}), so their sign is probably flipped",
            "give total energies, lower where the binding is stronger",
        )
    size = float(np.median([len(frame) for frame in frames if len(frame) > 1]))
    units = {**_ENERGY_UNITS, 1 / size: "energies per atom"}
    return (
        f"Among frames of one composition the energies{of} change {slope:.3g} times as much as "
        f"those of the foundation {foundation} (correlation {correlation:.2f}), so they look like "
        f"{_unit(slope, units)}",
        "give total energies in eV",
    )


def check_agreement(
    frames: Sequence[Atoms], energy: Array, forces: Array, foundation: str, name: str
) -> None:
    """Stop on labels that contradict a foundation as `contradiction` finds.

    Raises
    ------
    DataError
        Saying what the labels look like.
    """
    found = contradiction(frames, energy, forces, foundation, name)
    if found is not None:
        raise DataError(f"{found[0]}: {found[1]}.")


def _plausible(found: tuple[float, float] | None) -> bool:
    return found is None or SLOPES[0] < found[0] < SLOPES[1]


def _along(labels: Array, others: Array, freedom: int, least: int) -> tuple[float, float] | None:
    """Slope of labels against predictions, and their correlation; None without clear evidence."""
    square, length = float(others @ others), float(np.linalg.norm(labels) * np.linalg.norm(others))
    if freedom < least or not length > 0:
        return None
    product = float(labels @ others)
    correlation = product / length
    return None if abs(correlation) < CORRELATION else (product / square, correlation)


def _force_components(frames: Sequence[Atoms], predicted: Array) -> tuple[Array, Array, int]:
    """Labelled and predicted components of frames with forces, and their number."""
    largest = np.array([np.abs(frame.arrays[FORCES_KEY]).max() for frame in frames])
    ends = np.cumsum([len(frame) for frame in frames])
    expected = [np.abs(part).max() for part in np.split(predicted, ends[:-1])]
    kept = np.maximum(largest, expected) >= _LEAST_FORCE
    mask = np.repeat(kept, [len(frame) for frame in frames])
    labels = np.concatenate([frame.arrays[FORCES_KEY] for frame in frames])[mask].ravel()
    return labels, predicted[mask].ravel(), len(labels)


def _energy_changes(frames: Sequence[Atoms], predicted: Array) -> tuple[Array, Array, int]:
    """Labelled and predicted energies less their means within compositions, and the freedom."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row, frame in enumerate(frames):
        groups[np.sort(frame.numbers).tobytes()].append(row)
    labels = np.array([float(frame.info[ENERGY_KEY]) for frame in frames])
    others = np.array(predicted, dtype=float)
    for rows in groups.values():
        for values in (labels, others):
            values[rows] -= values[rows].mean()
    return labels, others, len(frames) - len(groups)


def _unit(slope: float, units: dict[float, str]) -> str:
    """What has that slope, up to what a foundation gets wrong."""
    near = nearest_factors(slope, units, within=1.5)
    return " or ".join(near[:2]) if near else "another unit"
