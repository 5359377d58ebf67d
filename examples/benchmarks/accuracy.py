"""Ways to a potential on the same split of a bundled system: errors, and what they cost.

    python accuracy.py --systems mo acetylacetone --epochs 100

Rows, each with the same number of epochs, in float64 on one thread:

- ``zero_shot``: the bundled seed, its E0s shifted to the data;
- ``scratch``: our trainer from random weights of the seed's architecture, by the system's recipe,
  which has no replay frames here;
- ``mace_run_train``: mace-torch's trainer from the exported seed, with the settings that the
  README of mace-torch 0.3.16 gives for fine-tuning (Adam with AMSGrad, lr 0.01, batches of 2,
  energy and forces weights 1, EMA 0.99; E0s of isolated atoms where the data have them, else
  estimated, which its text prefers to the average of its example);
  its one head is the system's (no multihead replay), and its figures are off;
- ``ours``: our trainer from the seed, by the system's recipe;
- ``ours + lm``: then Levenberg-Marquardt, by the recipe's budget (``--budget`` changes it).

Prints one JSON line for each row: errors on the validation set, which chose the weights, and on
the test sets, which nobody looked at, all evaluated by the same code (mace-torch's model through
``--foundation``'s loader); steps of the mini-batch stage, of which smaller batches take more;
gradient equivalents, passes over the training set (mace-torch drops the frames that fill no batch);
wall time and peak memory of the process, start of Python included. ``ours + lm`` counts what
``ours`` cost as well. The last line compares the whole runs of ``ours`` and ``mace_run_train``; a
ratio above 1 means that ours is faster. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from ase.io import write
from whole_runs import Run, mace_run_train, read_model, timed

from ase_finetune import Checkpoint, RefineConfig, Splits, TrainConfig, finetune, refine
from ase_finetune.cli.options import resolve
from ase_finetune.evaluate import predict_frames
from ase_finetune.export import export
from ase_finetune.start import prepare, training_frames
from systems import get_system

ROWS = ("zero_shot", "scratch", "mace_run_train", "ours", "ours + lm")
README_OF_MACE: dict[str, Any] = {
    "energy_weight": 1.0,
    "forces_weight": 1.0,
    "lr": 0.01,
    "scaling": "rms_forces_scaling",
    "batch_size": 2,
    "ema": True,
    "ema_decay": 0.99,
    "amsgrad": True,
}


def settings(
    name: str, epochs: int, budget: int | None, seed: int, **changes: Any
) -> tuple[TrainConfig, RefineConfig]:
    """Return the system's recipe with these epochs and without replay frames."""
    given = {"epochs": epochs, "seed": seed, "replay_weight": 0.0, **changes}
    config, recipe = resolve(given, budget, get_system(name).recipe)
    assert isinstance(config, TrainConfig) and recipe is not None
    kept = {k: getattr(recipe, k) for k in RefineConfig.__dataclass_fields__}
    return config, RefineConfig(**{**kept, "method": "lm"})


def work(row: str, name: str, epochs: int, budget: int | None, seed: int, folder: Path) -> None:
    """Make the checkpoint of one of our rows, in this process."""
    splits = Splits.from_named(get_system(name).frames())
    if row == "ours + lm":
        _, recipe = settings(name, epochs, budget, seed)
        done = refine(Checkpoint.load(folder / "ours"), splits, recipe)
    else:
        changes = {"foundation": "scratch"} if row == "scratch" else {}
        config, _ = settings(name, epochs, budget, seed, **changes)
        done = (
            prepare(splits, config).checkpoint if row == "zero_shot" else finetune(splits, config)
        )
    done.save(folder / row)


