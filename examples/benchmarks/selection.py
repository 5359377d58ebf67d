"""What frames chosen by a committee are worth: acetylacetone, beside others of the same pool.

    python selection.py --seeds 1 2 3 4 5

A potential is fine-tuned on some frames of 300 K. Some of a pool are labelled and added, and it is
fine-tuned again: drawn at random, those that `select_frames` chooses, those on which the committee
disagrees most whether or not they are alike, and those whose atoms are farthest in features from
all others' (sum over atoms), without a committee. The pool holds the other training frames (300 K)
and half of the frames out of distribution (600 K, torsions, a hydrogen transfer); the other half
and `test_id` are measured, so that both halves have frames of the same trajectories and scans.
Prints one JSON line for each seed and way to choose: force RMSE, and the error that 1 % of the
atoms exceed, in meV/A; and for the committee, and one of three seeds of its first optimizer, how
disagreement and the largest error of an atom rank the frames of the pool.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from scipy.stats import spearmanr

from ase_finetune import Checkpoint, FineTunedCalculator, Splits, TrainConfig, finetune
from ase_finetune.committee import select_frames
from ase_finetune.data.read import is_isolated_atom
from ase_finetune.environments import environments, nearest
from ase_finetune.evaluate import predict_frames
from systems import get_system

# Learning rates: where the study of acetylacetone ended (examples/results/study/acetylacetone).
MEMBERS = (("adamw", 3e-3), ("soap", 1e-2), ("schedulefree", 1e-2))


def train(
    frames: list[Atoms], valid: list[Atoms], optimizer: str, lr: float, epochs: int, seed: int
) -> Checkpoint:
    """Fine-tune the bundled seed."""
    config = TrainConfig(
        optimizer=optimizer, lr=lr, epochs=epochs, batch_size=2, seed=seed, default_dtype="float32"
    )
    return finetune(Splits(frames, valid), config)


def farthest(checkpoint: Checkpoint, base: Sequence[Atoms], pool: Sequence[Atoms], n: int) -> Any:
    """Return indices of frames whose atoms are farthest from all others', without a committee."""
    rows = environments(checkpoint, [*base, *pool])
    numbers = np.concatenate([a.numbers for a in pool])
    mine = np.concatenate(rows[len(base) :])
    starts = np.cumsum([0, *map(len, pool)])[:-1]
    apart = np.full(len(mine), np.inf)

    def cover(frames: Sequence[Atoms], their_rows: Sequence[Any]) -> None:
        theirs, kinds = np.concatenate(their_rows), np.concatenate([a.numbers for a in frames])
        for z in np.unique(kinds):
            of_z = numbers == z
            apart[of_z] = np.minimum(apart[of_z], nearest(mine[of_z], theirs[kinds == z]))

    cover(base, rows[: len(base)])
    chosen: list[int] = []
    while len(chosen) < n:
        total = np.add.reduceat(apart, starts)
        total[chosen] = -1.0
        chosen.append(int(total.argmax()))
        cover([pool[chosen[-1]]], [rows[len(base) + chosen[-1]]])
    return chosen


def errors(checkpoint: Checkpoint, sets: dict[str, list[Atoms]]) -> dict[str, Any]:
    """Return force errors in meV/A."""
    found = {}
    for name, frames in sets.items():
        predicted = predict_frames(checkpoint, frames)
        apart = 1e3 * np.linalg.norm(predicted.forces - predicted.forces_ref, axis=1)
        found[name] = {
            "rmse": round(predicted.errors().force_rmse_meV_per_A or 0.0, 2),
            "atom_99": round(float(np.quantile(apart, 0.99)), 1),
        }
    return found


def one_seed(seed: int, n_base: int, count: int, epochs: int) -> None:
    """Print a line for each way to choose, and one on the committee."""
    rng = np.random.default_rng(seed)
    data = get_system("acetylacetone").frames()
    atoms = [a for a in data["train"] if is_isolated_atom(a)]
    near = [a for a in data["train"] if not is_isolated_atom(a)]
    near = [near[i] for i in rng.permutation(len(near))]
    far = [data["test_ood"][i] for i in rng.permutation(len(data["test_ood"]))]
    half = len(far) // 2
    base, pool = near[:n_base], [*near[n_base:], *far[:half]]
    sets = {"test_id": data["test_id"], "out_of_distribution": far[half:]}
    members = [
        train([*atoms, *base], data["valid"], name, lr, epochs, seed) for name, lr in MEMBERS
    ]
    found = select_frames(pool, FineTunedCalculator(members), count)
    others = [
        train([*atoms, *base], data["valid"], *MEMBERS[0], epochs, seed + more)
        for more in (1000, 2000)
    ]
    by_seed = select_frames(pool, FineTunedCalculator([members[0], *others]), count)
    predicted = predict_frames(members[0], pool)
    wrong = np.linalg.norm(predicted.forces - predicted.forces_ref, axis=1)
    largest = np.maximum.reduceat(wrong, np.cumsum([0, *map(len, pool)])[:-1])
    for name, one in (("optimizers", found), ("seeds", by_seed)):
        line = {
            "name": f"committee of {name} on acetylacetone, seed {seed}",
            "rank_correlation": round(float(spearmanr(one.disagreement, largest)[0]), 3),
            "median_error_to_disagreement": round(float(np.median(largest / one.disagreement)), 2),
        }
        print(json.dumps(line), flush=True)
    ways = {
        "none": [],
        "random": rng.permutation(len(pool))[:count].tolist(),
        "select": list(found.indices),
        "largest": np.argsort(-found.disagreement)[:count].tolist(),
        "farthest": farthest(members[0], base, pool, count),
    }
    for way, chosen in ways.items():
        frames = [*atoms, *base, *(pool[i] for i in chosen)]
        optimizer, lr = MEMBERS[0]
        tuned = members[0] if not chosen else train(
            frames, data["valid"], optimizer, lr, epochs, seed
        )  # fmt: skip
        line = {
            "name": f"selection on acetylacetone: {way}, seed {seed}",
            "chosen": len(chosen),
            "out_of_distribution_chosen": sum(bool(i >= len(near) - n_base) for i in chosen),
            **errors(tuned, sets),
        }
        print(json.dumps(line), flush=True)


def main() -> None:
    """Print lines for each seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--base", type=int, default=30, help="frames to begin with")
    parser.add_argument("--count", type=int, default=12, help="frames to choose")
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for seed in args.seeds:
        one_seed(seed, args.base, args.count, args.epochs)


if __name__ == "__main__":
    main()
