"""The fast evaluation on a GPU without the cost of its calls, by CUDA graphs.

A step on a few hundred atoms is a thousand small operations, each of which takes a GPU less time
than Python takes to ask for it. Their sequence depends on shapes alone. Here edges are padded so
that shapes rarely change (`fast_edges.sort_edges`, ``steady``); when the same ones come again, the
sequence is recorded, and from then on replayed as a whole with other numbers in its buffers.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch

from ase_finetune.fast_edges import Edges, sort_edges
from ase_finetune.fast_mace import FastMACE, stress_of, volumes

# Padded edges beyond which the GPU is the bottleneck, and a recording would only take memory.
MOST_EDGES = 100_000
# Shapes are recorded when they come for this time, and this many recordings are kept.
RECORD_AT, KEPT = 3, 8

Tensors = dict[str, torch.Tensor]
Function = Callable[[Mapping[str, torch.Tensor], Edges], Tensors]
_EDGES = ("order", "inverse", "sender", "receiver", "vectors")
_DATA = ("node_attrs", "batch", "head", "ptr")


class _Recording:
    """A function's buffers, the graph that reads and writes them, and its results."""

    def __init__(self, function: Function, data: Tensors, edges: Edges, pool: Any) -> None:
        self.edges, self.data = edges, data
        self.graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):  # what first calls set up does not belong into the graph
                function(data, edges)
        torch.cuda.synchronize()
        with torch.cuda.graph(self.graph, pool=pool):
            self.results = function(data, edges)

    def replay(self, data: Mapping[str, torch.Tensor], edges: Edges) -> Tensors:
        with torch.no_grad():
            for name in _EDGES:
                getattr(self.edges, name).copy_(getattr(edges, name))
            for name, buffer in self.data.items():
                buffer.copy_(data[name])
        self.graph.replay()
        return self.results


class Recorder:
    """Calls functions of a batch on a GPU, and replays those whose shapes come again.

    A function must be one sequence of operations for one name and set of shapes. It may read
    weights, which may change in place. What it returns is overwritten by the next call.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._met: dict[Hashable, int] = {}
        self._recordings: OrderedDict[Hashable, _Recording | None] = OrderedDict()
        # One at a time is replayed, so that they can share the memory of what is between.
        self._pool: Any = None

    @property
    def n_recorded(self) -> int:
        return sum(recording is not None for recording in self._recordings.values())

    def __call__(
        self,
        function: Function,
        name: Hashable,
        data: Mapping[str, torch.Tensor],
        edges: Edges,
    ) -> Tensors:
        """Call a function with tensors from the CPU; give tensors on the GPU."""
        shapes = tuple((key, value.dtype, value.shape) for key, value in data.items())
        key = (name, edges.species, edges.counts, edges.blocks, shapes)
        recording = self._recordings.get(key)
        if recording is not None:
            self._recordings.move_to_end(key)
            return recording.replay(data, edges)
        inputs = {name: value.to(self.device) for name, value in data.items()}
        placed = {name: getattr(edges, name).to(self.device) for name in _EDGES}
        there = dataclasses.replace(edges, **placed)
        self._met[key] = self._met.get(key, 0) + 1
        if self._met[key] != RECORD_AT:
            return function(inputs, there)
        if len(self._recordings) == KEPT:
            oldest, _ = self._recordings.popitem(last=False)
            del self._met[oldest]
        self._recordings[key] = self._record(function, inputs, there)
        return self(function, name, data, edges)

    def _record(self, function: Function, data: Tensors, edges: Edges) -> _Recording | None:
        try:
            with torch.cuda.device(self.device):
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                return _Recording(function, data, edges, self._pool)
        except RuntimeError as error:
            warnings.warn(f"Evaluation goes on without a CUDA graph: {error}", stacklevel=4)
            return None


class Replayed(torch.nn.Module):
    """An accelerated module on a GPU as one whose inputs and results are on the CPU.

    Results have no gradients. Weights may change in place.
    """

    def __init__(self, module: FastMACE) -> None:
        super().__init__()
        self.module = module
        self.recorder = Recorder(module.atomic_numbers.device)
        self.atomic_energies_fn = copy.deepcopy(module.atomic_energies_fn).cpu()

    def forward(
        self,
        data: dict[str, torch.Tensor],
        training: bool = False,
        compute_force: bool = True,
        compute_stress: bool = False,
    ) -> dict[str, torch.Tensor | None]:
        """Evaluate a batch as `FastMACE.forward` does; forces and stress are always made."""
        edges = sort_edges(data, self.module.far, steady=True)
        if len(edges.sender) > MOST_EDGES:
            moved = {key: value.to(self.recorder.device) for key, value in data.items()}
            found: Any = self.module(moved, compute_stress=True)
            return {key: value.cpu() for key, value in found.items()}
        inputs = {name: data[name] for name in _DATA}
        out = self.recorder(self._evaluate, "evaluate", inputs, edges)
        results = {key: value.cpu() for key, value in out.items()}
        results["stress"] = stress_of(results.pop("virial"), volumes(data["cell"]))
        return dict(results)

    def _evaluate(self, data: Mapping[str, torch.Tensor], edges: Edges) -> Tensors:
        found: Any = self.module.evaluate(data, edges, compute_stress=True)
        return {key: value.detach() for key, value in found.items()}


def replayed(module: torch.nn.Module, device: str) -> tuple[torch.nn.Module, str]:
    """Return the module in its fastest form for evaluation, and where its inputs have to be."""
    if device.startswith("cuda") and isinstance(module, FastMACE):
        return Replayed(module), "cpu"
    return module, device
