"""Water on graphene: a sheet of 32 C with some molecules, periodic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule

from properties import Curve, Quantity, WaterResult, evaluate, water_dynamics
from systems.hdf5 import iterate_frames
from systems.system import DATA, Progress, System

A0, HEIGHT = 2.467, 16.0  # A: lattice constant of graphene, cell height
COLUMNS, ROWS = 4, 2
OXYGEN_HEIGHTS = (3.0, 3.2, 3.4)  # A above the sheet
NORMAL = 2
MOLECULES = 10
TRANSFER_IDS = ("proton_transfer_molecules", "proton_transfer_ions")
DATA_FILE = DATA / "water_graphene.h5"


def sheet() -> Atoms:
    """Return graphene in a rectangular cell at z = 0."""
    a = A0
    basis = [
        [0.0, 0.0, 0.0],
        [a / 2, a / 12**0.5, 0.0],
        [a / 2, a * 3**0.5 / 2, 0.0],
        [0.0, a * 2 / 3**0.5, 0.0],
    ]
    cell = [a, a * 3**0.5, HEIGHT]
    flat: Atoms = Atoms("C4", basis, cell=cell, pbc=True) * (COLUMNS, ROWS, 1)
    return flat


def water_above(height: float) -> Atoms:
    """Return one H2O over the middle of a ring, its H towards the sheet, O at ``height``."""
    water: Atoms = molecule("H2O")
    hollow = np.array([A0, A0 / 3**0.5, height])
    water.positions += hollow - water.positions[0]
    return water


def adsorption_structures() -> dict[float | str, Atoms]:
    """Return ``"sheet"``, ``"water"`` in the same cell, and both together by height of the O."""
    bare = sheet()
    alone = water_above(OXYGEN_HEIGHTS[1])
    alone.set_cell(bare.cell)
    alone.pbc = True
    return {
        "sheet": bare,
        "water": alone,
        **{height: bare + water_above(height) for height in OXYGEN_HEIGHTS},
    }


@dataclass(frozen=True)
class AdsorptionResult:
    """Energy of one H2O on the sheet, both rigid, minus that of the parts.

    Attributes
    ----------
    energies : mapping of float to float
        meV by height of the O above the sheet in A.
    """

    energies: Mapping[float, float]

    @property
    def minimum(self) -> tuple[float, float]:
        """Height (A) and energy (meV) of the parabola through three heights.

        Outside the heights by more than the distance of two, it is the lowest of them.
        """
        heights = sorted(self.energies)
        line = np.polynomial.Polynomial.fit(heights, [self.energies[h] for h in heights], 2)
        lowest = min(heights, key=lambda h: self.energies[h])
        roots = line.deriv().roots()
        step = heights[1] - heights[0]
        if line.deriv(2)(0.0) <= 0.0 or not heights[0] - step < roots[0] < heights[-1] + step:
            return lowest, self.energies[lowest]
        return float(roots[0]), float(line(roots[0]))

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return adsorption_energy (meV), adsorption_height (A) and the curve adsorption."""
        height, energy = self.minimum
        heights = sorted(self.energies)
        return {
            "adsorption_energy": Quantity(energy, "meV", source),
            "adsorption_height": Quantity(height, "A", source),
            "adsorption": Curve(
                np.array(heights),
                np.array([self.energies[h] for h in heights]),
                "A",
                "meV",
                source,
            ),
        }


def adsorption_energies(totals: Mapping[float | str, float]) -> AdsorptionResult:
    """Return adsorption energies from the total energies (eV) of `adsorption_structures`."""
    parts = totals["sheet"] + totals["water"]
    return AdsorptionResult(
        MappingProxyType({h: 1e3 * (totals[h] - parts) for h in OXYGEN_HEIGHTS})
    )


def _adsorption(calculator: Any, progress: Progress | None) -> AdsorptionResult:
    structures = adsorption_structures()
    found = evaluate(list(structures.values()), calculator, stress=False, progress=progress)
    return adsorption_energies(
        {name: one.energy for name, one in zip(structures, found, strict=True)}
    )


@dataclass(frozen=True)
class ProtonTransferResult:
    """Energy of H3O+ and OH- in the film above that of the molecules they came from.

    Two frames of one trajectory, a picosecond apart, so that thermal motion is in it.

    Attributes
    ----------
    energy : float
        eV.
    """

    energy: float

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return proton_transfer_energy (eV)."""
        return {"proton_transfer_energy": Quantity(self.energy, "eV", source)}


def proton_transfer_structures() -> tuple[Atoms, Atoms]:
    """Return ten molecules on the sheet, and eight with H3O+ and OH-, without labels."""
    stored = {a.info["id"]: a for a in iterate_frames(DATA_FILE, "reference")}
    molecules, ions = (
        Atoms(stored[name].numbers, stored[name].positions, cell=stored[name].cell, pbc=True)
        for name in TRANSFER_IDS
    )
    return molecules, ions


def _proton_transfer(calculator: Any, progress: Progress | None) -> ProtonTransferResult:
    structures = proton_transfer_structures()
    molecules, ions = evaluate(structures, calculator, stress=False, progress=progress)
    return ProtonTransferResult(ions.energy - molecules.energy)


def film() -> Atoms:
    """Return a bundled test frame with `MOLECULES` on the sheet, the start of dynamics."""
    frames = iterate_frames(DATA_FILE, "test_id")
    found = next(a for a in frames if int((a.numbers == 8).sum()) == MOLECULES)
    return Atoms(found.numbers, found.positions, cell=found.cell, pbc=True)


def _dynamics(calculator: Any, progress: Progress | None) -> WaterResult:
    carbon = list(range(len(sheet())))
    return water_dynamics(
        film(), calculator, normal=NORMAL, surface=carbon, preset="smoke", progress=progress
    )


# No stress is trained on: it is not stored with these labels.
RECIPE = {
    "energy_weight": 10.0,
    "forces_weight": 10.0,
    "stress_weight": 0.0,
    "batch_size": 4,
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
    name="water_graphene",
    description="Water on graphene: 4 to 14 H2O on 32 C, 300 K and 500 K",
    level_of_theory=(
        "CP2K 2023.1 PBE-D3(BJ), DZVP-MOLOPT-SR-GTH, GTH-PBE, 1000 Ry, k-mesh 2x2x1, Fermi-Dirac "
        "smearing 300 K, free energy, cell height 16 A"
    ),
    license="CC-BY-4.0",
    elements=("H", "C", "O"),
    data_file=DATA_FILE,
    computations={
        "adsorption": _adsorption,
        "proton_transfer": _proton_transfer,
        "dynamics": _dynamics,
    },
    recipe=RECIPE,
)
