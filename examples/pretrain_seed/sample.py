"""Draw the pretraining structures: one extended-XYZ shard per family, resumable per family.

Run in the environment of README.md::

    python sample.py --out work/structures

Families made by molecular dynamics or relaxation (melts, acetylacetone, liquids, water on
graphene) are split by trajectory, all others by independent draw. Random seeds are
1000 + 100 * batch + the family's index.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import families_molecular as molecular
import families_solid as solid
import numpy as np
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import FIRE
from numpy.random import Generator
from teachers import sevennet, snap

STATIC: dict[str, Callable[[Generator], list[Atoms]]] = {
    "mo_bulk": solid.mo_bulk,
    "mo_phases": solid.mo_phases,
    "mo_vacancy": solid.mo_vacancy,
    "mo_surface": solid.mo_surface,
    "mo_slip": solid.mo_slip,
    "mos2": solid.mos2,
    "carbon": solid.carbon,
    "molecules": molecular.molecules,
    "pairs": molecular.pairs,
    "water_clusters": molecular.water_clusters,
    "ice": molecular.ice,
    "interfaces": molecular.interfaces,
    "dimers": molecular.dimers,
    "isolated": molecular.isolated,
}
DYNAMIC = ("mo_melt", "water_liquid", "water_graphene", "acetylacetone")
FAMILIES = (*STATIC, *DYNAMIC)


def trajectory(
    atoms: Atoms,
    calculator: Calculator,
    rng: Generator,
    *,
    temperature: float,
    steps: int,
    timestep: float,
    first: int,
    every: int,
) -> list[Atoms]:
    """Langevin frames after a short relaxation; hydrogen weighs 3 u, which sampling allows.

    Each frame is rattled by 0.02 A, which decorrelates the fast bonds.
    """
    atoms = atoms.copy()
    atoms.calc = calculator
    masses = atoms.get_masses()
    masses[atoms.numbers == 1] = 3.0
    atoms.set_masses(masses)
    FIRE(atoms, logfile=None, maxstep=0.1).run(fmax=1.0, steps=15)
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    dynamics = Langevin(
        atoms, timestep * units.fs, temperature_K=temperature, friction=0.03 / units.fs, rng=rng
    )
    frames: list[Atoms] = []
    for step in range(1, steps + 1):
        dynamics.run(1)
        if step >= first and (step - first) % every == 0:
            frame = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True)
            frame.positions += rng.normal(0, 0.02, frame.positions.shape)
            frames.append(frame)
    return frames


def mo_melt(rng: Generator) -> list[list[Atoms]]:
    """Hot solid and molten molybdenum, 16 atoms, 1500 to 6000 K."""
    calculator, runs = snap(), []
    for temperature in (1500.0, 2500.0, 3500.0, 4500.0, 5500.0, 6000.0):
        for _ in range(2):
            cell = bulk("Mo", a=solid.A_MO * rng.uniform(1.0, 1.05), cubic=True) * (2, 2, 2)
            runs.append(
                trajectory(
                    cell,
                    calculator,
                    rng,
                    temperature=temperature,
                    steps=700,
                    timestep=2.0,
                    first=250,
                    every=90,
                )
            )
    return runs


def quench(atoms: Atoms, calculator: Calculator, rng: Generator, stops: list[int]) -> list[Atoms]:
    """Frames along a relaxation of packed molecules, each rattled by 0.02 to 0.08 A.

    A relaxation from random packing makes the hydrogen bonds; the rattle stands for temperature.
    It costs a tenth of the dynamics that would decorrelate a liquid.
    """
    atoms = atoms.copy()
    atoms.calc = calculator
    optimizer = FIRE(atoms, logfile=None, maxstep=0.12)
    frames, done = [], 0
    for stop in stops:
        optimizer.run(fmax=0.05, steps=stop - done)
        done = stop
        frame = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True)
        frame.positions += rng.normal(0, rng.uniform(0.02, 0.08), frame.positions.shape)
        frames.append(frame)
    return frames


def water_liquid(rng: Generator) -> list[list[Atoms]]:
    """Boxes of 8 to 12 molecules at 0.8 to 1.15 g/cm^3."""
    calculator, runs = sevennet("7net-0"), []
    for count in (8, 9, 8, 10, 8, 9, 12, 8, 9, 8, 10, 8):
        side = (count * 29.92 / rng.uniform(0.8, 1.15)) ** (1 / 3)
        blank = Atoms(cell=[side] * 3, pbc=True)
        box = molecular.pack(blank, [molecule("H2O")] * count, rng, closest=1.8)
        runs.append(quench(box, calculator, rng, [6, 15]))
    return runs


def water_graphene(rng: Generator) -> list[list[Atoms]]:
    """2 to 10 molecules on graphene of 32 atoms (4x2 rectangular cells)."""
    calculator, runs = sevennet("7net-0"), []
    a = 2.467
    for count in (2, 7, 10, 4, 8, 5):
        basis = [
            [0, 0, 0],
            [a / 2, a / 12**0.5, 0],
            [a / 2, a * 3**0.5 / 2, 0],
            [0, a * 2 / 3**0.5, 0],
        ]
        rectangle = Atoms("C4", basis, cell=[a, a * 3**0.5, 15.0], pbc=True)
        full = molecular.pack(
            rectangle * (4, 2, 1),
            [molecule("H2O")] * count,
            rng,
            closest=1.9,
            low=0.19,
            high=0.2 + 0.035 * count,
        )
        runs.append(quench(full, calculator, rng, [5, 12]))
    return runs


def acetylacetone(rng: Generator) -> list[list[Atoms]]:
    """The enol, 300 to 1200 K."""
    calculator, runs = sevennet("7net-0"), []
    start = molecular.boxed(Atoms(*molecular.ACETYLACETONE))
    start.calc = calculator
    FIRE(start, logfile=None, maxstep=0.08).run(fmax=0.1, steps=80)
    for temperature in (300.0, 600.0, 900.0, 1200.0):
        runs.append(
            trajectory(
                molecular.boxed(start),
                calculator,
                rng,
                temperature=temperature,
                steps=170,
                timestep=1.0,
                first=30,
                every=10,
            )
        )
    return runs


RUNS: dict[str, Callable[[Generator], list[list[Atoms]]]] = {
    "mo_melt": mo_melt,
    "water_liquid": water_liquid,
    "water_graphene": water_graphene,
    "acetylacetone": acetylacetone,
}


def draw(family: str, batch: int) -> list[Atoms]:
    """Structures of one family with `config_type`, `split` and `sample_id` in ``info``."""
    rng = np.random.default_rng(1000 + 100 * batch + FAMILIES.index(family))
    out: list[Atoms] = []
    if family in STATIC:
        frames = STATIC[family](rng)
        names = rng.choice(["train", "valid", "test"], len(frames), p=[0.88, 0.04, 0.08])
        if family in ("dimers", "isolated"):
            names[:] = "train"
        out = frames
        splits = [str(n) for n in names]
    else:
        runs = RUNS[family](rng)
        splits = []
        for index, run in enumerate(runs):
            last = len(runs) - 1
            name = {last: "test", last - 1: "test", last - 2: "valid"}.get(index, "train")
            if family == "acetylacetone":
                name = {1: "test"}.get(index, "train")
            out += run
            splits += [name] * len(run)
    for i, (atoms, split) in enumerate(zip(out, splits, strict=True)):
        atoms.info = {
            "config_type": family,
            "split": split,
            "sample_id": f"{family}-{batch}-{i:04d}",
        }
    return out


def main() -> None:
    """Write every family that has no shard yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=0, help="further independent draws")
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=FAMILIES)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for family in args.families:
        path = args.out / f"{family}-{args.batch}.extxyz"
        if path.exists():
            continue
        frames = draw(family, args.batch)
        partial = path.with_suffix(".part")
        write(partial, frames, format="extxyz")
        os.replace(partial, path)
        print(f"{family}: {len(frames)} structures, {sum(map(len, frames))} atoms", flush=True)


if __name__ == "__main__":
    main()
