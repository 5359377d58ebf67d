"""The loss of a batch and its gradient by the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ase_finetune.cuda_graphs import Recorder, Tensors, recordable
from ase_finetune.fast_edges import Edges
from ase_finetune.fast_mace import INPUTS, FastMACE, stress_of, volumes
from ase_finetune.graphs import Batch, Graph, Prediction, collate, predict, to_voigt
from ase_finetune.loss import Loss

_LABELS = (
    "n_atoms",
    "energy",
    "forces",
    "stress",
    "has_energy",
    "has_forces",
    "has_stress",
    "weight",
)


class Gradients:
    """Adds gradients of the loss to the parameters; on a GPU replayed where shapes come again.

    Parameters
    ----------
    module
        The MACE module.
    parameters
        Of the module, those that are trained.
    n_elements
        Number of elements of the model.
    device
        Where the module is.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        parameters: Sequence[torch.nn.Parameter],
        n_elements: int,
        device: str,
    ) -> None:
        self.module, self.parameters = module, list(parameters)
        self.n_elements, self.device = n_elements, device
        self.recorder = Recorder(torch.device(device), module.parameters())

    def add(self, graphs: Sequence[Graph], loss: Loss, scale: float) -> float:
        """Return ``scale`` times the loss of these graphs, and add its gradient to the others."""
        if isinstance(self.module, FastMACE) and self.device.startswith("cuda"):
            batch = collate(graphs, self.n_elements)
            edges = recordable(batch.inputs, self.module.far)
            if edges is not None:
                return self._recorded(batch, edges, loss, scale)
        batch = collate(graphs, self.n_elements, self.device)
        prediction = predict(self.module, batch, stress=loss.needs_stress, training=True)
        value = loss(prediction, batch) * scale
        found = float(value.detach())
        value.backward()
        return found

    def _recorded(self, batch: Batch, edges: Edges, loss: Loss, scale: float) -> float:
        module = self.module
        assert isinstance(module, FastMACE)

        def step(data: Mapping[str, torch.Tensor], edges: Edges) -> Tensors:
            out = module.evaluate(data, edges, training=True, compute_stress=loss.needs_stress)
            energy, node_energy, forces = (
                _present(out[key]) for key in ("interaction_energy", "node_energy", "forces")
            )
            stress = None
            if loss.needs_stress:
                stress = to_voigt(stress_of(_present(out["virial"]), data["volume"]))
            labels = {name: data[name] for name in _LABELS}
            value = scale * loss(
                Prediction(energy, node_energy, forces, stress), Batch(inputs=dict(data), **labels)
            )
            found = torch.autograd.grad(value, self.parameters, allow_unused=True)
            gradients = {str(i): g for i, g in enumerate(found) if g is not None}
            return {"loss": value.detach(), **gradients}

        data = {name: batch.inputs[name] for name in INPUTS}
        data |= {name: getattr(batch, name) for name in _LABELS}
        data["volume"] = volumes(batch.inputs["cell"])
        out = self.recorder(step, (loss, scale), data, edges, to=self.device)
        for i, parameter in enumerate(self.parameters):
            gradient = out.get(str(i))
            if gradient is not None:
                so_far = parameter.grad
                parameter.grad = gradient if so_far is None else so_far + gradient
        return float(out["loss"])


def _present(value: torch.Tensor | None) -> torch.Tensor:
    assert value is not None
    return value
