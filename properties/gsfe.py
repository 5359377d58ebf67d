"""Generalized stacking-fault energy of bcc, fcc and hcp crystals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from ase import units
from numpy.typing import NDArray

from properties.batch import Progress, evaluate
from properties.errors import StructureError
from properties.normal_relaxation import relax_normal
from properties.quantity import Curve, Quantity
from properties.slip import SlipGeometry, gsfe_cell, slip_geometry

EV_PER_A2_IN_J_PER_M2 = units.m**2 / units.J
Mode = Literal["rigid", "relaxed"]

__all__ = [
    "GSFEResult",
    "PlaneScan",
    "SlipGeometry",
    "gsfe_cell",
    "gsfe_curve",
    "plane_scan",
    "slip_geometry",
]


@dataclass(frozen=True, eq=False)
class GSFEResult:
    """One generalized stacking-fault energy curve.

    Attributes
    ----------
    plane, direction : tuple of int
        Miller indices. The crystal above the fault (along `plane`) moves along `direction`.
    mode : {"rigid", "relaxed"}
        Relaxed means: along the plane normal only, the fault free to open (see `gsfe_curve`).
    a0 : float
        A, lattice constant of the cell.
    burgers : float
        A, length of one period: the shortest lattice vector along `direction`.
    area : float
        A^2 of the fault in the cell.
    c0 : float or None
        A, height of the cell of an hcp crystal.
    cut : int
        Which gap between atomic planes was cut (`slip_geometry`).
    n_planes : int
        Lattice planes per fault.
    x : ndarray, shape (n,)
        Displacement over `burgers`.
    gamma : ndarray, shape (n,)
        J/m^2, relative to the crystal without fault.
    opening : ndarray, shape (n,)
        A, change of the cell's height against the crystal without fault; zero if rigid.
    gamma_usf : float
        J/m^2, maximum of the periodic cubic interpolation.
    x_usf : float
        Where that maximum is, over `burgers`.
    n_evaluations : int
        Evaluations of the calculator spent.
    """

    plane: tuple[int, ...]
    direction: tuple[int, ...]
    mode: Mode
    a0: float
    burgers: float
    area: float
    c0: float | None
    cut: int
    n_planes: int
    x: NDArray[np.float64]
    gamma: NDArray[np.float64]
    opening: NDArray[np.float64]
    gamma_usf: float
    x_usf: float
    n_evaluations: int

    @property
    def label(self) -> str:
        """Plane and mode, for example ``"110_rigid"``; of hcp crystals direction and cut too."""
        plane = "".join(str(abs(i)) for i in self.plane)
        if self.c0 is None:
            return f"{plane}_{self.mode}"
        direction = "".join(str(abs(i)) for i in self.direction)
        return f"{plane}_{direction}_cut{self.cut}_{self.mode}"

    def curve(self, source: str) -> Curve:
        """Return gamma in J/m^2 over the displacement in units of b."""
        return Curve(self.x, self.gamma, "b", "J/m^2", source, periodic=True)

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return the curve ``gsfe_{label}`` and the maximum ``gamma_usf_{label}``.

        Parameters
        ----------
        source : str
            Origin to note in each, for example the name of the calculator.
        """
        return {
            f"gsfe_{self.label}": self.curve(source),
            f"gamma_usf_{self.label}": Quantity(self.gamma_usf, "J/m^2", source),
        }


@dataclass(frozen=True, eq=False)
class PlaneScan:
    """Whether a curve has converged in the number of planes.

    Attributes
    ----------
    n_planes : tuple of int
        Ascending.
    results : tuple of GSFEResult
        One per number.
    deviation : ndarray, shape (n,)
        J/m^2, largest difference of each curve from the one with the most planes; 0 for that.
    """

    n_planes: tuple[int, ...]
    results: tuple[GSFEResult, ...]
    deviation: NDArray[np.float64]


