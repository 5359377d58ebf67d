"""Does a k-mesh suffice for graphene? ``python -m systems.dft.water_graphene_kpoints``.

In a perfect sheet symmetry allows no forces. A mesh that does not respect the hexagonal symmetry,
as none of a rectangular cell does, leaves some, and they must be small beside those of the motion.
For even m and n the Monkhorst-Pack mesh m x n of the 4x2 cell of 32 atoms is the mesh 4m x 2n of
the rectangular cell of 4 atoms, in which CP2K answers in a minute; odd ones hold Gamma, which that
mesh lacks. For Gamma alone the sheet of the earlier labels is taken.
``data/water_graphene_kpoints.json`` keeps the table.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms

from systems.dft.cp2k import runner
from systems.dft.shards import read_shard
from systems.dft.water_graphene_frames import CONVERGENCE, LEVEL, SHEET_AT_GAMMA
from systems.system import DATA

TABLE = DATA / "water_graphene_kpoints.json"
COMMAND = "python -m systems.dft.water_graphene_kpoints"
REPEATS = (4, 2)
MESHES = ((2, 2), (4, 4), (6, 6))
UNIT_LEVEL = replace(LEVEL, cutoff_Ry=600.0, dispersion=False, added_mos=12)


def unit_cell(sheet: Atoms) -> Atoms:
    """Return the rectangular cell of 4 atoms that the perfect sheet repeats, with its height."""
    lengths = sheet.cell.lengths() / (*REPEATS, 1)
    places = [[0, 1 / 6, 0.5], [0.5, 1 / 3, 0.5], [0.5, 2 / 3, 0.5], [0, 5 / 6, 0.5]]
    return Atoms("C4", scaled_positions=places, cell=lengths, pbc=True)


def row(mesh: tuple[int, int], atoms: Atoms, forces: Any, energy: float) -> dict[str, Any]:
    """Return a line of the table."""
    return {
        "kpts": [*mesh, 1],
        "force_max_eV_per_A": float(np.abs(forces).max()),
        "energy_eV_per_atom": energy / len(atoms),
    }


def main() -> None:
    """Compute, write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cp2k", default="cp2k.popt", help="the program")
    runs = runner("water_graphene_kpoints.py", parser.parse_args().cp2k)
    sheet = read_shard(CONVERGENCE)[SHEET_AT_GAMMA]
    first = row((1, 1), sheet, sheet.arrays["REF_forces"], sheet.info["REF_energy"])
    # Its energy has dispersion and another cutoff, so it is not compared.
    rows = [{**first, "energy_eV_per_atom": None}]
    print(rows[0], flush=True)
    atoms = unit_cell(sheet)
    for mesh in MESHES:
        level = replace(UNIT_LEVEL, kpts=(REPEATS[0] * mesh[0], REPEATS[1] * mesh[1], 1))
        found = runs.label(atoms, level)
        rows.append(row(mesh, atoms, found.forces, found.energy))
        print(rows[-1], flush=True)
    TABLE.write_text(json.dumps({"command": COMMAND, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
