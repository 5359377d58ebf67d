"""The energies' zero: E0s, isolated atoms, the scale of the total energies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from ase_finetune.data.read import ENERGY_KEY, is_isolated_atom
from ase_finetune.data.scale import (
    ALL_ELECTRON,
    Scale,
    energy_scales,
    foreign_unit,
    listed_formulas,
)
from ase_finetune.doctor.finding import Finding, listed
from ase_finetune.e0s import _fit

Array = NDArray[np.float64]

_COHESION = (-1.0, 15.0)  # eV/atom, generous: no solid or molecule is bound by more than 12


@dataclass(frozen=True)
class Zero:
    """What one set says about the energy of each element.

    Attributes
    ----------
    E0s
        Symbol -> eV, by least squares.
    rank, elements
        Of the fit, and how many it would take to tell all elements apart.
    isolated
        Symbol -> eV, labels of isolated atoms.
    residual
        (F,), eV/atom, energies less the E0s.
    scale
        What the size of the energies looks like, in words; by composition where they differ.
    foreign
        What is of another unit than eV, None where all seem to be in eV.
    judged
        Number of frames whose scale was judged.
    """

    E0s: dict[str, float]
    rank: int
    elements: int
    isolated: dict[str, float]
    residual: Array
    scale: str
    foreign: Scale | None
    judged: int

    def document(self) -> dict[str, Any]:
        """Return what doctor.json holds."""
        kept = ("E0s", "rank", "elements", "isolated", "scale", "to_eV")
        return {key: getattr(self, key) for key in kept}

    @property
    def to_eV(self) -> float:
        """What would bring nearly all energies to eV; 1 where they, or many, seem to be."""
        return 1.0 if self.foreign is None or self.partly_foreign else self.foreign.to_eV

    @property
    def partly_foreign(self) -> bool:
        """Whether energies of another unit are beside others."""
        return self.foreign is not None and len(self.foreign.frames) < 0.9 * self.judged

    @property
    def all_electron(self) -> bool:
        """Whether the energies are as large as all-electron ones in eV."""
        return self.scale == ALL_ELECTRON


def fit_zero(frames: Sequence[Atoms]) -> Zero:
    """Fit the E0s of frames with finite energies, robustly: gross outliers do not count."""
    elements = sorted({int(z) for f in frames for z in f.numbers})
    energy = np.array([f.info[ENERGY_KEY] for f in frames])
    size = np.array([len(f) for f in frames])
    counts = np.array([[np.sum(f.numbers == z) for z in elements] for f in frames], dtype=float)
    free = np.array([is_isolated_atom(f) for f in frames])
    kept = np.ones(len(frames), dtype=bool)
    values, rank = _fit(frames, energy, elements)
    for _ in range(2):
        residual = (energy - counts @ values) / size
        off = np.abs(residual - np.median(residual[~free])) if not free.all() else residual * 0
        spread = 1.4826 * float(np.median(off))
        kept = (off <= max(10 * spread, 1e-3)) | free
        chosen = [f for f, k in zip(frames, kept, strict=True) if k]
        new, new_rank = _fit(chosen, energy[kept], elements)
        if new_rank < rank:
            break  # what was left out is all there is of an element
        values = new
    isolated: dict[str, float] = {}
    for frame, value in zip(frames, energy, strict=True):
        if is_isolated_atom(frame):
            isolated.setdefault(chemical_symbols[int(frame.numbers[0])], float(value))
    symbols = [chemical_symbols[z] for z in elements]
    scales = energy_scales(frames)
    return Zero(
        dict(zip(symbols, map(float, values), strict=True)),
        rank,
        len(elements),
        isolated,
        (energy - counts @ values) / size,
        _spelled(scales),
        foreign_unit(scales),
        sum(len(scale.frames) for scale in scales),
    )


def _spelled(scales: Sequence[Scale]) -> str:
    if len(scales) == 1:
        return scales[0].words
    return "; ".join(f"{scale.words} ({listed_formulas(scale)})" for scale in scales)


def check_zero(
    zero: Zero, frames: Sequence[Atoms], rows: Sequence[int], name: str
) -> list[Finding]:
    """Judge the E0s, the isolated atoms and the scale."""
    found = []
    several = [r for r, f in enumerate(frames) if not is_isolated_atom(f)]
    if zero.rank < zero.elements:
        found.append(
            Finding(
                "note",
                "fixed_composition",
                f"{_dependent([frames[r] for r in several or range(len(frames))])}, so the "
                "energies cannot tell the elements' own energies apart (rank "
                f"{zero.rank} of {zero.elements}).",
                "Fine for what is here (E0s 'estimated' shifts what can be shifted); for other "
                "compositions add one isolated atom per element.",
                name,
            )
        )
    if zero.foreign is not None:
        which = f" of {listed_formulas(zero.foreign)}" if zero.partly_foreign else ""
        found.append(
            Finding(
                "error",
                "energy_unit",
                f"The energies{which} look like {zero.foreign.words}.",
                f"Multiply them by {zero.foreign.to_eV:.6g} to have eV.",
                name,
                tuple(rows[r] for r in zero.foreign.frames) if which else (),
            )
        )
        return found
    by_element: dict[str, list[int]] = defaultdict(list)
    for row, frame in enumerate(frames):
        if is_isolated_atom(frame):
            by_element[str(frame.symbols[0])].append(row)
    for symbol, atoms in by_element.items():
        energies = [frames[r].info[ENERGY_KEY] for r in atoms]
        if np.ptp(energies) > 0.01:
            found.append(
                Finding(
                    "warning",
                    "isolated_atoms_differ",
                    f"Isolated {symbol} has energies that differ by {np.ptp(energies):.3g} eV.",
                    "Keep the one of the ground state (spin!) at the level of the other frames.",
                    name,
                    tuple(rows[r] for r in atoms),
                )
            )
    return found + _cohesion(zero.isolated, frames, several, rows, name)


def _dependent(frames: Sequence[Atoms]) -> str:
    counts = [np.bincount(frame.numbers) for frame in frames]
    if len({(count // np.gcd.reduce(count)).tobytes() for count in counts}) == 1:
        return "All frames have the same proportions of elements"
    return "The compositions are linearly dependent, or fewer than the elements"


def _cohesion(
    isolated: Mapping[str, float],
    frames: Sequence[Atoms],
    several: Sequence[int],
    rows: Sequence[int],
    name: str,
) -> list[Finding]:
    known = [r for r in several if set(frames[r].symbols) <= set(isolated)]
    if not known:
        return []
    bound = np.array(
        [
            (sum(isolated[s] for s in frames[r].symbols) - frames[r].info[ENERGY_KEY])
            / len(frames[r])
            for r in known
        ]
    )
    middle = float(np.median(bound))
    if _COHESION[0] < middle < _COHESION[1]:
        return []
    atoms = [rows[r] for r, f in enumerate(frames) if is_isolated_atom(f)]
    return [
        Finding(
            "error",
            "isolated_atoms_level",
            f"Relative to the isolated atoms (frames {listed(atoms)}) the others are bound by "
            f"{middle:.3g} eV/atom, which no matter is.",
            "Compute the isolated atoms with the code, pseudopotentials and units of the others.",
            name,
            tuple(atoms),
        )
    ]
