"""Sample acetylacetone at 300 K and 600 K: geometries only, to be labelled by DFT.

    python -m systems.dft.acetylacetone_sample \\
        ase_finetune:FineTunedCalculator ase_finetune/foundations/seed

All trajectories run side by side, because a calculator with ``evaluate_batch`` then costs a third.
Each begins at the relaxed enol with Maxwell velocities of twice the temperature, half of which
turns into potential energy, and follows Langevin dynamics with real masses. The random numbers of
a trajectory depend on its name only. The potential need not be good: it decides which geometries
are looked at, not their labels. The stored geometries are from the seed of commit 70ba867; its own
mean energies above the minimum are those of equipartition, those of DFT are higher.
"""

from __future__ import annotations

import argparse
import zlib
from importlib import import_module
from typing import Any

import ase.io
import numpy as np
from ase import Atoms, units
from ase.neighborlist import natural_cutoffs, neighbor_list
from numpy.typing import NDArray

from properties import evaluate, relax
from systems.dft.acetylacetone_frames import FRAMES, SAMPLED, TRAJECTORIES, enol

SEED = 20261
TIMESTEP_FS = 0.5
FRICTION_PER_FS = 0.01
EQUILIBRATION = 2000  # steps
STRIDE = 100  # steps
FMAX = 1e-3  # eV/A, of the start
Vectors = NDArray[np.float64]


def plan() -> dict[str, tuple[float, int]]:
    """Return temperature in K and number of frames by trajectory."""
    return {
        f"{family}_{number:02d}": (float(family[3:-1]), FRAMES[split])
        for family, splits in TRAJECTORIES.items()
        for split, numbers in splits.items()
        for number in numbers
    }


def intact(atoms: Atoms) -> bool:
    """Tell whether every H has a neighbour and the heavy atoms hang together."""
    first, second = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=1.3))
    reached = {0}
    for _ in range(len(atoms)):
        reached |= {int(j) for i, j in zip(first, second, strict=True) if int(i) in reached}
    return len(reached) == len(atoms)


def sample(calculator: Any) -> list[Atoms]:
    """Run all trajectories and return their frames, the center of mass at the origin.

    Integrator: BAOAB of B. Leimkuhler and C. Matthews, Appl. Math. Res. Express 2013, 34.

    Raises
    ------
    RuntimeError
        If a molecule falls apart.
    """
    trajectories = plan()
    start = relax(enol(eclipsed=True), calculator, fmax=FMAX).atoms
    masses = start.get_masses()[:, None]
    dt = TIMESTEP_FS * units.fs
    keep = np.exp(-FRICTION_PER_FS * TIMESTEP_FS)
    generators = {n: np.random.default_rng([SEED, zlib.crc32(n.encode())]) for n in trajectories}
    width = {n: np.sqrt(units.kB * t / masses) for n, (t, _) in trajectories.items()}
    positions = {n: start.positions.copy() for n in trajectories}
    momenta_over_mass: dict[str, Vectors] = {
        n: np.sqrt(2.0) * width[n] * generators[n].normal(size=(len(start), 3))
        for n in trajectories
    }

    def forces(names: list[str]) -> dict[str, Vectors]:
        molecules = [Atoms(start.numbers, positions[n]) for n in names]
        found = evaluate(molecules, calculator, stress=False)
        return {n: f.forces for n, f in zip(names, found, strict=True)}

    frames: dict[str, list[Atoms]] = {n: [] for n in trajectories}
    running = list(trajectories)
    force = forces(running)
    step = 0
    while running:
        for n in running:
            v, rng = momenta_over_mass[n], generators[n]
            v += 0.5 * dt * force[n] / masses
            positions[n] += 0.5 * dt * v
            v *= keep
            v += np.sqrt(1.0 - keep**2) * width[n] * rng.normal(size=v.shape)
            positions[n] += 0.5 * dt * v
        force = forces(running)
        for n in running:
            momenta_over_mass[n] += 0.5 * dt * force[n] / masses
        step += 1
        if step < EQUILIBRATION or step % STRIDE:
            continue
        for n in running:
            atoms = Atoms(start.numbers, positions[n] - masses.T[0] @ positions[n] / masses.sum())
            if not intact(atoms):
                raise RuntimeError(f"The molecule of {n} fell apart after {step} steps.")
            atoms.positions = np.round(atoms.positions, 8)
            atoms.info = {"id": f"{n}_{len(frames[n]):02d}"}
            frames[n].append(atoms)
        running = [n for n in running if len(frames[n]) < trajectories[n][1]]
        print(f"{step} steps, {len(running)} trajectories to go", flush=True)
    return [atoms for members in frames.values() for atoms in members]


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("calculator", help="MODULE:NAME of an ASE calculator")
    parser.add_argument("argument", nargs="*", help="what it is called with")
    args = parser.parse_args()
    module, name = args.calculator.split(":")
    frames = sample(getattr(import_module(module), name)(*args.argument))
    for atoms in frames:
        atoms.info["sampler"] = " ".join([args.calculator, *args.argument])
    ase.io.write(SAMPLED, frames, format="extxyz")
    print(f"{len(frames)} geometries in {SAMPLED.name}")


if __name__ == "__main__":
    main()
