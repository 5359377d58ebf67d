"""Convergence of bcc Mo with cutoff and k-mesh: ``python -m systems.dft.mo_convergence``.

Reads the strained cells of ``mo_gpaw --convergence`` and writes ``data/mo_convergence.json``: per
setting a0 and B from energies, the pressure of the labels beside -dE/dV, and elastic constants
from central stress differences at +-1 %.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import Any

import numpy as np
from ase import Atoms

from systems.dft.mo_frames import A0
from systems.dft.mo_gpaw import CONVERGENCE, LABELS
from systems.dft.mo_references import EV_PER_A3_IN_GPA, elastic_differences
from systems.dft.shards import read_shard
from systems.system import DATA

TABLE = DATA / "mo_convergence.json"
# The strained cells at the settings of the labels are frames of the label shard.
AT_LABEL_SETTINGS = {"elastic_06": "xx_-10", "elastic_04": "xx_+10", "elastic_05": "yz_+10"}
COMMAND = "python -m systems.dft.mo_gpaw --convergence && python -m systems.dft.mo_convergence"


def row(frames: dict[str, Atoms]) -> dict[str, Any]:
    """Return one line of the table from the frames of one setting, by strain (``vol_+5``)."""
    first = next(iter(frames.values()))
    found: dict[str, Any] = {
        "cell_atoms": len(first),
        "kpts": first.info["kpts"],
        "cutoff_eV": float(first.info["cutoff_eV"]),
    }
    zero = frames["zero_+0"]
    isotropic = [a for name, a in frames.items() if name.startswith(("vol", "zero"))]
    volume = np.array([a.cell.volume / len(a) for a in isotropic])
    energy = np.array([a.info["REF_energy"] / len(a) for a in isotropic])
    # Five points within +-3 % of volume: a cubic polynomial leaves less than 0.01 GPa.
    center = zero.cell.volume / len(zero)
    slope = np.polynomial.Polynomial.fit(volume - center, energy, 3).deriv()
    roots = slope.roots()
    near = roots[np.argmin(np.abs(roots))].real
    label = -float(np.mean(zero.info["REF_stress"][:3])) * EV_PER_A3_IN_GPA
    found["a0_A"] = float((2.0 * (center + near)) ** (1 / 3))
    found["bulk_modulus_GPa"] = float((center + near) * slope.deriv()(near) * EV_PER_A3_IN_GPA)
    found["pressure_label_GPa"] = label
    found["pressure_dE_dV_GPa"] = -float(slope(0.0)) * EV_PER_A3_IN_GPA
    constants = elastic_differences(list(frames.values()))[0.01]
    found.update(zip(("C11_GPa", "C12_GPa", "C44_GPa"), constants, strict=True))
    found["energy_eV_per_atom"] = float(zero.info["REF_energy"] / len(zero))
    return found


def table() -> list[dict[str, Any]]:
    """Return the lines of all settings that are complete."""
    settings: dict[str, dict[str, Atoms]] = defaultdict(dict)
    for name, atoms in read_shard(CONVERGENCE).items():
        match = re.fullmatch(r"(\w+_k\d+_pw\d+)_(\w+_[+-]\d+)", name)
        if match is None:
            raise ValueError(f"{CONVERGENCE} holds the frame {name!r}; remove it.")
        settings[match[1]][match[2]] = atoms
    labels = read_shard(LABELS)
    for name, strain in AT_LABEL_SETTINGS.items():
        settings["conv_k8_pw550"][strain] = labels[name]
    return [row(frames) for frames in settings.values() if len(frames) == 8]


def main() -> None:
    """Write and print the table."""
    rows = table()
    TABLE.write_text(
        json.dumps({"command": COMMAND, "strained_about_A": A0, "rows": rows}, indent=1) + "\n"
    )
    for line in rows:
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()})


if __name__ == "__main__":
    main()
