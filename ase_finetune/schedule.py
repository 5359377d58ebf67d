"""Order of the data and learning rate along a training, as functions of what has happened."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from ase_finetune.config import TrainConfig


def epoch_order(seed: int, epoch: int, n: int, size: int) -> list[int]:
    """Return the frames of an epoch: its part of one shuffled pass over the data after another.

    Parameters
    ----------
    seed, epoch
        Of the order; epochs are counted from 0.
    n, size
        Frames in all, and in an epoch.
    """
    order: list[int] = []
    for turn in range(epoch * size // n, ((epoch + 1) * size - 1) // n + 1):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + turn)
        shuffled = torch.randperm(n, generator=generator).tolist()
        order += shuffled[max(epoch * size - turn * n, 0) : (epoch + 1) * size - turn * n]
    return order


def warmup_and_decay(config: TrainConfig, step: int, total: int) -> float:
    """Return the factor of warm-up and cosine at a step of ``total`` steps, counted from 0."""
    warmup = config.warmup * total
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
    return 1.0


def plateau(config: TrainConfig, scores: Iterable[float]) -> float:
    """Return the factor of the plateau schedule after epochs with these validation errors.

    Each time that ``scheduler_patience`` epochs in a row bring no new best, the learning rate is
    multiplied by ``lr_factor`` and the count begins again. A second stage begins anew.
    """
    if config.schedule != "plateau":
        return 1.0
    best, waited, factor = math.inf, 0, 1.0
    for score in scores:
        waited = 0 if score < best else waited + 1
        best = min(best, score)
        if waited == config.scheduler_patience:
            waited, factor = 0, factor * config.lr_factor
    return factor
