"""Evaluation of independent configurations, batched where the calculator can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import ArrayLike, NDArray

from properties.errors import CalculatorError

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a calculator says about one configuration.

    Attributes
    ----------
    energy : float
        Total energy in eV, force-consistent where the calculator distinguishes.
    forces : ndarray, shape (n_atoms, 3)
        eV/A, constraints not applied.
    stress : ndarray, shape (6,), or None
        eV/A^3, ASE sign, Voigt xx yy zz yz xz xy; None if it was not asked for.
    """

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64] | None


def evaluate(
    configurations: Sequence[Atoms],
    calc: Any,
    *,
    stress: bool,
    progress: Progress | None = None,
) -> list[Evaluation]:
    """Evaluate configurations that do not depend on each other.

    Parameters
    ----------
    configurations : sequence of Atoms
        Left unchanged; a calculator attached to them is ignored.
    calc : ASE calculator
        If it has ``evaluate_batch(list[Atoms])``, which returns one mapping with `energy`,
        `forces` and `stress` per configuration, that is called once with all of them.
    stress : bool
        Whether the stress is needed.
    progress : callable, optional
        Called with (done, total).

    Returns
    -------
    list of Evaluation
        In the order of `configurations`.

    Raises
    ------
    CalculatorError
        If the calculator lacks a quantity or returns one that is not finite.
    """
    total = len(configurations)
    if hasattr(calc, "evaluate_batch"):
        batch = calc.evaluate_batch([atoms.copy() for atoms in configurations])
        results = [_from_mapping(found, calc, stress) for found in batch]
        if len(results) != total:
            raise CalculatorError(
                f"{type(calc).__name__}.evaluate_batch returned {len(results)} results "
                f"for {total} configurations."
            )
        if progress is not None:
            progress(total, total)
        return results
    results = []
    for done, atoms in enumerate(configurations, start=1):
        results.append(evaluate_one(atoms, calc, stress=stress))
        if progress is not None:
            progress(done, total)
    return results


def evaluate_one(atoms: Atoms, calc: Any, *, stress: bool) -> Evaluation:
    """Evaluate one configuration; see :func:`evaluate`."""
    copy = atoms.copy()
    copy.calc = calc
    consistent = "free_energy" in getattr(calc, "implemented_properties", ())
    with missing_property(calc):
        # The stress is asked for first so that calculators which do only what is asked
        # do not repeat their self-consistent cycle.
        tensor = np.array(copy.get_stress(), dtype=np.float64) if stress else None
        forces = np.array(copy.get_forces(apply_constraint=False), dtype=np.float64)
        energy = float(copy.get_potential_energy(force_consistent=consistent))
    return _checked(Evaluation(energy, forces, tensor), calc)


class missing_property:
    """Context that turns ASE's PropertyNotImplementedError into a CalculatorError."""

    def __init__(self, calc: Any) -> None:
        self.name = type(calc).__name__

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PropertyNotImplementedError):
            raise CalculatorError(
                f"The calculator {self.name} does not provide a quantity that this property "
                f"needs ({error}); use one with energies, forces and, where the cell is strained "
                "or relaxed, stress."
            ) from error


def _from_mapping(found: Any, calc: Any, stress: bool) -> Evaluation:
    name = type(calc).__name__
    for key in ("energy", "forces", "stress") if stress else ("energy", "forces"):
        if found.get(key) is None:
            raise CalculatorError(f"{name}.evaluate_batch returned no {key}, which is needed here.")
    tensor = np.asarray(found["stress"], dtype=np.float64) if stress else None
    if tensor is not None and tensor.shape != (6,):
        raise CalculatorError(
            f"{name}.evaluate_batch returned a stress of shape {tensor.shape}; "
            "six Voigt components are needed."
        )
    # As in a single evaluation: the energy that the forces are derivatives of.
    energy = float(found.get("free_energy", found["energy"]))
    return _checked(Evaluation(energy, np.asarray(found["forces"], np.float64), tensor), calc)


def _checked(evaluation: Evaluation, calc: Any) -> Evaluation:
    parts: dict[str, ArrayLike | None] = {
        "an energy": evaluation.energy,
        "forces": evaluation.forces,
        "a stress": evaluation.stress,
    }
    for what, part in parts.items():
        if part is not None and not np.isfinite(np.asarray(part)).all():
            raise CalculatorError(
                f"The calculator {type(calc).__name__} returned {what} with values that are not "
                "finite; check the structure and the model."
            )
    return evaluation
