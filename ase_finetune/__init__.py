"""Fine-tune pretrained MACE potentials and attach them to ASE."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase_finetune.calculator import FineTunedCalculator
    from ase_finetune.checkpoint import Checkpoint
    from ase_finetune.config import RefineConfig, TrainConfig
    from ase_finetune.data.splits import Splits
    from ase_finetune.refinement import refine
    from ase_finetune.trainer import finetune

__all__ = [
    "Checkpoint",
    "FineTunedCalculator",
    "RefineConfig",
    "Splits",
    "TrainConfig",
    "finetune",
    "refine",
]

# Imported on first use: torch takes seconds, and `ase-finetune --help` must not wait for it.
_HOMES = {
    "Checkpoint": "checkpoint",
    "FineTunedCalculator": "calculator",
    "RefineConfig": "config",
    "Splits": "data.splits",
    "TrainConfig": "config",
    "finetune": "trainer",
    "refine": "refinement",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
