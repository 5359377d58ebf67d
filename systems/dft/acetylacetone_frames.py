"""The acetylacetone structures to label, and the split of each.

The molecule is the enol, atoms in the order of `SYMBOLS`. Geometries at 300 K and 600 K come from
a file of sampled ones (`systems.dft.acetylacetone_sample`); scans start from the stationary points
that `systems.dft.acetylacetone_pyscf --stationary` has stored. Ids tell the trajectory:
``md_300K_03_07`` is frame 7 of trajectory 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from properties.molecule import MIRROR, rotated
from systems.dft.molecule_pyscf import ATOM_SPINS

SHARDS = Path(__file__).resolve().parent.parent / "data" / "shards"
SAMPLED = SHARDS / "acetylacetone_sampled.extxyz"

# Central C, C of the enol and of the keto side, their O, their methyl C, the H between the O, the
# central H, the H of the methyl groups of the enol and of the keto side. The first H of each
# methyl group lies in the molecular plane.
SYMBOLS = "CCCOOCCHHHHHHHH"
ENOL_C, KETO_C, ENOL_O, KETO_O, BRIDGE_H = 1, 2, 3, 4, 7
METHYLS = {"enol": (1, 5, (9, 10, 11)), "keto": (2, 6, (12, 13, 14))}
# The mirror between the two halves exchanges these atoms.
SWAP = (0, 2, 1, 4, 3, 6, 5, 7, 8, 12, 13, 14, 9, 10, 11)

# Trajectories by temperature and split: whole trajectories, never frames of one in two splits.
TRAJECTORIES = {
    "md_300K": {"train": range(6), "valid": range(6, 8), "test_id": range(8, 11)},
    "md_600K": {"test_ood": range(5)},
}
FRAMES = {"train": 20, "valid": 13, "test_id": 14, "test_ood": 14}  # of each trajectory
ATOMS = "IsolatedAtom"
REFERENCE = "reference"
SCAN_SHARE = 0.35  # of the plan, within which the scans end
STATIONARY = "stationary"
DISPLACED = "displaced"
MINIMUM, TRANSITION = "stationary_00", "stationary_01"
# Degrees; by the mirror plane of the minimum the opposite rotation has the same energy.
METHYL_ANGLES = tuple(range(10, 70, 10))
HYDROXYL_ANGLES = tuple(range(15, 195, 15))
# Displacements (atom, direction) of the minimum by both signs: columns of the Hessian, to check it.
COLUMNS = ((BRIDGE_H, 0), (ENOL_O, 1))
COLUMN_STEP = 0.01  # A
# Position on the straight line from the transition state (0) to the minimum (1) and beyond;
# negative: towards the minimum's mirror image, two points that test the symmetry of the labels.
TRANSFER = (*(round(0.1 * i, 1) for i in range(13)), -0.3, -0.7)


@dataclass(frozen=True)
class Job:
    """One structure to label; ``spin`` counts unpaired electrons."""

    id: str
    family: str
    atoms: Atoms
    spin: int = 0


def split_of(atoms: Atoms) -> str:
    """Return the split of a frame from its family and the trajectory in its id."""
    family = str(atoms.info["config_type"])
    if family == ATOMS:
        return "train"
    if family in (STATIONARY, DISPLACED):
        return REFERENCE
    if family not in TRAJECTORIES:
        return "test_ood"
    trajectory = int(str(atoms.info["id"]).split("_")[2])
    return next(s for s, numbers in TRAJECTORIES[family].items() if trajectory in numbers)


def enol(*, symmetric: bool = False, eclipsed: bool = False) -> Atoms:
    """Return a guess of the planar enol, the mirror between its halves at x = 0.

    One H of each methyl group lies in the plane, away from O. On the enol side beside O would be
    51 meV higher; on the keto side it is as high within some meV, but a saddle point.

    Parameters
    ----------
    symmetric : bool
        The bridging H midway between the O.
    eclipsed : bool
        The H in the plane beside O.
    """
    half = {
        "C": (1.22, 0.05, 0.0),
        "O": (1.25, -1.22, 0.0),
        "Me": (2.52, 0.78, 0.0),
        "H1": (3.38, 0.09, 0.0),
        "H2": (2.57, 1.42, 0.88),
        "H3": (2.57, 1.42, -0.88),
    }
    left = {name: np.array(xyz) * MIRROR for name, xyz in half.items()}
    right = {name: np.array(xyz) for name, xyz in half.items()}
    bridge = (0.0, -1.40, 0.0) if symmetric else (-0.28, -1.45, 0.0)
    heavy = [left["C"], right["C"], left["O"], right["O"], left["Me"], right["Me"]]
    hydrogens = [side[h] for side in (left, right) for h in ("H1", "H2", "H3")]
    atoms = Atoms(SYMBOLS, positions=[(0, 0.72, 0), *heavy, bridge, (0, 1.80, 0), *hydrogens])
    if not eclipsed:
        for carbon, methyl, moving in METHYLS.values():
            # The image of an H above the plane is the H below it: the order of `SWAP`.
            atoms = rotated(atoms, (carbon, methyl), moving, 180.0)
    return atoms


def mirrored(atoms: Atoms) -> Atoms:
    """Return the image of the molecule in the plane x = 0, with the halves exchanged."""
    image: Atoms = atoms.copy()
    image.positions = atoms.positions[list(SWAP)] * MIRROR
    return image


def transfer_path(minimum: Atoms, transition: Atoms) -> dict[float, Atoms]:
    """Return points of the straight path by its coordinate (`TRANSFER`).

    Parameters
    ----------
    minimum, transition : Atoms
        The latter symmetric about x = 0. The former is moved onto it: without mass weighting, by
        the rotation and translation that leave the least difference.
    """
    from ase.build import minimize_rotation_and_translation

    end = minimum.copy()
    minimize_rotation_and_translation(transition, end)
    found = {}
    for amount in TRANSFER:
        target = end if amount >= 0 else mirrored(end)
        point = transition.copy()
        point.positions += abs(amount) * (target.positions - transition.positions)
        found[amount] = point
    return found


def isolated_jobs() -> list[Job]:
    """Return the free atoms, which give the E0s."""
    return [Job(f"atom_{s}", ATOMS, Atoms(s), spin) for s, spin in ATOM_SPINS.items()]


def trajectory_jobs(family: str, split: str) -> list[Job]:
    """Return sampled geometries of one split, trajectories taking turns."""
    sampled = {a.info["id"]: a for a in ase.io.read(SAMPLED, ":", format="extxyz")}
    jobs = []
    for index in range(FRAMES[split]):
        for trajectory in TRAJECTORIES[family][split]:
            name = f"{family}_{trajectory:02d}_{index:02d}"
            jobs.append(Job(name, family, Atoms(SYMBOLS, sampled[name].positions)))
    return jobs


def scan_jobs(stationary: Mapping[str, Atoms]) -> list[Job]:
    """Return torsions of the rigid minimum and the transfer path, from labelled `STATIONARY`."""
    minimum = Atoms(SYMBOLS, stationary[MINIMUM].positions)
    transition = Atoms(SYMBOLS, stationary[TRANSITION].positions)
    jobs = []
    for atom, direction in COLUMNS:
        for sign in (1, -1):
            atoms = minimum.copy()
            atoms.positions[atom, direction] += sign * COLUMN_STEP
            name = f"displaced_{atom:02d}_{'xyz'[direction]}_{sign:+d}"
            jobs.append(Job(name, DISPLACED, atoms))
    for side, (carbon, methyl, hydrogens) in METHYLS.items():
        for angle in METHYL_ANGLES:
            atoms = rotated(minimum, (carbon, methyl), hydrogens, angle)
            jobs.append(Job(f"torsion_{side}_{angle:03d}", "torsion_methyl", atoms))
    for angle in HYDROXYL_ANGLES:
        atoms = rotated(minimum, (ENOL_C, ENOL_O), (BRIDGE_H,), angle)
        jobs.append(Job(f"torsion_hydroxyl_{angle:03d}", "torsion_hydroxyl", atoms))
    for amount, atoms in transfer_path(minimum, transition).items():
        jobs.append(Job(f"transfer_{amount:+.1f}", "h_transfer", atoms))
    # A stop must not leave one end of a scan only.
    return [jobs[i] for i in np.argsort([(7 * i) % len(jobs) for i in range(len(jobs))])]


def label_jobs(stationary: Mapping[str, Atoms]) -> Iterator[Job]:
    """Yield the plan so that wherever it stops, what is done covers all families and splits."""
    yield from isolated_jobs()
    train = trajectory_jobs("md_300K", "train")
    others = [
        trajectory_jobs("md_300K", "valid"),
        trajectory_jobs("md_300K", "test_id"),
        trajectory_jobs("md_600K", "test_ood"),
        scan_jobs(stationary) if {MINIMUM, TRANSITION} <= set(stationary) else [],
    ]
    # Lists of unequal length end together, as each is spread over the whole plan; but the scans
    # within its first half, because the references need them whole.
    ranked = [
        (i / len(jobs) * (SCAN_SHARE if jobs is others[-1] else 1.0), turn, job)
        for turn, jobs in enumerate([train, *others])
        for i, job in enumerate(jobs)
    ]
    yield from (job for *_, job in sorted(ranked, key=lambda entry: entry[:2]))
