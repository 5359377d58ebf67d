"""What training on replay frames keeps: Mo by its recipe, with and without, over seeds.

    python replay.py --weights 0 0.003 0.01 0.03 --seeds 1 2 3

Half of the seed's own frames of Mo are trained on with that weight, labelled by the seed; the other
half is measured in all rows. Prints one JSON line for each weight and training seed: force
errors of all stages on the system's sets and on the measured replay frames (against the labels that
they came with), lattice and elastic constants and the vacancy.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from typing import Any

from ase_finetune import Checkpoint, FineTunedCalculator, Splits, finetune, refine
from ase_finetune.cli.options import resolve
from ase_finetune.evaluate import predict_frames
from ase_finetune.replay import Replay, halves, replay_frames, share_replay
from ase_finetune.start import prepare
from properties import Quantity
from systems import get_system

PROPERTIES = ("lattice", "elastic", "vacancy")
SHOWN = ("a0", "C11", "C12", "C44", "vacancy_formation_energy")


def measure(checkpoint: Checkpoint, splits: Splits, replay: Replay) -> dict[str, Any]:
    """Return force errors in meV/A and the crystal."""
    sets = {**dict(splits.items()), "replay": replay.frames}
    forces = {
        name: predict_frames(checkpoint, frames).errors().force_rmse_meV_per_A
        for name, frames in sets.items()
    }
    calculator, found = FineTunedCalculator(checkpoint), {}
    for name in PROPERTIES:
        every = get_system("mo").compute(name, calculator).quantities("model")
        found.update({n: one.value for n, one in every.items() if isinstance(one, Quantity)})
    return {
        "force_rmse_meV_per_A": {name: round(value or 0.0, 3) for name, value in forces.items()},
        **{name: round(found[name], 5) for name in SHOWN},
    }


def row(weight: float, seed: int, epochs: int | None) -> dict[str, Any]:
    """Fine-tune and refine, and measure both stages and what they begin with."""
    system, begun = get_system("mo"), time.perf_counter()
    given = {"seed": seed, "replay_weight": weight, **({"epochs": epochs} if epochs else {})}
    config, refinement = resolve(given, None, system.recipe)
    assert refinement is not None
    splits = Splits.from_named(system.frames())
    start = prepare(splits, config)
    every = replay_frames(None, start.checkpoint)
    measured = Replay(halves(every.frames)[1])
    if weight:
        splits, measured = share_replay(splits, every, start.checkpoint, weight)
    tuned = finetune(splits, config, start=start)
    refined = refine(tuned, splits, refinement)
    return {
        "name": f"replay on mo: weight {weight:g}, seed {seed}",
        "epochs": config.epochs,
        "frames": {"train": len(splits.train), "replay": len(splits.replay)},
        "zero_shot": measure(start.checkpoint, splits, measured),
        "finetuned": measure(tuned, splits, measured),
        "refined": measure(refined, splits, measured),
        "accepted": refined.metrics["accepted"],
        "wall_s": round(time.perf_counter() - begun, 1),
    }


def main() -> None:
    """Print a line for each weight and seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.003, 0.01, 0.03])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for seed in args.seeds:
        for weight in args.weights:
            print(json.dumps(row(weight, seed, args.epochs)), flush=True)


if __name__ == "__main__":
    main()
