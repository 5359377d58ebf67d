"""The state that an optimizer reaches at fixed weights, from the gradients of mini-batches.

Every optimizer sees the same sequence of mini-batches at the same theta, with a learning rate of
zero. Its P is then free of the trajectory that it would have taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ase_finetune.curvature.preconditioners import Damped, LowRank
from ase_finetune.curvature.states import from_lbfgs
from ase_finetune.errors import ConfigError
from ase_finetune.levenberg_marquardt import SMALLEST_DIAGONAL, LMSettings
from ase_finetune.optimizers import build_optimizer, optimizer_info
from ase_finetune.optimizers.groups import parameter_groups


@dataclass(frozen=True)
class Statistics:
    """How states are gathered.

    Attributes
    ----------
    steps, batch_size, seed
        Mini-batches, frames in each, and the seed of their order.
    clip
        Largest gradient norm, as in training (0: none).
    weight_decay
        Of the optimizers.
    options
        Keywords of one optimizer by its name, as in training.
    """

    steps: int = 200
    batch_size: int = 4
    seed: int = 1
    clip: float = 1.0
    weight_decay: float = 0.0
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def batch_gradients(frames: torch.Tensor, settings: Statistics) -> Iterator[torch.Tensor]:
    """Yield gradients of mini-batches as training has them, each of shape (size,).

    Parameters
    ----------
    frames
        Of each frame's share of the loss, shape (frames, size).
    settings
        How many, how large, and their order, shuffled anew in every pass.
    """
    n, generator, done = len(frames), torch.Generator().manual_seed(settings.seed), 0
    while True:
        order = torch.randperm(n, generator=generator)
        for chosen in order.split(settings.batch_size):
            gradient = frames[chosen].sum(0) * (n / len(chosen))
            norm = float(gradient.norm())
            if settings.clip > 0.0 and norm > settings.clip:
                gradient = gradient * (settings.clip / norm)
            yield gradient
            done += 1
            if done == settings.steps:
                return


def state_at_rest(
    name: str, module: torch.nn.Module, frames: torch.Tensor, settings: Statistics
) -> torch.optim.Optimizer:
    """Let an optimizer of the registry see mini-batches without moving, and return it.

    Raises
    ------
    ConfigError
        If it moved the weights at a learning rate of zero.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in parameters]
    optimizer = build_optimizer(
        name,
        parameter_groups(module, settings.weight_decay, blocks=optimizer_info(name).blocks),
        lr=0.0,
        options=settings.options.get(name),
    )
    for gradient in batch_gradients(frames, settings):
        for parameter, part in zip(
            parameters, gradient.split([p.numel() for p in parameters]), strict=True
        ):
            # Cloned: ScheduleFree writes into the gradient.
            parameter.grad = part.view_as(parameter).clone()
        optimizer.step()
    for parameter, old in zip(parameters, before, strict=True):
        parameter.grad = None
        if not torch.equal(parameter.detach(), old):
            raise ConfigError(f"Optimizer {name} moved the weights at a learning rate of zero.")
    return optimizer


def lbfgs_at_rest(J: torch.Tensor, rho: torch.Tensor, iterations: int, history: int) -> LowRank:
    """Return L-BFGS's matrix after some iterations on the Gauss-Newton model of the loss.

    The model |rho + J d|^2 / 2 stays at one theta, and each of its pairs (s, y) has s^T y > 0.

    Parameters
    ----------
    J, rho
        Shapes (rows, size) and (rows,).
    iterations, history
        Of torch's L-BFGS with a strong Wolfe search.

    Raises
    ------
    ConfigError
        If it ends before there are pairs.
    """
    d = torch.nn.Parameter(J.new_zeros(J.shape[1]))
    optimizer = torch.optim.LBFGS(
        [d],
        lr=1.0,
        max_iter=iterations,
        max_eval=20 * iterations,
        history_size=history,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        change = rho + J @ d.detach()
        d.grad = change @ J
        return 0.5 * float(change.square().sum())

    optimizer.step(closure)
    return from_lbfgs(optimizer)


def lm_at_rest(J: torch.Tensor, settings: LMSettings) -> tuple[Damped, float]:
    """Return the map of the first Levenberg-Marquardt step, and its damping.

    Raises
    ------
    ConfigError
        If no row of J acts.
    """
    scale = None
    if settings.scaling > 0.0 and settings.proximal == 0.0:
        D = torch.linalg.vector_norm(J, dim=0).square()
        D = (D / D.max().clamp(min=1e-300)).clamp(min=SMALLEST_DIAGONAL)
        scale = D ** (-0.5 * settings.scaling)
    scaled = J if scale is None else J * scale
    largest = float(torch.linalg.matrix_norm(scaled @ scaled.T, 2))
    mu = settings.damping * largest + settings.proximal
    if not (math.isfinite(mu) and mu > 0.0):
        raise ConfigError("The residuals do not depend on the weights, so there is no step.")
    return Damped(J, mu, scale), mu
