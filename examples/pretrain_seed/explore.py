"""Draw structures from dynamics of the present seed, for the teachers to label: one active round.

Runs in the project's environment::

    python explore.py seed --out work/structures --batch 3

The dynamics visit what a seed will meet when it is used, and where it goes wrong the teacher's
labels correct it. A trajectory that leaves the range of the labels (a force above 25 eV/A) ends
there. Splits are by trajectory; random seeds are 2000 + 100 * batch + the family's index.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import families_molecular as molecular
import numpy as np
from ase import Atoms, units
from ase.build import graphene, molecule, mx2
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import FIRE
from numpy.random import Generator

from ase_finetune import FineTunedCalculator

MAX_FORCE = 25.0  # eV/A
A_GRAPHENE = 2.468


@dataclass(frozen=True)
class Plan:
    """One trajectory: temperature (K), timestep (fs), steps, steps between frames."""

    start: Atoms
    temperature_K: float
    timestep_fs: float
    steps: int
    every: int


def rectangle(nx: int, ny: int, height: float) -> Atoms:
    """Graphene in rectangular cells of four atoms."""
    a = A_GRAPHENE
    basis = [
        [0, 0, 0],
        [a / 2, a / 12**0.5, 0],
        [a / 2, a * 3**0.5 / 2, 0],
        [0, a * 2 / 3**0.5, 0],
    ]
    cell = [a, a * 3**0.5, height]
    return Atoms("C4", basis, cell=cell, pbc=True) * (nx, ny, 1)


def water_graphene(rng: Generator) -> Iterator[Plan]:
    """4 to 14 molecules on 32 carbon atoms."""
    conditions = (
        (8, 300.0), (10, 500.0), (4, 300.0), (14, 400.0), (9, 600.0), (10, 300.0),
        (14, 600.0), (6, 450.0), (8, 500.0), (9, 300.0),
    )  # fmt: skip
    for count, temperature in conditions:
        full = molecular.pack(
            rectangle(4, 2, 16.0),
            [molecule("H2O")] * count,
            rng,
            closest=1.9,
            low=0.18,
            high=0.2 + 0.03 * count,
        )
        yield Plan(full, temperature, 1.0, 900, 60)


def water_liquid(rng: Generator) -> Iterator[Plan]:
    """Boxes of 8 to 16 molecules at 0.9 to 1.1 g/cm^3."""
    for count, temperature in ((8, 300.0), (16, 350.0), (10, 500.0), (12, 300.0), (9, 700.0)):
        side = (count * 29.92 / rng.uniform(0.9, 1.1)) ** (1 / 3)
        blank = Atoms(cell=[side] * 3, pbc=True)
        box = molecular.pack(blank, [molecule("H2O")] * count, rng, closest=1.8)
        yield Plan(box, temperature, 1.0, 900, 60)


def interfaces(rng: Generator) -> Iterator[Plan]:
    """One to four molecules on 18 carbon atoms, and on MoS2."""
    for count, temperature in ((1, 300.0), (2, 500.0), (4, 300.0), (3, 600.0)):
        sheet = graphene(a=A_GRAPHENE, size=(3, 3, 1))
        sheet.cell[2] = [0, 0, 15.0]
        sheet.pbc = True
        guests = [molecule("H2O")] * count
        yield Plan(
            molecular.pack(sheet, guests, rng, closest=2.0, low=0.17, high=0.4),
            temperature, 1.0, 600, 60,
        )  # fmt: skip


def carbon(rng: Generator) -> Iterator[Plan]:
    """Rippling graphene."""
    for temperature in (300.0, 800.0, 1500.0):
        yield Plan(rectangle(4, 2, 15.0), temperature, 1.0, 500, 50)


def mos2(rng: Generator) -> Iterator[Plan]:
    """Monolayer, 3x3 cells."""
    for temperature in (200.0, 300.0, 600.0, 1000.0):
        layer = mx2("MoS2", a=3.19 * rng.uniform(0.99, 1.02), thickness=3.13, size=(3, 3, 1))
        layer.cell[2] = [0, 0, 15.0]
        layer.center(axis=2)
        layer.pbc = True
        yield Plan(layer, temperature, 2.0, 500, 50)


def acetylacetone(rng: Generator) -> Iterator[Plan]:
    """The enol."""
    for temperature in (300.0, 600.0, 900.0, 500.0):
        start = molecular.boxed(Atoms(*molecular.ACETYLACETONE))
        yield Plan(start, temperature, 1.0, 900, 60)


FAMILIES: dict[str, Callable[[Generator], Iterator[Plan]]] = {
    "water_graphene": water_graphene,
    "water_liquid": water_liquid,
    "interfaces": interfaces,
    "carbon": carbon,
    "mos2": mos2,
    "acetylacetone": acetylacetone,
}


def run(plan: Plan, calculator: FineTunedCalculator, rng: Generator) -> list[Atoms]:
    """Frames of one Langevin trajectory after a short relaxation; hydrogen weighs 3 u."""
    atoms = plan.start.copy()
    atoms.calc = calculator
    masses = atoms.get_masses()
    masses[atoms.numbers == 1] = 3.0
    atoms.set_masses(masses)
    FIRE(atoms, logfile=None, maxstep=0.1).run(fmax=1.0, steps=60)
    MaxwellBoltzmannDistribution(atoms, temperature_K=plan.temperature_K, rng=rng)
    dynamics = Langevin(
        atoms,
        plan.timestep_fs * units.fs,
        temperature_K=plan.temperature_K,
        friction=0.02 / units.fs,
        rng=rng,
    )
    frames: list[Atoms] = []
    for _ in range(plan.steps // plan.every):
        dynamics.run(plan.every)
        if not np.isfinite(atoms.positions).all():
            break
        frames.append(Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True))
        # So written, forces that are not numbers end it too.
        if not np.linalg.norm(atoms.get_forces(), axis=1).max() <= MAX_FORCE:
            break
    return frames


def main() -> None:
    """Write every family that has no shard yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a checkpoint folder, or 'seed' for the bundled one")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=FAMILIES)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.model == "seed":
        from ase_finetune.foundations import SEED

        args.model = SEED
    calculator = FineTunedCalculator(args.model, dtype="float32")
    for family in args.families:
        path = args.out / f"{family}-{args.batch}.extxyz"
        if path.exists():
            continue
        rng = np.random.default_rng(2000 + 100 * args.batch + list(FAMILIES).index(family))
        out: list[Atoms] = []
        for index, plan in enumerate(FAMILIES[family](rng)):
            split = {1: "test", 2: "valid"}.get(index, "train")
            for frame in run(plan, calculator, rng):
                frame.info = {
                    "config_type": family,
                    "split": split,
                    "sample_id": f"{family}-{args.batch}-{len(out):04d}",
                }
                out.append(frame)
        partial = path.with_suffix(".part")
        write(partial, out, format="extxyz")
        os.replace(partial, path)
        print(f"{family}: {len(out)} structures, {sum(map(len, out))} atoms", flush=True)


if __name__ == "__main__":
    main()
