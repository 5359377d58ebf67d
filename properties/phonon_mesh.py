"""Density of states and harmonic thermal properties from phonons on a mesh of q-points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import units
from ase.cell import Cell
from numpy.typing import NDArray

from properties.errors import StructureError
from properties.phonon_path import Dimension

EV_PER_KJ_PER_MOL = units.kJ / units.mol


@dataclass(frozen=True, eq=False)
class DensityOfStates:
    """Phonon density of states per primitive cell.

    Attributes
    ----------
    frequencies : ndarray, shape (n,)
        THz, ascending, imaginary as negative.
    states : ndarray, shape (n,)
        1/THz; the integral is the number of branches.
    sigma : float
        THz, width of the Gaussian of each mode.
    mesh : tuple of 3 int
        Divisions of the mesh, Gamma among its points.
    """

    frequencies: NDArray[np.float64]
    states: NDArray[np.float64]
    sigma: float
    mesh: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class ThermalProperties:
    """Harmonic thermal properties per primitive cell at fixed volume.

    Attributes
    ----------
    temperatures : ndarray, shape (n,)
        K.
    free_energy : ndarray, shape (n,)
        eV, Helmholtz energy of the phonons, zero-point energy included.
    entropy, heat_capacity : ndarray, shape (n,)
        eV/K.
    zero_point_energy : float
        eV.
    n_modes : int
        Modes of the mesh: points times branches.
    n_left_out : int
        Imaginary modes among them, which have no place in these sums: the numbers mean little
        unless this is zero. The three acoustic modes at Gamma are left out too, but not counted.
    """

    temperatures: NDArray[np.float64]
    free_energy: NDArray[np.float64]
    entropy: NDArray[np.float64]
    heat_capacity: NDArray[np.float64]
    zero_point_energy: float
    n_modes: int
    n_left_out: int


def default_mesh(cell: Cell, dimension: Dimension, length: float = 100.0) -> tuple[int, int, int]:
    """Return divisions inversely proportional to the cell, for supercells `length` A long.

    100 A make the heat capacity at 300 K of a crystal or a layer converge to better than 0.1 %.
    """
    spacing = np.linalg.norm(np.asarray(cell.reciprocal()), axis=1)
    first, second, third = (max(1, round(length * float(b))) for b in spacing)
    return first, second, third if dimension == 3 else 1


def run_mesh(
    phonon: Any, mesh: Sequence[int], *, sigma: float, temperatures: NDArray[np.float64]
) -> tuple[NDArray[np.float64], DensityOfStates, ThermalProperties]:
    """Return frequencies on the irreducible points, density of states, thermal properties.

    Parameters
    ----------
    phonon : Phonopy
        With force constants.
    mesh : sequence of 3 int
        Divisions.
    sigma : float
        THz, width of the Gaussians of the density of states.
    temperatures : ndarray, shape (n,)
        K.

    Raises
    ------
    StructureError
        If the mesh, the width or a temperature makes no sense.
    """
    if len(mesh) != 3 or min(mesh) < 1:
        raise StructureError("A mesh of q-points has three divisions of one or more.")
    if sigma <= 0.0 or temperatures.ndim != 1 or (temperatures < 0.0).any():
        raise StructureError("The width sigma must be positive and temperatures not negative.")
    found = phonon.run_mesh([int(n) for n in mesh], is_gamma_center=True)
    frequencies = np.array(found.frequencies, dtype=np.float64)
    total = phonon.run_total_dos(
        sigma=sigma,
        freq_min=float(frequencies.min()) - 5.0 * sigma,
        freq_max=float(frequencies.max()) + 5.0 * sigma,
        freq_pitch=0.25 * sigma,
        use_tetrahedron_method=False,
    )
    first, second, third = (int(n) for n in mesh)
    states = DensityOfStates(
        np.array(total.frequency_points), np.array(total.dos), sigma, (first, second, third)
    )
    thermal = phonon.run_thermal_properties(
        temperatures=temperatures, cutoff_frequency=0.0, exclude_gamma_acoustic=True
    )
    per_kelvin = EV_PER_KJ_PER_MOL / 1000.0  # phonopy: kJ/mol, but J/K/mol
    modes = int(thermal.number_of_modes)
    return (
        frequencies,
        states,
        ThermalProperties(
            temperatures=temperatures,
            free_energy=np.array(thermal.free_energy) * EV_PER_KJ_PER_MOL,
            entropy=np.array(thermal.entropy) * per_kelvin,
            heat_capacity=np.array(thermal.heat_capacity) * per_kelvin,
            zero_point_energy=float(thermal.zero_point_energy) * EV_PER_KJ_PER_MOL,
            n_modes=modes,
            n_left_out=modes - int(thermal.number_of_integrated_modes) - 3,
        ),
    )
