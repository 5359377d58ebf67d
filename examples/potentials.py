"""Potentials that pages of the gallery compare: made once, kept in ``runs/gallery``.

The folder of each is named by a digest of its settings, its labelled frames and the foundation, so
that what is there is never stale, and a page that is stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gallery
import numpy as np

from ase_finetune import (
    Checkpoint,
    FineTunedCalculator,
    RefineConfig,
    Splits,
    TrainConfig,
    finetune,
    refine,
)
from ase_finetune.start import training_frames
from properties import evaluate
from systems import get_system

RUNS = gallery.EXAMPLES.parent / "runs" / "gallery"
# Learning rates: where the grid search of the stored study of Mo ended, on a seed of its own.
STUDY = gallery.EXAMPLES / "results" / "study" / "mo" / "study.json"
RATES = {name: one["lr"] for name, one in json.loads(STUDY.read_text())["selections"]["mo"].items()}
BATCH = 4  # frames per step, as there
METHODS = {"lbfgs": "L-BFGS", "lm": "LM"}


def training(system: str, optimizer: str, epochs: int, more: int = 0) -> TrainConfig:
    """Return the settings of a page's trainings: the system's loss, a constant learning rate.

    With ``more``, that many epochs follow with the loss weights of the refinement, at a third of
    the learning rate: what a refinement of as many gradients must be measured against.
    """
    recipe = get_system(system).recipe
    second: dict[str, Any] = {}
    if more:
        weights = ("energy_weight", "forces_weight", "stress_weight")
        second = {
            f"stage_two_{name}": recipe["refine"][name]
            for name in weights
            if name in recipe["refine"]
        }
        second |= {"start_stage_two": epochs, "stage_two_lr": RATES[optimizer] / 3.0}
    return TrainConfig(
        optimizer=optimizer,
        lr=RATES[optimizer],
        epochs=epochs + more,
        batch_size=BATCH,
        energy_weight=recipe["energy_weight"],
        forces_weight=recipe["forces_weight"],
        stress_weight=recipe["stress_weight"],
        default_dtype="float32",
        **second,
    )


def refinement(system: str, method: str, evaluations: int) -> RefineConfig:
    """Return the settings of a page's refinements: the system's, with a budget of one's own."""
    recipe = get_system(system).recipe["refine"]
    settings = {k: v for k, v in recipe.items() if k not in ("method", "evaluations")}
    return RefineConfig(method=method, evaluations=evaluations, **settings)


def splits_of(system: str, without: tuple[str, ...] = ()) -> Splits:
    """Return the frames of a system, to train on all but those whose ids begin so."""
    sets = get_system(system).frames()
    sets["train"] = [a for a in sets["train"] if not a.info["id"].startswith(without)]
    return Splits.from_named(sets)


def fine_tuned(
    system: str, optimizer: str, epochs: int, more: int = 0, without: tuple[str, ...] = ()
) -> Path:
    """Return the checkpoint folder of a fine-tuned potential, training it unless it is there."""
    config = training(system, optimizer, epochs, more)
    splits = splits_of(system, without)
    run = RUNS / system / f"{optimizer}_{_digest(config.resolved(), splits)}"
    folder = run / "finetuned"
    if not (folder / "checkpoint.json").exists():
        print(f"training {gallery.shown(run)} for {config.epochs} epochs", flush=True)
        run.mkdir(parents=True, exist_ok=True)
        going = (run / "state.pt").exists()
        finetune(splits, config, out=run, resume=going).save(folder)
    return folder


def refined(
    system: str, tuned: Path, method: str, evaluations: int, without: tuple[str, ...] = ()
) -> Path:
    """Return the checkpoint folder of a refined potential, refining it unless it is there."""
    config = refinement(system, method, evaluations)
    settings = json.dumps(vars(config), sort_keys=True)
    folder = tuned.with_name(f"{method}_{hashlib.sha256(settings.encode()).hexdigest()[:8]}")
    if not (folder / "checkpoint.json").exists():
        print(f"refining {gallery.shown(folder)}, {evaluations} evaluations", flush=True)
        refine(Checkpoint.load(tuned), splits_of(system, without), config).save(folder)
    return folder


def summary(system: str, checkpoint: str | Path, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return how a potential was made, and its force errors on the system's frames."""
    loaded = Checkpoint.load(checkpoint)
    frames = dict(splits_of(system, without).items())
    calculator = FineTunedCalculator(loaded)
    made: dict[str, Any] = {}
    if loaded.stage != "zero_shot":  # whose settings are those of the pretraining
        refine_config = loaded.config.get("refine") or {}
        made = {
            "optimizer": loaded.config["optimizer"],
            "lr": loaded.config["lr"],
            "epochs": loaded.config["epochs"],
            "method": refine_config.get("method"),
            "evaluations": refine_config.get("evaluations"),
            "accepted": loaded.metrics.get("accepted"),
            "wall_s": loaded.metrics["wall_s"],
        }
    return {
        "stage": loaded.stage,
        **made,
        "frames": {name: len(training_frames(frames[name])) for name in ("train", "valid")},
        "force_rmse_meV_per_A": {
            name: force_rmse(calculator, frames[name]) for name in ("valid", "test_id", "test_ood")
        },
        "test_id_by_element_meV_per_A": {
            element: force_rmse(calculator, frames["test_id"], element)
            for element in get_system(system).elements
        },
    }


def force_rmse(calculator: Any, frames: list[Any], element: str | None = None) -> float:
    """Return the root mean square error of force components, meV/A, of all or of one element."""
    bare = [_without_labels(frame) for frame in frames]
    found = evaluate(bare, calculator, stress=False)
    errors = [
        (one.forces - frame.arrays["REF_forces"])[
            slice(None) if element is None else frame.symbols == element
        ]
        for one, frame in zip(found, frames, strict=True)
    ]
    return 1e3 * float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))


def label(optimizer: str | None, method: str | None = None) -> str:
    """Return how figures name a potential."""
    if optimizer is None:
        return "zero-shot"
    return optimizer if method is None else f"{optimizer} + {METHODS[method]}"


def _without_labels(frame: Any) -> Any:
    bare = frame.copy()
    bare.calc = None
    return bare


def _digest(settings: Mapping[str, Any], splits: Splits) -> str:
    seed = Checkpoint.load("seed").fingerprint()
    text = json.dumps([settings, splits.data_hash(), seed], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
