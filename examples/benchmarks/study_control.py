"""Plain ``mace_run_train`` on the frames of a study: the control that a study cannot run itself.

    python study_control.py ../results/study/mo
    ase-finetune study --tabulate ../results/study/mo

Every evaluation seed of the study draws its frames; mace-torch trains the exported seed on them for
as many epochs and in the same precision, with the settings that its README gives for fine-tuning
(`accuracy.README_OF_MACE`, batches of 2), not tuned, and chooses its weights by its own validation
loss. ``external.json`` in the folder takes errors and wall time; seeds that the study has are left
out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from accuracy import README_OF_MACE, peer

from ase_finetune import Splits, TrainConfig
from ase_finetune.results import write_json
from ase_finetune.study.data import redrawn
from ase_finetune.study.run import errors_on
from ase_finetune.study.store import EXTERNAL_FILE, load
from systems import get_system

ARM = "mace_run_train"


def control(system: str, seed: int, base: dict[str, Any], *, resplit: bool) -> dict[str, Any]:
    """Train on the frames of a seed; return the entry of ``external.json``."""
    splits = Splits.from_named(get_system(system).frames())
    if resplit:
        splits = redrawn(splits, seed)
    config = TrainConfig(default_dtype=base["default_dtype"])
    with tempfile.TemporaryDirectory() as folder:
        tuned, run = peer(
            splits, base["epochs"], seed, "estimated", Path(folder), config.default_dtype
        )
    found = errors_on(tuned, splits, config)
    return {
        "system": system,
        "arm": ARM,
        "seed": seed,
        "lr": README_OF_MACE["lr"],
        "epochs": base["epochs"],
        "valid_force_rmse_meV_per_A": found["errors"]["valid"]["force_rmse_meV_per_A"],
        "budget": {"gradient_equivalents": float(base["epochs"]), "wall_s": run.seconds},
        **found,
    }


def main() -> None:
    """Run the control of every system and seed that the folder lacks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the study")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    plan, rows = load(args.folder)
    path = args.folder / EXTERNAL_FILE
    entries = json.loads(path.read_text()) if path.is_file() else []
    # A tabulated study holds them itself.
    known = {(row["run"]["system"], row["run"]["arm"], row["run"]["seed"]) for row in rows.values()}
    for system, base in plan.base.items():
        for seed in range(1, plan.seeds + 1):
            if (system, ARM, seed) in known:
                continue
            entries.append(control(system, seed, base, resplit=plan.resplit))
            write_json(path, entries)
            found = entries[-1]
            print(
                f"{system} seed {seed}: {found['budget']['wall_s']:.0f} s, "
                f"test_id {found['errors']['test_id']['force_rmse_meV_per_A']:.1f} meV/A",
                flush=True,
            )


if __name__ == "__main__":
    main()
