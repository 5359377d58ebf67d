"""Acetylacetone, a molecule with a strong hydrogen bond: the enol of pentane-2,4-dione."""

from __future__ import annotations

from functools import partial
from typing import Any

from ase import Atoms

from properties.molecule import (
    MinimumResult,
    TorsionResult,
    TransferResult,
    molecular_minimum,
    torsion_profile,
    transfer_barrier,
)
from systems.dft.acetylacetone_frames import (
    BRIDGE_H,
    ENOL_C,
    ENOL_O,
    HYDROXYL_ANGLES,
    KETO_C,
    KETO_O,
    METHYL_ANGLES,
    METHYLS,
    SWAP,
    enol,
)
from systems.system import DATA, Progress, System

DISTANCES = {
    "distance_OH": (ENOL_O, BRIDGE_H),
    "distance_OO": (ENOL_O, KETO_O),
    "distance_C=O": (KETO_C, KETO_O),
    "distance_C-O": (ENOL_C, ENOL_O),
}
ANGLES = {"angle_OHO": (ENOL_O, BRIDGE_H, KETO_O)}
# Bond, what turns about it, angles in degrees: where the reference has points.
TORSIONS = {
    **{
        side: ((carbon, methyl), hydrogens, (0, *METHYL_ANGLES))
        for side, (carbon, methyl, hydrogens) in METHYLS.items()
    },
    "hydroxyl": ((ENOL_C, ENOL_O), (BRIDGE_H,), (0, *HYDROXYL_ANGLES)),
}


def _minimum(calculator: Any, progress: Progress | None) -> MinimumResult:
    return molecular_minimum(
        enol(), calculator, distances=DISTANCES, angles=ANGLES, progress=progress
    )


def _transfer(calculator: Any, progress: Progress | None) -> TransferResult:
    symmetric: Atoms = enol(symmetric=True)
    return transfer_barrier(enol(), symmetric, SWAP, (ENOL_O, KETO_O), calculator)


def _torsion(name: str, calculator: Any, progress: Progress | None) -> TorsionResult:
    bond, moving, angles = TORSIONS[name]
    return torsion_profile(enol(), bond, moving, angles, calculator, name=name, progress=progress)


# Nothing of the stress: a molecule has none.
RECIPE = {
    "energy_weight": 10.0,
    "forces_weight": 10.0,
    "stress_weight": 0.0,
    "batch_size": 8,
    "lr": 5e-3,
    "schedule": "cosine",
    "epochs": 60,
    "refine": {
        "evaluations": 100,
        "history": 50,
        "energy_weight": 100.0,
        "forces_weight": 10.0,
    },
}

SYSTEM = System(
    name="acetylacetone",
    description="Acetylacetone (enol), 300 K and 600 K: hydrogen transfer and torsion",
    level_of_theory=(
        "PySCF 2.14 PBE-D3(BJ)/def2-SVP, density fitting (def2-universal-jfit), grid level 2, "
        "forces with grid response"
    ),
    license="CC-BY-4.0",
    elements=("H", "C", "O"),
    data_file=DATA / "acetylacetone.h5",
    computations={
        "minimum": _minimum,
        "transfer": _transfer,
        **{f"torsion_{name}": partial(_torsion, name) for name in TORSIONS},
    },
    recipe=RECIPE,
)
