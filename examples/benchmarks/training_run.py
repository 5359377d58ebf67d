"""Whole training runs against ``mace_run_train`` on the same model, frames, batches and epochs.

    python training_run.py --case mo --dtype float32

Both start from the same random weights of the MP-0 small shape, mace-torch's through an exported
``.model``, and minimize energy and force errors of made-up labels by Adam with a moving average,
validating after every epoch; each runs in a process of its own. The peer's figures are off. The
first line compares an epoch: the difference of runs with many epochs and with one, which takes
out the start of Python, neighbor lists and the evaluation at the end. The second compares whole
runs of the many epochs, with peak memory. Medians of ``--repeats``; a ratio above 1 means that
ours is faster. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.io import read, write
from cases import CASES, random_checkpoint
from whole_runs import Run, mace_run_train, timed

from ase_finetune import Checkpoint, Splits, TrainConfig, finetune
from ase_finetune.export import export

LR, EMA, CLIP = 1e-4, 0.99, 10.0
ENERGY, FORCES = 1.0, 100.0  # the peer's defaults


def labelled(case: str, count: int, seed: int) -> list[Atoms]:
    """Rattled frames of a case with labels of a plausible size."""
    rng = np.random.default_rng(seed)
    originals = CASES[case]()
    frames = []
    for index in range(count):
        atoms = originals[index % len(originals)].copy()
        atoms.positions += rng.normal(0.0, 0.03, atoms.positions.shape)
        atoms.info["REF_energy"] = float(rng.normal())
        atoms.arrays["REF_forces"] = rng.normal(size=(len(atoms), 3))
        frames.append(atoms)
    return frames


def work(epochs: int, args: argparse.Namespace, folder: Path) -> None:
    """Train by our trainer, in this process."""
    torch.set_num_threads(args.threads)
    splits = Splits(read(folder / "train.xyz", ":"), read(folder / "valid.xyz", ":"), {})
    config = TrainConfig(
        foundation=str(folder / "start"),
        optimizer="adam",
        lr=LR,
        epochs=epochs,
        batch_size=args.batch_size,
        energy_weight=ENERGY,
        forces_weight=FORCES,
        E0s="foundation",
        ema_decay=EMA,
        clip=CLIP,
        default_dtype=args.dtype,
    )
    finetune(splits, config).save(folder / "ours")


def ours(epochs: int, args: argparse.Namespace, folder: Path) -> Run:
    """Train by our trainer in a fresh process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--work", str(folder)]
    for name in ("dtype", "threads", "batch_size"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    return timed([*command, "--epochs", str(epochs)], folder, args.threads)


def peer(epochs: int, args: argparse.Namespace, folder: Path) -> Run:
    """Train by mace-torch in a fresh process and folder, so that nothing is resumed."""
    E0s = Checkpoint.load(folder / "start").E0s
    options: dict[str, Any] = {
        "foundation_model": folder / "start.model",
        "multiheads_finetuning": False,
        "train_file": folder / "train.xyz",
        "valid_file": folder / "valid.xyz",
        "E0s": str(dict(E0s)),  # which "foundation" fails to read where there is one element
        "optimizer": "adam",
        "lr": LR,
        "weight_decay": 0.0,
        "ema": True,
        "ema_decay": EMA,
        "clip_grad": CLIP,
        "energy_weight": ENERGY,
        "forces_weight": FORCES,
        "batch_size": args.batch_size,
        "valid_batch_size": args.batch_size,
        "max_num_epochs": epochs,
        "default_dtype": args.dtype,
        "plot": False,
    }
    with tempfile.TemporaryDirectory() as scratch:
        return mace_run_train(options, Path(scratch), args.threads)


def line(name: str, mine: float, theirs: float, **more: int) -> str:
    """Return a line in the benchmarks' format."""
    return json.dumps(
        {
            "name": name,
            "ours": round(mine, 3),
            "peer": round(theirs, 3),
            "ratio": round(theirs / mine, 2),
            **more,
        }
    )


def main() -> None:
    """Parse the command line and compare both sides."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=CASES, default="mo")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=6, help="of the long runs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    if args.work:
        work(args.epochs, args, args.work)
        return
    if args.epochs < 2 or args.frames % args.batch_size:
        parser.error("take 2 epochs or more, and frames that fill batches: the peer drops others")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder / "train.xyz", labelled(args.case, args.frames, 1))
        write(folder / "valid.xyz", labelled(args.case, args.batch_size, 2))
        start: Checkpoint = random_checkpoint(CASES[args.case](), args.dtype)
        start.save(folder / "start")
        export(start, folder / "start.model")
        runs: dict[tuple[str, int], list[Run]] = {}
        for _ in range(args.repeats):
            for epochs in (1, args.epochs):
                runs.setdefault(("ours", epochs), []).append(ours(epochs, args, folder))
                runs.setdefault(("peer", epochs), []).append(peer(epochs, args, folder))

    def seconds(side: str, epochs: int) -> float:
        return statistics.median(run.seconds for run in runs[side, epochs])

    def memory(side: str) -> int:
        return round(max(run.memory_MB for run in runs[side, args.epochs]))

    what = f"{args.case} {args.dtype} {args.threads} threads"
    an_epoch = [
        (seconds(side, args.epochs) - seconds(side, 1)) / (args.epochs - 1)
        for side in ("ours", "peer")
    ]
    print(line(f"training epoch, {what}", *an_epoch), flush=True)
    whole = [seconds(side, args.epochs) for side in ("ours", "peer")]
    found = {"ours_MB": memory("ours"), "peer_MB": memory("peer")}
    print(line(f"whole run of {args.epochs} epochs, {what}", *whole, **found), flush=True)


if __name__ == "__main__":
    main()
