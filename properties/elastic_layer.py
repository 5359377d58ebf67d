"""In-plane elastic constants of a layer, per length instead of per area."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from properties.batch import Evaluation, Progress, evaluate
from properties.elastic import Ions
from properties.errors import StructureError
from properties.quantity import Curve, Quantity
from properties.relaxation import (
    MASK_2D,
    VACUUM,
    gap_along_z,
    relax,
    relax_ions,
    require_cell,
)

EV_PER_A2_IN_N_PER_M = units.m**2 / units.J
IN_PLANE = [0, 1, 5]  # xx, yy, xy among the six Voigt components
Z_TILT = 1e-6  # of the cell's height, allowed in its in-plane components and the others' z


@dataclass(frozen=True, eq=False)
class LayerElasticResult:
    """Elastic constants of a layer in the xy plane, in the Cartesian frame of the cell.

    Attributes
    ----------
    C : ndarray, shape (3, 3)
        N/m, Voigt xx yy xy, engineering shear strain. These are stress times cell height, so they
        do not depend on the vacuum or on what one takes for the layer's thickness.
    C_err : ndarray, shape (3, 3)
        N/m, standard errors of the regressions.
    anisotropy : float
        N/m, largest deviation from the form that threefold or sixfold symmetry demands:
        ``C11 = C22``, ``C66 = (C11 - C12) / 2``, no coupling of shear and stretch.
    ions : {"relaxed", "clamped"}
        Whether the ions were relaxed under each strain.
    delta : float
        Strain increment between the points of the fit.
    n_steps : int
        Points per strain pattern.
    residual_stress : ndarray, shape (3,)
        N/m, of the unstrained layer, Voigt xx yy xy.
    stable : bool
        Whether the symmetric part of `C` is positive definite.
    youngs_modulus, poisson_ratio : float
        N/m and 1, for a pull along x: ``1 / S11`` and ``-S12 / S11`` of the compliance S.
    atoms : Atoms
        The unstrained layer that was strained, without calculator.
    """

    C: NDArray[np.float64]
    C_err: NDArray[np.float64]
    anisotropy: float
    ions: Ions
    delta: float
    n_steps: int
    residual_stress: NDArray[np.float64]
    stable: bool
    youngs_modulus: float
    poisson_ratio: float
    atoms: Atoms

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return C11_2d, C12_2d, C66_2d, youngs_modulus_2d (N/m) and poisson_ratio_2d.

        Parameters
        ----------
        source : str
            Origin to note in each, for example the name of the calculator.
        """
        constants = {"C11_2d": (0, 0), "C12_2d": (0, 1), "C66_2d": (2, 2)}
        return {
            **{
                name: Quantity(float(self.C[index]), "N/m", source)
                for name, index in constants.items()
            },
            "youngs_modulus_2d": Quantity(self.youngs_modulus, "N/m", source),
            "poisson_ratio_2d": Quantity(self.poisson_ratio, "1", source),
        }


