"""Labelled frames to test the data checks on, clean ones and faults to plant in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.units import GPa, fs

from ase_finetune.data.read import read_frames

ROOT = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get("ASEFT_TEST_DATA", ROOT.parent / "shared" / "data"))
DFT = REAL.parent / "dft" / "mo_gpaw.extxyz"
real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no extra data in {REAL}")
REAL_FILES = [
    "mo_vasp_pbe_train.xyz",
    "mo_vasp_pbe_test.xyz",
    "acac_train_300K.xyz",
    "acac_test_300K.xyz",
    "acac_test_600K.xyz",
    DFT.name,
]


def labelled(atoms: Atoms) -> Atoms:
    source = atoms.copy()
    source.calc = EMT()
    out = atoms.copy()
    out.info["REF_energy"] = float(source.get_potential_energy())
    out.arrays["REF_forces"] = source.get_forces(apply_constraint=False)
    if atoms.pbc.all():
        out.info["REF_stress"] = source.get_stress(apply_constraint=False)
    return out


def dynamics(atoms: Atoms, kelvin: float, count: int, every: int, step_fs: float) -> list[Atoms]:
    rng = np.random.default_rng(3)
    atoms = atoms.copy()
    atoms.calc = EMT()
    MaxwellBoltzmannDistribution(atoms, temperature_K=kelvin, rng=rng)
    md = Langevin(atoms, step_fs * fs, temperature_K=kelvin, friction=0.02, rng=rng, fixcm=False)
    frames = []
    for _ in range(count):
        md.run(every)
        frames.append(labelled(atoms))
    return frames


def strained(count: int = 12, rattle: float = 0.03, largest: float = 0.03) -> list[Atoms]:
    rng = np.random.default_rng(1)
    frames = []
    for index in range(count):
        atoms = bulk("Cu", a=3.6, cubic=True)
        strain = rng.uniform(-largest, largest, (3, 3))
        atoms.set_cell(
            atoms.cell @ (np.eye(3) + (strain + strain.T) / 4 + np.diag(np.diag(strain))),
            scale_atoms=True,
        )
        atoms.rattle(rattle, seed=index)
        frames.append(labelled(atoms))
    return frames


def slab() -> Atoms:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    atoms.pbc = True
    return atoms


def vacuums() -> list[Atoms]:
    frames = []
    for index, height in enumerate(np.linspace(5, 12, 12)):
        atoms = fcc111("Cu", (2, 2, 3), vacuum=height)
        atoms.pbc = True
        atoms.rattle(0.03, seed=index)
        frames.append(labelled(atoms))
    return frames


def breathing() -> list[Atoms]:
    """Hot frames at random volumes, as a barostat gives them; none is near another."""
    rng = np.random.default_rng(2)
    frames = []
    for atoms in dynamics(bulk("Cu", cubic=True) * (2, 2, 1), 1500, 30, 8, 2.0):
        atoms.set_cell(atoms.cell * (1 + 0.015 * rng.normal()), scale_atoms=True)
        frames.append(labelled(atoms))
    return frames


def alloys() -> list[Atoms]:
    rng = np.random.default_rng(4)
    frames = []
    for index in range(30):
        atoms = bulk("Cu", a=3.7, cubic=True) * (2, 2, 2)
        atoms.symbols[rng.choice(32, 8, replace=False)] = "Au"
        atoms.set_cell(atoms.cell * (1 + 0.01 * rng.normal()), scale_atoms=True)
        atoms.rattle(0.05, seed=index)
        frames.append(labelled(atoms))
    return frames


def phonon_displacements() -> list[Atoms]:
    frames = []
    for index in range(10):
        atoms = bulk("Cu", a=3.6, cubic=True) * (2, 2, 2)
        atoms.positions[index] += [0.01, 0, 0]
        frames.append(labelled(atoms))
    return frames


CLEAN: dict[str, Callable[[], list[Atoms]]] = {
    "strained": strained,
    "curve": lambda: [
        labelled(bulk("Cu", a=3.6 * x, cubic=True)) for x in np.linspace(0.94, 1.06, 11)
    ],
    "primitive curve": lambda: [
        labelled(bulk("Cu", a=3.6 * x)) for x in np.linspace(0.94, 1.06, 11)
    ],
    "dynamics": lambda: dynamics(bulk("Cu", cubic=True) * (2, 2, 1), 300, 40, 2, 2.0),
    "melt": lambda: dynamics(bulk("Cu", cubic=True) * (2, 2, 1), 3000, 40, 8, 2.0),
    "breathing": breathing,
    "slab": lambda: dynamics(slab(), 600, 30, 5, 2.0),
    "vacuums": vacuums,
    "alloys": alloys,
    "molecule": lambda: dynamics(molecule("H2O"), 300, 40, 20, 0.5),
    "open slab": lambda: dynamics(fcc111("Cu", (2, 2, 3), vacuum=8.0), 600, 30, 5, 2.0),
    "scan": lambda: [
        labelled(Atoms("Cu2", positions=[[0, 0, 0], [d, 0, 0]])) for d in np.linspace(1.8, 4, 20)
    ],
    "phonons": phonon_displacements,
    "one frame": lambda: [labelled(bulk("Cu", cubic=True))],
}


@cache
def clean(name: str) -> tuple[Atoms, ...]:
    return tuple(CLEAN[name]())


@cache
def real(name: str) -> tuple[Atoms, ...]:
    return tuple(read_frames(DFT if name == DFT.name else REAL / name))


def planted(frames: tuple[Atoms, ...], fault: Callable[[Atoms], None]) -> list[Atoms]:
    copies = [frame.copy() for frame in frames]
    for frame in copies:
        fault(frame)
    return copies


def scaled(key: str, factor: float) -> Callable[[Atoms], None]:
    def fault(frame: Atoms) -> None:
        place = frame.arrays if key == "REF_forces" else frame.info
        if key in place:
            place[key] = place[key] * factor

    return fault


def both(*faults: Callable[[Atoms], None]) -> Callable[[Atoms], None]:
    def fault(frame: Atoms) -> None:
        for single in faults:
            single(frame)

    return fault


def periodic(frames: tuple[Atoms, ...]) -> bool:
    return all(frame.pbc.all() for frame in frames)


FORCE_FAULTS = {
    "gradients": (scaled("REF_forces", -1.0), "opposite sign"),
    "atomic forces": (scaled("REF_forces", 1 / 51.4221), "forces look like hartree/bohr"),
    "hartree": (scaled("REF_energy", 1 / 27.2114), "energies look like hartree"),
    "kcal": (scaled("REF_energy", 23.0605), "energies look like kcal/mol"),
    "atomic units": (
        both(scaled("REF_forces", 1 / 51.4221), scaled("REF_energy", 1 / 27.2114)),
        "atomic units",
    ),
    "per atom": (lambda a: scaled("REF_energy", 1 / len(a))(a), "energies per atom"),
}


STRESS_FAULTS = {
    "sign": (scaled("REF_stress", -1.0), "opposite sign"),
    "GPa": (scaled("REF_stress", 1 / GPa), "given in GPa: divide by 160.2"),
    "kbar": (scaled("REF_stress", 10 / GPa), "given in kbar: divide by 1602"),
    "VASP": (scaled("REF_stress", -10 / GPa), "kbar with compression positive"),
    "virial": (
        lambda a: scaled("REF_stress", -a.get_volume())(a),
        "virial in eV: divide by minus the cell volume",
    ),
    "atomic": (scaled("REF_stress", 1 / 183.631), "hartree/bohr"),
}


def zero_rows(rows: list[int]) -> Callable[[Atoms], None]:
    return lambda frame: frame.arrays["REF_forces"].__setitem__(rows, 0.0)


def moved(frame: Atoms, size: float) -> Atoms:
    out = frame.copy()
    out.positions += size * np.random.default_rng(0).uniform(-1, 1, (len(frame), 3))
    return out


def shuffled(frame: Atoms, seed: int = 0) -> Atoms:
    order = np.random.default_rng(seed).permutation(len(frame))
    return frame[order]
