"""A short dynamics that refined weights must survive, since a force error does not show it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from ase_finetune.calculator import FineTunedCalculator
from ase_finetune.checkpoint import Checkpoint
from ase_finetune.config import RefineConfig
from ase_finetune.data.splits import Splits
from ase_finetune.errors import UserError
from ase_finetune.start import validation_frames
from properties import nvt_trajectory
from properties.errors import PropertyError


def gate_for(
    splits: Splits, config: RefineConfig, refused: Path
) -> Callable[[Checkpoint], str | None] | None:
    """Return the gate that the settings ask of :func:`ase_finetune.refine`, or None for none.

    Parameters
    ----------
    splits
        The dynamics starts from the first validation frame.
    config
        Its length and temperature.
    refused
        Folder for refined weights that do not pass.
    """
    if config.nvt_gate_ps == 0.0:
        return None
    frame = validation_frames(splits)[0]

    def gate(checkpoint: Checkpoint) -> str | None:
        try:
            with tempfile.TemporaryDirectory() as folder:
                result = nvt_trajectory(
                    frame,
                    FineTunedCalculator(
                        checkpoint, device=config.device, accelerate=config.accelerate
                    ),
                    file=Path(folder) / "gate.traj",
                    temperature_K=config.nvt_gate_K,
                    equilibration_ps=0.1 * config.nvt_gate_ps,
                    production_ps=config.nvt_gate_ps,
                )
            objection = None if result.blow_up is None else str(result.blow_up)
        except (PropertyError, UserError) as error:
            objection = f"no dynamics: {error}"  # forces that are not finite, for example
        except Exception as error:
            # Memory that is spent, for example; hours of training are not lost to anything.
            objection = f"no dynamics: {type(error).__name__}: {error}"
        if objection is not None:
            checkpoint.save(refused)
        return objection

    return gate
