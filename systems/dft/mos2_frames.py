"""The MoS2 structures to label, built from a seed.

Frames of 3x3 cells (27 atoms) are displaced harmonically: classical normal modes of the stored
force constants (`systems.dft.mos2_phonons`) with random amplitudes, drawn as ``S z`` with the
symmetric root ``S`` of the covariance, which no choice of eigenvectors changes. The random numbers
of a job depend on its id alone, so that a longer plan leaves the earlier structures as they are.
Cells of 3 atoms, strained and relaxed by a Newton step, give lattice and elastic constants.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import mx2
from numpy.typing import NDArray

from systems.dft.cp2k_deck import Job, Level
from systems.dft.shards import read_shard

SHARDS = Path(__file__).resolve().parent.parent / "data" / "shards"
LABELS = SHARDS / "mos2_cp2k.extxyz"
PHONON_SHARD = SHARDS / "mos2_phonons.extxyz"
CONVERGENCE = SHARDS / "mos2_cp2k_convergence.extxyz"

SEED = 20262
A0, THICKNESS, HEIGHT = 3.187, 3.1317, 15.0  # A: lattice constant, S-S, cell height
REPEAT = 3
LEVEL = Level(kpts=(3, 3, 1), mixing=0.3, kerker=0.1)
CELL_LEVEL = Level(kpts=(9, 9, 1))
ATOM_SPINS = {"Mo": 6, "S": 2}
ATOM_BOX = 12.0  # A

ATOMS = "IsolatedAtom"
IN_DISTRIBUTION = ("harmonic_300K", "strain_3")
OUT_OF_DISTRIBUTION = ("harmonic_900K", "strain_6", "vacancy")
CELLS = "cell"
COUNTS = {
    "harmonic_300K": 20,
    "strain_3": 16,
    "harmonic_900K": 8,
    "strain_6": 8,
    "vacancy": 8,
}
FIRST_FRAMES = 10  # cover all families and splits
THERMAL_K = {"harmonic_900K": 900.0}  # the others are at 300 K
# In-plane strains of the cells in percent by name: isotropic, along zigzag, along armchair, shear.
CELL_STRAINS = {
    "zero": (0.0, 0.0, 0.0),
    "iso_+1": (1.0, 1.0, 0.0),
    "iso_-1": (-1.0, -1.0, 0.0),
    "xx_+1": (1.0, 0.0, 0.0),
    "xx_-1": (-1.0, 0.0, 0.0),
    "yy_+1": (0.0, 1.0, 0.0),
    "yy_-1": (0.0, -1.0, 0.0),
    "iso_+2": (2.0, 2.0, 0.0),
    "iso_-2": (-2.0, -2.0, 0.0),
    "xy_+1": (0.0, 0.0, 1.0),
}
NEWTON_STEPS = 1
# A stretched layer gets thinner by about this share of the sum of its in-plane strains.
THINNING = 0.3
Array = NDArray[np.float64]


def rng(name: str) -> np.random.Generator:
    """Return the generator of random numbers of a job."""
    return np.random.default_rng([SEED, zlib.crc32(name.encode())])


def primitive(height: float = HEIGHT, *, sixty: bool = False) -> Atoms:
    """Return the layer in its cell of 3 atoms (Mo, S, S), vectors at 120 degrees or at 60.

    The lower S lies in the middle of the cell, where the stored force sets have it.
    """
    layer: Atoms = mx2("MoS2", a=A0, thickness=THICKNESS)
    layer.cell[2] = (0.0, 0.0, height)
    layer.positions[:, 2] += 0.5 * height - layer.positions[:, 2].min()
    layer.pbc = True
    if sixty:
        layer.set_cell([layer.cell[0], layer.cell[0] + layer.cell[1], layer.cell[2]])
        layer.wrap()
    return layer


def deformed(atoms: Atoms, xx: float, yy: float, xy: float, thickness: float = 0.0) -> Atoms:
    """Return a layer with in-plane strains and a strain of its thickness; the height stays.

    Parameters
    ----------
    xx, yy, xy : float
        Symmetric strain tensor; ``xy`` is half the engineering shear.
    thickness : float
        Relative change of the distance from the plane of Mo.
    """
    strained: Atoms = atoms.copy()
    matrix = np.eye(3)
    matrix[:2, :2] += [[xx, xy], [xy, yy]]
    strained.set_cell(atoms.cell.array @ matrix, scale_atoms=True)
    middle = float(strained.positions[strained.numbers == 42, 2].mean())
    strained.positions[:, 2] = middle + (1.0 + thickness) * (strained.positions[:, 2] - middle)
    return strained


@lru_cache(maxsize=1)
def _stored_hessian() -> tuple[Atoms, Array]:
    from systems.dft.mos2_phonons import phonons, read_force_sets, supercell_hessian

    return supercell_hessian(phonons(read_force_sets()["4x4"]), REPEAT)


@lru_cache(maxsize=4)
def _root_of_covariance(temperature_K: float) -> Array:
    """Symmetric root of ``kT H^+``: classical displacements, without translations."""
    _, hessian = _stored_hessian()
    values, vectors = np.linalg.eigh(hessian)
    if not (np.abs(values[:3]).max() < 1e-6 < 0.1 < values[3]):
        raise RuntimeError(f"The stored force constants are not those of a stable layer: {values}")
    width = np.concatenate([np.zeros(3), np.sqrt(units.kB * temperature_K / values[3:])])
    root: Array = (vectors * width) @ vectors.T
    return root


def displaced(name: str, temperature_K: float) -> Atoms:
    """Return the 3x3 layer with thermal displacements of the job ``name``."""
    layer, _ = _stored_hessian()
    atoms: Atoms = layer.copy()
    move = _root_of_covariance(temperature_K) @ rng(name).normal(size=3 * len(atoms))
    atoms.positions += move.reshape(-1, 3)
    return atoms


def _random_strain(name: str, family: str) -> tuple[float, float, float, float]:
    """Return xx, yy, xy and the strain of the thickness."""
    draw = rng(f"{name} strain")
    if family == "strain_3":
        xx, yy = draw.uniform(-0.03, 0.03, 2)
        xy = draw.uniform(-0.015, 0.015)
    else:
        amount = draw.uniform(0.05, 0.06) * draw.choice([-1.0, 1.0])
        xx, yy = [(amount, amount), (amount, 0.0), (0.0, amount)][int(draw.integers(3))]
        xy = 0.0
    return float(xx), float(yy), float(xy), float(draw.normal(-THINNING * (xx + yy), 0.004))


def frame_job(family: str, index: int) -> Job:
    """Return one frame of a 3x3 cell."""
    name = f"{family}_{index:02d}"
    atoms = displaced(name, THERMAL_K.get(family, 300.0))
    if family.startswith("strain"):
        atoms = deformed(atoms, *_random_strain(name, family))
    if family == "vacancy":
        sulfur = np.flatnonzero(atoms.numbers == 16)
        del atoms[int(rng(f"{name} site").choice(sulfur))]
    return Job(name, family, atoms, LEVEL)


def _newton(stored: Atoms) -> Atoms:
    """Return a cell moved by the harmonic answer to its forces, center of mass at rest."""
    from systems.dft.mos2_phonons import phonons, read_force_sets, supercell_hessian

    _, hessian = supercell_hessian(phonons(read_force_sets()["4x4"]), 1)
    forces = stored.arrays["REF_forces"] - stored.arrays["REF_forces"].mean(axis=0)
    move = np.linalg.pinv(hessian, rcond=1e-4, hermitian=True) @ forces.ravel()
    moved = Atoms(stored.numbers, stored.positions, cell=stored.cell, pbc=True)
    moved.positions += move.reshape(-1, 3)
    return moved


def cell_name(strain: str, step: int) -> str:
    """Return the id of a strained cell; step 0 has clamped ions, each further one is relaxed."""
    return f"cell_{strain}_{step:d}"


def cell_jobs(shard: Path) -> Iterator[Job]:
    """Yield strained cells, and those relaxed from the labels that the shard has by then."""
    for strain, percent in CELL_STRAINS.items():
        xx, yy, xy = (0.01 * p for p in percent)
        yield Job(cell_name(strain, 0), CELLS, deformed(primitive(), xx, yy, xy), CELL_LEVEL)
    for step in range(1, NEWTON_STEPS + 1):
        for strain in CELL_STRAINS:
            last = read_shard(shard).get(cell_name(strain, step - 1))
            if last is not None:
                yield Job(cell_name(strain, step), CELLS, _newton(last), CELL_LEVEL)


def atom_jobs() -> Iterator[Job]:
    """Yield free atoms, spin-polarized, which settle the E0s."""
    for symbol, spin in ATOM_SPINS.items():
        atom = Atoms(symbol, cell=[ATOM_BOX] * 3, pbc=True)
        atom.center()
        yield Job(f"atom_{symbol}", ATOMS, atom, Level(mixing=0.0, eps_scf=1e-5, spin=spin))


def frame_jobs() -> Iterator[Job]:
    """Yield the frames so that wherever it stops, what is done covers all families and splits.

    By `systems.dft.assemble.CYCLE` number 3 of six is for validation and number 4 for test.
    """
    order = (0, 3, 4, 1, 2, 5)
    ranked = [
        ((cycle + place / 6) / (COUNTS[family] / 6), family, 6 * cycle + number)
        for family in COUNTS
        for cycle in range(-(-COUNTS[family] // 6))
        for place, number in enumerate(order)
        if 6 * cycle + number < COUNTS[family]
    ]
    yield from (frame_job(family, number) for _, family, number in sorted(ranked))


def label_jobs(shard: Path = LABELS) -> Iterator[Job]:
    """Yield the whole plan of the label shard."""
    yield from cell_jobs(shard)
    frames = list(frame_jobs())
    yield from frames[:FIRST_FRAMES]
    yield from atom_jobs()
    yield from frames[FIRST_FRAMES:]


def plan_levels() -> dict[str, Level]:
    """Return the level of each id that the label shard may have."""
    levels = {job.id: job.level for job in atom_jobs()}
    for strain in CELL_STRAINS:
        levels |= {cell_name(strain, step): CELL_LEVEL for step in range(NEWTON_STEPS + 1)}
    for family, count in COUNTS.items():
        levels |= {f"{family}_{i:02d}": LEVEL for i in range(count)}
    return levels
