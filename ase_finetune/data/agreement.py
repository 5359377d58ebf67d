"""Labels beside a foundation's predictions: a sign or unit that is wrong shows in their slope.

It shows there even where no two frames are near enough for `check_physics` to compare energies with
the work of the forces. Foundations are wrong, too, so only what looks like a known mistake counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree, Rydberg, kcal, kJ, mol
from numpy.typing import NDArray

from ase_finetune.data.read import ENERGY_KEY, FORCES_KEY
from ase_finetune.data.units import follow_forces, nearest_factors
from ase_finetune.errors import DataError

Array = NDArray[np.float64]

_CORRELATION = 0.8
_WITHIN = 1.6  # ratio of a slope and the factor of a unit
_SHARE = 0.8  # of the judged frames must look alike, as those of all real sets here and the seed do
_LEAST_FORCE = 0.3  # eV/A, RMS predicted; near a minimum two potentials may differ by anything
_LEAST_FRAMES = 5
_LEAST_SPREAD = 0.05  # eV, RMS predicted within compositions
_LEAST_FREEDOM = 8  # frames less compositions
_FORCE_UNITS = {
    Bohr / Hartree: "hartree/bohr",
    1 / Hartree: "hartree/A",
    Bohr / Rydberg: "Ry/bohr",
    mol / kcal: "kcal/mol/A",
    mol / kJ: "kJ/mol/A",
}
_ENERGY_UNITS = {
    1 / Hartree: "hartree",
    1 / Rydberg: "Ry",
    mol / kcal: "kcal/mol",
    mol / kJ: "kJ/mol",
}


@dataclass(frozen=True)
class Slopes:
    """Slope of labels against predictions and their correlation, of forces frame by frame.

    Attributes
    ----------
    slope, correlation
        (n,), of the frames whose predicted forces are 0.3 eV/A (RMS) or more.
    """

    slope: Array
    correlation: Array

    def like(self, factor: float) -> bool:
        """Tell whether labels look like predictions times a factor, in four frames of five."""
        ratio = self.slope / factor
        fits = (ratio > 1 / _WITHIN) & (ratio < _WITHIN) & (abs(self.correlation) > _CORRELATION)
        return len(ratio) >= _LEAST_FRAMES and float(fits.mean()) >= _SHARE


def force_slopes(frames: Sequence[Atoms], predicted: Array) -> Slopes:
    """Compare the forces of frames with predictions, eV/A, (A, 3) on all atoms in their order."""
    ends = np.cumsum([len(frame) for frame in frames])[:-1]
    found = []
    for frame, part in zip(frames, np.split(predicted, ends), strict=True):
        labels, others = frame.arrays[FORCES_KEY].ravel(), part.ravel()
        length = float(np.linalg.norm(labels))
        if len(frame) > 1 and length > 0 and np.sqrt(np.mean(others**2)) >= _LEAST_FORCE:
            product, size = float(labels @ others), float(np.linalg.norm(others))
            found.append((product / size**2, product / (length * size)))
    slope, correlation = np.array(found, dtype=np.float64).reshape(-1, 2).T
    return Slopes(slope, correlation)


def contradiction(
    frames: Sequence[Atoms],
    energy: Array,
    forces: Array,
    foundation: str,
    name: str | None = None,
) -> tuple[str, str] | None:
    """Say what about labels contradicts a foundation and must be their sign or unit.

    Forces are judged where the foundation predicts 0.3 eV/A (RMS) or more, over five frames or
    more: four of five must correlate with its (0.8) at a slope near -1 or near the factor of a
    unit. Energies are judged where the forces agree: their changes within compositions, over 8
    degrees of freedom or more, must do so with the frame of most weight and without it. A sign or
    energies are left alone if energies change between nearby frames by the work of the forces.

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
    """
    of = "" if name is None else f" of the {name} set"
    slopes = force_slopes(frames, forces)
    units = [text for factor, text in _FORCE_UNITS.items() if slopes.like(factor)]
    if units:
        middle = float(np.median(slopes.slope))
        return (
            f"The forces{of} are {middle:.3g} times those of the foundation {foundation}, frame by "
            f"frame, so they look like {_words(middle, _FORCE_UNITS)}",
            "give eV/A",
        )
    flipped = slopes.like(-1.0)
    found = _energy_slope(frames, energy) if slopes.like(1.0) else None
    if not (flipped or found) or follow_forces(frames):
        return None
    if flipped:
        return (
            f"The forces{of} run against those of the foundation {foundation} (correlation "
            f"{np.median(slopes.correlation):.2f}), so their sign is probably flipped",
            "give forces, which are minus the gradients of the energy",
        )
    assert found is not None
    slope, words = found
    return (
        f"Among frames of one composition the energies{of} change {slope:.3g} times as much as "
        f"those of the foundation {foundation}, whose forces agree with theirs, so {words}",
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


def _energy_slope(frames: Sequence[Atoms], predicted: Array) -> tuple[float, str] | None:
    """Slope of energies within compositions and what it looks like, if that is a mistake."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row, frame in enumerate(frames):
        if len(frame) > 1:
            groups[np.sort(frame.numbers).tobytes()].append(row)
    rows = [row for members in groups.values() for row in members]
    labels = np.array([float(frame.info[ENERGY_KEY]) for frame in frames])
    others = np.array(predicted, dtype=np.float64)
    for members in groups.values():
        for values in (labels, others):
            values[members] -= values[members].mean()
    labels, others = labels[rows], others[rows]
    if len(rows) - len(groups) < _LEAST_FREEDOM or np.sqrt(np.mean(others**2)) < _LEAST_SPREAD:
        return None
    size = float(np.median([len(frames[row]) for row in rows]))
    factors = {**_ENERGY_UNITS, 1 / size: "energies per atom", -1.0: "energies of another sign"}
    rest = np.arange(len(rows)) != np.argmax(np.abs(others))
    every = (labels, others), (labels[rest], others[rest])
    if not others[rest].any():
        return None
    slopes = [float(a @ b) / float(b @ b) for a, b in every]
    clear = all(abs(a @ b) > _CORRELATION * np.sqrt((a @ a) * (b @ b)) for a, b in every)
    known = set.intersection(*(set(nearest_factors(s, factors, _WITHIN)) for s in slopes))
    if not clear or not known:
        return None
    return slopes[0], f"they look like {_words(slopes[0], factors)}"


def _words(slope: float, units: dict[float, str]) -> str:
    return " or ".join(nearest_factors(slope, units, _WITHIN)[:2])
