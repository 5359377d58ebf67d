"""The training loss as a sum of squares: weighted residuals and products with their Jacobian.

With rho = sqrt(2 w c / n) (prediction - label), one entry per label of a frame of weight c, n the
sum of these weights over all labels of a kind, the loss of :mod:`loss` is
L = rho.rho / 2, its gradient J^T rho and its Gauss-Newton matrix J^T J, where J = d rho / d theta.

Only reverse mode is used: forward mode loses the tangent of the energy where forces are themselves
a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from ase_finetune.evaluate import chunks
from ase_finetune.graphs import Batch, Graph, Prediction, collate, predict
from ase_finetune.loss import Loss


def residual_vector(loss: Loss, prediction: Prediction, batch: Batch) -> torch.Tensor:
    """Return the weighted residuals of a batch; half their squared norm is its share of the loss.

    Parameters
    ----------
    loss
        Weights, and counts over the whole training set.
    prediction, batch
        A module's results and the labels.

    Returns
    -------
    torch.Tensor
        Shape (rows,), without unit: energies per atom of the labelled frames, then their force
        components atom by atom, then stresses. Labels of zero weight have no rows.
    """
    parts = []
    root = batch.weight.sqrt()
    if loss.energy_weight > 0:
        energy = (root * (prediction.energy - batch.energy) / batch.n_atoms)[batch.has_energy]
        parts.append(math.sqrt(2.0 * loss.energy_weight / (loss.n_frames or 1)) * energy)
    if loss.forces_weight > 0:
        frame = batch.inputs["batch"]
        forces = root[frame].unsqueeze(-1) * (prediction.forces - batch.forces)
        rows = forces[batch.has_forces[frame]].reshape(-1)
        parts.append(math.sqrt(2.0 * loss.forces_weight / (loss.n_forces or 1)) * rows)
    if loss.needs_stress and prediction.stress is not None:
        stress = root.unsqueeze(-1) * (prediction.stress - batch.stress)
        rows = stress[batch.has_stress].reshape(-1)
        parts.append(math.sqrt(2.0 * loss.stress_weight / (loss.n_stresses or 1)) * rows)
    return torch.cat(parts)


class Residuals:
    """Residuals of a training set at the present parameters of a module.

    Parameters
    ----------
    module
        A single-head MACE in float64; its parameters that require a gradient are the unknowns.
    graphs
        The training set, in a fixed order.
    loss
        As from :meth:`ase_finetune.loss.Loss.for_graphs` of these graphs.
    n_elements
        Length of the module's element list.
    device
        Where the module is.
    batch_atoms
        Atoms evaluated at once, or atoms times rows in :meth:`jacobian`; bounds memory.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        graphs: Sequence[Graph],
        loss: Loss,
        n_elements: int,
        device: str = "cpu",
        batch_atoms: int = 256,
    ) -> None:
        self.module, self.loss, self.batch_atoms = module, loss, batch_atoms
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.size = sum(p.numel() for p in self.parameters)
        self.parts = list(chunks(graphs, batch_atoms))
        self.n_elements, self.device = n_elements, device
        self.batches = [collate(part, n_elements, device) for part in self.parts]
        self.n_frames = len(graphs)
        self.places: list[torch.Tensor] = []
        self.rows = 0
        for part in self.parts:
            found, count = _places(part, loss, self.rows)
            self.places += [index.to(device) for index in found]
            self.rows += count

    @property
    def point(self) -> torch.Tensor:
        """The parameters, shape (size,)."""
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])

    def move(self, point: torch.Tensor) -> None:
        """Set the parameters, shape (size,)."""
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(point, self.parameters)

    def values(self) -> torch.Tensor:
        """Return rho, shape (rows,)."""
        stress = self.loss.needs_stress
        return torch.cat(
            [
                residual_vector(self.loss, predict(self.module, batch, stress=stress), batch)
                for batch in self.batches
            ]
        ).detach()

    def gradient(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rho, shape (rows,), and the gradient J^T rho of the loss, shape (size,)."""
        values, total = [], torch.zeros_like(self.point)
        for rho in self._differentiable():
            total += self._pull(rho, rho.detach())
            values.append(rho.detach())
        return torch.cat(values), total

    def normal(self, vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return J v, shape (rows,), and J^T J v, shape (size,), by one evaluation per batch."""
        images, total = [], torch.zeros_like(self.point)
        for rho in self._differentiable():
            images.append(self._push(rho, vector))
            total += self._pull(rho, images[-1])
        return torch.cat(images), total

    def jacobian(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rho, shape (rows,), and J, shape (rows, size), frame by frame."""
        point = self.point
        values, J = point.new_zeros(self.rows), point.new_zeros(self.rows, self.size)
        frames = [graph for part in self.parts for graph in part]
        for graph, place in zip(frames, self.places, strict=True):
            if len(place) == 0:
                continue
            rho = self._residuals(collate([graph], self.n_elements, self.device))
            values[place] = rho.detach()
            # Rows share the forward pass; several at once cost about half of one after the other.
            for rows in torch.arange(len(place)).split(max(1, self.batch_atoms // graph.n_atoms)):
                J[place[rows]] = self._pull_rows(rho, rows)
        return values, J

    def _residuals(self, batch: Batch) -> torch.Tensor:
        result = predict(self.module, batch, stress=self.loss.needs_stress, training=True)
        return residual_vector(self.loss, result, batch)

    def _differentiable(self) -> Iterator[torch.Tensor]:
        for batch in self.batches:
            yield self._residuals(batch)

    def _pull(self, rho: torch.Tensor, cotangent: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad(
            rho, self.parameters, cotangent, retain_graph=True, allow_unused=True
        )
        return torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).reshape(-1)
                for g, p in zip(found, self.parameters, strict=True)
            ]
        )

    def _pull_rows(self, rho: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        chosen = torch.nn.functional.one_hot(rows, len(rho)).to(rho)
        found = torch.autograd.grad(
            rho,
            self.parameters,
            chosen,
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=True,
        )
        return torch.cat(
            [
                (rho.new_zeros(len(rows), *p.shape) if g is None else g).reshape(len(rows), -1)
                for g, p in zip(found, self.parameters, strict=True)
            ],
            dim=1,
        )

    def _push(self, rho: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        """J v as the derivative of J^T u by u, since J^T u is linear in u."""
        u = torch.zeros_like(rho, requires_grad=True)
        pulled = torch.autograd.grad(rho, self.parameters, u, create_graph=True, allow_unused=True)
        tangents = tangent.split([p.numel() for p in self.parameters])
        pairs = [(g, t.view_as(g)) for g, t in zip(pulled, tangents, strict=True) if g is not None]
        (found,) = torch.autograd.grad(
            [g for g, _ in pairs], u, [t for _, t in pairs], retain_graph=True
        )
        return found.detach()


def _places(part: Sequence[Graph], loss: Loss, first: int) -> tuple[list[torch.Tensor], int]:
    """Where the rows of each frame of a batch are among all rows, and how many the batch has."""
    counts = []
    for graph in part:
        energy = int(loss.energy_weight > 0 and graph.energy is not None)
        forces = 3 * graph.n_atoms if loss.forces_weight > 0 and graph.forces is not None else 0
        counts.append((energy, forces, 6 if loss.needs_stress and graph.stress is not None else 0))
    sizes = torch.tensor(counts)
    flat = sizes.T.reshape(-1)
    starts = (first + torch.cumsum(flat, 0) - flat).view(3, -1).T
    places = [
        torch.cat(
            [start + torch.arange(int(n)) for start, n in zip(starts[i], sizes[i], strict=True)]
        )
        for i in range(len(part))
    ]
    return places, int(flat.sum())
