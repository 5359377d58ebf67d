"""Force constants from finite displacements: phonopy makes the supercells, symfc fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from properties.errors import StructureError

Supercell = Sequence[int] | Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class AcousticModes:
    """Frequencies of the three acoustic modes at Gamma, which are zero for exact forces.

    Each in THz, ascending, imaginary as negative, shape (3,): the modes with most weight on rigid
    translations.

    Attributes
    ----------
    raw : ndarray, shape (3,), or None
        From the forces as they came, without subtraction and before any sum rule. None if only
        force constants are known.
    subtracted : ndarray, shape (3,), or None
        With the forces of the undisplaced supercell subtracted, before any sum rule. None if they
        are not subtracted.
    corrected : ndarray, shape (3,)
        From the force constants in use, which obey the sum rule by construction.
    """

    raw: NDArray[np.float64] | None
    subtracted: NDArray[np.float64] | None
    corrected: NDArray[np.float64]


def displaced_cells(
    atoms: Atoms,
    supercell: Supercell,
    *,
    distance: float,
    plus_minus: bool,
    symprec: float,
) -> Any:
    """Return a `phonopy.Phonopy` with the displacements that the symmetry leaves.

    Parameters
    ----------
    atoms : Atoms
        Primitive cell. Masses set by hand are used, phonopy's standard ones otherwise.
    supercell : 3 int or 3 x 3 int
        Multiples of the cell vectors, or phonopy's matrix.
    distance : float
        A.
    plus_minus : bool
        Displace every atom both ways, not only where symmetry does not imply the other way.
    symprec : float
        A, tolerance of the symmetry search.

    Raises
    ------
    StructureError
        If the supercell is no matrix, or the cell is not primitive.
    """
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    matrix = np.asarray(supercell)
    if matrix.shape not in ((3,), (3, 3)) or not np.issubdtype(matrix.dtype, np.integer):
        raise StructureError("The supercell needs three integers, or three rows of three.")
    if matrix.shape == (3,):
        matrix = np.diag(matrix)
    if round(abs(float(np.linalg.det(matrix)))) < 1:
        raise StructureError("The supercell has no volume.")
    cell = PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(),
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(wrap=False),
        masses=atoms.get_masses() if atoms.has("masses") else None,
    )
    phonon = Phonopy(cell, matrix, primitive_matrix="P", symprec=symprec)
    identity = np.eye(3, dtype=int)
    copies = int((phonon.primitive_symmetry.dataset.rotations == identity).all((1, 2)).sum())
    if copies > 1:
        raise StructureError(
            f"The cell holds {copies} primitive cells, so its bands would be folded; hand in a "
            "primitive cell."
        )
    phonon.generate_displacements(distance=distance, is_plusminus=True if plus_minus else "auto")
    return phonon


def supercell_atoms(phonon: Any, pbc: Sequence[bool]) -> list[Atoms]:
    """Return the undisplaced supercell and the displaced ones, in this order."""
    cells = [phonon.supercell, *phonon.supercells_with_displacements]
    return [
        Atoms(
            cell.symbols,
            cell=cell.cell,
            scaled_positions=cell.scaled_positions,
            masses=cell.masses,
            pbc=pbc,
        )
        for cell in cells
    ]


def fit_force_constants(
    phonon: Any, forces: NDArray[np.float64], undisplaced: NDArray[np.float64] | None
) -> AcousticModes:
    """Set forces and force constants of a `phonopy.Phonopy` with displacements.

    symfc (A. Seko and A. Togo, Phys. Rev. B 110, 214302 (2024)) fits in the space of force
    constants that obey the space group, the exchange of indices and the acoustic sum rule.

    Parameters
    ----------
    phonon : Phonopy
        Left with the forces in use and compact force constants in eV/A^2.
    forces : ndarray, shape (n_displacements, n_atoms, 3)
        eV/A, of the displaced supercells.
    undisplaced : ndarray, shape (n_atoms, 3), or None
        eV/A to subtract, of the undisplaced supercell.

    Returns
    -------
    AcousticModes
    """
    phonon.forces = forces
    raw, subtracted = _unconstrained_acoustic(phonon), None
    if undisplaced is not None:
        phonon.forces = forces - undisplaced
        subtracted = _unconstrained_acoustic(phonon)
    phonon.produce_force_constants(
        fc_calculator="symfc", calculate_full_force_constants=False, show_drift=False
    )
    return AcousticModes(raw, subtracted, acoustic_at_gamma(phonon)[0])


def acoustic_at_gamma(phonon: Any) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return frequencies (THz, ascending) and branch indices of the acoustic modes at Gamma.

    Chosen by their weight on rigid translations: with forces that break the sum rule they need
    not be the lowest.
    """
    found = phonon.run_qpoints([[0.0, 0.0, 0.0]], with_eigenvectors=True)
    vectors, masses = found.eigenvectors[0], phonon.primitive.masses
    translations = np.kron(np.sqrt(masses / masses.sum())[:, None], np.eye(3))
    weights = (np.abs(translations.T @ vectors) ** 2).sum(0)
    modes = np.sort(np.argsort(weights)[-3:])
    return np.asarray(found.frequencies[0][modes], dtype=np.float64), modes


def _unconstrained_acoustic(phonon: Any) -> NDArray[np.float64] | None:
    """Acoustic frequencies of phonopy's plain finite differences, which impose no sum rule."""
    if "first_atoms" not in phonon.dataset:
        return None  # random displacements, which plain differences cannot use
    phonon.produce_force_constants(
        fc_calculator="traditional", calculate_full_force_constants=False, show_drift=False
    )
    return acoustic_at_gamma(phonon)[0]
