"""Write the frames on which a run measures how much of the seed is forgotten.

python replay.py --out ../../ase_finetune/foundations/seed/replay.h5

They are some of each family of the teachers' labels that the seed was not trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from train import load

from systems.hdf5 import write_frames

MOST = 8  # of a family
LARGEST = 40  # atoms


def main() -> None:
    """Choose frames evenly from every family."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-force", type=float, default=20.0, help="eV/A, as in train.py")
    args = parser.parse_args()
    families: dict[str, list] = {}
    for atoms in load(args.labels, args.max_force, None).tests["test"]:
        if len(atoms) <= LARGEST:
            families.setdefault(atoms.info["config_type"], []).append(atoms)
    chosen = []
    for frames in families.values():
        for i in np.unique(np.linspace(0, len(frames) - 1, min(MOST, len(frames))).astype(int)):
            atoms = frames[i]
            atoms.info = {
                "REF_energy": atoms.info["REF_energy"],
                "config_type": atoms.info["config_type"],
                "id": atoms.info["sample_id"],
                "split": "replay",
                "teacher": atoms.info["teacher"],
            }
            chosen.append(atoms)
    write_frames(args.out, chosen)
    print(f"{len(chosen)} frames of {len(families)} families in {args.out}")


if __name__ == "__main__":
    main()
