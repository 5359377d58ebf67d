"""Relaxation of atoms and cell that either converges or raises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from properties.batch import Evaluation, Progress, evaluate, evaluate_one, missing_property
from properties.errors import CalculatorError, NotConvergedError, StructureError

MASK_3D = (True, True, True, True, True, True)
VACUUM = 6.0  # A, a gap above this is taken for vacuum, not for a crystal
MASK_2D = (True, True, False, False, False, True)


@dataclass(frozen=True, eq=False)
class Relaxation:
    """A converged relaxation.

    Attributes
    ----------
    atoms : Atoms
        The relaxed structure, without calculator.
    n_steps : int
        Optimizer steps taken.
    max_force : float
        Largest norm of the generalized force, eV/A (cell rows: virial over atoms, eV).
    """

    atoms: Atoms
    n_steps: int
    max_force: float


def relax(
    atoms: Atoms,
    calc: Any,
    *,
    cell: bool = False,
    mask: Sequence[bool] | None = None,
    fmax: float = 1e-4,
    max_steps: int = 500,
) -> Relaxation:
    """Relax ionic positions and, if asked for, the cell.

    Parameters
    ----------
    atoms : Atoms
        Start; left unchanged. Its constraints hold, but a cell is relaxed without any.
    calc : ASE calculator
        Energies, forces, and stress if `cell` is true.
    cell : bool
        Relax the cell through `ase.filters.FrechetCellFilter`.
    mask : sequence of 6 bool, optional
        Strain components that may change, Voigt xx yy zz yz xz xy; all by default.
        `MASK_2D` is for layers in the xy plane.
    fmax : float
        Largest remaining force in eV/A.
    max_steps : int
        Steps after which the relaxation counts as failed.

    Returns
    -------
    Relaxation

    Raises
    ------
    NotConvergedError
        If `fmax` is not reached within `max_steps`.
    CalculatorError
        If forces or stress are missing or not finite.
    StructureError
        If the cell is to be relaxed but the structure has none.
    """
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    if mask is not None and (not cell or len(mask) != 6):
        raise StructureError("A mask has six components and needs cell=True.")
    relaxed = atoms.copy()
    relaxed.calc = calc
    if cell:
        require_cell(atoms)
        target: Any = FrechetCellFilter(relaxed, mask=list(mask or MASK_3D))
    else:
        target = relaxed
    optimizer = BFGS(target, logfile=None)
    run_to_convergence(optimizer, target, calc, fmax=fmax, max_steps=max_steps)
    residual = float(np.linalg.norm(target.get_forces(), axis=1).max())
    relaxed.calc = None
    return Relaxation(relaxed, int(optimizer.nsteps), residual)


def relax_ions(
    frames: Sequence[Atoms],
    calc: Any,
    *,
    stress: bool,
    fmax: float,
    max_steps: int,
    progress: Progress | None = None,
) -> tuple[list[Atoms], list[Evaluation]]:
    """Relax the ions of independent frames at fixed cell, and evaluate them.

    All frames are evaluated together first; only those with forces above `fmax` are relaxed, so
    crystals whose ions are held by symmetry cost one batch.

    Parameters
    ----------
    frames : sequence of Atoms
        Left unchanged.
    calc, fmax, max_steps
        See :func:`relax`.
    stress : bool
        Whether the stress is needed.
    progress : callable, optional
        Called with (done, total), where every frame counts once evaluated and once relaxed.

    Returns
    -------
    atoms, evaluations : list of Atoms, list of Evaluation
        Relaxed frames, and energy, forces and stress of each.

    Raises
    ------
    NotConvergedError, CalculatorError
        See :func:`relax`.
    """
    atoms = [frame.copy() for frame in frames]
    total = 2 * len(atoms)

    def report(done: int, _: int) -> None:
        if progress is not None:
            progress(done, total)

    evaluations = evaluate(atoms, calc, stress=stress, progress=report)
    moving = [i for i, e in enumerate(evaluations) if np.linalg.norm(e.forces, axis=1).max() > fmax]
    report(total - len(moving), total)
    for left, i in enumerate(moving, start=1):
        atoms[i] = relax(atoms[i], calc, fmax=fmax, max_steps=max_steps).atoms
        evaluations[i] = evaluate_one(atoms[i], calc, stress=stress)
        report(total - len(moving) + left, total)
    return atoms, evaluations


def run_to_convergence(
    optimizer: Any, target: Any, calc: Any, *, fmax: float, max_steps: int
) -> None:
    """Run an ASE optimizer; raise unless it converges with finite forces.

    Raises
    ------
    NotConvergedError, CalculatorError
        See :func:`relax`.
    """

    def check() -> None:
        if not np.isfinite(target.get_forces()).all():
            raise CalculatorError(
                f"The calculator {type(calc).__name__} returned forces or stress that are not "
                "finite; check the structure and the model."
            )

    optimizer.attach(check)
    with missing_property(calc):
        converged = optimizer.run(fmax=fmax, steps=max_steps)
    if not converged:
        residual = float(np.linalg.norm(target.get_forces(), axis=1).max())
        raise NotConvergedError(
            f"The relaxation stopped after {max_steps} steps at {residual:.2e} eV/A, above "
            f"fmax = {fmax:g}; raise max_steps, start closer, or loosen fmax if the calculator "
            "is noisy (single precision)."
        )


def gap_along_z(atoms: Atoms) -> float:
    """Return the height of the largest gap between atoms along the normal of the xy plane, A.

    The gap across the boundary of the cell counts too, so that it is the vacuum of a layer.
    """
    heights = np.sort(atoms.get_scaled_positions()[:, 2])
    spacing = 1.0 / float(np.linalg.norm(atoms.cell.reciprocal()[2]))
    return float(np.diff([*heights, heights[0] + 1.0]).max()) * spacing


def require_cell(atoms: Atoms) -> None:
    """Raise StructureError unless the structure is a crystal without constraints."""
    if len(atoms) == 0:
        raise StructureError("The structure holds no atoms.")
    if not (atoms.pbc[0] and atoms.pbc[1]) or atoms.cell.rank < 3:
        raise StructureError(
            "The structure needs three cell vectors and periodic boundaries along the first two "
            "at least; set atoms.cell and atoms.pbc."
        )
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        raise StructureError("The structure holds positions or cell vectors that are not finite.")
    if atoms.constraints:
        raise StructureError("Remove the constraints from the structure; all of it is relaxed.")
