"""Elastic tensor by linear regression of stress against strain (matscipy)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from properties.batch import Progress, evaluate, evaluate_one
from properties.errors import StructureError
from properties.moduli import Moduli, average_moduli
from properties.quantity import Curve, Quantity
from properties.relaxation import relax, relax_ions, require_cell

Ions = Literal["relaxed", "clamped"]
INDEPENDENT = {
    "cubic": ((0, 0), (0, 1), (3, 3)),
    "hexagonal": ((0, 0), (0, 1), (0, 2), (2, 2), (3, 3)),
    "triclinic": tuple((i, j) for i in range(6) for j in range(i, 6)),
}


@dataclass(frozen=True, eq=False)
class ElasticResult:
    """Elastic constants, in the Cartesian frame of the cell.

    Attributes
    ----------
    C : ndarray, shape (6, 6)
        GPa, Voigt xx yy zz yz xz xy, engineering shear strains, fitted with `symmetry`.
    C_err : ndarray, shape (6, 6)
        GPa, standard errors of the regressions. The quadratic part of the stress enlarges them,
        in proportion to `delta`, but does not bias a fit over symmetric strains.
    C_triclinic : ndarray, shape (6, 6)
        GPa, fitted without symmetry.
    symmetry : str
        Symmetry of the fit of `C`: cubic, hexagonal or triclinic.
    symmetry_deviation : float
        GPa, largest absolute difference between `C` and `C_triclinic`; shows a calculator or a
        structure that lacks the symmetry, which the reduced fit would hide.
    ions : {"relaxed", "clamped"}
        Whether the ions were relaxed under each strain.
    delta : float
        Strain increment between the points of the fit.
    n_steps : int
        Points per strain pattern.
    residual_stress : ndarray, shape (6,)
        GPa, of the unstrained cell.
    born_stable : bool
        Whether the symmetric part of `C` is positive definite.
    bulk_modulus_vrh, shear_modulus_vrh, youngs_modulus_vrh : float
        GPa, Voigt-Reuss-Hill averages.
    poisson_ratio_vrh : float
        Of the isotropic average.
    poisson_ratio_100 : float
        ``C12 / (C11 + C12)``, for a pull along <100> of a cubic crystal.
    atoms : Atoms
        The unstrained structure that was strained, without calculator.
    """

    C: NDArray[np.float64]
    C_err: NDArray[np.float64]
    C_triclinic: NDArray[np.float64]
    symmetry: str
    symmetry_deviation: float
    ions: Ions
    delta: float
    n_steps: int
    residual_stress: NDArray[np.float64]
    born_stable: bool
    bulk_modulus_vrh: float
    shear_modulus_vrh: float
    youngs_modulus_vrh: float
    poisson_ratio_vrh: float
    poisson_ratio_100: float
    atoms: Atoms

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return the independent C_ij (``C11`` ...), the VRH moduli and Poisson ratios.

        Parameters
        ----------
        source : str
            Origin to note in each, for example the name of the calculator.

        Notes
        -----
        ``poisson_ratio_100`` is given for cubic crystals only.
        """
        found: dict[str, Quantity | Curve] = {
            f"C{i + 1}{j + 1}": Quantity(float(self.C[i, j]), "GPa", source)
            for i, j in INDEPENDENT[self.symmetry]
        }
        for name in ("bulk_modulus_vrh", "shear_modulus_vrh", "youngs_modulus_vrh"):
            found[name] = Quantity(getattr(self, name), "GPa", source)
        found["poisson_ratio_vrh"] = Quantity(self.poisson_ratio_vrh, "1", source)
        if self.symmetry == "cubic":
            found["poisson_ratio_100"] = Quantity(self.poisson_ratio_100, "1", source)
        return found


@dataclass(frozen=True, eq=False)
class StrainScan:
    """Elastic constants over the strain increment.

    Attributes
    ----------
    deltas : ndarray, shape (n,)
        Strain increments, ascending.
    results : tuple of ElasticResult
        One per increment.
    plateau : int
        Index of the increment whose tensor differs least from those of its neighbours.
    spread : float
        GPa, largest difference of any C_ij between the plateau and its neighbours.
    """

    deltas: NDArray[np.float64]
    results: tuple[ElasticResult, ...]
    plateau: int
    spread: float


