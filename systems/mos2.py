"""Monolayer molybdenum disulfide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import mx2

from properties import (
    MASK_2D,
    Curve,
    LatticeResult,
    LayerElasticResult,
    PhononResult,
    Quantity,
    lattice_constant,
    layer_elastic_tensor,
    load_phonons,
    phonon_bands,
)
from systems.system import DATA, Progress, System

A0, THICKNESS, HEIGHT = 3.187, 3.132, 15.0  # A, start of relaxations
SUPERCELL = (4, 4, 1)
DISPLACEMENT = 0.015  # A, as in the reference


def monolayer() -> Atoms:
    """Return the 1H layer, vectors at 120 degrees, periodic along z with vacuum."""
    layer: Atoms = mx2("MoS2", a=A0, thickness=THICKNESS)
    layer.cell[2] = (0.0, 0.0, HEIGHT)
    layer.center(axis=2)
    layer.pbc = True
    return layer


@dataclass(frozen=True, eq=False)
class LayerLattice:
    """Lattice of the layer and its S-S distance, A."""

    lattice: LatticeResult
    distance_SS: float

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return those of the lattice, and distance_SS."""
        return {
            **self.lattice.quantities(source),
            "distance_SS": Quantity(self.distance_SS, "A", source),
        }


def _lattice(calculator: Any, progress: Progress | None) -> LayerLattice:
    found = lattice_constant(monolayer(), calculator, mask=MASK_2D, progress=progress)
    sulfur = found.atoms.symbols == "S"
    return LayerLattice(found, float(np.ptp(found.atoms.positions[sulfur, 2])))


def _elastic(calculator: Any, progress: Progress | None) -> LayerElasticResult:
    return layer_elastic_tensor(monolayer(), calculator, progress=progress)


def _phonons(calculator: Any, progress: Progress | None) -> PhononResult:
    from systems.dft.mos2_phonons import phonons
    from systems.dft.mos2_references import best_force_set

    found = phonon_bands(
        monolayer(),
        calculator,
        supercell=SUPERCELL,
        dimension=2,
        distance=DISPLACEMENT,
        path="GMKG",
        progress=progress,
    )
    # The curve of the references has no eigenvectors; the force sets that made it do.
    return found.against(load_phonons(phonons(best_force_set()[1]), dimension=2, path="GMKG"))


# As for Mo; the stress of a cell with vacuum is that of the layer times a fifth.
RECIPE = {
    "energy_weight": 10.0,
    "forces_weight": 10.0,
    "stress_weight": 10.0,
    "batch_size": 4,
    "lr": 5e-3,
    "schedule": "cosine",
    "epochs": 60,
    "refine": {
        "evaluations": 100,
        "history": 50,
        "energy_weight": 200.0,
        "forces_weight": 10.0,
        "stress_weight": 300.0,
    },
}

SYSTEM = System(
    name="mos2",
    description="Monolayer MoS2: elasticity and phonons",
    level_of_theory=(
        "CP2K 2023.1 PBE, DZVP-MOLOPT-SR-GTH, GTH-PBE, 600 Ry, Gamma-centered k-mesh of 9x9x1 per "
        "3-atom cell, cell height 15 A"
    ),
    license="CC-BY-4.0",
    elements=("S", "Mo"),
    data_file=DATA / "mos2.h5",
    computations={"lattice": _lattice, "elastic": _elastic, "phonons": _phonons},
    recipe=RECIPE,
)
