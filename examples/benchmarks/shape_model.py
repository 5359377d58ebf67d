"""Train a model in the shape of MACE-MP-0 small on a bundled system: ``shape_model.py mo OUT``.

The published model has to be downloaded, and random weights hold no crystal together. What is made
here is for timing: it has the published number of channels, paths and layers, and its crystals are
stable.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from cases import MP0_SMALL

from ase_finetune import Splits, TrainConfig, finetune
from systems import get_system


def main() -> None:
    """Train and save."""
    warnings.simplefilter("ignore")
    _, name, out = sys.argv
    splits = Splits.from_named(get_system(name).frames())
    config = TrainConfig(
        foundation="scratch", architecture=MP0_SMALL, epochs=60, lr=3e-3, default_dtype="float32",
        energy_weight=10.0, stress_weight=100.0,
    )  # fmt: skip
    tuned = finetune(
        splits, config, progress=lambda r: print(r["epoch"], r["valid_force_rmse_meV_per_A"])
    )
    tuned.save(Path(out))


if __name__ == "__main__":
    main()