def elastic_tensor(
    atoms: Atoms,
    calc: Any,
    *,
    symmetry: str | None = None,
    ions: Ions = "relaxed",
    delta: float = 1e-3,
    n_steps: int = 5,
    relax_cell: bool = True,
    fmax: float = 1e-5,
    max_steps: int = 500,
    progress: Progress | None = None,
) -> ElasticResult:
    """Relax the cell, strain it, and fit stress against strain.

    The tensor is fitted twice: with the crystal's symmetry from a few strain patterns, and
    without from six. matscipy does both fits.

    Parameters
    ----------
    atoms : Atoms
        Crystal, cubic axes along x, y, z if `symmetry` is cubic (primitive cells are fine), the
        sixfold axis along z if hexagonal; left unchanged.
    calc : ASE calculator
        Energies, forces and stress.
    symmetry : {"cubic", "hexagonal", "triclinic"}, optional
        Symmetry of the reported tensor. By default cubic if a rotation by 90 degrees about x and
        about z maps the crystal onto itself, otherwise triclinic.
    ions : {"relaxed", "clamped"}
        Relaxed ions are what experiments and most DFT tables mean. For one atom per primitive
        cell both agree by symmetry.
    delta : float
        Strain increment. 1e-3 by default: at 1e-2 the nonlinearity costs about 1 %.
    n_steps : int
        Points per strain pattern, from ``-delta (n_steps - 1) / 2`` up.
    relax_cell : bool
        Relax cell and ions first. Without it the residual stress tells how far from equilibrium
        the tensor is.
    fmax : float
        Convergence of every relaxation, eV/A.
    max_steps : int
        Optimizer steps allowed in each.
    progress : callable, optional
        Called with (done, total) steps over the strained configurations.

    Returns
    -------
    ElasticResult

    Raises
    ------
    StructureError
        If the structure is no crystal, or does not have the symmetry asked for.
    NotConvergedError
        If a relaxation does not converge.
    CalculatorError
        If the calculator lacks stress or returns values that are not finite.
    """
    from matscipy.elasticity import generate_strained_configs

    require_cell(atoms)
    if not atoms.pbc.all():
        raise StructureError("Elastic constants need a structure periodic in three directions.")
    if ions not in ("relaxed", "clamped"):
        raise StructureError(f"Ions can be 'relaxed' or 'clamped', not {ions!r}.")
    if not 0.0 < delta < 0.05 or n_steps < 3:
        raise StructureError("The strain increment must lie below 0.05 and n_steps be 3 or more.")
    symmetry = _symmetry(atoms, symmetry)
    base = atoms
    if relax_cell:
        base = relax(atoms, calc, cell=True, fmax=fmax, max_steps=max_steps).atoms
    base = base.copy()
    base.calc = None
    residual = evaluate_one(base, calc, stress=True).stress  # kept by ASE if the cell was relaxed
    if residual is None:
        raise AssertionError("evaluate_one(stress=True) returned no stress")
    reduced = (
        []
        if symmetry == "triclinic"
        else list(generate_strained_configs(base, symmetry, n_steps, delta))
    )
    general = list(generate_strained_configs(base, "triclinic", n_steps, delta))
    strained = _stresses([*reduced, *general], calc, ions, fmax, max_steps, progress)
    C_triclinic, err_triclinic = _fit(strained[len(reduced) :], "triclinic", n_steps, delta)
    C, C_err = (
        _fit(strained[: len(reduced)], symmetry, n_steps, delta)
        if reduced
        else (C_triclinic, err_triclinic)
    )
    moduli: Moduli = average_moduli(C)
    return ElasticResult(
        C=C,
        C_err=C_err,
        C_triclinic=C_triclinic,
        symmetry=symmetry,
        symmetry_deviation=float(np.abs(C - C_triclinic).max()),
        ions=ions,
        delta=delta,
        n_steps=n_steps,
        residual_stress=residual / units.GPa,
        born_stable=moduli.born_stable,
        bulk_modulus_vrh=moduli.bulk,
        shear_modulus_vrh=moduli.shear,
        youngs_modulus_vrh=moduli.youngs,
        poisson_ratio_vrh=moduli.poisson,
        poisson_ratio_100=float(C[0, 1] / (C[0, 0] + C[0, 1])),
        atoms=base,
    )


