"""Exact products with the Hessian of the training loss and its Gauss-Newton matrix, in float64.

The loss is half the squared norm of the residuals of :mod:`ase_finetune.residuals`. Its Hessian is
J^T J plus the curvature of the residuals themselves; the second term is what can be negative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from ase_finetune.graphs import Graph, collate, predict
from ase_finetune.loss import Loss
from ase_finetune.residuals import Residuals, residual_vector

KINDS = ("energy", "forces", "stress")


class LossProducts:
    """Products at the present parameters, frame after frame in a fixed order.

    Parameters
    ----------
    residuals
        Of a module in float64.
    """

    def __init__(self, residuals: Residuals) -> None:
        self.residuals = residuals
        self.sizes = [p.numel() for p in residuals.parameters]
        self.size = residuals.size

    def hessian(
        self, vectors: torch.Tensor, progress: Callable[[int], None] | None = None
    ) -> torch.Tensor:
        """Return H v for vectors of shape (k, size).

        The vectors share loss and gradient of each batch, so that several at once cost less.
        ``progress`` is called with the number of products after each.
        """
        found = torch.zeros_like(vectors)
        for k, gradient in self._graphs(lambda rho: 0.5 * rho.square().sum()):
            for i, vector in enumerate(vectors):
                found[i] += self._back(gradient, vector)
                if progress is not None and k == len(self.residuals.batches) - 1:
                    progress(i + 1)
        return found

    def gauss_newton(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return J^T J v for vectors of shape (k, size), without storing J."""
        return torch.stack([self.residuals.normal(vector)[1] for vector in vectors])

    def push(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return J v, shape (k, rows), for vectors of shape (k, size)."""
        return torch.stack([self.residuals.normal(vector)[0] for vector in vectors])

    def _graphs(
        self, scalar: Callable[[torch.Tensor], torch.Tensor]
    ) -> Iterator[tuple[int, list[torch.Tensor | None]]]:
        """The differentiable gradient of a function of the residuals, batch by batch."""
        parameters, residuals = self.residuals.parameters, self.residuals
        for k, batch in enumerate(residuals.batches):
            result = predict(
                residuals.module, batch, stress=residuals.loss.needs_stress, training=True
            )
            rho = residual_vector(residuals.loss, result, batch)
            yield (
                k,
                list(
                    torch.autograd.grad(
                        scalar(rho), parameters, create_graph=True, allow_unused=True
                    )
                ),
            )

    def _back(self, gradient: Sequence[torch.Tensor | None], vector: torch.Tensor) -> torch.Tensor:
        pairs = [
            (g, part.view_as(g))
            for g, part in zip(gradient, vector.split(self.sizes), strict=True)
            if g is not None and g.requires_grad
        ]
        found = torch.autograd.grad(
            [g for g, _ in pairs],
            self.residuals.parameters,
            [part for _, part in pairs],
            retain_graph=True,
            allow_unused=True,
        )
        return _flat(found, self.residuals.parameters)


def frame_gradients(residuals: Residuals, graphs: Sequence[Graph]) -> torch.Tensor:
    """Return the gradient of each frame's share of the loss, shape (frames, size).

    The gradient of any mini-batch is a sum of them, since the loss is one over frames.
    """
    rows = residuals.point.new_empty(len(graphs), residuals.size)
    for i, graph in enumerate(graphs):
        batch = collate([graph], residuals.n_elements, residuals.device)
        result = predict(residuals.module, batch, stress=residuals.loss.needs_stress, training=True)
        share = residuals.loss(result, batch)
        found = torch.autograd.grad(share, residuals.parameters, allow_unused=True)
        rows[i] = _flat(found, residuals.parameters)
    return rows


def energy_gradient(
    residuals: Residuals, terms: Sequence[tuple[float, Graph]]
) -> tuple[float, torch.Tensor]:
    """Return a sum of energies with coefficients and its exact gradient by the parameters.

    Parameters
    ----------
    residuals
        Whose module and parameters are meant.
    terms
        Coefficients in 1/eV times the wanted unit, and structures as graphs without labels.

    Returns
    -------
    value
        The sum without E0s, which the parameters do not change.
    gradient
        Shape (size,).
    """
    total, gradient = 0.0, torch.zeros_like(residuals.point)
    for coefficient, graph in terms:
        batch = collate([graph], residuals.n_elements, residuals.device)
        energy = predict(residuals.module, batch, stress=False, training=True).energy.sum()
        found = torch.autograd.grad(energy, residuals.parameters, allow_unused=True)
        total += coefficient * float(energy.detach())
        gradient += coefficient * _flat(found, residuals.parameters)
    return total, gradient


def row_kinds(graphs: Sequence[Graph], loss: Loss) -> torch.Tensor:
    """Return for each row of one batch of graphs what it is, an index of `KINDS`."""
    parts = [
        (loss.energy_weight > 0, [int(g.energy is not None) for g in graphs]),
        (loss.forces_weight > 0, [3 * g.n_atoms * int(g.forces is not None) for g in graphs]),
        (loss.needs_stress, [6 * int(g.stress is not None) for g in graphs]),
    ]
    counts = [sum(sizes) if used else 0 for used, sizes in parts]
    return torch.repeat_interleave(torch.arange(3), torch.tensor(counts))


def _flat(found: Sequence[torch.Tensor | None], parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).detach().reshape(-1)
            for g, p in zip(found, parameters, strict=True)
        ]
    )
