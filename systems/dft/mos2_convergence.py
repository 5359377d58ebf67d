"""Convergence of MoS2: ``python -m systems.dft.mos2_convergence``.

Reads the strained 3-atom cells of ``mos2_cp2k --convergence`` and writes
``data/mos2_convergence.json``: over cutoff, k-mesh and cell height the tension of the ideal layer,
what 1 % of isotropic strain adds to it (clamped ions), and forces of a displaced layer beside those
of the labels' setting; over supercells the frequencies at Gamma, M and K.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms, units

from systems.dft.cp2k import net_force
from systems.dft.cp2k_deck import Job, Level
from systems.dft.mos2_frames import (
    CELL_LEVEL,
    CONVERGENCE,
    HEIGHT,
    LABELS,
    deformed,
    primitive,
    rng,
)
from systems.dft.mos2_phonons import HIGH_SYMMETRY, frequencies, irreps, phonons, read_force_sets
from systems.dft.shards import read_shard
from systems.system import DATA

TABLE = DATA / "mos2_convergence.json"
COMMAND = "python -m systems.dft.mos2_cp2k --convergence && python -m systems.dft.mos2_convergence"
RATTLE = 0.05  # A per component of the displaced layer
LABELLED = "labels"
AT_LABEL_SETTINGS = {"zero": "cell_zero_0", "plus": "cell_iso_+1_0"}
EV_PER_A2_IN_N_PER_M = units.m**2 / units.J


def settings() -> dict[str, tuple[Level, float]]:
    """Return level and cell height by name; each differs in one point from the labels'."""
    base = CELL_LEVEL

    def cutoff(value: float) -> Level:
        return replace(base, cutoff_Ry=value, rel_cutoff_Ry=50.0 if value == 400 else 60.0)

    return {
        LABELLED: (base, HEIGHT),
        "800Ry": (cutoff(800.0), HEIGHT),
        "k15": (replace(base, kpts=(15, 15, 1)), HEIGHT),
        "20A": (base, 20.0),
        "400Ry": (cutoff(400.0), HEIGHT),
        "k7": (replace(base, kpts=(7, 7, 1)), HEIGHT),
    }


def structures(height: float) -> dict[str, Atoms]:
    """Return the layer displaced, ideal, and stretched by 1 %."""
    rattled = primitive(height)
    rattled.positions += rng("convergence").normal(0.0, RATTLE, rattled.positions.shape)
    return {
        "rattled": rattled,
        "zero": primitive(height),
        "plus": deformed(primitive(height), 0.01, 0.01, 0.0),
    }


def convergence_jobs() -> Iterator[Job]:
    """Yield the cells of all settings, but those that the label shard has."""
    for name, (level, height) in settings().items():
        for kind, atoms in structures(height).items():
            if name != LABELLED or kind not in AT_LABEL_SETTINGS:
                yield Job(f"{name}_{kind}", "convergence", atoms, level)


def row(name: str, frames: Mapping[str, Atoms], labelled: Atoms) -> dict[str, Any]:
    """Return one line of the table.

    Parameters
    ----------
    name : str
        Setting.
    frames : mapping of str to Atoms
        By structure.
    labelled : Atoms
        The displaced layer at the setting of the labels.
    """
    level, height = settings()[name]
    tension = {
        kind: float(frames[kind].info["REF_stress"][:2].mean()) * height * EV_PER_A2_IN_N_PER_M
        for kind in ("zero", "plus")
    }
    forces = frames["rattled"].arrays["REF_forces"]
    change = 1e3 * (forces - labelled.arrays["REF_forces"])
    return {
        "setting": name,
        "cutoff_Ry": level.cutoff_Ry,
        "rel_cutoff_Ry": level.rel_cutoff_Ry,
        "kpts": "x".join(map(str, level.kpts)),
        "cell_height_A": height,
        "tension_N_per_m": tension["zero"],
        "tension_added_by_1_percent_N_per_m": tension["plus"] - tension["zero"],
        "net_force_meV_per_A": 1e3 * net_force(forces),
        "force_rms_from_labels_meV_per_A": float(np.sqrt(np.mean(change**2))),
        "energy_eV": float(frames["zero"].info["REF_energy"]),
    }


def supercell_rows() -> list[dict[str, Any]]:
    """Return the frequencies (THz) at the high-symmetry points, with irreps, by supercell."""
    rows = []
    for name, forces in read_force_sets().items():
        phonon = phonons(forces)
        row: dict[str, Any] = {
            "supercell": name,
            "cutoff_Ry": float(forces.provenance["cutoff_Ry"]),
        }
        for point, q in HIGH_SYMMETRY.items():
            row[point] = [round(float(x), 4) for x in frequencies(phonon, q)]
            row[f"{point}_irreps"] = [[label, round(x, 4)] for label, x in irreps(phonon, q)]
        for kind, subtract in (("raw", False), ("subtracted", True)):
            acoustic = frequencies(
                phonons(forces, subtract=subtract, symmetrized=False), (0.0, 0.0, 0.0)
            )[:3]
            row[f"acoustic_{kind}"] = [round(float(x), 4) for x in acoustic]
        rows.append(row)
    return rows


def table() -> dict[str, Any]:
    """Return the table; settings that are not complete are left out."""
    stored, labels = read_shard(CONVERGENCE), read_shard(LABELS)
    for kind, name in AT_LABEL_SETTINGS.items():
        stored[f"{LABELLED}_{kind}"] = labels[name]
    rows = []
    for name in settings():
        frames = {k: stored[f"{name}_{k}"] for k in structures(HEIGHT) if f"{name}_{k}" in stored}
        if len(frames) == len(structures(HEIGHT)):
            rows.append(row(name, frames, stored[f"{LABELLED}_rattled"]))
    return {"command": COMMAND, "rows": rows, "supercells": supercell_rows()}


def main() -> None:
    """Write and print the table."""
    found = table()
    TABLE.write_text(json.dumps(found, indent=1) + "\n")
    for line in (*found["rows"], *found["supercells"]):
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()})


if __name__ == "__main__":
    main()
