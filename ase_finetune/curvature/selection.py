"""Which frames are looked at, and what that costs."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ase_finetune.curvature.products import LossProducts, frame_gradients
from ase_finetune.errors import ConfigError
from ase_finetune.graphs import Graph
from ase_finetune.levenberg_marquardt import ROW_COST
from ase_finetune.loss import Loss
from ase_finetune.residuals import Residuals

# Vectors per parameter beside Jacobian, gradients and Krylov spaces: images, probes, directions.
SPARE_VECTORS = 40
COPIES = 4  # of the Jacobian: itself, J F, its factorization, and one for Levenberg-Marquardt
FLOPS = 8e9  # of one core in products of matrices, per second, at the low end


def rows_of(graph: Graph, loss: Loss) -> int:
    """Return how many residuals a frame has."""
    return (
        int(loss.energy_weight > 0 and graph.energy is not None)
        + 3 * graph.n_atoms * int(loss.forces_weight > 0 and graph.forces is not None)
        + 6 * int(loss.stress_weight > 0 and graph.stress is not None)
    )


def counted(frames: int) -> str:
    """Spell a number of frames."""
    return f"{frames} frame{'' if frames == 1 else 's'}"


def spread(graphs: Sequence[Graph], loss: Loss, rows: int) -> list[int]:
    """Return frames at even distances in the data, as many as have at most so many residuals.

    Raises
    ------
    ConfigError
        If not even one frame has so few.
    """
    counts = np.array([rows_of(g, loss) for g in graphs])
    for count in range(len(graphs), 0, -1):
        chosen = np.unique(np.linspace(0, len(graphs) - 1, count).round().astype(int))
        if 0 < counts[chosen].sum() <= rows:
            return [int(i) for i in chosen]
    raise ConfigError(
        f"No frame has at most {rows} residuals; the first has {counts[0]}: raise --rows."
    )


@dataclass(frozen=True)
class Estimate:
    """What an analysis will take.

    Attributes
    ----------
    seconds
        From the time of one batch here and now.
    memory_GB
        At the peak.
    text
        Both, in a sentence.
    """

    seconds: float
    memory_GB: float
    text: str


def memory_GB(rows: int, size: int, frames: int, krylov: int, graph_GB: float) -> float:
    """Return the memory at the peak, beside what the libraries take."""
    return 8e-9 * size * (COPIES * rows + frames + krylov + SPARE_VECTORS) + graph_GB


def estimate(
    residuals: Residuals,
    graphs: Sequence[Graph],
    frames: int,
    optimizers: int,
    processes: int,
    steps: int,
    extra: int,
) -> Estimate:
    """Time a gradient and a Hessian-vector product of one batch, and scale.

    Parameters
    ----------
    residuals, graphs
        Of the chosen frames.
    frames
        From which gradients are gathered.
    optimizers
        Number of spectra.
    processes, steps
        Of Lanczos.
    extra
        Further Hessian-vector products.
    """
    atoms = sum(g.n_atoms for g in graphs)
    part = residuals.parts[0]
    part_atoms = sum(g.n_atoms for g in part)
    before = _peak_GB()
    probe = Residuals(
        residuals.module, part, residuals.loss, residuals.n_elements, residuals.device
    )
    vectors = torch.zeros(2, probe.size, dtype=torch.float64, device=residuals.device)
    # The first call sets up what later ones reuse.
    LossProducts(probe).hessian(vectors[:1])
    begun = time.perf_counter()
    frame_gradients(probe, part)
    gradient = (time.perf_counter() - begun) / part_atoms
    begun = time.perf_counter()
    LossProducts(probe).hessian(vectors[:1])
    one = time.perf_counter() - begun
    LossProducts(probe).hessian(vectors)
    product = (time.perf_counter() - begun - 2.0 * one) / part_atoms
    graph_GB = max(0.0, _peak_GB() - before)
    product = max(product, gradient)
    rows, size = residuals.rows, residuals.size
    seconds = (
        gradient * atoms * frames / len(graphs)
        + ROW_COST * gradient * atoms / len(graphs) * rows
        + product * atoms * (processes * steps + extra)
        + optimizers * 6.0 * size * rows**2 / FLOPS
    )
    memory = memory_GB(rows, size, frames, processes * (steps + 1), graph_GB)
    return Estimate(
        seconds,
        memory,
        f"{counted(len(graphs))}, {rows} residuals x {size} parameters, {optimizers} optimizers: "
        f"about {max(seconds / 60.0, 0.1):.1f} min and {memory:.1f} GB.",
    )


def _peak_GB() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
