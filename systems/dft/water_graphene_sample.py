"""Sample water on graphene: geometries only, to be labelled by DFT.

    python -m systems.dft.water_graphene_sample \\
        ase_finetune:FineTunedCalculator ase_finetune/foundations/seed cpu float32

Every trajectory starts from molecules placed at random above the sheet, is relaxed a little, and
follows Langevin dynamics. H has the mass of deuterium, which changes no distribution of positions
and allows a timestep of 1 fs. Trajectories that the file has are left out. The potential need not
be good: it decides which geometries are looked at, not their labels.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import FIRE
from scipy.spatial.transform import Rotation

from systems.dft.water_graphene_frames import (
    DRAWN,
    EARLIER,
    SAMPLED,
    SELECTED,
    TRAJECTORIES,
    Trajectory,
    intact,
    sampled,
)
from systems.water_graphene import HEIGHT, sheet

SEED = 20263
EARLIER_STRIDE = 4
TIMESTEP_FS = 1.0
FRICTION_PER_FS = 0.01
EQUILIBRATION = 2500  # steps
STRIDE = 150  # steps
MASS_H = 2.014  # u
CLOSEST = 2.2  # A, of a new molecule to what is there
LOWEST, PER_MOLECULE = 3.0, 0.35  # A: where molecules are put above the sheet


def packed(molecules: int, rng: np.random.Generator) -> Atoms:
    """Return the sheet with molecules at random places and in random orientations."""
    atoms = sheet()
    highest = LOWEST + 2.0 + PER_MOLECULE * molecules
    trials = 0
    while len(atoms) < len(sheet()) + 3 * molecules:
        trials += 1
        water = molecule("H2O")
        water.positions = Rotation.random(random_state=rng).apply(water.positions)
        spot = rng.uniform([0.0, 0.0, LOWEST / HEIGHT], [1.0, 1.0, highest / HEIGHT])
        water.positions += spot @ atoms.cell.array
        both = atoms + water
        distances = both.get_all_distances(mic=True)[len(atoms) :, : len(atoms)]
        if distances.min() > CLOSEST * 0.97 ** (trials // 200):
            atoms = both
    return atoms


def sample(trajectory: Trajectory, calculator: Any) -> list[Atoms]:
    """Run one trajectory and return its frames.

    Raises
    ------
    RuntimeError
        If a molecule falls apart or reacts.
    """
    rng = np.random.default_rng([SEED, zlib.crc32(trajectory.name.encode())])
    atoms = packed(trajectory.molecules, rng)
    atoms.set_masses([MASS_H if s == "H" else None for s in atoms.symbols])
    atoms.calc = calculator
    FIRE(atoms, logfile=None, maxstep=0.1).run(fmax=0.3, steps=150)
    atoms.set_constraint(FixCom())
    thermalize_momenta(atoms, trajectory.temperature_K, rng=rng)
    dynamics = Langevin(
        atoms,
        TIMESTEP_FS * units.fs,
        temperature_K=trajectory.temperature_K,
        friction=FRICTION_PER_FS / units.fs,
        fixcm=False,
        rng=rng,
    )
    dynamics.run(EQUILIBRATION - STRIDE)
    frames = []
    for index in range(trajectory.frames):
        dynamics.run(STRIDE)
        frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        frame.positions[:, 2] -= frame.positions[frame.numbers == 6, 2].mean()
        frame.positions = np.round(frame.positions, 8)
        frame.info = {"id": f"{trajectory.name}_{index:02d}"}
        if not intact(frame):
            raise RuntimeError(f"The water of {frame.info['id']} is not intact.")
        frames.append(frame)
    return frames


def sample_all(
    calculator: Any, sampler: str, trajectories: Sequence[Trajectory], most: int
) -> None:
    """Run the trajectories that the file lacks, ``most`` of them, and add each when it is done."""
    known = sampled() if SAMPLED.exists() else {}
    lacking = [t for t in trajectories if f"{t.name}_00" not in known]
    for trajectory in lacking[:most]:
        for frame in sample(trajectory, calculator):
            frame.info["sampler"] = sampler
            known[frame.info["id"]] = frame
        part = SAMPLED.with_suffix(".part")
        ase.io.write(part, list(known.values()), format="extxyz")
        part.replace(SAMPLED)
        print(f"{trajectory.name}: {len(known)} geometries", flush=True)


def take(path: Path) -> None:
    """Take in the trajectory `EARLIER` of another potential, frames 120 fs apart."""
    known = sampled() if SAMPLED.exists() else {}
    frames = ase.io.read(path, ":", format="extxyz")[::EARLIER_STRIDE]
    for index, atoms in enumerate(frames[: EARLIER.frames]):
        frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        frame.positions[:, 2] -= frame.positions[frame.numbers == 6, 2].mean()
        frame.positions = np.round(frame.positions, 8)
        frame.info = {
            "id": f"{EARLIER.name}_{index:02d}",
            "sampler": "SevenNet-0, Langevin at 300 K",
        }
        known[frame.info["id"]] = frame
    ase.io.write(SAMPLED, list(known.values()), format="extxyz")


def take_more(path: Path, family: str) -> None:
    """Take in frames of dynamics, as the next round of a family.

    `SELECTED` ones are what ``ase-finetune select`` chose, `DRAWN` ones were drawn at random from
    the same trajectories.
    """
    known = sampled()
    rounds = {name.split("_")[2] for name in known if name.startswith(family)}
    for index, atoms in enumerate(ase.io.read(path, ":", format="extxyz")):
        molecules = int((atoms.numbers == 8).sum())
        frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        frame.positions[:, 2] -= frame.positions[frame.numbers == 6, 2].mean()
        frame.positions = np.round(frame.positions, 8)
        name = f"{family}_{molecules:02d}_{len(rounds) + 1:02d}_{index:02d}"
        sampler = "drawn at random from the trajectories that select had"
        if family == SELECTED:
            apart = atoms.info["disagreement_eV_per_A"]
            sampler = f"chosen by ase-finetune select, {apart} eV/A"
        frame.info = {"id": name, "sampler": sampler}
        known[name] = frame
    ase.io.write(SAMPLED, list(known.values()), format="extxyz")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("calculator", nargs="?", help="MODULE:NAME of an ASE calculator")
    parser.add_argument("argument", nargs="*", help="what it is called with")
    parser.add_argument("--most", type=int, default=len(TRAJECTORIES), help="trajectories to run")
    parser.add_argument("--take", type=Path, metavar="FILE", help="frames sampled earlier")
    parser.add_argument("--take-selected", type=Path, metavar="FILE", help="chosen frames")
    parser.add_argument("--take-drawn", type=Path, metavar="FILE", help="frames drawn at random")
    args = parser.parse_args()
    if args.take_selected or args.take_drawn:
        for path, family in ((args.take_selected, SELECTED), (args.take_drawn, DRAWN)):
            if path:
                take_more(path, family)
        return
    if args.take:
        take(args.take)
        return
    if not args.calculator:
        parser.error("name a calculator to sample with")
    module, name = args.calculator.split(":")
    calculator = getattr(import_module(module), name)(*args.argument)
    sample_all(calculator, " ".join([args.calculator, *args.argument]), TRAJECTORIES, args.most)


if __name__ == "__main__":
    main()
