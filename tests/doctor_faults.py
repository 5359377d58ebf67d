"""Faults to plant in copies of real data, each with the code that the doctor must find it by."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.units import Bohr, GPa, Hartree, kcal, kJ, mol

from ase_finetune.data.read import is_isolated_atom

ROOT = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get("ASEFT_TEST_DATA", ROOT.parent / "shared" / "data"))
BUNDLED = ("mo.h5", "acetylacetone.h5", "mos2.h5", "water_graphene.h5")
SHARED = (
    "mo_vasp_pbe_train.xyz",
    "mo_vasp_pbe_test.xyz",
    "acac_train_300K.xyz",
    "acac_test_300K.xyz",
    "acac_test_600K.xyz",
)


def path_of(name: str) -> Path:
    if name in BUNDLED:
        return ROOT / "systems" / "data" / name
    if not REAL.is_dir():
        pytest.skip(f"no real DFT test data at {REAL} (set ASEFT_TEST_DATA)")
    return REAL / name


@cache
def original(name: str) -> tuple[Atoms, ...]:
    path = path_of(name)
    kind = "ase-finetune-h5" if path.suffix == ".h5" else "extxyz"
    return tuple(ase.io.read(path, ":", format=kind))


def copies(name: str) -> list[Atoms]:
    """Copies as a user would have them: without this project's splits.

    Two references of acetylacetone repeat frames of its test set and are left out.
    """
    frames = [frame.copy() for frame in original(name)]
    if name == "acetylacetone.h5":
        frames = [frame for frame in frames if frame.info["split"] != "reference"]
    for frame in frames:
        for key in ("split", "id"):
            frame.info.pop(key, None)
        if name == "mo_vasp_pbe_train.xyz":
            frame.info["REF_stress"] = frame.info["REF_stress"][[0, 1, 2, 4, 3, 5]]
    return frames


def several(frames: list[Atoms]) -> list[int]:
    return [i for i, f in enumerate(frames) if len(f) > 1]


def some(frames: list[Atoms], share: float, seed: int = 0) -> list[int]:
    rows = several(frames)
    chosen = np.random.default_rng(seed).choice(rows, max(2, int(share * len(rows))), False)
    return sorted(int(i) for i in chosen)


def scale(key: str, factor: float) -> Callable[[list[Atoms]], list[int]]:
    def plant(frames: list[Atoms]) -> list[int]:
        for frame in frames:
            place = frame.arrays if key == "REF_forces" else frame.info
            if key in place:
                place[key] = place[key] * factor
        return []

    return plant


def atomic_units(frames: list[Atoms]) -> list[int]:
    scale("REF_forces", Bohr / Hartree)(frames)
    return scale("REF_energy", 1 / Hartree)(frames)


def zero_all(frames: list[Atoms]) -> list[int]:
    return scale("REF_forces", 0.0)(frames)


def zero_some(frames: list[Atoms]) -> list[int]:
    # Of frames with forces: where symmetry leaves none, nothing is planted.
    pushed = [i for i in several(frames) if np.abs(frames[i].arrays["REF_forces"]).max() > 0.5]
    rows = [pushed[i] for i in range(0, len(pushed), 7)]
    for i in rows:
        frames[i].arrays["REF_forces"][:] = 0.0
    return rows


def swap_shear(frames: list[Atoms]) -> list[int]:
    for frame in frames:
        if "REF_stress" in frame.info:
            frame.info["REF_stress"] = frame.info["REF_stress"][[0, 1, 2, 4, 3, 5]]
    return []


def vasp_order(frames: list[Atoms]) -> list[int]:
    for frame in frames:
        if "REF_stress" in frame.info:
            frame.info["REF_stress"] = frame.info["REF_stress"][[0, 1, 2, 5, 3, 4]]
    return []


def nan_energy(frames: list[Atoms]) -> list[int]:
    rows = some(frames, 0.05)
    for i in rows:
        frames[i].info["REF_energy"] = float("nan")
    return rows


def inf_forces(frames: list[Atoms]) -> list[int]:
    rows = some(frames, 0.03)
    for i in rows:
        frames[i].arrays["REF_forces"][-1, 2] = np.inf
    return rows


def constant(frames: list[Atoms]) -> list[int]:
    rows = several(frames)
    for i in rows:
        frames[i].info["REF_energy"] = -100.0
    return []


def shuffled(frames: list[Atoms]) -> list[int]:
    groups: dict[str, list[int]] = {}
    for i in several(frames):
        groups.setdefault(frames[i].get_chemical_formula(), []).append(i)
    rng = np.random.default_rng(5)
    for rows in groups.values():
        energies = [frames[i].info["REF_energy"] for i in rows]
        for i, energy in zip(rows, rng.permutation(energies), strict=True):
            frames[i].info["REF_energy"] = float(energy)
    return []


def without(kind: str) -> Callable[[list[Atoms]], list[int]]:
    def plant(frames: list[Atoms]) -> list[int]:
        rows = some(frames, 0.1, seed=1)
        for i in rows:
            place = frames[i].arrays if kind == "forces" else frames[i].info
            del place[f"REF_{kind}"]
        return rows

    return plant


def renamed(kind: str) -> Callable[[list[Atoms]], list[int]]:
    def plant(frames: list[Atoms]) -> list[int]:
        for frame in frames:
            place = frame.arrays if kind == "forces" else frame.info
            if f"REF_{kind}" in place:
                place[f"dft_{kind}"] = place.pop(f"REF_{kind}")
        return []

    return plant


def repeated(rattle: float) -> Callable[[list[Atoms]], list[int]]:
    def plant(frames: list[Atoms]) -> list[int]:
        rows = some(frames, 0.05, seed=2)
        count = len(frames)
        rng = np.random.default_rng(0)
        for i in rows:
            twin = frames[i].copy()
            twin.positions += rattle * rng.standard_normal(twin.positions.shape)
            frames.append(twin)
        return list(range(count, len(frames)))

    return plant


def exploded(frames: list[Atoms]) -> list[int]:
    i = several(frames)[len(several(frames)) // 3]
    rng = np.random.default_rng(0)
    push = rng.normal(size=(len(frames[i]), 3)) * 60
    frames[i].arrays["REF_forces"] = frames[i].arrays["REF_forces"] + push - push.mean(axis=0)
    frames[i].info["REF_energy"] += 6.0 * len(frames[i])
    return [i]


def unconverged(frames: list[Atoms]) -> list[int]:
    rows = several(frames)
    cold = [
        i for i in rows if "AIMD NVT simulation at 300 K" in frames[i].info.get("description", "")
    ]
    # In 54 atoms at 3000 K an eV drowns in what the linear model leaves; see the last test.
    i = (cold or rows)[2 * len(cold or rows) // 5]
    frames[i].info["REF_energy"] += 1.0
    return [i]


def overlapping(frames: list[Atoms]) -> list[int]:
    i = several(frames)[4]
    frames[i].positions[1] = frames[i].positions[0] + [0.3, 0.0, 0.1]
    return [i]


def mixed(step: float) -> Callable[[list[Atoms]], list[int]]:
    def plant(frames: list[Atoms]) -> list[int]:
        rows = some(frames, 0.5, seed=3)
        for i in rows:
            frames[i].info["REF_energy"] += step * len(frames[i])
        return []

    return plant


def second_half(frames: list[Atoms]) -> list[int]:
    rows = several(frames)
    for i in rows[len(rows) // 2 :]:
        frames[i].info["REF_energy"] += 0.1 * len(frames[i])
    return []


def no_cell(frames: list[Atoms]) -> list[int]:
    rows = some(frames, 0.1, seed=4)
    for i in rows:
        frames[i].pbc = True
        frames[i].cell[:] = 0.0
    return rows


def bohr(frames: list[Atoms]) -> list[int]:
    for frame in frames:
        frame.set_cell(frame.cell.array / Bohr)
        frame.positions /= Bohr
    return []


def unknown_element(frames: list[Atoms]) -> list[int]:
    i = several(frames)[3]
    frames[i].symbols[0] = "W"
    return [i]


def no_free_atoms(frames: list[Atoms]) -> list[int]:
    frames[:] = [f for f in frames if not is_isolated_atom(f)]
    return []


def extrapolated(frames: list[Atoms]) -> list[int]:
    """Energies that are not the free energy: -1.5 GPa, as seen with the first GPAW frames."""
    for frame in frames:
        frame.info["REF_energy"] += 1.5 * GPa * frame.get_volume()
    return []


def free_energy_beside(frames: list[Atoms]) -> list[int]:
    for frame in frames:
        frame.info["free_energy"] = frame.info["REF_energy"]
        frame.info["REF_energy"] += 0.004 * len(frame)
    return []


def dispersion_in_half(frames: list[Atoms]) -> list[int]:
    rows = some(frames, 0.5, seed=6)
    for frame in frames:
        frame.info.pop("dispersion", None)
    for i in rows:
        frames[i].info["dispersion"] = "D3(BJ)"
    return []


def other_functional(frames: list[Atoms]) -> list[int]:
    for i, frame in enumerate(frames):
        frame.info["functional"] = "PBE" if i % 3 else "revPBE"
    return []


def atoms_of_another_code(frames: list[Atoms]) -> list[int]:
    rows = [i for i, f in enumerate(frames) if is_isolated_atom(f)]
    for i in rows:
        frames[i].info["REF_energy"] = -0.5
    return rows


def turned_forces(frames: list[Atoms]) -> list[int]:
    rows = some(frames, 0.3)
    for i in rows:
        frames[i].arrays["REF_forces"] = frames[i].arrays["REF_forces"][:, [1, 2, 0]]
    return []


def pushed(frames: list[Atoms]) -> list[int]:
    rows = some(frames, 0.1)
    for i in rows:
        frames[i].arrays["REF_forces"] = frames[i].arrays["REF_forces"] + [0.0, 0.0, 0.4]
    return rows


ALL = ("mo.h5", "acetylacetone.h5", *SHARED)
METALS = ("mo.h5", "mo_vasp_pbe_train.xyz")
MOLECULES = ("acetylacetone.h5", *SHARED[2:])
LARGE = ("mo.h5", "acetylacetone.h5", *SHARED[:1], *SHARED[2:])


@dataclass(frozen=True)
class Fault:
    """A fault to plant, the code it must be found by, and the files it can be planted in."""

    code: str
    plant: Callable[[list[Atoms]], list[int]]
    files: tuple[str, ...] = ALL
    options: dict[str, str] = field(default_factory=dict)


FAULTS = {
    "all forces zero": Fault("forces_zeroed", zero_all),
    "forces zero in some": Fault("forces_zeroed", zero_some),
    "forces in hartree/bohr": Fault("force_unit", scale("REF_forces", Bohr / Hartree)),
    "forces times Ha/bohr": Fault("force_unit", scale("REF_forces", Hartree / Bohr)),
    "forces opposite": Fault("force_sign", scale("REF_forces", -1.0)),
    "energies in hartree": Fault("energy_unit", scale("REF_energy", 1 / Hartree)),
    "energies in kcal/mol": Fault("energy_unit", scale("REF_energy", mol / kcal)),
    "energies in kJ/mol": Fault("energy_unit", scale("REF_energy", mol / kJ)),
    "atomic units": Fault("label_units", atomic_units, METALS),
    "atomic units of molecules": Fault("force_unit", atomic_units, MOLECULES),
    "stress opposite": Fault("stress_sign", scale("REF_stress", -1.0), (*METALS, SHARED[1])),
    "stress in GPa": Fault("stress_unit", scale("REF_stress", 1 / GPa), (*METALS, SHARED[1])),
    "stress in kbar": Fault("stress_unit", scale("REF_stress", 10 / GPa), (*METALS, SHARED[1])),
    "stress in -kbar": Fault("stress_unit", scale("REF_stress", -10 / GPa), (*METALS, SHARED[1])),
    "stress xz and yz swapped": Fault("stress_order", swap_shear, METALS),
    "stress zero": Fault("stress_zeroed", scale("REF_stress", 0.0), METALS),
    "stress in VASP's order": Fault("stress_order", vasp_order, METALS),
    "energy NaN": Fault("energy_not_finite", nan_energy),
    "forces infinite": Fault("forces_not_finite", inf_forces),
    "energies constant": Fault("energies_constant", constant),
    "energies shuffled": Fault("energies_unrelated", shuffled, LARGE),
    "energy missing in some": Fault("energy_missing", without("energy")),
    "forces missing in some": Fault("forces_missing", without("forces")),
    "stress missing in some": Fault("stress_missing", without("stress"), METALS),
    "energy key renamed": Fault("energy_key", renamed("energy")),
    "forces key renamed": Fault("forces_key", renamed("forces")),
    "stress key renamed": Fault("stress_key", renamed("stress"), METALS),
    "frames repeated": Fault("duplicates", repeated(0.0)),
    "frames repeated, 1e-4 A": Fault("near_duplicates", repeated(1e-4)),
    "one exploded frame": Fault("force_outlier", exploded),
    "one exploded energy": Fault("energy_outlier", exploded),
    "one energy 1 eV off": Fault("energy_outlier", unconverged, LARGE),
    "overlapping atoms": Fault("overlap", overlapping),
    "half 0.1 eV/atom up": Fault("levels_mixed", mixed(0.1), LARGE),
    "half 1 eV/atom down": Fault("levels_mixed", mixed(-1.0), LARGE),
    "second half 0.1 eV/atom up": Fault("levels_mixed", second_half, LARGE),
    "periodic without a cell": Fault("cell_missing", no_cell),
    "positions in bohr": Fault("positions_unit", bohr),
    "an element unknown to seed": Fault(
        "unknown_element", unknown_element, options={"foundation": "seed"}
    ),
    "fixed composition": Fault("fixed_composition", no_free_atoms, MOLECULES),
    "not the free energy": Fault("pressure_offset", extrapolated, ("mo.h5",)),
    "free energy beside": Fault("free_energy_differs", free_energy_beside),
    "dispersion in half": Fault("dispersion_mixed", dispersion_in_half),
    "two functionals": Fault("theory_mixed", other_functional),
    "free atoms of another code": Fault(
        "isolated_atoms_level", atoms_of_another_code, ("acetylacetone.h5", SHARED[2])
    ),
    "forces turned": Fault("net_torque", turned_forces, MOLECULES),
    "forces pushing": Fault("net_force", pushed),
}
