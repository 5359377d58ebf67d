"""Relaxation of a stack of planes along its normal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.filters import Filter
from numpy.typing import NDArray

from properties.batch import evaluate_one
from properties.relaxation import run_to_convergence

# eV/A^2, the order of a metal's stiffness between close-packed planes per atom in them.
GAP_STIFFNESS = 20.0


@dataclass(frozen=True, eq=False)
class NormalRelaxation:
    """A stack of planes relaxed along z.

    Attributes
    ----------
    gaps : ndarray, shape (n,)
        A, height differences of successive atoms, the last one across the cell's boundary.
    energy : float
        eV of the cell.
    n_evaluations : int
        Evaluations of the calculator.
    """

    gaps: NDArray[np.float64]
    energy: float
    n_evaluations: int


class GapFilter(Filter):
    """Degrees of freedom: the height differences of successive atoms, cell height included.

    A stack of planes is a chain of springs. In the gaps its Hessian is close to a multiple of
    unity whatever the number of planes, where in heights its condition number grows with their
    square, so an optimizer needs a few steps only.

    Parameters
    ----------
    atoms : Atoms
        Ordered by height, third cell vector alone off the xy plane, with a calculator. Atoms of
        one plane may part, as their gap of zero is a coordinate like the others.
    free_height : bool
        Whether the sum of the gaps may change; needs the stress.
    """

    def __init__(self, atoms: Atoms, free_height: bool) -> None:
        super().__init__(atoms, indices=list(range(len(atoms))))  # type: ignore[no-untyped-call]
        self.free_height = free_height
        self.n_evaluations = 0
        self._seen: NDArray[np.float64] | None = None

    def get_positions(self) -> NDArray[np.float64]:
        """Return the gaps as the third column of an (n, 3) array, A."""
        heights = np.append(self.atoms.positions[:, 2], 0.0)
        heights[-1] = heights[0] + self.atoms.cell[2, 2]
        columns = np.zeros((len(self.atoms), 3))
        columns[:, 2] = np.diff(heights)
        return columns

    def set_positions(self, positions: NDArray[np.float64], **_: Any) -> None:
        """Set the gaps from the third column; in-plane positions stay."""
        gaps = np.asarray(positions)[:, 2]
        cell = self.atoms.cell.array.copy()
        cell[2, 2] = gaps.sum()
        self.atoms.set_cell(cell, scale_atoms=False)
        self.atoms.positions[1:, 2] = self.atoms.positions[0, 2] + np.cumsum(gaps)[:-1]

    def get_forces(self, **_: Any) -> NDArray[np.float64]:
        """Return minus the derivatives of the energy with respect to the gaps, eV/A."""
        self._count()
        # Stress first: calculators that compute on demand then do one calculation, not two.
        stress_zz = float(self.atoms.get_stress()[2]) if self.free_height else 0.0
        forces = self.atoms.get_forces(apply_constraint=False)[:, 2]
        forces = forces - forces.mean()
        # Moving a gap moves every plane above it, and the height of the cell.
        above = np.append(np.cumsum(forces[::-1])[::-1][1:], 0.0)
        if self.free_height:
            height = self.atoms.cell[2, 2]
            heights = self.atoms.positions[:, 2]
            above -= (float(self.atoms.get_volume()) * stress_zz + heights @ forces) / height
        else:
            above -= above.mean()
        columns = np.zeros((len(self.atoms), 3))
        columns[:, 2] = above
        return columns

    def _count(self) -> None:
        state = self.get_positions()[:, 2]
        if self._seen is None or not np.array_equal(self._seen, state):
            self.n_evaluations += 1
            self._seen = state


def relax_normal(
    atoms: Atoms,
    calc: Any,
    *,
    start: NDArray[np.float64] | None,
    free_opening: bool,
    fmax: float,
    max_steps: int,
) -> NormalRelaxation:
    """Relax the heights of the planes of a slip cell.

    Parameters
    ----------
    atoms : Atoms
        From `gsfe_cell`; left unchanged.
    calc : ASE calculator
        Energies and forces, stress if `free_opening`.
    start : ndarray, shape (n,), optional
        Gaps to start from, those of a neighbouring displacement; A.
    free_opening : bool
        Whether the cell's height relaxes.
    fmax : float
        eV/A on each gap.
    max_steps : int
        Optimizer steps allowed.

    Returns
    -------
    NormalRelaxation

    Raises
    ------
    NotConvergedError, CalculatorError
        See `relaxation.relax`.
    """
    from ase.optimize import BFGS

    relaxed = atoms.copy()
    relaxed.calc = calc
    gaps = GapFilter(relaxed, free_opening)
    if start is not None:
        columns = np.zeros((len(atoms), 3))
        columns[:, 2] = start
        gaps.set_positions(columns)
    # ASE optimizers take filters although their annotation says Atoms.
    target: Any = gaps
    optimizer = BFGS(target, logfile=None, alpha=GAP_STIFFNESS)
    run_to_convergence(optimizer, gaps, calc, fmax=fmax, max_steps=max_steps)
    energy = evaluate_one(relaxed, calc, stress=False).energy
    return NormalRelaxation(gaps.get_positions()[:, 2], energy, gaps.n_evaluations)
