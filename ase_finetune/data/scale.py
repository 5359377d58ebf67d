"""The scale of total energies: which kind of code gives such energies, and in which unit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.units import Hartree, kcal, kJ, mol
from numpy.typing import NDArray

from ase_finetune.data.read import ENERGY_KEY, FORCES_KEY, is_isolated_atom
from ase_finetune.data.units import follow_forces
from ase_finetune.errors import DataError

Array = NDArray[np.float64]

ALL_ELECTRON = "all-electron total energies in eV"
_SAME_SCALE = 0.03
_OTHER_UNITS = {"hartree": Hartree, "kcal/mol": kcal / mol, "kJ/mol": kJ / mol}  # -> eV
_AMPLITUDE = 0.04  # A; 0.02 to 0.07 in dynamics of a molecule at 300 and 600 K
_ENOUGH = 5  # frames, for a spread of energies
_LEAST_FORCE = 0.05  # eV/A, RMS of the components


@dataclass(frozen=True)
class Scale:
    """What the energies of some compositions look like.

    Attributes
    ----------
    words
        Such as ``all-electron total energies in hartree``.
    to_eV
        What would bring them to eV; 1 where they seem to be.
    formulas
        The compositions.
    frames
        Places of the frames.
    confirmed
        Whether forces and the spread of the energies say the same of another unit than eV.
    """

    words: str
    to_eV: float
    formulas: tuple[str, ...]
    frames: tuple[int, ...]
    confirmed: bool


def all_electron(number: int) -> float:
    """Total energy of a neutral atom, eV, good to 10 % (2 % beyond carbon).

    Thomas-Fermi with Scott's and Schwinger's corrections: J. Schwinger, Phys. Rev. A 24, 2353
    (1981), nonrelativistic.
    """
    z = float(number)
    return float(-(0.768745 * z ** (7 / 3) - z**2 / 2 + 0.269900 * z ** (5 / 3)) * Hartree)


def energy_scales(frames: Sequence[Atoms]) -> list[Scale]:
    """Judge the size of the energies, composition by composition.

    Parameters
    ----------
    frames
        Frames with finite energies. Isolated atoms do not count beside others.

    Returns
    -------
    list of Scale
        One for every kind of energies, that of the most frames first.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    alone = all(is_isolated_atom(frame) for frame in frames)
    for row, frame in enumerate(frames):
        if alone or not is_isolated_atom(frame):
            groups[np.bincount(frame.numbers).tobytes()].append(row)
    kinds: dict[tuple[str, float], list[tuple[list[int], bool]]] = defaultdict(list)
    for rows in groups.values():
        words, to_eV, confirmed = _judged([frames[row] for row in rows])
        kinds[words, to_eV].append((rows, confirmed))
    scales = [
        Scale(
            words,
            to_eV,
            tuple(frames[rows[0]].get_chemical_formula() for rows, _ in parts),
            tuple(sorted(row for rows, _ in parts for row in rows)),
            any(confirmed for _, confirmed in parts),
        )
        for (words, to_eV), parts in kinds.items()
    ]
    return sorted(scales, key=lambda scale: -len(scale.frames))


def foreign_unit(scales: Sequence[Scale]) -> Scale | None:
    """Return the scale that is of another unit than eV beyond doubt, None if none is.

    A size alone may be chance among many compositions, so it must be that of half of the frames,
    or the spread of the energies must confirm it.
    """
    total = sum(len(scale.frames) for scale in scales)
    for scale in scales:
        if scale.to_eV != 1.0 and (scale.confirmed or 2 * len(scale.frames) >= total):
            return scale
    return None


def check_energy_scale(frames: Sequence[Atoms], name: str) -> None:
    """Stop on total energies that are all-electron ones in hartree, kcal/mol or kJ/mol.

    It leaves alone energies that change between nearby frames by the work of the forces.

    Parameters
    ----------
    frames
        Frames with finite energies and forces.
    name
        What they are called in messages.

    Raises
    ------
    DataError
        Naming the unit and the factor to eV.
    """
    found = foreign_unit(energy_scales(frames))
    if found is None:
        return
    if follow_forces([frames[row] for row in found.frames]):
        return
    raise DataError(
        f"The energies of the {name} set look like {found.words} ({listed_formulas(found)}): "
        f"multiply them by {found.to_eV:.6g} to have eV."
    )


def listed_formulas(scale: Scale, most: int = 3) -> str:
    """Spell the compositions, shortened after ``most``."""
    rest = len(scale.formulas) - most
    return ", ".join(scale.formulas[:most]) + (f" and {rest} more" if rest > 0 else "")


def _judged(frames: Sequence[Atoms]) -> tuple[str, float, bool]:
    """Words, factor to eV, and whether forces confirm it, for frames of one composition."""
    energy = np.array([float(frame.info[ENERGY_KEY]) for frame in frames])
    numbers = frames[0].numbers
    ratio = float(np.median(energy)) / sum(all_electron(int(z)) for z in numbers)
    middle = float(np.median(energy)) / len(numbers)
    if 0.9 < ratio < 1.12 and numbers.max() > 2:
        return ALL_ELECTRON, 1.0, False
    for unit, size in _OTHER_UNITS.items():
        if abs(ratio * size - 1) < _SAME_SCALE:
            fits = _fits_forces(frames, energy, size)
            if fits is not False:
                return f"all-electron total energies in {unit}", size, fits is True
    if -25.0 < middle < 5.0:
        words = "energies relative to atoms or reference atoms (VASP's and GPAW's scale)"
    elif ratio < 0.9 and middle < 0:
        words = "total energies of valence electrons (pseudopotentials)"
    else:
        words = "no scale that is known here"
    return words, 1.0, False


def _fits_forces(frames: Sequence[Atoms], energy: Array, to_eV: float) -> bool | None:
    """Whether the spread of energies fits the forces better after conversion; None if unknown.

    Their ratio is about the amplitude of vibrations. Valence energies in eV of some compositions,
    such as CHCl3, have the size of all-electron ones in hartree.
    """
    if len(frames) < _ENOUGH or any(FORCES_KEY not in frame.arrays for frame in frames):
        return None
    force = float(np.median([np.linalg.norm(frame.arrays[FORCES_KEY]) for frame in frames]))
    spread = 1.4826 * float(np.median(np.abs(energy - np.median(energy))))
    if not force > _LEAST_FORCE * np.sqrt(3 * len(frames[0])) or spread <= 0:
        return None
    given, converted = spread / force, spread * to_eV / force
    return bool(abs(np.log(converted / _AMPLITUDE)) < abs(np.log(given / _AMPLITUDE)))
