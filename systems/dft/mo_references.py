"""Reference values of bcc Mo: published ones, and ours from the labelled frames.

Models are compared with our own GPAW values, the level of theory of the labels. Of the GSFE these
are single rigid points; the published curves, whose mode is not stated, stand beside both modes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from properties import Curve, Quantity
from properties.lattice import fit_birch_murnaghan
from properties.moduli import average_moduli
from systems.dft.mo_frames import A0, RIGID_SLIPS, strained
from systems.hdf5 import Reference

EV_PER_A3_IN_GPA = 160.21766208
EV_PER_A2_IN_J_PER_M2 = 16.021766208
EOS_RANGE = 0.035  # linear strain; beyond it a third-order equation of state no longer fits

TUTORIAL = "DFT of the authors' fine-tuning tutorial, arXiv:2506.21935, J. Appl. Phys. 139, 041101"
MLEARN = (
    "VASP PBE, central stress differences at +-2 % of the frames of materialsvirtuallab/mlearn "
    "(Zuo et al. 2020, doi:10.1021/acs.jpca.9b08723)"
)
WIEN2K = "WIEN2k PBE all-electron, Delta project, from ase.collections.dcdft"

# J/m^2 at x = i/11 in units of b, a = 3.16 A, slip along 1/2<111>; on {121} the first half is the
# anti-twinning side. Source: TUTORIAL, examples/Mo/plot_GSFE.py.
PUBLISHED_GSFE = {
    "110": (0.0, 0.18294, 0.60311, 1.02833, 1.32198, 1.47288, 1.47405, 1.32382, 1.02988, 0.60331,
            0.18370, 0.00264),
    "121": (0.0, 0.22114, 0.73539, 1.20993, 1.46582, 1.50960, 1.41186, 1.25574, 1.02979, 0.66239,
            0.21274, -0.00425),
}  # fmt: skip


def equation_of_state(frames: Mapping[str, Atoms]) -> tuple[float, float]:
    """Return a0 (A) and B (GPa) from the frames of the family ``eos`` near equilibrium."""
    eos = [a for a in frames.values() if a.info["config_type"] == "eos"]
    volumes = np.array([a.cell.volume / len(a) for a in eos])
    energies = np.array([a.info["REF_energy"] / len(a) for a in eos])
    edges = (2.0 * volumes) ** (1 / 3)
    near = np.abs(edges / A0 - 1.0) < EOS_RANGE
    volume, modulus, _ = fit_birch_murnaghan(volumes[near], energies[near])
    return (2.0 * volume) ** (1 / 3), modulus * EV_PER_A3_IN_GPA


def elastic_differences(frames: list[Atoms]) -> dict[float, tuple[float, float, float]]:
    """Return C11, C12, C44 in GPa by strain amount, from central differences of the stress.

    Parameters
    ----------
    frames : list of Atoms
        bcc cells (1 or 2 atoms) at `A0` with uniaxial strains e_xx of both signs and shears
        e_yz of one sign (opposite shears are equivalent by symmetry); others are ignored.
    """
    stress: dict[tuple[str, float], NDArray[np.float64]] = {}
    for atoms in frames:
        start = strained("zero", 0.0, primitive=len(atoms) == 1).cell.array
        strain = np.linalg.solve(start, atoms.cell.array) - np.eye(3)
        for voigt, (i, j) in {"xx": (0, 0), "yz": (1, 2)}.items():
            pattern = np.zeros((3, 3))
            pattern[i, j] = pattern[j, i] = strain[i, j]
            if abs(strain[i, j]) > 1e-6 and np.abs(strain - pattern).max() < 1e-9:
                stress[voigt, round(float(strain[i, j]), 6)] = atoms.info["REF_stress"]
    found = {}
    for h in sorted(amount for voigt, amount in stress if voigt == "yz"):
        slope = (stress["xx", h] - stress["xx", -h]) / (2.0 * h) * EV_PER_A3_IN_GPA
        c44 = stress["yz", h][3] / (2.0 * h) * EV_PER_A3_IN_GPA
        found[h] = (float(slope[0]), float(0.5 * (slope[1] + slope[2])), float(c44))
    return found


def rigid_gsfe(frames: Mapping[str, Atoms], plane: str) -> tuple[list[float], list[float]]:
    """Return x (units of b) and gamma (J/m^2) of the rigid frames of one plane, so far as done.

    On {110} the two-fold axis along the plane normal reverses the slip, so gamma(1-x) = gamma(x)
    and the second half is the mirrored first.
    """
    points: dict[float, float] = {}
    zero = frames[f"slip_{plane}_00"]
    area = float(np.linalg.norm(np.cross(zero.cell[0], zero.cell[1])))
    for index, x in RIGID_SLIPS[plane].items():
        name = f"slip_{plane}_{index:02d}"
        if name in frames:
            rise = frames[name].info["REF_energy"] - zero.info["REF_energy"]
            points[x] = rise / area * EV_PER_A2_IN_J_PER_M2
    points[1.0] = points[0.0]
    if plane == "110":
        points.update({1.0 - x: gamma for x, gamma in points.items() if 0.0 < x < 1.0})
    return sorted(points), [points[x] for x in sorted(points)]


def _cubic(constants: tuple[float, float, float], source: str) -> dict[str, Quantity]:
    c11, c12, c44 = constants
    tensor = np.diag([c11] * 3 + [c44] * 3)
    tensor[:3, :3] += c12 * (1.0 - np.eye(3))
    moduli = average_moduli(tensor)
    return {
        "C11": Quantity(c11, "GPa", source),
        "C12": Quantity(c12, "GPa", source),
        "C44": Quantity(c44, "GPa", source),
        "bulk_modulus_vrh": Quantity(moduli.bulk, "GPa", source),
        "poisson_ratio_vrh": Quantity(moduli.poisson, "1", f"{source}; VRH average of C_ij"),
        "poisson_ratio_100": Quantity(c12 / (c11 + c12), "1", f"{source}; C12/(C11+C12)"),
    }


def references(frames: Mapping[str, Atoms]) -> list[Reference]:
    """Return all references, ours computed from the frames (by id)."""
    a0, bulk = equation_of_state(frames)
    ours = "GPAW PBE, level of the labels"
    eos = f"{ours}; Birch-Murnaghan fit within +-3.5 %"
    elastic = elastic_differences([a for a in frames.values() if len(a) == 2])
    stress = f"{ours}; central stress differences at +-0.5 %"
    found = [
        Reference("a0", "gpaw", Quantity(a0, "A", eos), True),
        Reference("a0_eos", "gpaw", Quantity(a0, "A", eos), True),
        Reference("bulk_modulus_eos", "gpaw", Quantity(bulk, "GPa", eos), True),
    ]
    for name, value in _cubic(elastic[0.005], stress).items():
        found.append(Reference(name, "gpaw", value, True))
    for label, source, constants in (
        ("tutorial", TUTORIAL, (459.0, 162.0, 97.0)),
        ("mlearn", MLEARN, (479.0, 164.0, 109.0)),
    ):
        for name, value in _cubic(constants, source).items():
            found.append(Reference(name, label, value, False))
    found += [
        Reference("a0", "tutorial", Quantity(3.16, "A", f"{TUTORIAL}; fixed in its GSFE"), False),
        Reference("a0", "mlearn", Quantity(3.1695, "A", MLEARN), False),
        Reference("a0", "wien2k", Quantity(3.1606, "A", WIEN2K), False),
        Reference("bulk_modulus_eos", "wien2k", Quantity(258.9, "GPa", WIEN2K), False),
    ]
    for plane, values in PUBLISHED_GSFE.items():
        found += _gsfe_references(plane, values, frames, ours)
    return found


def _gsfe_references(
    plane: str, values: tuple[float, ...], frames: Mapping[str, Atoms], ours: str
) -> list[Reference]:
    """Our rigid points, of the level of the labels, and the published curve beside both modes."""
    x, gamma = rigid_gsfe(frames, plane)
    points = Curve(
        np.array(x), np.array(gamma), "b", "J/m^2", f"{ours}; rigid, a = 3.16 A, 6 planes"
    )
    found = [Reference(f"gsfe_{plane}_rigid", "gpaw", points, True)]
    curve = Curve(
        np.linspace(0.0, 1.0, len(values)), np.array(values), "b", "J/m^2", TUTORIAL, periodic=True
    )
    top = float(curve.at(np.linspace(0.0, 1.0, 4001)).max())
    source = f"{TUTORIAL}; maximum of the periodic cubic interpolation; mode not stated"
    for mode in ("rigid", "relaxed"):
        kind = f"{plane}_{mode}"
        found += [
            Reference(f"gsfe_{kind}", "published", curve, False),
            Reference(f"gamma_usf_{kind}", "published", Quantity(top, "J/m^2", source), False),
        ]
    return found