def gsfe_curve(
    symbol: str,
    structure: str,
    a0: float,
    plane: Sequence[int],
    direction: Sequence[int],
    calc: Any,
    *,
    mode: Mode,
    n_points: int = 12,
    n_planes: int = 18,
    c0: float | None = None,
    cut: int = 0,
    free_opening: bool = True,
    fmax: float = 1e-3,
    max_steps: int = 200,
    progress: Progress | None = None,
) -> GSFEResult:
    """Compute the energy of a crystal cut at a plane and displaced along a direction.

    The fault is made by tilting the third cell vector of a fully periodic cell, so there is one
    fault per cell and no surface. bcc and fcc lattices have one atom per plane, so only rigid
    displacements of whole planes exist; hcp ones have two per lattice plane, whose heights relax
    independently. In-plane displacements are not relaxed.

    Parameters
    ----------
    symbol, structure, a0, plane, direction, n_planes, c0, cut
        See :func:`gsfe_cell`. `a0` should be the calculator's own lattice constant; another value
        reproduces calculations at a fixed one.
    calc : ASE calculator
        Energies and forces; stress too for ``mode="relaxed"`` with `free_opening`.
    mode : {"rigid", "relaxed"}
        Rigid, or relaxed along the plane normal.
    n_points : int
        Points over the period, both ends included: ``x = i / (n_points - 1)``.
    free_opening : bool
        Whether the relaxed cell may change its height, as the two halves of an infinite crystal
        would move apart. With False the height is fixed and the curve depends on `n_planes` to
        first order in its inverse.
    fmax : float
        eV/A per atom of a plane, largest remaining traction between planes.
    max_steps : int
        Optimizer steps allowed per point.
    progress : callable, optional
        Called with (done, total) points.

    Returns
    -------
    GSFEResult

    Raises
    ------
    StructureError
        For indices, structures or numbers that make no cell.
    NotConvergedError
        If a relaxation does not converge.
    CalculatorError
        If the calculator lacks a quantity or returns values that are not finite.
    """
    if mode not in ("rigid", "relaxed"):
        raise StructureError(f"The GSFE mode {mode!r} is unknown; use 'rigid' or 'relaxed'.")
    if n_points < 8:
        raise StructureError("A GSFE curve needs 8 points or more to interpolate its maximum.")
    geometry = slip_geometry(structure, a0, plane, direction, c0=c0, cut=cut)
    x = np.linspace(0.0, 1.0, n_points)
    build = partial(
        gsfe_cell, symbol, structure, a0, plane, direction, n_planes=n_planes, c0=c0, cut=cut
    )
    cells = [build(displacement=float(s)) for s in x]
    opening = np.zeros(n_points)
    if mode == "rigid":
        rigid = evaluate(cells, calc, stress=False, progress=progress)
        energies = np.array([one.energy for one in rigid])
        spent = n_points
    else:
        energies = np.zeros(n_points)
        gaps: NDArray[np.float64] | None = None
        spent = 0
        for i, cell in enumerate(cells):
            found = relax_normal(
                cell, calc, start=gaps, free_opening=free_opening, fmax=fmax, max_steps=max_steps
            )
            gaps, energies[i], opening[i] = found.gaps, found.energy, found.gaps.sum()
            spent += found.n_evaluations
            if progress is not None:
                progress(i + 1, n_points)
        opening -= opening[0]
    gamma = (energies - energies[0]) / geometry.area * EV_PER_A2_IN_J_PER_M2
    curve = Curve(x, gamma, "b", "J/m^2", "", periodic=True)
    fine = np.linspace(0.0, 1.0, 4001)
    values = curve.at(fine)
    top = int(values.argmax())
    return GSFEResult(
        plane=geometry.plane,
        direction=geometry.direction,
        mode=mode,
        a0=a0,
        burgers=geometry.burgers,
        area=geometry.area,
        c0=c0,
        cut=cut,
        n_planes=n_planes,
        x=x,
        gamma=gamma,
        opening=opening,
        gamma_usf=float(values[top]),
        x_usf=float(fine[top]),
        n_evaluations=spent,
    )


def plane_scan(
    compute: Callable[..., GSFEResult],
    n_planes: Sequence[int] = (12, 18, 24),
    *,
    progress: Progress | None = None,
) -> PlaneScan:
    """Repeat a curve with other numbers of planes.

    Once the cell is taller than the range of the interactions the number has no effect; a
    potential of long range, or a message-passing one with many layers, needs more planes.

    Parameters
    ----------
    compute : callable
        `gsfe_curve` with all but ``n_planes`` given, for example by `functools.partial`.
    n_planes : sequence of int
        Two numbers or more.
    progress : callable, optional
        Called with (done, total) curves.

    Returns
    -------
    PlaneScan

    Raises
    ------
    StructureError, NotConvergedError, CalculatorError
        See :func:`gsfe_curve`.
    """
    ordered = tuple(sorted(set(n_planes)))
    if len(ordered) < 2:
        raise StructureError("A scan over planes needs two numbers or more.")
    results = []
    for done, planes in enumerate(ordered, start=1):
        results.append(compute(n_planes=planes))
        if progress is not None:
            progress(done, len(ordered))
    deviation = np.array([np.abs(one.gamma - results[-1].gamma).max() for one in results])
    return PlaneScan(ordered, tuple(results), deviation)
