"""The optimizer registry: one frozen row each, nothing dropped silently."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ase_finetune.errors import ConfigError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class OptimizerInfo:
    """A row of the registry.

    Attributes
    ----------
    name, description, paper
        As shown to users.
    target
        ``module:class``, imported when it is built.
    lr, lr_grid
        Default learning rate for fine-tuning MACE, and those that a search tries.
    defaults
        Keywords set by us; the user's options go over them.
    averages
        Whether it has its own averaged point, which is then what is validated and deployed; no
        second average and no schedule go with it.
    warmup_fraction
        Share of the steps that it wants for warming up.
    blocks
        Whether its parameter groups tell where matrices are.
    """

    name: str
    description: str
    paper: str
    target: str
    lr: float
    lr_grid: tuple[float, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    averages: bool = False
    warmup_fraction: float = 0.0
    blocks: bool = False

    def load(self) -> type[torch.optim.Optimizer]:
        """Import the class."""
        import importlib

        module, _, name = self.target.partition(":")
        found: type[torch.optim.Optimizer] = getattr(importlib.import_module(module), name)
        return found


_ADAM = {"betas": (0.9, 0.999), "eps": 1e-8}
_GRID = (1e-4, 3e-4, 1e-3, 3e-3)
_REGISTRY = {
    row.name: row
    for row in (
        OptimizerInfo(
            name="adam",
            description="Adam, no AMSGrad; decay is added to the gradient",
            paper="Kingma and Ba, arXiv 1412.6980",
            target="torch.optim:Adam",
            lr=1e-3,
            lr_grid=_GRID,
            defaults={**_ADAM, "amsgrad": False},
        ),
        OptimizerInfo(
            name="adamw",
            description="Adam with decoupled weight decay, no AMSGrad",
            paper="Loshchilov and Hutter, arXiv 1711.05101",
            target="torch.optim:AdamW",
            lr=1e-3,
            lr_grid=_GRID,
            defaults={**_ADAM, "amsgrad": False},
        ),
        OptimizerInfo(
            name="radam",
            description="Rectified Adam, decoupled decay; the rectifier is a long warm-up",
            paper="Liu et al., arXiv 1908.03265",
            target="torch.optim:RAdam",
            lr=3e-3,
            lr_grid=(3e-4, 1e-3, 3e-3, 1e-2),
            defaults={**_ADAM, "decoupled_weight_decay": True},
        ),
        OptimizerInfo(
            name="sgd",
            description="Gradient descent with Nesterov momentum; decay is added to the gradient",
            paper="Sutskever et al., ICML 2013",
            target="torch.optim:SGD",
            lr=1e-2,
            lr_grid=(1e-4, 1e-3, 1e-2, 1e-1, 1.0),
            defaults={"momentum": 0.9, "nesterov": True},
        ),
        OptimizerInfo(
            name="lamb",
            description="Adam's direction, scaled per tensor to the norm of its weights",
            paper="You et al., arXiv 1904.00962",
            target="ase_finetune.optimizers.lamb:Lamb",
            lr=1e-3,
            lr_grid=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
            defaults={"betas": (0.9, 0.999), "eps": 1e-6},
        ),
        OptimizerInfo(
            name="ranger",
            description="Rectified Adam with Lookahead, decoupled decay",
            paper="Liu et al., arXiv 1908.03265; Zhang et al., arXiv 1907.08610",
            target="ase_finetune.optimizers.ranger:Ranger",
            lr=3e-3,
            lr_grid=(3e-4, 1e-3, 3e-3, 1e-2),
            defaults={"betas": (0.95, 0.999), "eps": 1e-5, "k": 6, "alpha": 0.5},
        ),
        OptimizerInfo(
            name="schedulefree",
            description="AdamW without a schedule; its own average is what is deployed",
            paper="Defazio et al., arXiv 2405.15682",
            target="schedulefree:AdamWScheduleFree",
            lr=3e-3,
            lr_grid=(1e-3, 3e-3, 1e-2),
            defaults={**_ADAM, "foreach": False},
            averages=True,
            warmup_fraction=0.05,
        ),
        OptimizerInfo(
            name="muon",
            description="Orthogonal momentum for matrices, AdamW for the rest",
            paper="Jordan et al. 2024; Liu et al., arXiv 2502.16982",
            target="ase_finetune.optimizers.muon:Muon",
            lr=3e-4,
            lr_grid=(1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
            defaults={**_ADAM, "momentum": 0.95},
            blocks=True,
        ),
        OptimizerInfo(
            name="soap",
            description="Adam in Shampoo's eigenbasis for matrices, AdamW for the rest",
            paper="Vyas et al., arXiv 2409.11321",
            target="ase_finetune.optimizers.soap:Soap",
            lr=1e-3,
            lr_grid=_GRID,
            defaults={"betas": (0.95, 0.95), "eps": 1e-8, "refresh": 10},
            blocks=True,
        ),
    )
}
# What the trainer itself sets; an option of that name would be overruled.
_RESERVED = ("params", "lr", "weight_decay")


def list_optimizers() -> list[str]:
    """Return the names that :func:`build_optimizer` takes."""
    return list(_REGISTRY)


def optimizer_info(name: str) -> OptimizerInfo:
    """Return the registry row of a name.

    Raises
    ------
    ConfigError
        For an unknown name; the sentence lists the valid ones.
    """
    if name not in _REGISTRY:
        raise ConfigError(f"Unknown optimizer {name!r}; choose one of {', '.join(_REGISTRY)}.")
    return _REGISTRY[name]


def check_optimizer(name: str, options: Mapping[str, Any]) -> None:
    """Refuse unknown names, and without importing torch, reserved options.

    Raises
    ------
    ConfigError
        If the name is unknown or an option belongs to the trainer.
    """
    optimizer_info(name)
    for key in options:
        if key in _RESERVED:
            raise ConfigError(f"Set {key} itself, not as an optimizer option.")


def build_optimizer(
    name: str,
    parameters: Iterable[torch.nn.Parameter] | list[dict[str, Any]],
    *,
    lr: float | None = None,
    weight_decay: float = 0.0,
    options: Mapping[str, Any] | None = None,
) -> torch.optim.Optimizer:
    """Build an optimizer of the registry.

    Parameters
    ----------
    name
        As in :func:`list_optimizers`.
    parameters
        Parameters or parameter groups.
    lr
        Learning rate; None takes the registry's.
    weight_decay
        Decay, for groups that do not state their own.
    options
        Further keywords of the class.

    Raises
    ------
    ConfigError
        If the class does not take an option or its value.
    """
    row = optimizer_info(name)
    given = dict(options or {})
    check_optimizer(name, given)
    cls = row.load()
    valid = [k for k in inspect.signature(cls.__init__).parameters if k != "self"]
    for key in given:
        if key not in valid:
            raise ConfigError(
                f"Optimizer {name} has no option {key!r}; it takes "
                f"{', '.join(k for k in valid if k not in _RESERVED)}."
            )
    keywords = {**row.defaults, **given, "lr": row.lr if lr is None else lr}
    try:
        # Some classes look at their settings at the first step only.
        _made(row, _trial(), weight_decay, keywords).step()
        return _made(row, parameters, weight_decay, keywords)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"Optimizer {name} does not take these settings: {error}.") from error


def _made(
    row: OptimizerInfo, parameters: Any, weight_decay: float, keywords: Mapping[str, Any]
) -> torch.optim.Optimizer:
    made: Any = row.load()
    optimizer: torch.optim.Optimizer = made(parameters, weight_decay=weight_decay, **keywords)
    if row.averages:
        if not min(g["betas"][0] for g in optimizer.param_groups) > 0.0:
            raise ValueError("the first of betas must be above 0")
        optimizer.train()  # type: ignore[attr-defined]
    return optimizer


def _trial() -> list[torch.nn.Parameter]:
    import torch

    parameter = torch.nn.Parameter(torch.ones(2, 2))
    parameter.grad = torch.ones(2, 2)
    return [parameter]
