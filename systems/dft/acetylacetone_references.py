"""Reference values of acetylacetone from the labelled frames and the stored Hessian."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ase import Atoms

from properties import Curve, Quantity
from properties.molecule import TransferResult, vibrational_frequencies
from systems.acetylacetone import ANGLES, DISTANCES
from systems.dft.acetylacetone_frames import (
    ENOL_O,
    HYDROXYL_ANGLES,
    KETO_O,
    METHYL_ANGLES,
    METHYLS,
    MINIMUM,
    TRANSITION,
)
from systems.dft.acetylacetone_stationary import HESSIAN_GRIDS, read_hessian
from systems.hdf5 import Reference

OURS = "PySCF PBE-D3(BJ)/def2-SVP, level of the labels"
LABEL = "pyscf"


def torsion(frames: Mapping[str, Atoms], name: str) -> Curve:
    """Return the energies (meV) of a rigid rotation (degrees) from the scan frames.

    Of a methyl group up to 60 degrees: the mirror plane of the minimum makes opposite rotations
    equal. Rotation by 120 degrees would not end at zero, since its H are not quite equivalent.
    """
    zero = frames[MINIMUM].info["REF_energy"]
    angles = HYDROXYL_ANGLES if name == "hydroxyl" else METHYL_ANGLES
    rise = {0: 0.0}
    for angle in angles:
        rise[angle] = 1e3 * (frames[f"torsion_{name}_{angle:03d}"].info["REF_energy"] - zero)
    x = sorted(rise)
    return Curve(
        np.array(x, dtype=float),
        np.array([rise[a] for a in x]),
        "deg",
        "meV",
        f"{OURS}; rigid rotation of the relaxed minimum",
    )


def references(frames: Mapping[str, Atoms]) -> list[Reference]:
    """Return all references that the frames (by id) suffice for."""
    minimum, transition = frames[MINIMUM], frames[TRANSITION]
    barrier = transition.info["REF_energy"] - minimum.info["REF_energy"]
    relaxed = f"{OURS}; relaxed"
    found = {
        name: Quantity(float(minimum.get_distance(*pair)), "A", relaxed)
        for name, pair in DISTANCES.items()
    }
    found |= {
        name: Quantity(float(minimum.get_angle(*three)), "deg", relaxed)
        for name, three in ANGLES.items()
    }
    frequencies, zero_point = vibrational_frequencies(minimum, read_hessian())
    harmonic = f"{OURS}; analytic Hessian of PBE on grid level {HESSIAN_GRIDS[-1]}"
    values: dict[str, Quantity | Curve] = {
        **found,
        "zero_point_energy": Quantity(1e3 * zero_point, "meV", harmonic),
        "frequencies": Curve(
            np.arange(1.0, len(frequencies) + 1.0), frequencies, "mode", "cm^-1", harmonic
        ),
    }
    distance = float(transition.get_distance(ENOL_O, KETO_O))
    transfer = TransferResult(minimum, transition, barrier, distance)
    values |= transfer.quantities(f"{relaxed} within the mirror symmetry of the two halves")
    for name in (*METHYLS, "hydroxyl"):
        values[f"torsion_{name}"] = torsion(frames, name)
    return [Reference(name, LABEL, value, True) for name, value in values.items()]
