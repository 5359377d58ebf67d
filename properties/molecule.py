"""A molecule's minimum with its harmonic frequencies, hydrogen transfer, and torsions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from properties.batch import Progress, evaluate, evaluate_one
from properties.errors import StructureError
from properties.quantity import Curve, Quantity
from properties.relaxation import relax

# sqrt(eV / (A^2 u)) as an energy hbar * omega in eV, and 1/cm in eV.
EV_PER_MODE = units._hbar * 1e10 / np.sqrt(units._e * units._amu)
EV_PER_CM = units.invcm
MIRROR = np.array([-1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class MinimumResult:
    """A relaxed molecule.

    Attributes
    ----------
    atoms : Atoms
        Without calculator.
    energy : float
        eV.
    hessian : ndarray, shape (3 n_atoms, 3 n_atoms)
        eV/A^2, symmetrized.
    frequencies : ndarray, shape (3 n_atoms - 6,)
        1/cm, ascending, rotations and translations projected out; an imaginary one is negative.
    zero_point_energy : float
        eV, of the real frequencies.
    distances : mapping of str to float
        A.
    angles : mapping of str to float
        Degrees.
    """

    atoms: Atoms
    energy: float
    hessian: NDArray[np.float64]
    frequencies: NDArray[np.float64]
    zero_point_energy: float
    distances: Mapping[str, float]
    angles: Mapping[str, float]

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return distances, angles, ``zero_point_energy`` and the curve ``frequencies``."""
        found: dict[str, Quantity | Curve] = {
            name: Quantity(value, "A", source) for name, value in self.distances.items()
        }
        found |= {name: Quantity(value, "deg", source) for name, value in self.angles.items()}
        found["zero_point_energy"] = Quantity(1e3 * self.zero_point_energy, "meV", source)
        modes = np.arange(1.0, len(self.frequencies) + 1.0)
        found["frequencies"] = Curve(modes, self.frequencies, "mode", "cm^-1", source)
        return found


@dataclass(frozen=True, eq=False)
class TransferResult:
    """A symmetric transfer between two equivalent sites.

    Attributes
    ----------
    minimum, transition : Atoms
        Relaxed; the latter within the mirror symmetry about x = 0.
    barrier : float
        eV, difference of their energies.
    distance : float
        A, between the two sites at the transition state.
    """

    minimum: Atoms
    transition: Atoms
    barrier: float
    distance: float

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return ``transfer_barrier`` (meV) and ``transfer_distance`` (A)."""
        return {
            "transfer_barrier": Quantity(1e3 * self.barrier, "meV", source),
            "transfer_distance": Quantity(self.distance, "A", source),
        }


@dataclass(frozen=True, eq=False)
class TorsionResult:
    """Energies of rigid rotations about a bond, relative to the relaxed molecule.

    Attributes
    ----------
    name : str
        Of the bond.
    angles : ndarray, shape (n,)
        Degrees, ascending.
    energies : ndarray, shape (n,)
        eV.
    """

    name: str
    angles: NDArray[np.float64]
    energies: NDArray[np.float64]

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return the curve ``torsion_NAME`` in meV."""
        curve = Curve(self.angles, 1e3 * self.energies, "deg", "meV", source)
        return {f"torsion_{self.name}": curve}


