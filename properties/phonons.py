"""Phonon bands of crystals and layers, from finite displacements with any ASE calculator.

phonopy makes the displacements and solves the dynamical matrix, symfc fits the force constants.
Frequencies are in THz, imaginary ones negative. No non-analytic correction is applied: the one
for crystals is wrong for a layer.

The curve ``phonon_bands`` of a result, and of a reference that is to be compared with it, has

- x in the unit ``"path"``: distance along the path over the length of the whole path, from 0 to 1
  (:attr:`properties.phonon_path.BandPath.x`). It does not change with the lattice constant, so
  that models are compared at the same fractional q, point by point, without interpolation. Where
  a cell may also change its shape, as c/a of hcp, x of inner points shifts by as much; results
  themselves are then compared by q (:func:`properties.band_errors.band_errors`);
- one point where two lines of the path meet, so that three lines of 51 points have 151, not 153;
  two points of the same x where the path jumps;
- y of shape (n, branches) in THz, ascending at each q.

Bands agree with others made by phonopy to its precision if the forces of the undisplaced
supercell are subtracted there too, ``produce_force_constants(fc_calculator="symfc")`` is called
and nothing else symmetrizes the force constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.spacegroup.symmetrize import refine_symmetry
from numpy.typing import ArrayLike, NDArray

from properties.batch import Progress, evaluate
from properties.errors import StructureError
from properties.force_constants import (
    Supercell,
    displaced_cells,
    fit_force_constants,
    supercell_atoms,
)
from properties.phonon_path import Dimension
from properties.phonon_result import PhononResult, analyze
from properties.relaxation import (
    MASK_2D,
    MASK_3D,
    VACUUM,
    gap_along_z,
    relax,
    require_cell,
)

TEMPERATURES = tuple(range(0, 1001, 10))


def phonon_bands(
    atoms: Atoms,
    calc: Any,
    *,
    supercell: Supercell,
    dimension: Dimension | None = None,
    distance: float = 0.01,
    plus_minus: bool = False,
    subtract_residual: bool = True,
    relax_cell: bool = True,
    fmax: float = 1e-4,
    max_steps: int = 500,
    residual_limit: float = 0.05,
    symprec: float = 1e-3,
    path: str | None = None,
    special_points: Mapping[str, Sequence[float]] | None = None,
    points: int = 51,
    mesh: Sequence[int] | None = None,
    sigma: float = 0.1,
    temperatures: ArrayLike = TEMPERATURES,
    progress: Progress | None = None,
) -> PhononResult:
    """Relax a cell, displace its atoms in a supercell, and solve for bands and more.

    Parameters
    ----------
    atoms : Atoms
        Primitive cell; a layer in the xy plane with its third vector along z. Left unchanged.
        Masses set by hand are used, phonopy's standard ones otherwise.
    calc : ASE calculator
        Energies and forces in double precision; stress too if the cell is relaxed.
    supercell : 3 int or 3 x 3 int
        Multiples of the cell vectors, or phonopy's supercell matrix. It should be twice as wide
        as forces reach; a layer has one cell along z.
    dimension : {2, 3}, optional
        By default 3 for a crystal that is periodic in three directions, 2 if it is not along z.
        A cell that is periodic in all three but holds a gap of more than 6 A along the third
        needs it: the path, the mesh and the relaxation of a layer stay in its plane.
    distance : float
        A, of the displacements.
    plus_minus : bool
        Displace every atom both ways. By default only where symmetry does not imply the other
        way. Even terms of the forces, residual ones among them, then cancel.
    subtract_residual : bool
        Subtract the forces of the undisplaced supercell.
    relax_cell : bool
        Relax cell (of a layer: xx, yy, xy) and ions first, and give the relaxed cell the symmetry
        that it has within `symprec`. Without it the cell is used as it is.
    fmax, max_steps
        Of the relaxation, see :func:`properties.relax`.
    residual_limit : float
        eV/A, largest force on an atom of the undisplaced supercell that is accepted.
    symprec : float
        A, tolerance of the search for symmetry.
    path, special_points, points
        See :func:`properties.phonon_path.band_path`.
    mesh : sequence of 3 int, optional
        Divisions for density of states and thermal properties, along a layer's normal 1; about
        100 A over the length of each vector by default.
    sigma : float
        THz, Gaussian width of the density of states.
    temperatures : array_like, shape (n,)
        K, of the thermal properties.
    progress : callable, optional
        Called with (done, total) steps.

    Returns
    -------
    PhononResult

    Raises
    ------
    StructureError
        If the structure is no primitive crystal or layer, its dimension is not clear, it is not
        at equilibrium, or a setting makes no sense.
    NotConvergedError
        If the relaxation does not converge.
    CalculatorError
        If the calculator lacks a quantity or returns values that are not finite.
    """
    dimension = find_dimension(atoms, dimension)
    if not 0.0 < distance < 0.2 or symprec <= 0.0:
        raise StructureError("Displacements lie between 0 and 0.2 A, and symprec is positive.")
    if dimension == 2 and not _flat(np.asarray(supercell)):
        raise StructureError("The supercell of a layer has one cell along z.")
    base = atoms.copy()
    base.calc = None
    if relax_cell:
        mask = MASK_2D if dimension == 2 else MASK_3D
        base = relax(base, calc, cell=True, mask=mask, fmax=fmax, max_steps=max_steps).atoms
        refine_symmetry(base, symprec)
    phonon = displaced_cells(
        base, supercell, distance=distance, plus_minus=plus_minus, symprec=symprec
    )
    cells = supercell_atoms(phonon, base.pbc)
    total = len(cells) + 1

    def report(done: int, _: int) -> None:
        if progress is not None:
            progress(done, total)

    found = evaluate(cells, calc, stress=False, progress=report)
    undisplaced, *forces = [one.forces for one in found]
    residual = float(np.linalg.norm(undisplaced, axis=1).max())
    if residual > residual_limit:
        raise StructureError(
            f"Before any displacement an atom feels {residual:.2g} eV/A, above residual_limit = "
            f"{residual_limit:g}; relax the cell first, or use relax_cell=True."
        )
    acoustic = fit_force_constants(
        phonon, np.array(forces), undisplaced if subtract_residual else None
    )
    result = analyze(
        phonon,
        acoustic,
        dimension=dimension,
        residual_force=residual,
        path=path,
        special_points=special_points,
        points=points,
        mesh=mesh,
        sigma=sigma,
        temperatures=temperatures,
    )
    report(total, total)
    return result


def find_dimension(atoms: Atoms, dimension: Dimension | None) -> Dimension:
    """Return 2 for a layer and 3 for a crystal, or ask.

    Raises
    ------
    StructureError
        If the structure is neither, if it does not lie as it should, or if it is periodic in
        three directions but looks like a layer and nobody said what it is.
    """
    require_cell(atoms)
    if dimension not in (None, 2, 3):
        raise StructureError(f"The dimension is 2 or 3, not {dimension!r}.")
    if dimension is None:
        gap = gap_along_z(atoms)
        if atoms.pbc[2] and gap > VACUUM:
            raise StructureError(
                f"The cell is periodic along z but empty over {gap:.1f} A; say dimension=2 for a "
                "layer, dimension=3 for a crystal."
            )
        dimension = 3 if atoms.pbc[2] else 2
    if dimension == 3 and not atoms.pbc[2]:
        raise StructureError("A crystal is periodic in three directions; set atoms.pbc.")
    if dimension == 2 and np.abs(atoms.cell.array[[0, 1, 2, 2], [2, 2, 0, 1]]).max() > 1e-6:
        raise StructureError("A layer lies in the xy plane, with its third cell vector along z.")
    return dimension


def _flat(supercell: NDArray[np.integer[Any]]) -> bool:
    if supercell.shape == (3,):
        return bool(supercell[2] == 1)
    return bool((supercell[2] == [0, 0, 1]).all() and (supercell[:2, 2] == 0).all())
