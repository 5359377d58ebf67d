"""Checked inputs of molecular dynamics: constraints, degrees of freedom, velocities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.constraints import FixAtoms, FixBondLengths, FixCom
from ase.md.velocitydistribution import thermalize_momenta

from properties.errors import StructureError

LIGHT_MASS = 1.5  # u; protium, not deuterium
FLEXIBLE_LIGHT_LIMIT = 1.0  # fs
RIGID_LIGHT_LIMIT = 2.0  # fs
LIMIT = 5.0  # fs


def prepare(atoms: Atoms, fix_com: bool | None) -> tuple[Atoms, int]:
    """Return a copy with the constraints of the dynamics, and its degrees of freedom.

    The center of mass is held by `ase.constraints.FixCom` unless atoms are fixed. In a cluster
    (no periodic direction) whose center of mass is held, the angular momentum is zero and stays
    so; its three rotations (two for two atoms) are not degrees of freedom either.

    Parameters
    ----------
    atoms : Atoms
        Left unchanged. Constraints that are understood: FixAtoms, FixBondLengths, FixCom.
    fix_com : bool, optional
        Whether to hold the center of mass; by default unless atoms are fixed.

    Returns
    -------
    atoms : Atoms
        Without calculator and momenta.
    n_dof : int
        Degrees of freedom that carry kinetic energy.

    Raises
    ------
    StructureError
        For structures and constraints that cannot be used.
    """
    _check_structure(atoms)
    prepared = atoms.copy()
    prepared.info = {}
    prepared.arrays.pop("momenta", None)
    fixed = _check_constraints(prepared)
    held = any(isinstance(c, FixCom) for c in prepared.constraints)
    if fix_com is False and held:
        raise StructureError("fix_com is False but the structure carries FixCom; remove one.")
    if fixed and (fix_com or held):
        raise StructureError(
            "Fixed atoms already hold the structure in place; leave fix_com out and remove FixCom."
        )
    if not held and (fix_com or (fix_com is None and not fixed)):
        prepared.set_constraint([*prepared.constraints, FixCom()])
        held = True
    for constraint in prepared.constraints:
        # ASE measures the lengths when they are first needed, which after a continuation would
        # be in another frame.
        if isinstance(constraint, FixBondLengths) and constraint.bondlengths is None:
            constraint.bondlengths = constraint.initialize_bond_lengths(prepared)
    n_dof = int(prepared.get_number_of_degrees_of_freedom())
    if has_no_rotation(prepared):
        n_dof -= 2 if len(atoms) == 2 else 3
    if n_dof < 1:
        raise StructureError(f"{len(atoms)} atoms under these constraints cannot move.")
    return prepared, n_dof


def has_no_rotation(atoms: Atoms) -> bool:
    """Whether the angular momentum is conserved, hence kept at zero."""
    held = any(isinstance(c, FixCom) for c in atoms.constraints)
    return held and not atoms.pbc.any() and len(atoms) > 1


def check_timestep(atoms: Atoms, timestep_fs: float) -> None:
    """Raise StructureError if the fastest vibration is not resolved by the time step."""
    if not (math.isfinite(timestep_fs) and timestep_fs > 0.0):
        raise StructureError(f"The time step is {timestep_fs} fs; give a positive number.")
    light = set(np.flatnonzero(atoms.get_masses() < LIGHT_MASS))
    rigid: set[int] = set()
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            rigid |= {int(i) for i in constraint.get_indices()}
        elif isinstance(constraint, FixBondLengths):
            rigid |= {int(i) for i in np.ravel(constraint.pairs)}
    limit, why = LIMIT, "atomic vibrations"
    if light - rigid:
        limit, why = FLEXIBLE_LIGHT_LIMIT, "vibrations of hydrogen"
    elif light:
        limit, why = RIGID_LIGHT_LIMIT, "librations of hydrogen"
    if timestep_fs > limit:
        raise StructureError(
            f"A time step of {timestep_fs:g} fs does not resolve {why}; use {limit:g} fs or less."
        )


def thermalize(atoms: Atoms, temperature_K: float, n_dof: int, rng: np.random.Generator) -> None:
    """Draw Maxwell-Boltzmann momenta, without drift, scaled to the kinetic temperature."""
    thermalize_momenta(atoms, temperature_K, rng=rng)
    if has_no_rotation(atoms):
        _stop_rotation(atoms)
    scale = math.sqrt(temperature_K / kinetic_temperature(atoms, n_dof))
    atoms.set_momenta(scale * atoms.get_momenta())


def kinetic_temperature(atoms: Atoms, n_dof: int) -> float:
    """Return the kinetic temperature in K, from twice the kinetic energy per degree of freedom."""
    momenta = atoms.arrays["momenta"]
    twice = float((momenta**2 / atoms.get_masses()[:, None]).sum())
    return twice / (n_dof * units.kB)


def _stop_rotation(atoms: Atoms) -> None:
    """Remove the angular momentum about the center of mass.

    ASE's ZeroRotation divides by zero for two atoms.
    """
    arms = atoms.positions - atoms.get_center_of_mass()
    masses = atoms.get_masses()
    squares = (masses[:, None] * arms).T @ arms
    inertia = np.trace(squares) * np.eye(3) - squares
    momentum = np.cross(arms, atoms.get_momenta()).sum(axis=0)
    # The pseudo-inverse leaves out the axis of a linear molecule.
    spin = np.linalg.pinv(inertia, rcond=1e-9, hermitian=True) @ momentum
    atoms.set_momenta(atoms.get_momenta() - masses[:, None] * np.cross(spin, arms))


def _check_structure(atoms: Atoms) -> None:
    if len(atoms) == 0:
        raise StructureError("The structure holds no atoms.")
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        raise StructureError("The structure holds positions or cell vectors that are not finite.")
    periodic = atoms.cell.array[atoms.pbc]
    if len(periodic) and np.linalg.matrix_rank(periodic) < len(periodic):
        raise StructureError("The structure is periodic along a direction without a cell vector.")
    if (atoms.get_masses() <= 0.0).any():
        raise StructureError("The structure holds atoms without mass.")


def _check_constraints(atoms: Atoms) -> set[int]:
    """Return the fixed atoms; raise for constraints whose degrees of freedom are not known."""
    constraints: list[Any] = atoms.constraints
    strange = [
        type(c).__name__
        for c in constraints
        if not isinstance(c, FixAtoms | FixBondLengths | FixCom)
    ]
    if strange:
        raise StructureError(
            f"Constraints {', '.join(strange)} are not understood by the thermostat's count of "
            "degrees of freedom; use FixAtoms, FixBondLengths or FixCom."
        )
    if sum(isinstance(c, FixCom) for c in constraints) > 1:
        raise StructureError("The structure carries FixCom twice.")
    indices = [i for c in constraints if isinstance(c, FixAtoms) for i in c.get_indices()]
    pairs = [
        tuple(sorted(map(int, pair)))
        for c in constraints
        if isinstance(c, FixBondLengths)
        for pair in c.pairs
    ]
    fixed = {int(i) for i in indices}
    if len(fixed) < len(indices) or len(set(pairs)) < len(pairs):
        raise StructureError("The structure carries the same constraint twice.")
    if any(fixed & set(pair) for pair in pairs):
        raise StructureError("A bond of fixed length ends at a fixed atom; remove one of the two.")
    return fixed
