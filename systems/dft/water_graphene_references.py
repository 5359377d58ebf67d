"""Reference values of water on graphene: adsorption, sampled frames, published liquid water.

Models are compared with the adsorption energies, which are ours at the level of the labels. What
sampled frames look like depends on the potential that sampled them, so their statistics stand
beside and are no target; so does liquid water in bulk, from experiment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from properties import Curve, Quantity
from systems.dft.water_graphene_frames import BOND, adsorption_id
from systems.hdf5 import Reference
from systems.water_graphene import (
    TRANSFER_IDS,
    ProtonTransferResult,
    adsorption_energies,
    adsorption_structures,
)

OURS = "CP2K PBE-D3(BJ), level of the labels"
SKINNER = (
    "x-ray diffraction of bulk water at 295 K, L. B. Skinner et al., J. Chem. Phys. 138, 074506 "
    "(2013), doi:10.1063/1.4790861"
)
DIFFUSION = (
    "experiment, bulk water at 300 K, from D = 1.635e-8 m^2/s (T / 215.05 K - 1)^2.063 of M. Holz "
    "et al., Phys. Chem. Chem. Phys. 2, 4740 (2000), doi:10.1039/b005319h"
)
PUBLISHED = {
    "g_OO_peak_position": Quantity(2.80, "A", SKINNER),
    "g_OO_peak_height": Quantity(2.57, "1", SKINNER),
    "g_OO_minimum_position": Quantity(3.47, "A", SKINNER),
    "g_OO_minimum_height": Quantity(0.84, "1", SKINNER),
}


# Unit and bins of what is counted in sampled frames: lowest edge, highest, and width.
BINS = {
    "OH_distance": ("A", 0.8, 1.3, 0.02),
    "HOH_angle": ("deg", 80.0, 130.0, 2.0),
    "oxygen_height": ("A", 2.0, 10.0, 0.25),
}


def water_geometry(frames: Sequence[Atoms]) -> dict[str, NDArray[np.float64]]:
    """Return what water in the frames looks like, one value for each bond, molecule and O atom.

    Keys: ``OH_distance`` (A), ``HOH_angle`` (deg), ``oxygen_height`` (A above the mean plane of C).
    """
    distances: list[float] = []
    angles: list[float] = []
    heights: list[float] = []
    for atoms in frames:
        oxygen, hydrogen = (np.flatnonzero(atoms.numbers == z) for z in (8, 1))
        plane = float(atoms.positions[atoms.numbers == 6, 2].mean())
        for o in oxygen:
            reach = atoms.get_distances(int(o), hydrogen, mic=True)
            bonded = hydrogen[reach < BOND]
            distances.extend(float(r) for r in reach[reach < BOND])
            if len(bonded) == 2:
                first, second = (int(h) for h in bonded)
                angles.append(float(atoms.get_angle(first, int(o), second, mic=True)))
        heights.extend(float(z) for z in atoms.positions[oxygen, 2] - plane)
    return {
        "OH_distance": np.array(distances),
        "HOH_angle": np.array(angles),
        "oxygen_height": np.array(heights),
    }


def sampled_references(frames: Sequence[Atoms]) -> list[Reference]:
    """Return statistics of the labelled frames at 300 K with 8 and 10 H2O.

    Distributions are densities over their quantity, per unit of it.
    """
    source = (
        f"statistics of {len(frames)} labelled frames, sampled at 300 K with the seed potential"
    )
    found: dict[str, Quantity | Curve] = {}
    for name, values in water_geometry(frames).items():
        unit, lowest, highest, width = BINS[name]
        found[f"{name}_mean"] = Quantity(float(values.mean()), unit, source)
        found[f"{name}_sigma"] = Quantity(float(values.std()), unit, source)
        if values.min() < lowest or values.max() > highest:
            raise ValueError(f"{name} of a frame lies beyond {lowest} to {highest} {unit}.")
        edges = np.linspace(lowest, highest, round((highest - lowest) / width) + 1)
        density = np.histogram(values, edges)[0] / (len(values) * width)
        centers = 0.5 * (edges[1:] + edges[:-1])
        found[f"{name}_distribution"] = Curve(centers, density, unit, f"1/{unit}", source)
    return [Reference(name, "sampled_frames", value, False) for name, value in found.items()]


def adsorption_values(frames: Mapping[str, Atoms]) -> dict[str, Quantity | Curve]:
    """Return the adsorption energies, or nothing as long as a frame is missing."""
    names = {structure: adsorption_id(structure) for structure in adsorption_structures()}
    if any(name not in frames for name in names.values()):
        return {}
    found = adsorption_energies(
        {structure: frames[name].info["REF_energy"] for structure, name in names.items()}
    )
    return found.quantities(f"{OURS}; one rigid H2O over a ring of the rigid sheet, H down")


def proton_transfer_values(frames: Mapping[str, Atoms]) -> dict[str, Quantity | Curve]:
    """Return the energy of a proton transfer, or nothing as long as a frame is missing."""
    if any(name not in frames for name in TRANSFER_IDS):
        return {}
    molecules, ions = (frames[name].info["REF_energy"] for name in TRANSFER_IDS)
    source = f"{OURS}; two frames of a trajectory, before and after"
    return ProtonTransferResult(ions - molecules).quantities(source)


def references(frames: Mapping[str, Atoms]) -> list[Reference]:
    """Return all references that the frames (by id) suffice for."""
    liquid = [a for a in frames.values() if a.info["config_type"] == "md_300K"]
    diffusion = 1.635e-4 * (300.0 / 215.05 - 1.0) ** 2.063  # cm^2/s
    return [
        *(Reference(n, "cp2k", value, True) for n, value in adsorption_values(frames).items()),
        *(Reference(n, "cp2k", v, True) for n, v in proton_transfer_values(frames).items()),
        *sampled_references(liquid),
        *(Reference(n, "experiment", value, False) for n, value in PUBLISHED.items()),
        Reference("D", "experiment", Quantity(diffusion, "cm^2/s", DIFFUSION), False),
    ]