def ours(row: str, name: str, args: argparse.Namespace, folder: Path) -> tuple[Checkpoint, Run]:
    """Make a row of ours in a fresh process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--work", row, name, str(folder)]
    command += ["--epochs", str(args.epochs), "--seed", str(args.seed)]
    command += [] if args.budget is None else ["--budget", str(args.budget)]
    run = timed(command, folder)
    return Checkpoint.load(folder / row), run


def peer(
    splits: Splits, epochs: int, seed: int, E0s: str, folder: Path, dtype: str = "float64"
) -> tuple[Checkpoint, Run]:
    """Fine-tune the exported seed by mace-torch on the same frames."""
    export("seed", folder / "seed.model", dtype=dtype)
    write(folder / "train.xyz", splits.train)
    write(folder / "valid.xyz", splits.valid)
    options = {
        **README_OF_MACE,
        "foundation_model": folder / "seed.model",
        "multiheads_finetuning": False,
        "train_file": "train.xyz",
        "valid_file": "valid.xyz",
        "E0s": E0s,
        "max_num_epochs": epochs,
        "default_dtype": dtype,
        "seed": seed,
        "plot": False,
    }
    run = mace_run_train(options, folder)
    return read_model(folder / "peer.model"), run


def errors(checkpoint: Checkpoint, splits: Splits) -> dict[str, dict[str, float]]:
    """Errors on the validation and test sets, in meV/A and meV/atom."""
    found = {}
    for name, frames in {"valid": splits.valid, **splits.tests}.items():
        e = predict_frames(checkpoint, training_frames(frames)).errors()
        found[name] = {
            "force_rmse_meV_per_A": round(e.force_rmse_meV_per_A or 0.0, 3),
            "energy_rmse_meV_per_atom": round(e.energy_rmse_meV_per_atom or 0.0, 3),
        }
    return found


def table(name: str, args: argparse.Namespace) -> dict[str, Run]:
    """Make and print the rows of a system; return what each took."""
    splits = Splits.from_named(get_system(name).frames())
    count = len(training_frames(splits.train))
    config, _ = settings(name, args.epochs, args.budget, args.seed)
    steps = dict.fromkeys(ROWS, args.epochs * math.ceil(count / config.batch_size))
    steps |= {"zero_shot": 0}
    steps |= {"mace_run_train": args.epochs * (count // README_OF_MACE["batch_size"])}
    runs: dict[str, Run] = {}
    spent = dict.fromkeys(ROWS, float(args.epochs)) | {"zero_shot": 0.0}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for row in ROWS:
            if row == "mace_run_train":
                checkpoint, run = peer(splits, args.epochs, args.seed, args.peer_E0s, folder)
            else:
                checkpoint, run = ours(row, name, args, folder)
            if row == "ours + lm":
                spent[row] += float(checkpoint.metrics["gradient_equivalents"])
                before = runs["ours"]
                run = Run(before.seconds + run.seconds, max(before.memory_MB, run.memory_MB))
            runs[row] = run
            line = {
                "name": f"accuracy on {name}: {row}",
                "epochs": args.epochs,
                "steps": steps[row],
                **errors(checkpoint, splits),
                "gradient_equivalents": round(spent[row], 1),
                "wall_s": round(run.seconds, 1),
                "memory_MB": round(run.memory_MB),
            }
            print(json.dumps(line), flush=True)
    return runs


def main() -> None:
    """Parse the command line and compare system by system."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", nargs="+", default=["mo", "acetylacetone"])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--budget", type=int, help="gradient equivalents of the refinement")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peer-E0s", choices=["estimated", "average"], default="estimated")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if args.work:
        row, name, folder = args.work
        work(row, name, args.epochs, args.budget, args.seed, Path(folder))
        return
    every = [table(name, args) for name in args.systems]
    mine, theirs = ([runs[row] for runs in every] for row in ("ours", "mace_run_train"))
    seconds = [sum(run.seconds for run in runs) for runs in (mine, theirs)]
    line = {
        "name": f"whole runs of {args.epochs} epochs on {' and '.join(args.systems)}, float64",
        "ours": round(seconds[0], 1),
        "peer": round(seconds[1], 1),
        "ratio": round(seconds[1] / seconds[0], 2),
        "ours_MB": round(max(run.memory_MB for run in mine)),
        "peer_MB": round(max(run.memory_MB for run in theirs)),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
