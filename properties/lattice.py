"""Lattice constant and bulk modulus, by cell relaxation and by an equation of state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from properties.batch import Progress, evaluate
from properties.errors import NotConvergedError, StructureError
from properties.quantity import Curve, Quantity
from properties.relaxation import MASK_2D, MASK_3D, relax, relax_ions, require_cell

EV_PER_A2_IN_N_PER_M = units.m**2 / units.J


@dataclass(frozen=True, eq=False)
class LatticeResult:
    """Lattice constant of a crystal or a layer.

    Attributes
    ----------
    a0 : float
        A. For cells of a cubic lattice (primitive or conventional) the edge of the conventional
        cube, otherwise the length of the first vector of the cell handed in. From the cell
        relaxation.
    a0_eos : float
        A. The same from the minimum of the equation of state.
    a0_agreement : float
        Relative difference ``a0_eos / a0 - 1``; large if stress and energy disagree.
    bulk_modulus_eos : float
        GPa for crystals; for layers N/m, the layer modulus A d2E/dA2.
    energy_per_atom, volume_per_atom : float
        eV and A^3 of the relaxed structure (for layers the volume holds the vacuum).
    residual_stress : ndarray, shape (6,)
        GPa, Voigt xx yy zz yz xz xy, of the relaxed structure; components outside the mask are
        not relaxed.
    two_dimensional : bool
        Whether the third direction was left alone.
    eos_sizes : ndarray, shape (n,)
        A^3 per atom (layers: A^2 per atom) of the points of the equation of state.
    eos_energies : ndarray, shape (n,)
        eV per atom at these points, ions relaxed.
    eos_rmse : float
        eV per atom, residual of the Birch-Murnaghan fit.
    atoms : Atoms
        The relaxed structure, without calculator.
    """

    a0: float
    a0_eos: float
    a0_agreement: float
    bulk_modulus_eos: float
    energy_per_atom: float
    volume_per_atom: float
    residual_stress: NDArray[np.float64]
    two_dimensional: bool
    eos_sizes: NDArray[np.float64]
    eos_energies: NDArray[np.float64]
    eos_rmse: float
    atoms: Atoms

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return the reported numbers: a0, a0_eos, bulk_modulus_eos, energy_per_atom, eos.

        Parameters
        ----------
        source : str
            Origin to note in each, for example the name of the calculator.
        """
        layer = self.two_dimensional
        return {
            "a0": Quantity(self.a0, "A", source),
            "a0_eos": Quantity(self.a0_eos, "A", source),
            "bulk_modulus_eos": Quantity(self.bulk_modulus_eos, "N/m" if layer else "GPa", source),
            "energy_per_atom": Quantity(self.energy_per_atom, "eV/atom", source),
            "eos": Curve(
                self.eos_sizes,
                self.eos_energies,
                "A^2/atom" if layer else "A^3/atom",
                "eV/atom",
                source,
            ),
        }


