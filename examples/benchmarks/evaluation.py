"""A training step and an MD step against mace-torch on the same model and frames.

    python evaluation.py --case mo --dtype float32
    python evaluation.py --case mo --device cuda --peer cueq
    python evaluation.py --case mo molecules --profile

The peer of the training step is mace-torch's own module inside this project's trainer, that is
`--no-accelerate`, both with neighbor lists at hand; that of the MD step is
``mace.calculators.MACECalculator``, which searches neighbors in every step, where ours keeps its
list as long as atoms move as little as here. With ``--peer cueq`` both are converted to
cuequivariance (which has to be installed). All sides run in processes of their own. On a GPU ours
adds up in a fixed order, so that the same seed gives the same bits; the peers do not. Prints one
JSON line for each, seconds and peak memory; a ratio above 1 means that ours is faster. Run it on an
idle machine. ``--profile`` prints instead where our own time goes: the operators of torch with the
largest shares of it in percent, without what they call.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from cases import CASES, median_time, peak_memory_MB, random_checkpoint, save_model

from ase_finetune import FineTunedCalculator
from ase_finetune.architecture import default_dtype
from ase_finetune.checkpoint import Checkpoint
from ase_finetune.determinism import repeatable
from ase_finetune.gradients import Gradients
from ase_finetune.graphs import build_graph
from ase_finetune.loss import Loss


def peer_module(checkpoint: Checkpoint, side: str, dtype: str, device: str) -> torch.nn.Module:
    """Return mace-torch's module, as it is or converted to cuequivariance."""
    module = checkpoint.module(dtype, device)
    if side != "cueq":
        return module
    from mace.cli.convert_e3nn_cueq import run

    with default_dtype(getattr(torch, dtype)):  # which the conversion sets and leaves
        return run(module, device=device, return_model=True)


def training_step(
    checkpoint: Checkpoint, frames: list, dtype: str, side: str, device: str
) -> Callable[[], None]:
    """Loss and gradient of one batch, forces and stress included."""
    if side == "ours":
        module = checkpoint.module(dtype, device, accelerate=True)
    else:
        module = peer_module(checkpoint, side, dtype, device)
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
    parameters = list(module.parameters())
    gradients = Gradients(module, parameters, len(checkpoint.numbers), device)

    def step() -> None:
        module.zero_grad()
        gradients.add(graphs, loss, 1.0)

    return step


def md_step(calculator: object, frames: list) -> Callable[[], None]:
    """Energy and forces of a structure that moves a little in every step."""
    atoms = frames[0].copy()
    atoms.calc = calculator
    rng = np.random.default_rng(3)

    def step() -> None:
        atoms.positions += rng.normal(0.0, 1e-3, atoms.positions.shape)
        atoms.get_forces()

    return step


def shares(step: Callable[[], None]) -> dict[str, float]:
    """Share of the time in each operator itself, percent, of the ten largest."""
    for _ in range(4):
        step()
    with torch.profiler.profile() as profile:
        for _ in range(10):
            step()
    found = sorted(profile.key_averages(), key=lambda e: e.self_cpu_time_total, reverse=True)
    total = sum(e.self_cpu_time_total for e in found)
    return {e.key: round(100.0 * e.self_cpu_time_total / total, 1) for e in found[:10]}


def measure(
    side: str, what: str, case: str, dtype: str, device: str, threads: int, profile: bool = False
) -> dict[str, float]:
    """Time one side in this process, seconds and peak memory in MB, or profile it."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    frames = CASES[case]()
    checkpoint = random_checkpoint(frames, dtype)
    if what == "training":
        step = training_step(checkpoint, frames, dtype, side, device)
    elif side == "ours":
        step = md_step(FineTunedCalculator(checkpoint, dtype=dtype, device=device), frames)
    else:
        from mace.calculators import MACECalculator

        with tempfile.TemporaryDirectory() as folder:
            model = save_model(checkpoint, Path(folder) / "random.model", dtype)
            theirs = MACECalculator(
                model_paths=str(model),
                device=device,
                default_dtype=dtype,
                enable_cueq=side == "cueq",
            )
        step = md_step(theirs, frames)
    with repeatable(device if side == "ours" else "cpu"):
        if profile:
            return shares(step)
        # Ours records what a GPU does when the same shapes come for the third time.
        warm = 4 if what == "md" or device != "cpu" else 2
        seconds = median_time(step, warm=warm, runs=9 if what == "md" else 5)
    return {"seconds": seconds, "memory_MB": peak_memory_MB()}


def measure_alone(*arguments: str, more: Sequence[str] = ()) -> dict[str, float]:
    """Run `measure` in a process of its own, whose allocator nobody else has touched."""
    done = subprocess.run(
        [sys.executable, __file__, *more, "--measure", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} failed: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Compare both sides, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, nargs="+", default=["mo"])
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--peer", choices=["mace-torch", "cueq"], nargs="+", default=["mace-torch"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--measure", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        side, what, case, dtype, device, threads = args.measure
        found = measure(side, what, case, dtype, device, int(threads), args.profile)
        print(json.dumps(found))
        return
    if args.profile and args.device == "cuda":
        parser.error("--profile is of a CPU")
    place = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.threads} threads"
    for case, what in itertools.product(args.case, ("training", "md")):
        name = f"{what} step, {case} {args.dtype} {place}"
        if args.profile:
            names = ("ours", what, case, args.dtype, args.device, str(args.threads))
            print(json.dumps({"name": name, "percent": measure_alone(*names, more=["--profile"])}))
            continue
        ours, *peers = (
            measure_alone(side, what, case, args.dtype, args.device, str(args.threads))
            for side in ("ours", *args.peer)
        )
        for against, peer in zip(args.peer, peers, strict=True):
            line = {
                "name": name,
                "against": against,
                "ours": round(ours["seconds"], 4),
                "peer": round(peer["seconds"], 4),
                "ratio": round(peer["seconds"] / ours["seconds"], 2),
                "ours_MB": round(ours["memory_MB"]),
                "peer_MB": round(peer["memory_MB"]),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
