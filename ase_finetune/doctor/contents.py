"""What is inside a set of frames, before anything is judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.units import GPa

from ase_finetune.data.read import ENERGY_KEY, FORCES_KEY, STRESS_KEY, is_isolated_atom
from ase_finetune.data.splits import TRAJECTORY_KEYS
from ase_finetune.doctor.labels import sound_cell
from ase_finetune.doctor.read import FrameSet

_MOST_NAMES = 12
_PBC = "xyz"


def contents(data: FrameSet) -> dict[str, Any]:
    """Describe a set in numbers that JSON can hold; ranges are of finite values only."""
    frames = data.frames
    sizes = [len(f) for f in frames]
    formulas = _formulas(frames)
    elements = Counter(chemical_symbols[z] for f in frames for z in np.unique(f.numbers))
    solid = [f for f in frames if f.pbc.all() and len(f) and sound_cell(f)]
    return {
        "file": str(data.path),
        "role": data.role,
        "n_frames": len(frames),
        "n_isolated_atoms": sum(is_isolated_atom(f) for f in frames),
        "n_atoms": _range(sizes),
        "frames_with_element": dict(sorted(elements.items())),
        "formulas": _counted(formulas),
        "periodic": _counted(
            "".join(c for c, p in zip(_PBC, f.pbc, strict=True) if p) or "none" for f in frames
        ),
        "volume_A3_per_atom": _range([f.get_volume() / len(f) for f in solid]),
        "cell_lengths_A": _range([float(x) for f in solid for x in f.cell.lengths()]),
        "config_types": _counted(
            str(f.info["config_type"]) for f in frames if "config_type" in f.info
        ),
        "trajectories": _counted(t for f in frames if (t := _trajectory(f)) is not None),
        "splits": _counted(str(f.info["split"]) for f in frames if "split" in f.info),
        "keys": dict(data.keys),
        "label_like_keys": data.candidates,
        "other_keys": sorted(
            {str(key) for f in frames for key in f.info} - {ENERGY_KEY, STRESS_KEY}
        ),
        "n_labelled": {
            "energy": sum(ENERGY_KEY in f.info for f in frames),
            "forces": sum(FORCES_KEY in f.arrays for f in frames),
            "stress": sum(STRESS_KEY in f.info for f in frames),
        },
        "energy_eV_per_atom": _range(
            [f.info[ENERGY_KEY] / len(f) for f in frames if len(f) and ENERGY_KEY in f.info]
        ),
        "force_eV_per_A": _forces(frames),
        "stress_GPa": _stresses(frames),
    }


def _formulas(frames: Sequence[Atoms]) -> list[str]:
    """Formula of every frame, made once for each composition."""
    known: dict[bytes, str] = {}
    formulas = []
    for frame in frames:
        key = np.sort(frame.numbers).tobytes()
        if key not in known:
            known[key] = frame.get_chemical_formula()
        formulas.append(known[key])
    return formulas


def _trajectory(frame: Atoms) -> str | None:
    for key in TRAJECTORY_KEYS:
        if key in frame.info:
            return str(frame.info[key])
    return None


def _counted(names: Any) -> dict[str, int]:
    counts = Counter(names)
    kept = dict(counts.most_common(_MOST_NAMES))
    rest = sum(counts.values()) - sum(kept.values())
    return {**kept, f"({len(counts) - len(kept)} others)": rest} if rest else kept


def _range(values: Sequence[float]) -> dict[str, float] | None:
    finite = np.array([v for v in values if np.isfinite(v)], dtype=float)
    if not len(finite):
        return None
    return {
        "min": float(finite.min()),
        "median": float(np.median(finite)),
        "max": float(finite.max()),
    }


def _forces(frames: Sequence[Atoms]) -> dict[str, float] | None:
    norms = [
        np.linalg.norm(f.arrays[FORCES_KEY], axis=1)
        for f in frames
        if FORCES_KEY in f.arrays and np.isfinite(f.arrays[FORCES_KEY]).all() and len(f) > 1
    ]
    if not norms:
        return None
    every = np.concatenate(norms)
    return {
        "rms_component": float(np.sqrt((every**2).mean() / 3)),
        "median_of_largest": float(np.median([n.max() for n in norms])),
        "max": float(every.max()),
    }


def _stresses(frames: Sequence[Atoms]) -> dict[str, Any] | None:
    rows = [f.info[STRESS_KEY] for f in frames if STRESS_KEY in f.info]
    rows = [r for r in rows if np.isfinite(r).all()]
    if not rows:
        return None
    voigt = np.array(rows) / GPa
    return {
        "pressure": _range([float(p) for p in -voigt[:, :3].mean(axis=1)]),
        "largest_shear": float(np.abs(voigt[:, 3:]).max()),
    }
