"""Memory and time of training on a large data set.

    python examples/benchmarks/streaming.py --frames 100000 --steps 300

Writes a file of Mo cells with the labels of a harmonic crystal (16 atoms each), trains the seed on
it for some steps of the mini-batch stage, and prints the largest resident memory of the process
that trained. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from ase.build import bulk

from ase_finetune import Splits, TrainConfig
from ase_finetune.start import prepare
from ase_finetune.trainer import finetune
from systems.hdf5 import write_frames

STIFFNESS = 5.0  # eV/A^2, of each atom to its site
AMPLITUDE = 0.05  # A
BATCH = 4
VALID = 40


def harmonic_frames(n: int, seed: int) -> list:
    """Rattled cells with the energies and forces of springs to the sites; no two are equal."""
    rng = np.random.default_rng(seed)
    perfect = bulk("Mo", a=3.16, cubic=True) * 2
    frames = []
    for index in range(n):
        atoms = perfect.copy()
        shift = AMPLITUDE * rng.standard_normal((len(atoms), 3))
        shift -= shift.mean(axis=0)
        atoms.positions += shift
        atoms.info["REF_energy"] = -10.0 * len(atoms) + 0.5 * STIFFNESS * float((shift**2).sum())
        atoms.arrays["REF_forces"] = -STIFFNESS * shift
        atoms.info["id"] = f"frame_{index}"
        frames.append(atoms)
    return frames


def train(folder: Path, steps: int) -> dict[str, float]:
    """Train for some steps in this process and return what it took."""
    begun = time.perf_counter()
    splits = Splits.from_files(folder / "train.h5", valid=folder / "valid.h5")
    read = time.perf_counter()
    config = TrainConfig(
        default_dtype="float32", batch_size=BATCH, epoch_frames=steps * BATCH // 3, epochs=3
    )
    start = prepare(splits, config)
    prepared = time.perf_counter()
    result = finetune(splits, config, start=start)
    ended = time.perf_counter()
    return {
        "frames": len(splits.train),
        "steps": round(result.metrics["gradient_equivalents"] * len(splits.train) / BATCH),
        "read_s": read - begun,
        "prepare_s": prepared - read,
        "train_s": ended - prepared,
        "valid_force_rmse_meV_per_A": result.metrics["valid_force_rmse_meV_per_A"],
        "peak_MB": peak_memory(),
    }


def peak_memory() -> float:
    """Return the largest resident memory of this process; rusage would count its parent's too."""
    status = Path("/proc/self/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) / 1e3


def main() -> None:
    """Write the data in this process and train in another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--worker", type=Path, help="train on the files in this folder")
    args = parser.parse_args()
    if args.worker is not None:
        print(json.dumps({"name": "streaming", **train(args.worker, args.steps)}))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_frames(Path(folder) / "train.h5", harmonic_frames(args.frames, 1))
        write_frames(Path(folder) / "valid.h5", harmonic_frames(VALID, 2))
        command = [sys.executable, __file__, "--worker", folder, "--steps", str(args.steps)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
