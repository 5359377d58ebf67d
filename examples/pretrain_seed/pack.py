"""Pack the labels into one small file per family, from which the training reproduces.

Runs in either environment::

    python pack.py --labels work/labels --out data

Positions are rounded to 1e-5 A, forces to 1e-4 eV/A, stresses to 1e-6 eV/A^3: far below the errors
of any model trained on them, and what keeps the files small.
"""

from __future__ import annotations

import argparse
import io
import lzma
from pathlib import Path

import numpy as np
from ase.io import read, write


def main() -> None:
    """Write ``FAMILY.extxyz.xz`` for every labelled family."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    total = 0
    for path in sorted(args.labels.glob("*.extxyz")):
        frames = read(path, ":")
        for atoms in frames:
            atoms.positions = np.round(atoms.positions, 5)
            atoms.arrays["REF_forces"] = np.round(atoms.arrays["REF_forces"], 4)
            atoms.info["REF_energy"] = round(float(atoms.info["REF_energy"]), 5)
            atoms.info["REF_stress"] = np.round(atoms.info["REF_stress"], 6)
        buffer = io.StringIO()
        write(buffer, frames, format="extxyz")
        packed = lzma.compress(buffer.getvalue().encode(), preset=9)
        (args.out / f"{path.name}.xz").write_bytes(packed)
        total += len(packed)
    print(f"{total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
