"""Recognizing a simulation that has left physics behind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from properties.neighbors import pairs

HOT = 2.0  # times the target above it
HOT_SIGMAS = 8.0
CONTACT = 0.5  # times the sum of covalent radii
BONDED = 1.3
LOST = 2.0
ESCAPE = 10.0  # A


@dataclass(frozen=True)
class BlowUp:
    """Why and when a simulation was stopped.

    Attributes
    ----------
    step : int
        Step after which it was noticed, equilibration included. Temperature and numbers that are
        not finite are looked for after every step, distances in every written frame.
    time_ps : float
        The same in ps from the start of the equilibration.
    reason : str
        For people, for example ``"the temperature reached 2190 K"``.
    """

    step: int
    time_ps: float
    reason: str

    def __str__(self) -> str:
        return f"{self.reason} at step {self.step} ({self.time_ps:.3f} ps)"


class Watch:
    """What counts as a blow-up, relative to the start of a run.

    A temperature of three times the target (more for few atoms: eight standard deviations above
    it); two atoms closer than half the sum of their covalent radii; an atom that was bonded at
    the start (1.3 times that sum) and has nothing within twice that sum, which no reaction between
    molecules does; an atom more than 10 A outside the start's extent along a direction that is
    not periodic.

    Parameters
    ----------
    atoms : Atoms
        The start.
    temperature_K : float
        Target.
    n_dof : int
        Degrees of freedom.
    """

    def __init__(self, atoms: Atoms, temperature_K: float, n_dof: int) -> None:
        self.limit = temperature_K * (1.0 + max(HOT, HOT_SIGMAS * np.sqrt(2.0 / n_dof)))
        self.radii = covalent_radii[atoms.numbers]
        self.bonded = self._has_neighbor(atoms, BONDED)
        self.free = ~atoms.pbc
        self.low = atoms.positions.min(axis=0) - ESCAPE
        self.high = atoms.positions.max(axis=0) + ESCAPE
        # Cartesian extents mean something only for a cell along the axes.
        aligned = np.allclose(atoms.cell.array, np.diag(np.diag(atoms.cell.array)))
        if not aligned and atoms.pbc.any():
            self.free = np.zeros(3, bool)

    def _has_neighbor(self, atoms: Atoms, scale: float) -> np.ndarray:
        (i,) = pairs("i", atoms, scale * self.radii)
        found = np.zeros(len(atoms), bool)
        found[i] = True
        return found

    def motion(self, atoms: Atoms, temperature_K: float) -> str | None:
        """Say what is wrong with velocities and positions; cheap enough for every step."""
        if not (np.isfinite(temperature_K) and np.isfinite(atoms.positions).all()):
            return "positions, velocities or forces are not finite"
        if temperature_K > self.limit:
            return f"the temperature reached {temperature_K:.0f} K"
        return None

    def structure(self, atoms: Atoms) -> str | None:
        """Say what is wrong with distances."""
        i, j, d = pairs("ijd", atoms, CONTACT * self.radii)
        if len(d):
            k = int(d.argmin())
            return f"{_name(atoms, i[k])} and {_name(atoms, j[k])} are {d[k]:.2f} A apart"
        lost = np.flatnonzero(self.bonded & ~self._has_neighbor(atoms, LOST))
        if len(lost):
            return f"{_name(atoms, lost[0])} lost all its bonds"
        outside = (atoms.positions < self.low) | (atoms.positions > self.high)
        escaped = np.flatnonzero((outside & self.free).any(axis=1))
        if len(escaped):
            return f"{_name(atoms, escaped[0])} escaped"
        return None


def _name(atoms: Atoms, index: int) -> str:
    return f"atom {index} ({atoms.symbols[index]})"
