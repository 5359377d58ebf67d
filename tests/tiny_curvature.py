"""A tiny MACE on a few frames, as the tests of curvature use it."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from conftest import TINY, cu_frames, label

from ase_finetune.checkpoint import Checkpoint
from ase_finetune.config import TrainConfig
from ase_finetune.data.splits import Splits
from ase_finetune.graphs import Graph, collate, predict
from ase_finetune.loss import Loss
from ase_finetune.residuals import Residuals, residual_vector
from ase_finetune.start import make_graphs, prepare

WEIGHTS = {"energy_weight": 1.0, "forces_weight": 10.0, "stress_weight": 10.0}


def rattled(name: str, seed: int) -> Atoms:
    """A molecule without symmetry, labelled with EMT."""
    atoms = molecule(name)
    atoms.positions += 0.08 * np.random.default_rng(seed).standard_normal((len(atoms), 3))
    return label(atoms)


def tiny_start(frames: list[Atoms], stress: bool = True) -> tuple[Checkpoint, list[Graph]]:
    """Random weights for these frames, and their graphs."""
    config = TrainConfig(
        foundation="scratch",
        architecture={**TINY, "hidden_irreps": "4x0e", "num_bessel": 3},
        stress_weight=10.0 if stress else 0.0,
    )
    other = frames[0].copy()
    other.positions[0] += 0.1  # a validation set is asked for; nothing here looks at it
    start = prepare(Splits(frames, [label(other)], {}), config).checkpoint
    return start, list(make_graphs(frames, start, "float64", stress=stress))


def tiny_residuals(
    frames: list[Atoms] | None = None, stress: bool = True, accelerate: bool = True
) -> tuple[Residuals, list[Graph]]:
    """Residuals of a tiny MACE, by default on three cells of Cu."""
    start, graphs = tiny_start(cu_frames(3, 1) if frames is None else frames, stress)
    weights = {**WEIGHTS, "stress_weight": 10.0 if stress else 0.0}
    return (
        Residuals(
            start.module("float64", accelerate=accelerate),
            graphs,
            Loss.for_graphs(graphs, **weights),
            len(start.numbers),
            batch_atoms=9,
        ),
        graphs,
    )


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Seeded standard normal numbers in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dense_hessian(residuals: Residuals, graphs: list[Graph]) -> torch.Tensor:
    """The Hessian row by row, by torch's batched rule, shape (size, size)."""
    batch = collate(graphs, residuals.n_elements)
    result = predict(residuals.module, batch, stress=residuals.loss.needs_stress, training=True)
    rho = residual_vector(residuals.loss, result, batch)
    parameters, size = residuals.parameters, residuals.size
    gradient = torch.autograd.grad(0.5 * rho.square().sum(), parameters, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])
    rows = torch.autograd.grad(
        flat, parameters, torch.eye(size, dtype=torch.float64), is_grads_batched=True
    )
    return torch.cat([r.reshape(size, -1) for r in rows], dim=1)
