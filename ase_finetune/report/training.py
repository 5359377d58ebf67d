"""Figures of a report that are about training: learning curves and parity plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ase_finetune.report import figures, tables


def learning(log: Sequence[Mapping[str, Any]], errors: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Learning curves of the validation forces and the training loss; none without a log."""
    if not log:
        return []
    before = errors.get("zero_shot", {}).get("valid", {})
    return [
        figures.entry(
            figures.learning_curve(
                log, "valid_force_rmse_meV_per_A", "Validation force RMSE (meV/Å)",
                before=before.get("force_rmse_meV_per_A"),
            ),
            "Validation forces",
            "Validation force error against gradient equivalents, by stage",
        ),
        figures.entry(
            figures.learning_curve(log, "train_loss", "Training loss"),
            "Training loss",
            "Training loss against gradient equivalents, by stage",
        ),
    ]  # fmt: skip


def parity(
    predictions: Mapping[str, NDArray[Any]], errors: Mapping[str, Any], stages: Sequence[str]
) -> list[dict[str, Any]]:
    """Energies per atom and forces of the test sets against their labels."""
    # Zero-shot and the last stage; a third one would hide what lies beneath it.
    chosen = list(dict.fromkeys((stages[0], stages[-1])))
    splits = tables.splits_of(errors)
    tests = [split for split in splits if split not in ("train", "valid")] or splits[:1]
    drawn = []
    for split in tests:
        energies, forces = {}, {}
        for stage in chosen:
            key = f"{stage}/{split}/"
            if f"{key}energy_ref" not in predictions:
                continue
            n_atoms = predictions[f"{key}n_atoms"]
            reference = predictions[f"{key}energy_ref"] / n_atoms
            if np.isfinite(reference).any():
                mean = np.nanmean(reference)
                predicted = predictions[f"{key}energy_pred"] / n_atoms
                energies[stage] = (1e3 * (reference - mean), 1e3 * (predicted - mean))
            forces[stage] = (
                predictions[f"{key}forces_ref"], predictions[f"{key}forces_pred"]
            )  # fmt: skip
        for pairs, label, unit in (
            (energies, "energy", "meV/atom"), (forces, "force", "eV/Å")
        ):  # fmt: skip
            if pairs:
                figure = figures.parity(pairs, label, unit)
                alt = f"Predicted against DFT {label} on {split}"
                drawn.append(figures.entry(figure, f"{split}: {label}", alt))
    return drawn
