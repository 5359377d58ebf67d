"""A training step and an MD step against mace-torch on the same model, frames and neighbor lists.

    python evaluation.py --case mo --dtype float32

The peer of the training step is mace-torch's own module inside this project's trainer, that is
`--no-accelerate`; that of the MD step is ``mace.calculators.MACECalculator``. Both sides run in
processes of their own. Prints one JSON line for each, seconds and peak memory; a ratio above 1
means that ours is faster. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from cases import CASES, median_time, peak_memory_MB, random_checkpoint, save_model

from ase_finetune import FineTunedCalculator
from ase_finetune.checkpoint import Checkpoint
from ase_finetune.graphs import build_graph, collate, predict
from ase_finetune.loss import Loss


def training_step(checkpoint: Checkpoint, frames: list, dtype: str, *, accelerate: bool) -> float:
    """Seconds of loss and gradient of one batch, forces and stress included."""
    module = checkpoint.module(dtype, accelerate=accelerate)
    rng = np.random.default_rng(2)
    labelled = []
    for atoms in frames:
        frame = atoms.copy()
        frame.info["REF_energy"] = float(rng.normal())
        frame.arrays["REF_forces"] = rng.normal(size=(len(frame), 3))
        if frame.pbc.all():
            frame.info["REF_stress"] = 0.01 * rng.normal(size=6)
        labelled.append(frame)
    graphs = [
        build_graph(
            a, checkpoint.numbers, checkpoint.r_max, dtype=getattr(torch, dtype),
            E0s=dict(checkpoint.E0s),
        )
        for a in labelled
    ]  # fmt: skip
    loss = Loss.for_graphs(graphs, 1.0, 10.0, 1.0)
    batch = collate(graphs, len(checkpoint.numbers))

    def step() -> None:
        module.zero_grad()
        result = predict(module, batch, stress=loss.needs_stress, training=True)
        loss(result, batch).backward()

    return median_time(step)


def md_step(calculator: object, frames: list) -> float:
    """Seconds of energy and forces of a moved structure, neighbor list included."""
    atoms = frames[0].copy()
    atoms.calc = calculator
    rng = np.random.default_rng(3)

    def step() -> None:
        atoms.positions += rng.normal(0.0, 1e-3, atoms.positions.shape)
        atoms.get_forces()

    return median_time(step, warm=4, runs=9)


def measure(side: str, what: str, case: str, dtype: str, threads: int) -> dict[str, float]:
    """Time one side in this process; seconds and peak memory in MB."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    frames = CASES[case]()
    checkpoint = random_checkpoint(frames, dtype)
    if what == "training":
        seconds = training_step(checkpoint, frames, dtype, accelerate=side == "ours")
    elif side == "ours":
        seconds = md_step(FineTunedCalculator(checkpoint, dtype=dtype), frames)
    else:
        from mace.calculators import MACECalculator

        with tempfile.TemporaryDirectory() as folder:
            model = save_model(checkpoint, Path(folder) / "random.model", dtype)
            theirs = MACECalculator(model_paths=str(model), device="cpu", default_dtype=dtype)
        seconds = md_step(theirs, frames)
    return {"seconds": seconds, "memory_MB": peak_memory_MB()}


def in_fresh_process(*arguments: str) -> dict[str, float]:
    """Run `measure` in a process of its own, whose allocator nobody else has touched."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Compare both sides, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, default="mo")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        *names, threads = args.measure
        print(json.dumps(measure(*names, int(threads))))
        return
    for what in ("training", "md"):
        ours, peer = (
            in_fresh_process(side, what, args.case, args.dtype, str(args.threads))
            for side in ("ours", "peer")
        )
        line = {
            "name": f"{what} step, {args.case} {args.dtype} {args.threads} threads",
            "ours": round(ours["seconds"], 4),
            "peer": round(peer["seconds"], 4),
            "ratio": round(peer["seconds"] / ours["seconds"], 2),
            "ours_MB": round(ours["memory_MB"]),
            "peer_MB": round(peer["memory_MB"]),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
