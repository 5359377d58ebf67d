"""Fine-tuning from the seed against training from scratch, at equal budget, on bundled systems.

    python compare.py --out compare.json            # all systems, seeds 1 to 3; resumes

Both use the system's recipe, the same architecture, frames and number of passes; only the first
weights differ.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from ase_finetune import RefineConfig, Splits, TrainConfig, finetune, refine
from ase_finetune.evaluate import predict_frames
from ase_finetune.foundations import SEED
from systems import get_system, list_systems

SEEDS = (1, 2, 3)
STARTS = ("seed", "scratch")


def seed_weights() -> str:
    """Hash of the bundled seed's weights, so that results of two seeds are never mixed."""
    return str(json.loads((SEED / "checkpoint.json").read_text())["tensors_sha256"])


def run(name: str, foundation: str, seed: int) -> dict[str, Any]:
    """Fine-tune and refine by the system's recipe; errors of the last stage per test set."""
    system = get_system(name)
    recipe = dict(system.recipe)
    refinement = recipe.pop("refine", None)
    splits = Splits.from_named(system.frames())
    config = TrainConfig(**recipe, foundation=foundation, seed=seed)
    checkpoint = finetune(splits, config)
    budget, ended = checkpoint.metrics["gradient_equivalents"], "no refinement"
    if refinement is not None:
        checkpoint = refine(checkpoint, splits, RefineConfig(**refinement))
        budget += checkpoint.metrics["gradient_equivalents"]
        ended = checkpoint.metrics["ended"]
    errors = {
        split: dataclasses.asdict(predict_frames(checkpoint, frames).errors())
        for split, frames in splits.tests.items()
    }
    return {
        "system": name,
        "foundation": foundation,
        "seed": seed,
        "weights": seed_weights() if foundation == "seed" else "random",
        "data_hash": splits.data_hash(),
        "gradient_equivalents": budget,
        "refinement_ended": ended,
        "errors": errors,
    }


def table(results: list[dict[str, Any]]) -> None:
    """Print mean and range over seeds, and the mean paired log-ratio of the force errors."""
    for name in dict.fromkeys(r["system"] for r in results):
        for split in ("test_id", "test_ood"):
            by_start = {
                start: {
                    r["seed"]: r["errors"][split]["force_rmse_meV_per_A"]
                    for r in results
                    if (r["system"], r["foundation"]) == (name, start)
                }
                for start in STARTS
            }
            for start, values in by_start.items():
                if values:
                    shown = ", ".join(f"{v:.1f}" for v in values.values())
                    print(f"{name:14s} {split:9s} {start:8s} {shown} meV/A")
            seed, scratch = (by_start[s] for s in STARTS)
            shared = sorted(set(seed) & set(scratch))
            if shared:
                ratios = np.log([seed[s] / scratch[s] for s in shared])
                print(
                    f"{name:14s} {split:9s} seed/scratch {np.exp(ratios.mean()):.2f} "
                    f"({np.exp(ratios.min()):.2f} to {np.exp(ratios.max()):.2f})"
                )


def main() -> None:
    """Run what the output file lacks, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--systems", nargs="*", default=list_systems(), choices=list_systems())
    args = parser.parse_args()
    results = json.loads(args.out.read_text()) if args.out.exists() else []
    if any(r["weights"] not in ("random", seed_weights()) for r in results):
        raise SystemExit(f"{args.out} holds runs of another seed; choose another file.")
    for name in args.systems:
        for seed in SEEDS:
            for start in STARTS:
                key = (name, start, seed)
                if any((r["system"], r["foundation"], r["seed"]) == key for r in results):
                    continue
                results.append(run(*key))
                args.out.write_text(json.dumps(results, indent=1) + "\n")
                print(*key, results[-1]["errors"]["test_id"], flush=True)
    table(results)


if __name__ == "__main__":
    main()