def lattice_constant(
    atoms: Atoms,
    calc: Any,
    *,
    mask: Sequence[bool] | None = None,
    fmax: float = 1e-4,
    max_steps: int = 500,
    eos_points: int = 11,
    eos_strain: float = 0.02,
    progress: Progress | None = None,
) -> LatticeResult:
    """Relax cell and ions, then fit an equation of state around the result.

    The two routes use different outputs of the calculator, stress and energy, so their agreement
    tests whether these belong together.

    Parameters
    ----------
    atoms : Atoms
        Cell near its equilibrium, primitive or conventional; left unchanged.
    calc : ASE calculator
        Energies, forces and stress, in double precision for the default `fmax`.
    mask : sequence of 6 bool, optional
        Strain components that may change (Voigt). By default all for structures that are
        periodic in three directions, xx, yy, xy for those that are not along z. A layer in a
        cell that is periodic along z needs ``mask=MASK_2D``.
    fmax : float
        Convergence of forces and virial per atom, eV/A and eV.
    max_steps : int
        Optimizer steps allowed.
    eos_points : int
        Points of the equation of state, at least 7.
    eos_strain : float
        Largest linear strain of the equation of state on either side; the cell keeps its shape,
        the ions are relaxed at each point.
    progress : callable, optional
        Called with (done, total) steps.

    Returns
    -------
    LatticeResult

    Raises
    ------
    NotConvergedError
        If a relaxation does not converge or the energy minimum lies outside the points.
    StructureError
        If the structure has no cell or carries constraints.
    CalculatorError
        If the calculator lacks stress or returns values that are not finite.
    """
    require_cell(atoms)
    if eos_points < 7 or not 0.0 < eos_strain < 0.2:
        raise StructureError("The equation of state needs 7 points or more and a strain below 0.2.")
    if mask is None:
        mask = MASK_3D if atoms.pbc[2] else MASK_2D
    flat = not mask[2]
    total = 2 * eos_points + 1
    relaxed = relax(atoms, calc, cell=True, mask=mask, fmax=fmax, max_steps=max_steps).atoms
    if progress is not None:
        progress(1, total)
    strained = _strained(relaxed, np.linspace(-eos_strain, eos_strain, eos_points), flat)

    def report(done: int, _: int) -> None:
        if progress is not None:
            progress(1 + done, total)

    strained, found = relax_ions(
        strained, calc, stress=False, fmax=fmax, max_steps=max_steps, progress=report
    )
    energies = np.array([one.energy for one in found])
    at_minimum = evaluate([relaxed], calc, stress=True)[0]
    if at_minimum.stress is None:
        raise AssertionError("evaluate(stress=True) returned no stress")
    n_atoms = len(relaxed)
    sizes = np.array([_size(frame, flat) for frame in strained]) / n_atoms
    best, modulus, rmse = fit_birch_murnaghan(sizes, energies / n_atoms)
    a0 = _conventional_edge(relaxed)
    a0_eos = float(a0 * (best * n_atoms / _size(relaxed, flat)) ** (1 / 2 if flat else 1 / 3))
    return LatticeResult(
        a0=a0,
        a0_eos=a0_eos,
        a0_agreement=a0_eos / a0 - 1.0,
        bulk_modulus_eos=modulus * EV_PER_A2_IN_N_PER_M if flat else modulus / units.GPa,
        energy_per_atom=at_minimum.energy / n_atoms,
        volume_per_atom=_size(relaxed, flat=False) / n_atoms,
        residual_stress=at_minimum.stress / units.GPa,
        two_dimensional=flat,
        eos_sizes=sizes,
        eos_energies=energies / n_atoms,
        eos_rmse=rmse,
        atoms=relaxed,
    )


def fit_birch_murnaghan(
    sizes: NDArray[np.float64], energies: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Fit a third-order Birch-Murnaghan equation of state with `ase.eos`.

    Parameters
    ----------
    sizes, energies : ndarray, shape (n,)
        Volumes in A^3 (or areas in A^2, where the form serves as a smooth fit) and eV.

    Returns
    -------
    size, modulus, rmse : float
        Size at the minimum; its product with the curvature, eV/A^3 (eV/A^2); residual in eV.

    Raises
    ------
    NotConvergedError
        If the minimum lies outside the points.
    """
    from ase.eos import EquationOfState

    outside = NotConvergedError(
        "The equation of state has no minimum inside its points; start from a cell nearer to "
        "equilibrium or widen eos_strain."
    )
    if energies.argmin() in (0, len(energies) - 1):
        raise outside
    # Energies of all-electron size would otherwise spoil the least-squares fit.
    shift = float(energies.min())
    eos = EquationOfState(sizes, energies - shift, eos="birchmurnaghan")
    try:
        size, _, modulus = eos.fit(warn=False)
    except RuntimeError as error:  # scipy's curve_fit ran out of iterations
        raise NotConvergedError(
            "The fit of the equation of state did not converge; its energies are not smooth."
        ) from error
    if not sizes.min() < size < sizes.max() or modulus <= 0.0:
        raise outside
    residual = eos.func(sizes, *eos.eos_parameters) - (energies - shift)
    return float(size), float(modulus), float(np.sqrt(np.mean(residual**2)))


def _strained(atoms: Atoms, strains: NDArray[np.float64], flat: bool) -> list[Atoms]:
    frames = []
    for strain in strains:
        frame = atoms.copy()
        stretch = np.diag([1 + strain, 1 + strain, 1.0 if flat else 1 + strain])
        frame.set_cell(atoms.cell.array @ stretch, scale_atoms=True)
        if flat:
            frame.positions[:, 2] = atoms.positions[:, 2]
        frames.append(frame)
    return frames


def _size(atoms: Atoms, flat: bool) -> float:
    if flat:
        return float(np.linalg.norm(np.cross(atoms.cell[0], atoms.cell[1])))
    return abs(float(np.linalg.det(atoms.cell.array)))


def _conventional_edge(atoms: Atoms) -> float:
    # The tolerance admits the residual shear of a cell relaxed without symmetry constraints.
    lattice = atoms.cell.get_bravais_lattice(eps=1e-3, pbc=atoms.pbc)
    if lattice.name in ("CUB", "BCC", "FCC"):
        cubes = {"CUB": 1, "BCC": 2, "FCC": 4}[lattice.name]
        return float((cubes * _size(atoms, flat=False)) ** (1 / 3))
    return float(np.linalg.norm(atoms.cell[0]))
