"""Parameter groups: which weights of a MACE module decay, and where the matrices in them are."""

from __future__ import annotations

from typing import Any

import torch

from ase_finetune.fast_mace import plain
from ase_finetune.optimizers.blocks import matrix_blocks


def parameter_groups(
    module: torch.nn.Module, weight_decay: float, *, blocks: bool = False
) -> list[dict[str, Any]]:
    """Split a MACE module's parameters into a decaying and a non-decaying group.

    Decay acts on the linear maps of the interactions and on the product basis; embeddings, radial
    functions, skip connections and readouts are left alone. mace-torch 0.3.16 (``mace.tools.
    scripts_utils.get_params_options``) does the same but for ``linear_up``, which decays here only.

    Parameters
    ----------
    module
        A MACE module.
    weight_decay
        For the decaying group.
    blocks
        Whether the groups tell where their matrices are, as ``(start, shape)``.
    """
    decay: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    matrices = matrix_blocks(plain(module)) if blocks else {}
    places = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = name.startswith("products.") or (
            name.startswith("interactions.") and (".linear.weight" in name or ".linear_up." in name)
        )
        (decay if decays else rest).append(parameter)
        # Plain tuples, so that a saved state holds nothing but plain data.
        places[parameter] = [tuple(block) for block in matrices.get(name, [])]
    groups: list[dict[str, Any]] = [
        {"params": decay, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    if blocks:
        for group in groups:
            group["blocks"] = [places[parameter] for parameter in group["params"]]
    return [g for g in groups if g["params"]]
