"""Structures and models that the benchmarks share."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, graphene, molecule

from ase_finetune.architecture import build, default_dtype
from ase_finetune.checkpoint import Checkpoint
from ase_finetune.start import _DEFAULTS

# The shape of MACE-MP-0 small, restricted to the elements of a case.
MP0_SMALL = {
    "hidden_irreps": "128x0e",
    "r_max": 6.0,
    "max_ell": 3,
    "correlation": 3,
    "num_interactions": 2,
    "num_bessel": 10,
    "radial_MLP": [64, 64, 64],
}


def molecules() -> list[Atoms]:
    """Ten rattled molecules of 14 atoms."""
    frames = []
    for seed in range(10):
        atoms = molecule("isobutane")
        atoms.rattle(0.05, seed=seed)
        frames.append(atoms)
    return frames


def molybdenum() -> list[Atoms]:
    """Four rattled 54-atom cells."""
    frames = []
    for seed in range(4):
        atoms = bulk("Mo", a=3.16, cubic=True) * (3, 3, 3)
        atoms.rattle(0.08, seed=seed)
        frames.append(atoms)
    return frames


def water_graphene(count: int = 1) -> list[Atoms]:
    """Two 62-atom cells: 32 C and 10 H2O on a grid above them."""
    frames = []
    for seed in range(2):
        sheet = graphene(a=2.468, size=(4, 4, 1))
        sheet.cell[2] = [0, 0, 16.0]
        sheet.pbc = True
        for k in range(10):
            water = molecule("H2O")
            water.translate(sheet.cell.array.T @ [(k % 4) / 4, (k // 4) / 3, 0.0] + [0, 0, 3.2])
            water.translate([0, 0, 2.8 * (k % 2)])
            sheet += water
        sheet.rattle(0.05, seed=seed)
        frames.append(sheet * (count, count, 1))
    return frames


CASES: dict[str, Callable[[], list[Atoms]]] = {
    "molecules": molecules,
    "mo": molybdenum,
    "water_graphene": water_graphene,
}


def random_checkpoint(frames: list[Atoms], dtype: str) -> Checkpoint:
    """Random weights in the MP-0 small shape for the elements of the frames."""
    numbers = sorted({int(z) for a in frames for z in a.numbers})
    described = {
        **_DEFAULTS,
        **MP0_SMALL,
        "atomic_numbers": numbers,
        "heads": ["Default"],
        "built_dtype": dtype,
        "avg_num_neighbors": 30.0,
    }
    torch.manual_seed(1)
    with default_dtype(getattr(torch, dtype)):
        module: Any = build(described, dtype=getattr(torch, dtype))
    module.scale_shift.scale.fill_(1.0)
    return Checkpoint.from_module(
        module, dict.fromkeys(numbers, 0.0), stage="zero_shot", foundation={"name": "random"}
    )


def median_time(function: Callable[[], object], *, warm: int = 2, runs: int = 5) -> float:
    """Median wall time of a call in s, warm; what a GPU was asked for is waited for."""
    for _ in range(warm):
        function()
    times = []
    for _ in range(runs):
        _wait()
        begun = time.perf_counter()
        function()
        _wait()
        times.append(time.perf_counter() - begun)
    return float(np.median(times))


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def peak_memory_MB() -> float:
    """Peak resident memory of this process; on a GPU, of the tensors there."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def save_model(checkpoint: Checkpoint, path: Path, dtype: str) -> Path:
    """Write the module as a mace-torch ``.model`` file."""
    torch.save(checkpoint.module(dtype), path)
    return path
