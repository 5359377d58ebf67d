"""The structures of water on graphene to label, and the split of each.

A sheet of 32 C in a 4x2 rectangular cell, water on one side of it. Geometries come from a file of
sampled ones (`systems.dft.water_graphene_sample`); ids tell family, number of molecules, trajectory
and frame: ``md_300K_08_02_03`` is frame 3 of trajectory 2, with 8 H2O. Two more, before and after a
proton has gone from one molecule to another, are of a trajectory of a refined potential
(``examples/plot_6_water_graphene.py``). Those of ``selected_10_01_00`` and like ids were chosen
by ``ase-finetune select`` (when its lengths were medians, not means) from dynamics of that page's
potentials, frames 10 fs apart from `film` by `properties.nvt_trajectory`: in round 01 Adam + L-BFGS
at 300 K (10 ps, seed 1) and 400 K (6 ps, seed 12) and SOAP at 400 K (1.3 ps, seed 13), in round 02
Adam + L-BFGS at 300 K (20 ps, seed 11). Those of ``drawn_10_01_00`` and like ids were drawn
from the frames of round 01 by ``numpy.random.default_rng(0).choice``, to compare with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from systems.dft.cp2k_deck import Job, Level
from systems.water_graphene import TRANSFER_IDS, adsorption_structures

SHARDS = Path(__file__).resolve().parent.parent / "data" / "shards"
SAMPLED = SHARDS / "water_graphene_sampled.extxyz"
LABELS = SHARDS / "water_graphene_cp2k.extxyz"
CONVERGENCE = SHARDS / "water_graphene_cp2k_convergence.extxyz"

# At 600 Ry the grid pulls at O by up to 0.1 eV/A.
CUTOFF_RY = 1000.0
# At Gamma alone a perfect sheet would feel 1.16 eV/A (`systems.dft.water_graphene_kpoints`).
MESH = (2, 2, 1)
LEVEL = Level(kpts=MESH, dispersion=True, smearing_K=300.0, added_mos=40, cutoff_Ry=CUTOFF_RY)
# One molecule has a gap; empty orbitals of it would be continuum states of the box.
MOLECULE_LEVEL = Level(dispersion=True, mixing=0.0, cutoff_Ry=CUTOFF_RY)
ATOM_SPINS = {"H": 1, "C": 2, "O": 2}
ATOM_BOX = 10.0  # A
BOND = 1.3  # A, longest O-H distance that counts as bonded

ATOMS = "IsolatedAtom"
ADSORPTION = "adsorption"
TRANSFER = "proton_transfer"
SELECTED, DRAWN = "selected", "drawn"
FIRST_FRAMES = 7  # cover all splits
CUTOFFS = (600.0, CUTOFF_RY, 1200.0, 800.0, 400.0)
SHEET_AT_GAMMA = "sheet_gamma"
CONVERGENCE_FRAMES = ("md_300K_10_09_00", "md_300K_08_00_00", "md_500K_10_00_00")


@dataclass(frozen=True)
class Trajectory:
    """Molecular dynamics that frames are taken from.

    Attributes
    ----------
    family : str
    molecules : int
        H2O on the sheet.
    number : int
        Distinguishes trajectories of a family.
    temperature_K : float
    split : str
    frames : int
    """

    family: str
    molecules: int
    number: int
    temperature_K: float
    split: str
    frames: int

    @property
    def name(self) -> str:
        """Beginning of the ids of its frames."""
        return f"{self.family}_{self.molecules:02d}_{self.number:02d}"


# Sampled earlier with another potential, not long after its start.
EARLIER = Trajectory("md_300K", 10, 9, 300.0, "train", 3)
# Whole trajectories, never frames of one in two splits; in the order of labelling.
TRAJECTORIES = (
    Trajectory("md_300K", 8, 4, 300.0, "valid", 4),
    Trajectory("md_300K", 10, 7, 300.0, "test_id", 5),
    Trajectory("md_500K", 10, 0, 500.0, "test_ood", 4),
    Trajectory("md_300K", 8, 0, 300.0, "train", 6),
    Trajectory("md_300K", 10, 1, 300.0, "train", 6),
    Trajectory("coverage_04", 4, 0, 300.0, "test_ood", 3),
    Trajectory("coverage_14", 14, 0, 300.0, "test_ood", 3),
    Trajectory("md_300K", 8, 2, 300.0, "train", 6),
    Trajectory("md_300K", 10, 3, 300.0, "train", 6),
    Trajectory("md_300K", 10, 5, 300.0, "valid", 4),
    Trajectory("md_300K", 8, 6, 300.0, "test_id", 5),
    Trajectory("md_500K", 8, 1, 500.0, "test_ood", 4),
    Trajectory("coverage_04", 4, 1, 300.0, "test_ood", 3),
    Trajectory("coverage_14", 14, 1, 300.0, "test_ood", 3),
)


def split_of(atoms: Atoms) -> str:
    """Return the split of a frame from the trajectory in its id."""
    family = str(atoms.info["config_type"])
    if family in (ATOMS, SELECTED, DRAWN):
        return "train"
    if family in (ADSORPTION, TRANSFER):
        return "reference"
    trajectory = str(atoms.info["id"]).rsplit("_", 1)[0]
    return next(t.split for t in (*TRAJECTORIES, EARLIER) if t.name == trajectory)


def hydrogens(atoms: Atoms) -> NDArray[np.int64]:
    """Return how many H lie within `BOND` of each O; 2 for all, and water is intact."""
    oxygen, hydrogen = (np.flatnonzero(atoms.numbers == z) for z in (8, 1))
    near = atoms.get_all_distances(mic=True)[np.ix_(oxygen, hydrogen)] < BOND
    counts: NDArray[np.int64] = near.sum(axis=1)
    return counts


def intact(atoms: Atoms) -> bool:
    """Tell whether every H belongs to a water molecule and nothing has reacted."""
    n_oxygen, n_hydrogen = (int((atoms.numbers == z).sum()) for z in (8, 1))
    return n_hydrogen == 2 * n_oxygen and bool((hydrogens(atoms) == 2).all())


def adsorption_id(structure: float | str) -> str:
    """Return the id of one of `systems.water_graphene.adsorption_structures`."""
    text = structure if isinstance(structure, str) else f"{structure:.1f}"
    return f"{ADSORPTION}_{text}"


def adsorption_jobs() -> Iterator[Job]:
    """Yield the sheet, the molecule in the same cell, and both at some heights."""
    for structure, atoms in adsorption_structures().items():
        level = MOLECULE_LEVEL if structure == "water" else LEVEL
        yield Job(adsorption_id(structure), ADSORPTION, atoms, level)


def atom_jobs() -> Iterator[Job]:
    """Yield free atoms, spin-polarized, which settle the E0s."""
    for symbol, spin in ATOM_SPINS.items():
        atom = Atoms(symbol, cell=[ATOM_BOX] * 3, pbc=True)
        atom.center()
        # Orbital transformation creeps among the equal choices of the half-filled p shell of O.
        mixing = 0.3 if symbol == "O" else 0.0
        level = replace(MOLECULE_LEVEL, eps_scf=1e-5, spin=spin, mixing=mixing)
        yield Job(f"atom_{symbol}", ATOMS, atom, level)


def sampled() -> dict[str, Atoms]:
    """Return the sampled geometries by id."""
    return {a.info["id"]: a for a in ase.io.read(SAMPLED, ":", format="extxyz")}


def _bare(atoms: Atoms) -> Atoms:
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)


def trajectory_jobs() -> list[Job]:
    """Return the sampled frames so that wherever work stops, what is done covers all splits."""
    geometries = sampled()
    ranked = []
    for turn, trajectory in enumerate((EARLIER, *TRAJECTORIES)):
        later = turn > len(TRAJECTORIES) // 2
        for i in range(trajectory.frames):
            name = f"{trajectory.name}_{i:02d}"
            if name in geometries:
                ranked.append((i + 0.5 * later, turn, name, trajectory.family))
    return [
        Job(name, family, _bare(geometries[name]), LEVEL) for *_, name, family in sorted(ranked)
    ]


def label_jobs() -> Iterator[Job]:
    """Yield the plan: free atoms, a first round of frames, the adsorption energy, the rest."""
    frames = trajectory_jobs()
    yield from atom_jobs()
    yield from frames[:FIRST_FRAMES]
    yield from adsorption_jobs()
    yield from frames[FIRST_FRAMES:]
    for name in TRANSFER_IDS:
        yield Job(name, TRANSFER, _bare(sampled()[name]), LEVEL)
    for name, atoms in sampled().items():
        family = name.split("_")[0]
        if family in (SELECTED, DRAWN):
            yield Job(name, family, _bare(atoms), LEVEL)


def plan_levels() -> dict[str, Level]:
    """Return the level of each id of the plan."""
    return {job.id: job.level for job in label_jobs()}


def convergence_jobs() -> Iterator[Job]:
    """Yield three frames at cutoffs the largest of which judges that of the labels, and the sheet.

    At Gamma, which costs less; the grid and the density on it are the same at every k-point. What
    Gamma alone does to a perfect sheet is the reason for the mesh.
    """
    geometries = sampled()
    gamma = replace(LEVEL, kpts=(1, 1, 1))
    yield Job(SHEET_AT_GAMMA, "convergence", adsorption_structures()["sheet"], gamma)
    for cutoff in CUTOFFS:
        for name in CONVERGENCE_FRAMES:
            if name not in geometries:
                continue
            level = replace(gamma, cutoff_Ry=cutoff)
            yield Job(f"{name}_{cutoff:.0f}Ry", "convergence", _bare(geometries[name]), level)