def strain_scan(
    atoms: Atoms,
    calc: Any,
    *,
    deltas: Sequence[float] = (2e-4, 5e-4, 1e-3, 2e-3, 5e-3),
    symmetry: str | None = None,
    ions: Ions = "relaxed",
    n_steps: int = 5,
    fmax: float = 1e-5,
    max_steps: int = 500,
    progress: Progress | None = None,
) -> StrainScan:
    """Compute elastic constants over a range of strain increments and find their plateau.

    For calculators with noise: small increments drown in it, large ones are not linear.

    Parameters
    ----------
    atoms, calc, symmetry, ions, n_steps, fmax, max_steps
        See :func:`elastic_tensor`; the cell is relaxed once.
    deltas : sequence of float
        Strain increments, three or more.
    progress : callable, optional
        Called with (done, total) increments.

    Returns
    -------
    StrainScan

    Raises
    ------
    StructureError, NotConvergedError, CalculatorError
        See :func:`elastic_tensor`.
    """
    ordered = sorted(deltas)
    if len(ordered) < 3:
        raise StructureError("A strain scan needs three increments or more.")
    base = relax(atoms, calc, cell=True, fmax=fmax, max_steps=max_steps).atoms
    results = []
    for done, delta in enumerate(ordered, start=1):
        results.append(
            elastic_tensor(
                base,
                calc,
                symmetry=symmetry,
                ions=ions,
                delta=delta,
                n_steps=n_steps,
                relax_cell=False,
                fmax=fmax,
                max_steps=max_steps,
            )
        )
        if progress is not None:
            progress(done, len(ordered))
    steps = np.array([np.abs(b.C - a.C).max() for a, b in pairwise(results)])
    spreads = np.maximum(steps[:-1], steps[1:])
    plateau = int(spreads.argmin())
    return StrainScan(np.array(ordered), tuple(results), plateau + 1, float(spreads[plateau]))


def _stresses(
    frames: list[Atoms],
    calc: Any,
    ions: Ions,
    fmax: float,
    max_steps: int,
    progress: Progress | None,
) -> list[Atoms]:
    """Return the strained frames with their stress attached, ions relaxed if asked for.

    Every pattern passes through the unstrained cell; what is the same is evaluated once.
    """
    keys = [frame.cell.array.tobytes() + frame.positions.tobytes() for frame in frames]
    distinct = dict(zip(keys, frames, strict=True))
    frames = list(distinct.values())
    if ions == "relaxed":
        frames, evaluations = relax_ions(
            frames, calc, stress=True, fmax=fmax, max_steps=max_steps, progress=progress
        )
    else:
        evaluations = evaluate(frames, calc, stress=True, progress=progress)
    evaluated = dict(zip(distinct, zip(frames, evaluations, strict=True), strict=True))
    found = []
    for key in keys:
        frame, evaluation = evaluated[key]
        found.append(frame.copy())
        found[-1].calc = SinglePointCalculator(frame, stress=evaluation.stress)
    return found


def _fit(
    frames: list[Atoms], symmetry: str, n_steps: int, delta: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from matscipy.elasticity import fit_elastic_constants

    C, C_err = fit_elastic_constants(
        frames,
        symmetry=symmetry,
        N_steps=n_steps,
        delta=delta,
        optimizer=None,
        verbose=False,
        graphics=False,
    )
    return np.asarray(C) / units.GPa, np.asarray(C_err) / units.GPa


def _symmetry(atoms: Atoms, asked: str | None) -> str:
    cubic = _invariant(atoms, [[1, 0, 0], [0, 0, -1], [0, 1, 0]]) and _invariant(
        atoms, [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    )
    if asked is None:
        return "cubic" if cubic else "triclinic"
    if asked not in INDEPENDENT:
        raise StructureError(
            f"The symmetry {asked!r} is unknown; use one of {', '.join(INDEPENDENT)}."
        )
    if asked == "cubic" and not cubic:
        raise StructureError(
            "The lattice is not cubic with its axes along x, y and z; rotate the cell or use "
            "symmetry='triclinic'."
        )
    return asked


def _invariant(atoms: Atoms, rotation: Sequence[Sequence[int]]) -> bool:
    """Whether a rotation maps the lattice onto itself."""
    cell = atoms.cell.array
    image = cell @ np.array(rotation, dtype=np.float64).T @ np.linalg.inv(cell)
    return bool(np.abs(image - np.round(image)).max() < 1e-2)