def layer_elastic_tensor(
    atoms: Atoms,
    calc: Any,
    *,
    ions: Ions = "relaxed",
    delta: float = 1e-3,
    n_steps: int = 5,
    relax_cell: bool = True,
    fmax: float = 1e-5,
    max_steps: int = 500,
    progress: Progress | None = None,
) -> LayerElasticResult:
    """Relax a layer, strain it in its plane, and fit stress against strain.

    Parameters
    ----------
    atoms : Atoms
        Layer in the xy plane, the third cell vector along z with vacuum; left unchanged.
    calc : ASE calculator
        Energies, forces and stress.
    ions : {"relaxed", "clamped"}
        Relaxed ions are what experiments and most DFT tables mean; the layer's thickness then
        answers to the strain.
    delta : float
        Strain increment.
    n_steps : int
        Points per strain pattern, from ``-delta (n_steps - 1) / 2`` up.
    relax_cell : bool
        Relax the in-plane cell and the ions first.
    fmax : float
        Convergence of every relaxation, eV/A.
    max_steps : int
        Optimizer steps allowed in each.
    progress : callable, optional
        Called with (done, total) steps over the strained configurations.

    Returns
    -------
    LayerElasticResult

    Raises
    ------
    StructureError
        If the structure is no layer in the xy plane.
    NotConvergedError
        If a relaxation does not converge.
    CalculatorError
        If the calculator lacks stress or returns values that are not finite.

    Notes
    -----
    matscipy's fits, which `elastic_tensor` uses, need strains along the vacuum, which mean
    nothing here; three regressions of stress on strain remain.
    """
    require_cell(atoms)
    cell = atoms.cell.array
    if max(np.abs(cell[:2, 2]).max(), np.abs(cell[2, :2]).max()) > Z_TILT * abs(cell[2, 2]):
        raise StructureError(
            "A layer needs its first two cell vectors in xy and the third along z."
        )
    if gap_along_z(atoms) < VACUUM:
        raise StructureError(
            f"The cell has no gap of {VACUUM:g} A along z, so this is no layer; for crystals there "
            "is `elastic_tensor`."
        )
    if ions not in ("relaxed", "clamped"):
        raise StructureError(f"Ions can be 'relaxed' or 'clamped', not {ions!r}.")
    if not 0.0 < delta < 0.05 or n_steps < 3:
        raise StructureError("The strain increment must lie below 0.05 and n_steps be 3 or more.")
    base = atoms
    if relax_cell:
        base = relax(atoms, calc, cell=True, mask=MASK_2D, fmax=fmax, max_steps=max_steps).atoms
    base = base.copy()
    base.calc = None
    strains = delta * (np.arange(n_steps) - (n_steps - 1) / 2)
    frames = [_strained(base, pattern, e) for pattern in range(3) for e in strains]
    if ions == "relaxed":
        _, found = relax_ions(
            frames, calc, stress=True, fmax=fmax, max_steps=max_steps, progress=progress
        )
    else:
        found = evaluate(frames, calc, stress=True, progress=progress)
    height = abs(float(cell[2, 2]))
    stresses = np.array([_tension(one, height) for one in found]).reshape(3, n_steps, 3)
    C, C_err = _fit(np.asarray(strains, np.float64), stresses)
    hexagonal = 0.5 * (C[0, 0] + C[1, 1])
    coupling = 0.5 * (C[0, 1] + C[1, 0])
    shear = 0.5 * (hexagonal - coupling)
    ideal = np.array([[hexagonal, coupling, 0], [coupling, hexagonal, 0], [0, 0, shear]])
    compliance = np.linalg.inv(C)
    return LayerElasticResult(
        C=C,
        C_err=C_err,
        anisotropy=float(np.abs(C - ideal).max()),
        ions=ions,
        delta=delta,
        n_steps=n_steps,
        residual_stress=_tension(evaluate([base], calc, stress=True)[0], height),
        stable=bool(np.linalg.eigvalsh(0.5 * (C + C.T)).min() > 0.0),
        youngs_modulus=float(1.0 / compliance[0, 0]),
        poisson_ratio=float(-compliance[0, 1] / compliance[0, 0]),
        atoms=base,
    )


def _strained(atoms: Atoms, pattern: int, strain: float) -> Atoms:
    """Strain along xx, yy or, with engineering shear, xy."""
    tensor = np.zeros((3, 3))
    if pattern < 2:
        tensor[pattern, pattern] = strain
    else:
        tensor[0, 1] = tensor[1, 0] = 0.5 * strain
    frame: Atoms = atoms.copy()
    frame.set_cell(atoms.cell.array @ (np.eye(3) + tensor), scale_atoms=True)
    return frame


def _tension(evaluation: Evaluation, height: float) -> NDArray[np.float64]:
    """Return the in-plane stress per length, N/m."""
    if evaluation.stress is None:
        raise AssertionError("evaluate(stress=True) returned no stress")
    return np.asarray(evaluation.stress[IN_PLANE] * height * EV_PER_A2_IN_N_PER_M)


def _fit(
    strains: NDArray[np.float64], stresses: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slopes and their standard errors; stresses have shape (3 patterns, n_steps, 3)."""
    from scipy.stats import linregress

    slopes, errors = np.zeros((3, 3)), np.zeros((3, 3))
    for pattern in range(3):
        for component in range(3):
            line = linregress(strains, stresses[pattern, :, component])
            slopes[component, pattern] = line.slope
            errors[component, pattern] = line.stderr
    return slopes, errors
