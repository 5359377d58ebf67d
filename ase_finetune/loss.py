"""The one objective of training and refinement: weighted squared errors of E, F and stress.

It is a mean over the whole training set, so that a mini-batch gives an unbiased estimate of
exactly what the full-batch refinement minimizes (but for Huber's loss, whose linear zone has no
curvature, which is for the mini-batch stage alone). mace-torch averages forces within each batch
instead, which makes its loss depend on how frames of different sizes are grouped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ase_finetune.graphs import Batch, Graph, LabelledGraphs, Prediction


@dataclass(frozen=True)
class Loss:
    """L = w_E mean_frames (dE/N)^2 + w_F mean_components dF^2 + w_S mean_components dS^2.

    The means are weighted by frame, so that a frame of weight two counts as two frames.

    Attributes
    ----------
    energy_weight, forces_weight, stress_weight
        w_E in 1/(eV/atom)^2, w_F in 1/(eV/A)^2, w_S in 1/(eV/A^3)^2.
    n_frames, n_forces, n_stresses
        Counts over the training set, each times the weight of its frame: frames with an energy,
        force components, stress components.
    huber_delta
        Deviation beyond which the squares go on as their tangents, in eV/atom, eV/A and eV/A^3
        alike (Huber, Ann. Math. Statist. 35, 73 (1964)); infinite for plain squares.
    """

    energy_weight: float
    forces_weight: float
    stress_weight: float
    n_frames: float
    n_forces: float
    n_stresses: float
    huber_delta: float = math.inf

    @classmethod
    def for_graphs(
        cls,
        graphs: Sequence[Graph],
        energy_weight: float,
        forces_weight: float,
        stress_weight: float,
        huber_delta: float = math.inf,
    ) -> Loss:
        """Count the labels of a training set."""
        if isinstance(graphs, LabelledGraphs):
            counts = graphs.label_counts()
        else:
            counts = (
                sum(g.weight for g in graphs if g.energy is not None),
                sum(g.weight * 3 * g.n_atoms for g in graphs if g.forces is not None),
                sum(g.weight * 6 for g in graphs if g.stress is not None),
            )
        return cls(energy_weight, forces_weight, stress_weight, *counts, huber_delta=huber_delta)

    @property
    def needs_stress(self) -> bool:
        return self.stress_weight > 0 and self.n_stresses > 0

    def __call__(self, prediction: Prediction, batch: Batch) -> torch.Tensor:
        """Return the batch's share of L; the shares of a partition add up to L exactly."""
        per_atom = (prediction.energy - batch.energy) / batch.n_atoms
        per_atom = torch.where(batch.has_energy, per_atom, torch.zeros_like(per_atom))
        weight = batch.weight
        total = self.energy_weight / (self.n_frames or 1) * self._penalty(per_atom, weight)
        mask = batch.has_forces[batch.inputs["batch"]].unsqueeze(-1)
        forces = torch.where(mask, prediction.forces - batch.forces, 0.0)
        weights = weight[batch.inputs["batch"]].unsqueeze(-1)
        total = total + self.forces_weight / (self.n_forces or 1) * self._penalty(forces, weights)
        if self.needs_stress and prediction.stress is not None:
            stress = torch.where(
                batch.has_stress.unsqueeze(-1), prediction.stress - batch.stress, 0.0
            )
            total = total + self.stress_weight / (self.n_stresses or 1) * self._penalty(
                stress, weight.unsqueeze(-1)
            )
        return total

    def _penalty(self, deviation: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if self.huber_delta == math.inf:
            return (weight * deviation.square()).sum()
        # Twice torch's, so that it equals the square below delta.
        huber = torch.nn.functional.huber_loss(
            deviation, torch.zeros_like(deviation), reduction="none", delta=self.huber_delta
        )
        return 2.0 * (weight * huber).sum()
