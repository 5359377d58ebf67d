"""Train the seed foundation on the labelled structures with the project's own trainer.

Runs in the project's environment::

    python train.py --labels data --out runs/seed

A run that was stopped goes on with ``--resume``; ``--foundation CHECKPOINT`` starts from a trained
model instead of random weights, for a second pass at a lower rate. The held-out errors per family
are printed and stored in the checkpoint's metrics.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read

from ase_finetune.checkpoint import Checkpoint
from ase_finetune.config import TrainConfig
from ase_finetune.data.splits import Splits
from ase_finetune.evaluate import predict_frames
from ase_finetune.trainer import finetune

ARCHITECTURE: dict[str, Any] = {
    "hidden_irreps": "64x0e",
    "MLP_irreps": "16x0e",
    "max_ell": 3,
    "correlation": 3,
    "num_interactions": 2,
    "r_max": 5.0,
    "num_bessel": 8,
    "num_polynomial_cutoff": 5,
    "radial_MLP": [32, 32, 32],
}


def load(
    folder: Path, max_force: float, families: list[str] | None, batches: list[int] | None = None
) -> Splits:
    """Read labelled families below `max_force` (eV/A); the splits are named in the frames."""
    named: dict[str, list[Atoms]] = {"train": [], "valid": [], "test": []}
    for path in sorted([*folder.glob("*.extxyz"), *folder.glob("*.extxyz.xz")]):
        if batches is not None and int(path.name.split(".")[0].rpartition("-")[2]) not in batches:
            continue
        for atoms in read(path, ":", format="extxyz"):
            if families is not None and atoms.info["config_type"] not in families:
                continue
            if np.linalg.norm(atoms.arrays["REF_forces"], axis=1).max() <= max_force:
                if atoms.info["config_type"] == "isolated":
                    atoms.info["config_type"] = "IsolatedAtom"
                named[atoms.info["split"]].append(atoms)
    return Splits.from_named(named)


def family_errors(checkpoint: Checkpoint, frames: list[Atoms]) -> dict[str, dict[str, float]]:
    """Errors per family: meV/atom, meV/A, percent of the RMS force, meV/A^3."""
    result = {}
    for family in sorted({a.info["config_type"] for a in frames}):
        chosen = [a for a in frames if a.info["config_type"] == family]
        p = predict_frames(checkpoint, chosen, dtype="float32")

        def rms(x: Any) -> float:
            return float(np.sqrt(np.mean(np.square(x))))

        energy, force = (p.energy - p.energy_ref) / p.n_atoms, rms(p.forces - p.forces_ref)
        result[family] = {
            "frames": float(len(chosen)),
            "energy_rmse_meV_per_atom": 1e3 * rms(energy),
            "force_rmse_meV_per_A": 1e3 * force,
            "force_percent_of_rms": 100 * force / max(rms(p.forces_ref), 1e-9),
            "stress_rmse_meV_per_A3": 1e3 * rms(p.stress - p.stress_ref),
        }
    return result


def print_table(errors: Mapping[str, Mapping[str, float]]) -> None:
    """Print the errors as a Markdown table."""
    print("| family | frames | meV/atom | meV/A | % of RMS force | meV/A^3 |")
    print("|---|---|---|---|---|---|")
    for family, row in errors.items():
        count, energy, force, percent, stress = row.values()
        numbers = f"{count:.0f} | {energy:.1f} | {force:.0f} | {percent:.0f} | {stress:.2f}"
        print(f"| {family} | {numbers} |")


def main() -> None:
    """Train, evaluate, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--max-force", type=float, default=20.0, help="eV/A, frames above are left out"
    )
    parser.add_argument("--families", nargs="*")
    parser.add_argument("--batches", nargs="*", type=int, help="of sample.py; default all")
    parser.add_argument("--foundation", default="scratch")
    parser.add_argument("--epochs", type=int, default=45)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--schedule", default="cosine", choices=["cosine", "constant"])
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--energy-weight", type=float, default=40.0)
    parser.add_argument("--forces-weight", type=float, default=10.0)
    parser.add_argument("--stress-weight", type=float, default=300.0)
    parser.add_argument("--E0s", default="isolated")
    parser.add_argument("--hidden", default=ARCHITECTURE["hidden_irreps"])
    parser.add_argument("--max-ell", type=int, default=ARCHITECTURE["max_ell"])
    parser.add_argument("--correlation", type=int, default=ARCHITECTURE["correlation"])
    parser.add_argument("--radial", type=int, nargs="*", default=ARCHITECTURE["radial_MLP"])
    parser.add_argument("--r-max", type=float, default=ARCHITECTURE["r_max"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    splits = load(args.labels, args.max_force, args.families, args.batches)
    atoms = sum(map(len, splits.train))
    print(
        f"{len(splits.train)} frames to train on, {atoms} atoms; {len(splits.valid)} valid",
        flush=True,
    )
    architecture = {
        **ARCHITECTURE,
        "hidden_irreps": args.hidden,
        "max_ell": args.max_ell,
        "correlation": args.correlation,
        "r_max": args.r_max,
        "radial_MLP": args.radial,
    }
    scratch = args.foundation == "scratch"
    config = TrainConfig(
        foundation=args.foundation,
        architecture=architecture if scratch else {},
        lr=args.lr,
        schedule=args.schedule,
        warmup_fraction=0.01,
        epochs=args.epochs,
        batch_size=args.batch_size,
        energy_weight=args.energy_weight,
        forces_weight=args.forces_weight,
        stress_weight=args.stress_weight,
        E0s=args.E0s if scratch else "foundation",
        ema_decay=args.ema,
        clip=10.0,
        default_dtype="float32",
        device=args.device,
        seed=args.seed,
    )

    def report(record: Mapping[str, Any]) -> None:
        print(
            f"epoch {record['epoch']} loss {record['train_loss']:.4f} "
            f"valid {record['valid_force_rmse_meV_per_A']:.1f} meV/A "
            f"{record['valid_energy_rmse_meV_per_atom']:.1f} meV/atom {record['wall_s']:.0f} s",
            flush=True,
        )

    checkpoint = finetune(splits, config, out=args.out, progress=report, resume=args.resume)
    errors = family_errors(checkpoint, splits.tests["test"])
    print_table(errors)
    metrics = {**checkpoint.metrics, "held_out": errors}
    # A foundation: nothing was fine-tuned on labels of a user.
    checkpoint.replace(metrics=metrics, stage="zero_shot").save(args.out / "checkpoint")


if __name__ == "__main__":
    main()