def vibrational_frequencies(
    atoms: Atoms, hessian: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Return the harmonic frequencies of a bent molecule and its zero-point energy.

    Parameters
    ----------
    atoms : Atoms
    hessian : ndarray, shape (3 n_atoms, 3 n_atoms)
        eV/A^2.

    Returns
    -------
    frequencies : ndarray, shape (3 n_atoms - 6,)
        1/cm, ascending, imaginary ones negative.
    zero_point_energy : float
        eV.
    """
    root = np.sqrt(np.repeat(atoms.get_masses(), 3))
    arms = atoms.positions - atoms.get_center_of_mass()
    rigid = [np.tile(axis, len(atoms)) for axis in np.eye(3)]
    rigid += [np.cross(axis, arms).ravel() for axis in np.eye(3)]
    basis, strength, _ = np.linalg.svd((np.array(rigid) * root).T)
    if strength[5] < 1e-6 * strength[0]:
        raise StructureError("The frequencies of a linear molecule are not provided here.")
    internal = basis[:, 6:]
    curvature = internal.T @ (hessian / np.outer(root, root)) @ internal
    values = np.linalg.eigvalsh(curvature)
    modes = np.sign(values) * np.sqrt(np.abs(values)) * EV_PER_MODE
    return np.sort(modes) / EV_PER_CM, float(0.5 * modes[modes > 0].sum())


def molecular_minimum(
    atoms: Atoms,
    calc: Any,
    *,
    distances: Mapping[str, tuple[int, int]] | None = None,
    angles: Mapping[str, tuple[int, int, int]] | None = None,
    delta: float = 0.005,
    fmax: float = 1e-3,
    max_steps: int = 1000,
    progress: Progress | None = None,
) -> MinimumResult:
    """Relax a molecule and find its frequencies by central differences of the forces.

    Parameters
    ----------
    atoms : Atoms
        Start, not periodic; left unchanged.
    calc : ASE calculator
        Energies and forces.
    distances, angles : mapping of str to tuple of int, optional
        Atoms between which distances and angles are reported, by name.
    delta : float
        Displacement in A.
    fmax : float
        Convergence of the relaxation, eV/A.
    max_steps : int
        Optimizer steps allowed in it.
    progress : callable, optional
        Called with (done, total) displacements.

    Returns
    -------
    MinimumResult

    Raises
    ------
    NotConvergedError
        If the relaxation does not converge.
    CalculatorError
        If the calculator lacks forces or returns values that are not finite.
    StructureError
        If the molecule is periodic, has fewer than three atoms, or is linear.
    """
    if atoms.pbc.any() or len(atoms) < 3:
        raise StructureError("A molecule of three atoms or more, without periodicity, is needed.")
    base = relax(atoms, calc, fmax=fmax, max_steps=max_steps).atoms
    displaced = []
    for i in range(3 * len(base)):
        for sign in (1.0, -1.0):
            moved = base.copy()
            moved.positions.ravel()[i] += sign * delta
            displaced.append(moved)
    found = evaluate(displaced, calc, stress=False, progress=progress)
    pulls = np.array([e.forces.ravel() for e in found])
    hessian = (pulls[1::2] - pulls[::2]) / (2.0 * delta)
    hessian = 0.5 * (hessian + hessian.T)
    frequencies, zero_point = vibrational_frequencies(base, hessian)
    return MinimumResult(
        base,
        evaluate_one(base, calc, stress=False).energy,
        hessian,
        frequencies,
        zero_point,
        {name: float(base.get_distance(*pair)) for name, pair in (distances or {}).items()},
        {name: float(base.get_angle(*three)) for name, three in (angles or {}).items()},
    )


class MirrorSymmetry:
    """ASE constraint: a molecule stays its own image in the plane x = 0.

    Parameters
    ----------
    swap : sequence of int
        ``swap[i]`` is the atom whose image is atom ``i``.
    """

    def __init__(self, swap: Sequence[int]) -> None:
        self.swap = np.array(swap)

    def _average(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = 0.5 * (vectors + vectors[self.swap] * MIRROR)
        return mean

    def adjust_positions(self, atoms: Atoms, new: NDArray[np.float64]) -> None:
        """Make new positions symmetric, in place."""
        new[:] = self._average(new)

    def adjust_forces(self, atoms: Atoms, forces: NDArray[np.float64]) -> None:
        """Remove what breaks the symmetry, in place."""
        forces[:] = self._average(forces)

    def todict(self) -> dict[str, Any]:
        """Describe the constraint as ASE asks for it."""
        return {"name": "MirrorSymmetry", "kwargs": {"swap": self.swap.tolist()}}


def transfer_barrier(
    minimum: Atoms,
    symmetric: Atoms,
    swap: Sequence[int],
    sites: tuple[int, int],
    calc: Any,
    *,
    fmax: float = 1e-3,
    max_steps: int = 1000,
) -> TransferResult:
    """Relax a molecule freely and within a mirror symmetry; the difference is a barrier.

    Where the two halves of a molecule exchange an atom, its place midway between them is a
    transition state by symmetry, and relaxing within the symmetry leads to it.

    Parameters
    ----------
    minimum, symmetric : Atoms
        Starts; the latter its own image in the plane x = 0.
    swap : sequence of int
        ``swap[i]`` is the atom whose image is atom ``i``.
    sites : (int, int)
        Atoms between which the transfer happens.
    calc : ASE calculator
        Energies and forces.
    fmax, max_steps
        Of both relaxations, see :func:`properties.relax`.

    Returns
    -------
    TransferResult

    Raises
    ------
    NotConvergedError, CalculatorError
        See :func:`properties.relax`.
    StructureError
        If the symmetric start is not symmetric.
    """
    constraint = MirrorSymmetry(swap)
    image = symmetric.positions.copy()
    constraint.adjust_positions(symmetric, image)
    if np.abs(image - symmetric.positions).max() > 1e-4:
        raise StructureError("The symmetric start is not its own image in the plane x = 0.")
    start = symmetric.copy()
    start.positions = image
    start.set_constraint(constraint)
    low = relax(minimum, calc, fmax=fmax, max_steps=max_steps).atoms
    high = relax(start, calc, fmax=fmax, max_steps=max_steps).atoms
    high.set_constraint()
    energies = [e.energy for e in evaluate([low, high], calc, stress=False)]
    return TransferResult(low, high, energies[1] - energies[0], float(high.get_distance(*sites)))


def rotated(atoms: Atoms, bond: tuple[int, int], moving: Sequence[int], angle: float) -> Atoms:
    """Return the molecule with the atoms ``moving`` rotated about a bond by ``angle`` degrees."""
    turned: Atoms = atoms.copy()
    part = turned[list(moving)]
    first, second = (atoms.positions[i] for i in bond)
    part.rotate(angle, second - first, center=first)
    turned.positions[list(moving)] = part.positions
    return turned


def torsion_profile(
    atoms: Atoms,
    bond: tuple[int, int],
    moving: Sequence[int],
    angles: Sequence[float],
    calc: Any,
    *,
    name: str,
    fmax: float = 1e-3,
    max_steps: int = 1000,
    progress: Progress | None = None,
) -> TorsionResult:
    """Relax a molecule and rotate a part of it rigidly about a bond.

    Parameters
    ----------
    atoms : Atoms
        Start; left unchanged.
    bond : (int, int)
        The axis points from the first to the second atom.
    moving : sequence of int
        Atoms that are rotated, right-handed about the axis.
    angles : sequence of float
        Degrees, ascending; nothing else is relaxed at any of them.
    calc : ASE calculator
        Energies and forces.
    name : str
        Of the bond, in the result.
    fmax, max_steps
        Of the relaxation, see :func:`properties.relax`.
    progress : callable, optional
        Called with (done, total) angles.

    Returns
    -------
    TorsionResult

    Raises
    ------
    NotConvergedError, CalculatorError
        See :func:`properties.relax`.
    """
    base = relax(atoms, calc, fmax=fmax, max_steps=max_steps).atoms
    turned = [base, *(rotated(base, bond, moving, angle) for angle in angles)]
    energies = np.array([e.energy for e in evaluate(turned, calc, stress=False, progress=progress)])
    return TorsionResult(name, np.array(angles, dtype=np.float64), energies[1:] - energies[0])
