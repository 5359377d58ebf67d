"""Label the sampled structures with the teachers; appends frame by frame and resumes.

Run in the environment of README.md::

    OMP_NUM_THREADS=1 python label.py --structures work/structures --out work/labels

Frames with a force component norm above `--max-force` are dropped and counted.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.io import read, write
from teachers import sevennet, snap, teacher_name


def label(atoms: Atoms, calculator: Calculator, teacher: str) -> Atoms:
    """Copy of `atoms` with REF_energy (eV), REF_forces (eV/A), REF_stress (eV/A^3, Voigt)."""
    out = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    out.calc = calculator
    # Both teachers give one energy whose gradient the forces are; there is no electronic entropy.
    energy, forces, stress = out.get_potential_energy(), out.get_forces(), out.get_stress()
    out.calc = None
    out.info = dict(atoms.info)
    out.info["REF_energy"] = float(energy)
    out.info["REF_stress"] = np.asarray(stress, dtype=float)
    out.info["teacher"] = teacher
    out.arrays["REF_forces"] = np.asarray(forces, dtype=float)
    return out


def main() -> None:
    """Label every family; a second call continues where the first stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--structures", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-force", type=float, default=30.0, help="eV/A")
    parser.add_argument("--hours", type=float, default=1.0, help="stop by itself after this time")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    calculators: dict[str, Calculator] = {}
    for path in sorted(args.structures.glob("*.extxyz")):
        target, seen = args.out / path.name, args.out / f"{path.stem}.done"
        done = set(seen.read_text().split()) if seen.exists() else set()
        todo = [a for a in read(path, ":") if a.info["sample_id"] not in done]
        teacher = teacher_name(path.stem.partition("-")[0])
        if todo and teacher not in calculators:
            calculators[teacher] = snap() if teacher == "snap" else sevennet(teacher)
        dropped, start = 0, time.monotonic()
        for atoms in todo:
            if time.monotonic() - began > 3600 * args.hours:
                print("time is up; run again to continue")
                return
            frame = label(atoms, calculators[teacher], teacher)
            norm = np.linalg.norm(frame.arrays["REF_forces"], axis=1).max()
            if np.isfinite(norm) and norm <= args.max_force:
                write(target, frame, format="extxyz", append=True)
            else:
                dropped += 1
            with seen.open("a") as handle:
                handle.write(f"{atoms.info['sample_id']}\n")
        if todo:
            wall = time.monotonic() - start
            print(f"{path.stem}: {len(todo)} done in {wall:.0f} s, {dropped} dropped", flush=True)


if __name__ == "__main__":
    main()
