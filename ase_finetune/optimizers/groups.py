"""Parameter groups: which weights of a MACE module decay."""

from __future__ import annotations

from typing import Any

import torch


def parameter_groups(module: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split a MACE module's parameters into a decaying and a non-decaying group.

    Decay acts on the linear maps of the interactions and on the product basis, as in mace-torch;
    embeddings, radial functions, skip connections and readouts are left alone.

    Parameters
    ----------
    module
        A MACE module.
    weight_decay
        For the decaying group.
    """
    decay: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = name.startswith("products.") or (
            name.startswith("interactions.") and (".linear.weight" in name or ".linear_up." in name)
        )
        (decay if decays else rest).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decay, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return [g for g in groups if g["params"]]
