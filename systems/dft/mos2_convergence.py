"""Convergence of MoS2: ``python -m systems.dft.mos2_convergence``.

Reads the strained 3-atom cells of ``mos2_cp2k --convergence`` and writes
``data/mos2_convergence.json``: over cutoff, k-mesh and cell height the stress of the ideal layer,
the stiffness from the stress difference of +-1 % isotropic strain, forces of a displaced layer
beside those of the finest setting, and over supercells the frequencies at Gamma, M and K.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
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
N_PER_M = units.m / units.J * units.m  # of eV/A^2, as a factor to N/m


def settings() -> dict[str, tuple[Level, float]]:
    """Return level and cell height by name; each differs in one point from the labels'."""
    base = CELL_LEVEL

    def cutoff(value: float) -> Level:
        return replace(base, cutoff_Ry=value, rel_cutoff_Ry=50.0 if value == 400 else 60.0)

    return {
        "labels": (base, HEIGHT),
        "400Ry": (cutoff(400.0), HEIGHT),
        "800Ry": (cutoff(800.0), HEIGHT),
        "1000Ry": (cutoff(1000.0), HEIGHT),
        "k7": (replace(base, kpts=(7, 7, 1)), HEIGHT),
        "k11": (replace(base, kpts=(11, 11, 1)), HEIGHT),
        "k15": (replace(base, kpts=(15, 15, 1)), HEIGHT),
        "20A": (base, 20.0),
        "25A": (base, 25.0),
    }


def structures(height: float) -> dict[str, Atoms]:
    """Return the ideal layer, strained by +-1 %, and displaced."""
    rattled = primitive(height)
    rattled.positions += rng("convergence").normal(0.0, RATTLE, rattled.positions.shape)
    return {
        "rattled": rattled,
        "zero": primitive(height),
        "plus": deformed(primitive(height), 0.01, 0.01, 0.0),
        "minus": deformed(primitive(height), -0.01, -0.01, 0.0),
    }


def convergence_jobs() -> Iterator[Job]:
    """Yield the cells of all settings, the displaced layers first."""
    for kind in structures(HEIGHT):
        for name, (level, height) in settings().items():
            yield Job(f"{name}_{kind}", "convergence", structures(height)[kind], level)


def row(name: str, frames: dict[str, Atoms]) -> dict[str, Any]:
    """Return one line of the table from the frames of a setting by structure."""
    level, height = settings()[name]
    tension = {
        kind: float(frames[kind].info["REF_stress"][:2].mean()) * height * N_PER_M
        for kind in ("zero", "plus", "minus")
    }
    finest = read_shard(CONVERGENCE)
    finest_name = next(n for n in ("1000Ry", "800Ry", "labels") if f"{n}_rattled" in finest)
    change = (
        frames["rattled"].arrays["REF_forces"]
        - finest[f"{finest_name}_rattled"].arrays["REF_forces"]
    )
    return {
        "setting": name,
        "cutoff_Ry": level.cutoff_Ry,
        "rel_cutoff_Ry": level.rel_cutoff_Ry,
        "kpts": "x".join(map(str, level.kpts)),
        "cell_height_A": height,
        "tension_N_per_m": tension["zero"],
        # Clamped ions: C11 + C12 of the layer.
        "C11_plus_C12_N_per_m": (tension["plus"] - tension["minus"]) / 0.02,
        "net_force_meV_per_A": 1e3 * net_force(frames["rattled"].arrays["REF_forces"]),
        "force_rms_from_finest_meV_per_A": 1e3 * float(np.sqrt(np.mean(change**2))),
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
    stored = read_shard(CONVERGENCE)
    rows = []
    for name in settings():
        frames = {kind: stored.get(f"{name}_{kind}") for kind in structures(HEIGHT)}
        if all(frames.values()):
            rows.append(row(name, {kind: a for kind, a in frames.items() if a is not None}))
    return {"command": COMMAND, "rows": rows, "supercells": supercell_rows()}


def main() -> None:
    """Write and print the table."""
    found = table()
    TABLE.write_text(json.dumps(found, indent=1) + "\n")
    for line in (*found["rows"], *found["supercells"]):
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()})


if __name__ == "__main__":
    main()
