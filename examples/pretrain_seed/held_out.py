"""Write the teachers' labels that the seed was not trained on, for ``ase-finetune evaluate``.

python held_out.py --out held_out.extxyz
ase-finetune evaluate seed --data held_out.extxyz --dtype float32
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ase.io import write
from train import load


def main() -> None:
    """Collect the test frames of all families."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-force", type=float, default=20.0, help="eV/A, as in train.py")
    args = parser.parse_args()
    frames = load(args.labels, args.max_force, None).tests["test"]
    write(args.out, frames, format="extxyz")
    print(f"{len(frames)} frames in {args.out}")


if __name__ == "__main__":
    main()
