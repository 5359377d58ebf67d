"""Fine-tuning from the seed against training from scratch, at equal budget, on bundled systems.

    python compare.py --out compare.json            # all systems, seeds 1 to 3; resumes

Both use the system's recipe without its replay frames, the same architecture, frames and number of
passes; only the first weights differ.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
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


def recipe_of(name: str) -> dict[str, Any]:
    """Return the system's recipe without replay frames, which random weights cannot label."""
    return {k: v for k, v in get_system(name).recipe.items() if k != "replay_weight"}


def run(name: str, foundation: str, seed: int) -> dict[str, Any]:
    """Fine-tune and refine by `recipe_of`; errors of the last stage per test set."""
    system = get_system(name)
    recipe = recipe_of(name)
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
        "recipe": recipe_of(name),
        "weights": seed_weights() if foundation == "seed" else "random",
        "data_hash": splits.data_hash(),
        "gradient_equivalents": budget,
        "refinement_ended": ended,
        "errors": errors,
    }


def paired(
    results: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[str, str, dict[str, list[float]], list[float]]]:
    """Yield system, test set, force errors (meV/A) by start, and seed/scratch by training seed."""
    for name in dict.fromkeys(r["system"] for r in results):
        for split in ("test_id", "test_ood"):
            found = {
                (r["foundation"], r["seed"]): r["errors"][split]["force_rmse_meV_per_A"]
                for r in results
                if r["system"] == name
            }
            shared = [s for s in SEEDS if all((start, s) in found for start in STARTS)]
            if shared:
                errors = {start: [found[start, s] for s in shared] for start in STARTS}
                ratios = [found["seed", s] / found["scratch", s] for s in shared]
                yield name, split, errors, ratios


def table(results: Sequence[Mapping[str, Any]]) -> None:
    """Print the errors, and the mean and range of the paired ratios."""
    for name, split, errors, ratios in paired(results):
        for start, values in errors.items():
            shown = ", ".join(f"{v:.1f}" for v in values)
            print(f"{name:14s} {split:9s} {start:8s} {shown} meV/A")
        mean = np.exp(np.log(ratios).mean())
        print(
            f"{name:14s} {split:9s} seed/scratch {mean:.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
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
    if any(r["recipe"] != recipe_of(r["system"]) for r in results):
        raise SystemExit(f"{args.out} holds runs by another recipe; choose another file.")
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
