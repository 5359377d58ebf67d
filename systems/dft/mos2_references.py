"""Reference values of MoS2 from strained cells and force sets, all at the level of the labels.

Lattice and elastic constants come from 3-atom cells whose ions are relaxed; bands from the force
sets of 4x4 supercells (`systems.dft.mos2_phonons`), by symfc with the forces of the undisplaced
supercell subtracted. Modes at Gamma from experiment stand beside and are no target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from properties import Curve, Quantity
from properties.lattice import fit_birch_murnaghan
from systems.dft.mos2_frames import A0, CELL_STRAINS, HEIGHT, NEWTON_STEPS, cell_name
from systems.dft.mos2_phonons import (
    HIGH_SYMMETRY,
    PATH,
    ForceSet,
    bands,
    irreps,
    path_points,
    phonons,
    read_force_sets,
)
from systems.hdf5 import Reference

OURS = "CP2K PBE, level of the labels"
LABEL = "cp2k"
EV_PER_A2_IN_N_PER_M = units.m**2 / units.J
CM_IN_THZ = 0.0299792458  # one inverse centimeter
RAMAN = (
    "Raman scattering of a single layer, C. Lee et al., ACS Nano 4, 2695 (2010), "
    "doi:10.1021/nn1003937, as quoted by https://mos2crystals.com/mos2-raman-spectroscopy"
)
FEW_LAYERS = (
    "resonant Raman scattering of a few layers, where a mode close to the silent one of the single "
    "layer is seen, N. Scheuschner et al., Phys. Rev. B 91 (2015), arXiv:1503.08980"
)
PUBLISHED = {  # cm^-1
    "E''": (286.0, FEW_LAYERS),
    "E'": (386.0, RAMAN),
    "A1'": (404.0, RAMAN),
    "A2''": (471.0, FEW_LAYERS),
}
# Force sets in the order of preference.
SUPERCELLS = ("4x4_600Ry", "4x4")


@dataclass(frozen=True)
class Layer:
    """Lattice (A) and elastic constants (N/m) of the layer.

    Attributes
    ----------
    a0 : float
        Where the tension vanishes.
    a0_eos, modulus : float
        Minimum of the energy and A d2E/dA2 there; `modulus` is (C11 + C12) / 2.
    thickness : float
        S-S distance at `a0`.
    c11, c12, c66 : float
        From differences of the tension at +-1 %; `c66` from a shear of its own.
    c11_armchair, c12_armchair : float
        The same from a strain along the other axis, which symmetry makes equal.
    """

    a0: float
    a0_eos: float
    modulus: float
    thickness: float
    c11: float
    c12: float
    c66: float
    c11_armchair: float
    c12_armchair: float


def tension(atoms: Atoms) -> NDArray[np.float64]:
    """Return the in-plane stress per length (xx, yy, xy) in N/m."""
    stress: NDArray[np.float64] = np.asarray(atoms.info["REF_stress"], dtype=np.float64)
    return stress[[0, 1, 5]] * float(atoms.cell[2, 2]) * EV_PER_A2_IN_N_PER_M


def thickness(atoms: Atoms) -> float:
    """Return the S-S distance along z in A."""
    return float(np.ptp(atoms.positions[atoms.numbers == 16, 2]))


def layer_constants(frames: Mapping[str, Atoms], *, step: int = NEWTON_STEPS) -> Layer:
    """Return lattice and elastic constants from the strained cells (by id).

    Parameters
    ----------
    frames : mapping of str to Atoms
    step : int
        Relaxed ions; 0 for clamped ones.
    """
    cells = {strain: frames[cell_name(strain, step)] for strain in CELL_STRAINS}
    isotropic = {
        0.01 * xx: cells[name]
        for name, (xx, yy, xy) in CELL_STRAINS.items()
        if xx == yy and xy == 0.0
    }
    strains = np.array(sorted(isotropic))
    ordered = [isotropic[e] for e in strains]
    pull = np.array([tension(a)[:2].mean() for a in ordered])
    roots = np.polynomial.Polynomial.fit(strains, pull, 3).roots()
    relaxed = float(roots[np.argmin(np.abs(roots))].real)
    areas = np.array([a.cell.volume / HEIGHT for a in ordered])
    energies = np.array([a.info["REF_energy"] for a in ordered])
    area, modulus, _ = fit_birch_murnaghan(areas, energies)
    distances = np.polynomial.Polynomial.fit(strains, [thickness(a) for a in ordered], 2)
    h = 0.01
    along_x = (tension(cells["xx_+1"]) - tension(cells["xx_-1"])) / (2.0 * h)
    along_y = (tension(cells["yy_+1"]) - tension(cells["yy_-1"])) / (2.0 * h)
    return Layer(
        a0=A0 * (1.0 + relaxed),
        a0_eos=A0 * float(np.sqrt(area / (A0**2 * np.sqrt(0.75)))),
        modulus=float(modulus) * EV_PER_A2_IN_N_PER_M,
        thickness=float(distances(relaxed)),
        c11=float(along_x[0]),
        c12=float(along_x[1]),
        c66=float(tension(cells["xy_+1"])[2]) / (2.0 * h),
        c11_armchair=float(along_y[1]),
        c12_armchair=float(along_y[0]),
    )


def best_force_set() -> tuple[str, ForceSet]:
    """Return the stored force set that the references are from, with its name."""
    stored = read_force_sets()
    name = next(name for name in SUPERCELLS if name in stored)
    return name, stored[name]


def _source(name: str, forces: ForceSet) -> str:
    return (
        f"CP2K PBE, {float(forces.provenance['cutoff_Ry']):g} Ry, {name.split('_')[0]} supercell, "
        f"a = {A0} A; symfc, undisplaced forces subtracted"
    )


def phonon_references() -> dict[str, Quantity | Curve]:
    """Return the bands and the optical modes at Gamma, by the names of `properties`."""
    name, forces = best_force_set()
    phonon = phonons(forces)
    q, x = path_points(forces.primitive)
    source = _source(name, forces)
    found: dict[str, Quantity | Curve] = {
        "phonon_bands": Curve(x, bands(phonon, q), "path", "THz", f"{source}; {'-'.join(PATH)}")
    }
    optical = [mode for mode in irreps(phonon, (0.0, 0.0, 0.0)) if abs(mode[1]) > 1.0]
    for label, frequency in optical:
        found[f"frequency_Gamma_{label}"] = Quantity(frequency, "THz", source)
    return found


def zone_boundary() -> dict[str, Quantity]:
    """Return the modes at M and K, ascending, named by number and irreducible representation."""
    name, forces = best_force_set()
    phonon = phonons(forces)
    return {
        f"frequency_{point}_{number}_{label}": Quantity(frequency, "THz", _source(name, forces))
        for point in ("M", "K")
        for number, (label, frequency) in enumerate(irreps(phonon, HIGH_SYMMETRY[point]), start=1)
    }


def measured_modes() -> dict[str, Quantity]:
    """Return the optical modes at Gamma that experiments give, by irreducible representation."""
    return {
        mode: Quantity(wavenumber * CM_IN_THZ, "THz", source)
        for mode, (wavenumber, source) in PUBLISHED.items()
    }


def references(frames: Mapping[str, Atoms]) -> list[Reference]:
    """Return all references."""
    layer = layer_constants(frames)
    c11 = 0.5 * (layer.c11 + layer.c11_armchair)
    c12 = 0.5 * (layer.c12 + layer.c12_armchair)
    stress = f"{OURS}; relaxed ions, stress differences at +-1 %, mean of both axes"
    eos = f"{OURS}; energies of five cells within +-2 %, ions relaxed"
    values: dict[str, Quantity | Curve] = {
        "a0": Quantity(layer.a0, "A", f"{OURS}; zero tension, ions relaxed"),
        "a0_eos": Quantity(layer.a0_eos, "A", eos),
        "bulk_modulus_eos": Quantity(layer.modulus, "N/m", eos),
        "distance_SS": Quantity(layer.thickness, "A", f"{OURS}; at zero tension"),
        "C11_2d": Quantity(c11, "N/m", stress),
        "C12_2d": Quantity(c12, "N/m", stress),
        "C66_2d": Quantity(layer.c66, "N/m", f"{OURS}; relaxed ions, stress at 1 % shear"),
        "youngs_modulus_2d": Quantity(c11 - c12**2 / c11, "N/m", stress),
        "poisson_ratio_2d": Quantity(c12 / c11, "1", stress),
        **phonon_references(),
    }
    return [
        *(Reference(name, LABEL, value, True) for name, value in values.items()),
        *(Reference(name, LABEL, value, False) for name, value in zone_boundary().items()),
        *(
            Reference(f"frequency_Gamma_{mode}", "experiment", value, False)
            for mode, value in measured_modes().items()
        ),
    ]
