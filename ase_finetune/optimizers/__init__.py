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
    lr
        Default learning rate for fine-tuning MACE.
    defaults
        Keywords set by us; the user's options go over them.
    """

    name: str
    description: str
    paper: str
    target: str
    lr: float
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> type[torch.optim.Optimizer]:
        """Import the class."""
        import importlib

        module, _, name = self.target.partition(":")
        found: type[torch.optim.Optimizer] = getattr(importlib.import_module(module), name)
        return found


_REGISTRY = {
    row.name: row
    for row in (
        OptimizerInfo(
            name="adamw",
            description="Adam with decoupled weight decay, no AMSGrad",
            paper="Loshchilov and Hutter, arXiv 1711.05101",
            target="torch.optim:AdamW",
            lr=1e-3,
            defaults={"betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False},
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
        return cls(parameters, weight_decay=weight_decay, **keywords)  # type: ignore[call-arg]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"Optimizer {name} does not take these settings: {error}.") from error
