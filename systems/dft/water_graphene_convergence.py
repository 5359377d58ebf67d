"""Convergence of water on graphene: ``python -m systems.dft.water_graphene_convergence``.

Reads the frames of ``water_graphene_cp2k --convergence`` and writes
``data/water_graphene_convergence.json``: per frame and cutoff the forces beside those of the
largest cutoff, the net force and the energy. The grid pulls most at oxygen, whose density is the
sharpest.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from ase import Atoms

from systems.dft.cp2k import net_force
from systems.dft.shards import read_shard
from systems.dft.water_graphene_frames import (
    CONVERGENCE,
    CONVERGENCE_FRAMES,
    CUTOFFS,
)
from systems.system import DATA

TABLE = DATA / "water_graphene_convergence.json"
COMMAND = (
    "python -m systems.dft.water_graphene_cp2k --convergence && "
    "python -m systems.dft.water_graphene_convergence"
)


def row(name: str, cutoff: float, atoms: Atoms, finest: Atoms) -> dict[str, Any]:
    """Return one line: a frame at one cutoff beside the same at the largest."""
    change = 1e3 * (atoms.arrays["REF_forces"] - finest.arrays["REF_forces"])
    oxygen = atoms.numbers == 8
    return {
        "frame": name,
        "cutoff_Ry": cutoff,
        "finest_Ry": float(finest.info["cutoff_Ry"]),
        "force_rms_meV_per_A": float(np.sqrt(np.mean(change**2))),
        "force_rms_oxygen_meV_per_A": float(np.sqrt(np.mean(change[oxygen] ** 2))),
        "force_max_meV_per_A": float(np.abs(change).max()),
        "net_force_meV_per_A": 1e3 * net_force(atoms.arrays["REF_forces"]),
        "energy_meV_per_atom": 1e3
        * float(atoms.info["REF_energy"] - finest.info["REF_energy"])
        / len(atoms),
    }


def table() -> list[dict[str, Any]]:
    """Return the lines of all frames that were computed at the largest cutoff."""
    stored = read_shard(CONVERGENCE)
    rows = []
    for name in CONVERGENCE_FRAMES:
        found = {c: stored[f"{name}_{c:.0f}Ry"] for c in CUTOFFS if f"{name}_{c:.0f}Ry" in stored}
        if max(CUTOFFS) in found:
            finest = found[max(CUTOFFS)]
            rows += [row(name, c, found[c], finest) for c in sorted(found)]
    return rows


def main() -> None:
    """Write and print the table."""
    rows = table()
    TABLE.write_text(json.dumps({"command": COMMAND, "rows": rows}, indent=1) + "\n")
    for line in rows:
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()})


if __name__ == "__main__":
    main()
