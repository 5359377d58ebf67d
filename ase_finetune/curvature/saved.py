"""The optimizer state that a training run left in ``state.pt``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ase_finetune.errors import CheckpointError
from ase_finetune.optimizers import build_optimizer, optimizer_info
from ase_finetune.optimizers.groups import parameter_groups
from ase_finetune.training_state import STATE_FILE
from ase_finetune.weights import restore


@dataclass(frozen=True)
class SavedRun:
    """A run that was trained, as its state has it.

    Attributes
    ----------
    name
        Of its folder.
    optimizer, options
        In the registry, and the keywords it was given.
    steps
        That the optimizer has taken.
    lr, weight_decay, freeze
        As configured.
    parameters, state
        Where gradients were taken last, and the optimizer's state there.
    """

    name: str
    optimizer: str
    options: Mapping[str, Any]
    steps: int
    lr: float | None
    weight_decay: float
    freeze: tuple[str, ...]
    parameters: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> SavedRun:
        """Read the state in a run's folder.

        Raises
        ------
        CheckpointError
            If there is none, it is damaged, or its optimizer has not stepped yet.
        """
        path = folder / STATE_FILE
        if not path.is_file():
            raise CheckpointError(f"There is no {STATE_FILE} in {folder}.")
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            config = json.loads(saved["identity"])["config"]
            steps = int(saved["state"]["step"])
            found = cls(
                name=folder.resolve().name,
                optimizer=config["optimizer"],
                options=config["optimizer_options"],
                steps=steps,
                lr=config["lr"],
                weight_decay=config["weight_decay"],
                freeze=tuple(config.get("freeze", ())),
                parameters=saved["parameters"],
                state=saved["optimizer"],
            )
        except Exception as error:
            raise CheckpointError(f"{path} is damaged ({type(error).__name__}).") from error
        if steps == 0:
            raise CheckpointError(f"The run in {folder} has not taken a step yet.")
        return found

    def install(self, module: torch.nn.Module) -> torch.optim.Optimizer:
        """Put the weights into a module and return the optimizer with its state.

        Raises
        ------
        CheckpointError
            If the module is not of the run's architecture.
        """
        own = {name: p.shape for name, p in module.named_parameters()}
        if own != {name: value.shape for name, value in self.parameters.items()}:
            raise CheckpointError(
                f"The run {self.name} has another architecture than the checkpoint."
            )
        optimizer = build_optimizer(
            self.optimizer,
            parameter_groups(
                module, self.weight_decay, blocks=optimizer_info(self.optimizer).blocks
            ),
            lr=self.lr,
            options=self.options,
        )
        restore(module, dict(self.parameters))
        try:
            optimizer.load_state_dict(dict(self.state))
        except (ValueError, KeyError) as error:
            raise CheckpointError(
                f"The optimizer state of the run {self.name} does not fit: {error}"
            ) from error
        return optimizer
