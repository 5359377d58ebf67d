"""Acetylacetone frames of another group and code, labelled at our level and compared.

    python -m systems.dft.acetylacetone_crosscheck FILE     # acac_test_300K.xyz

The frames (davkovacs/BOTNet-datasets of arXiv:2205.06643, ORCA 5 PBE-D3/def2-SVP) are not kept
here; ``data/acetylacetone_crosscheck.json`` keeps our labels and the differences.
On `VARIED` frames settings are changed one at a time, to see which of them the difference is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from systems.dft.molecule_pyscf import Level, converge, dispersion, forces_of

RESULT = Path(__file__).resolve().parent.parent / "data" / "acetylacetone_crosscheck.json"
COMMAND = "python -m systems.dft.acetylacetone_crosscheck acac_test_300K.xyz"
FRAMES = 20
VARIED = 2
LEVELS = {
    "without density fitting": Level(auxiliary=""),
    "grid level 4": Level(grids=(0, 4)),
}


def electronic(atoms: Atoms, level: Level) -> tuple[float, dict[bool, NDArray[np.float64]]]:
    """Return energy (eV) and forces (eV/A) without D3, forces by grid response."""
    field = converge(atoms, level=level)
    forces = {True: forces_of(field)}
    if level == Level():
        forces[False] = forces_of(field, grid_response=False)
    return float(field.e_tot) * units.Hartree, forces


def difference(
    atoms: Atoms, energy: float, forces: NDArray[np.float64], damping: str = "bj"
) -> dict[str, Any]:
    """Return energy (meV) and forces (meV/A) of ours, with D3, minus those of the frame."""
    d3_energy, gradient = dispersion(atoms, damping)
    rest = 1e3 * (forces - gradient - atoms.arrays["REF_forces"])
    return {
        "energy_meV": 1e3 * (energy + d3_energy - atoms.info["REF_energy"]),
        "force_rms_meV_per_A": float(np.sqrt(np.mean(rest**2))),
        "force_max_meV_per_A": float(np.abs(rest).max()),
    }


def crosscheck(path: Path) -> dict[str, Any]:
    """Label the frames and return what is stored."""
    frames = ase.io.read(path, ":", format="extxyz")
    chosen = np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)
    rows = []
    varied: dict[str, list[dict[str, Any]]] = {}
    for count, index in enumerate(chosen):
        atoms = frames[index]
        energy, forces = electronic(atoms, Level())
        row = {"index": int(index), **difference(atoms, energy, forces[True])}
        print(row, flush=True)
        # Ours as well, so that the difference can be taken again without a DFT code.
        d3_energy, gradient = dispersion(atoms, "bj")
        row["energy_eV"] = energy + d3_energy
        row["forces_eV_per_A"] = np.round(forces[True] - gradient, 6).tolist()
        rows.append(row)
        if count >= VARIED:
            continue
        found = {
            "level of the labels": difference(atoms, energy, forces[True]),
            "without grid response": difference(atoms, energy, forces[False]),
            "D3 with zero damping": difference(atoms, energy, forces[True], "zero"),
            "without D3": difference(atoms, energy, forces[True], "none"),
        }
        for name, level in LEVELS.items():
            other, pulls = electronic(atoms, level)
            found[name] = difference(atoms, other, pulls[True])
        for name, row in found.items():
            varied.setdefault(name, []).append(row)
            print(name, row, flush=True)
    energies = np.array([row["energy_meV"] for row in rows])
    squares = np.array([row["force_rms_meV_per_A"] ** 2 for row in rows])
    return {
        "command": COMMAND,
        "frames": len(rows),
        "force_rmse_meV_per_A": float(np.sqrt(squares.mean())),
        "force_max_meV_per_A": max(row["force_max_meV_per_A"] for row in rows),
        "energy_offset_meV": float(energies.mean()),
        "energy_scatter_meV": float(energies.std()),
        "varied": varied,
        "rows": rows,
    }


def main() -> None:
    """Parse the command line, compare, and store the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", type=Path, help="the public frames")
    result = crosscheck(parser.parse_args().file)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print({key: value for key, value in result.items() if key not in ("rows", "varied")})


if __name__ == "__main__":
    main()
