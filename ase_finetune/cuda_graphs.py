"""The fast evaluation on a GPU without the cost of its calls, by CUDA graphs.

A step on a few hundred atoms is a thousand small operations, each of which takes a GPU less time
than Python takes to ask for it. Their sequence depends on shapes alone. Here edges are padded so
that shapes rarely change (`fast_edges.sort_edges`, ``steady``); when the same ones come again, the
sequence is recorded, and from then on replayed as a whole with other numbers in its buffers.
"""

from __future__ import annotations

import copy
import dataclasses
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import torch

from ase_finetune.fast_edges import Edges, sort_edges
from ase_finetune.fast_mace import INPUTS, FastMACE, stress_of, volumes

# Edges beyond which the GPU is the bottleneck, and a recording would only take memory.
MOST_EDGES = 100_000
# Shapes are recorded when they come for this time. So many recordings are kept; one makes room for
# another if it was not replayed in the last so many calls. So many shapes are remembered.
RECORD_AT, KEPT, STALE, REMEMBERED = 3, 8, 200, 1000

Tensors = dict[str, torch.Tensor]
Function = Callable[[Mapping[str, torch.Tensor], Edges], Tensors]
_EDGES = ("order", "inverse", "sender", "receiver", "vectors")
_recording = threading.Lock()


class _Recording:
    """A function's buffers, the graph that reads and writes them, and its results."""

    def __init__(
        self, function: Function, data: Tensors, edges: Edges, stream: torch.cuda.Stream, pool: Any
    ) -> None:
        self.edges, self.data, self.last_used = edges, data, 0
        self.graph = torch.cuda.CUDAGraph()
        # The stream is entered here: torch leaves it entered if a recording fails.
        with _recording, torch.cuda.stream(stream):
            torch.cuda.synchronize()
            for _ in range(3):  # what first calls set up does not belong into the graph
                function(data, edges)
            torch.cuda.synchronize()
            with torch.cuda.graph(
                self.graph, pool=pool, stream=stream, capture_error_mode="thread_local"
            ):
                self.results = function(data, edges)

    def refill(self, data: Mapping[str, torch.Tensor], edges: Edges) -> None:
        with torch.no_grad():
            for name in _EDGES:
                getattr(self.edges, name).copy_(getattr(edges, name))
            for name, buffer in self.data.items():
                buffer.copy_(data[name])

    def replay(self) -> Tensors:
        self.graph.replay()
        return self.results


class Recorder:
    """Calls functions of a batch on a GPU, and replays those whose shapes come again.

    A function must be one sequence of operations for one name and set of shapes.

    Parameters
    ----------
    device
        The GPU.
    weights
        What functions read besides their arguments. They may change in place; tensors whose memory
        is another are recorded anew.
    """

    def __init__(self, device: torch.device, weights: Iterable[torch.Tensor]) -> None:
        self.device, self.weights = device, list(weights)
        self._lock = threading.Lock()
        self._calls, self._able = 0, True
        self._met: OrderedDict[Hashable, int] = OrderedDict()
        self._recordings: OrderedDict[Hashable, _Recording] = OrderedDict()
        # One at a time is replayed, so that they can share the memory of what is between.
        self._stream: Any = None
        self._pool: Any = None

    @property
    def n_recorded(self) -> int:
        return len(self._recordings)

    def __call__(
        self,
        function: Function,
        name: Hashable,
        data: Mapping[str, torch.Tensor],
        edges: Edges,
        *,
        to: str | torch.device,
    ) -> Tensors:
        """Call a function with tensors from the CPU; return copies of its results on a device."""
        shapes = tuple((key, value.dtype, value.shape) for key, value in data.items())
        places = tuple(weight.data_ptr() for weight in self.weights)
        key = (name, edges.species, edges.counts, edges.blocks, shapes, places)
        with self._lock:
            self._calls += 1
            recording = self._recordings.get(key) or self._record(key, function, data, edges)
            if recording is None:
                results = self._eager(function, data, edges)
            else:
                self._recordings.move_to_end(key)
                recording.last_used = self._calls
                recording.refill(data, edges)
                results = recording.replay()
            return {key: value.detach().to(to, copy=True) for key, value in results.items()}

    def _moved(self, data: Mapping[str, torch.Tensor], edges: Edges) -> tuple[Tensors, Edges]:
        inputs = {key: value.to(self.device, copy=True) for key, value in data.items()}
        placed = {key: getattr(edges, key).to(self.device, copy=True) for key in _EDGES}
        return inputs, dataclasses.replace(edges, **placed)

    def _eager(self, function: Function, data: Mapping[str, torch.Tensor], edges: Edges) -> Tensors:
        try:
            return function(*self._moved(data, edges))
        except torch.OutOfMemoryError:
            if not self._recordings:
                raise
        self._give_up("their memory is needed")
        return function(*self._moved(data, edges))

    def _record(
        self,
        key: Hashable,
        function: Function,
        data: Mapping[str, torch.Tensor],
        edges: Edges,
    ) -> _Recording | None:
        """Record a function if its shapes came often enough and there is room."""
        self._met[key] = self._met.pop(key, 0) + 1
        if len(self._met) > REMEMBERED:
            self._met.popitem(last=False)
        if not self._able or self._met[key] < RECORD_AT:
            return None
        oldest = next(iter(self._recordings)) if len(self._recordings) >= KEPT else None
        if oldest is not None and self._calls - self._recordings[oldest].last_used < STALE:
            return None
        try:
            with torch.cuda.device(self.device):
                if self._pool is None:
                    self._stream = torch.cuda.Stream()
                    self._pool = torch.cuda.graph_pool_handle()
                made = _Recording(function, *self._moved(data, edges), self._stream, self._pool)
        except RuntimeError as error:
            self._give_up(str(error))
            return None
        if oldest is not None:
            del self._recordings[oldest]
        self._recordings[key] = made
        return made

    def _give_up(self, reason: str) -> None:
        self._able, self._pool = False, None
        self._recordings.clear()
        torch.cuda.empty_cache()
        warnings.warn(f"Evaluation goes on without CUDA graphs: {reason}", stacklevel=5)


class Replayed(torch.nn.Module):
    """An accelerated module on a GPU as one whose inputs and results are on the CPU.

    For evaluation: results have no gradients.
    """

    def __init__(self, module: FastMACE) -> None:
        super().__init__()
        self.module = module
        self.recorder = Recorder(module.atomic_numbers.device, module.parameters())
        self.atomic_energies_fn = copy.deepcopy(module.atomic_energies_fn).cpu()

    def forward(
        self,
        data: dict[str, torch.Tensor],
        training: bool = False,
        compute_force: bool = True,
        compute_stress: bool = False,
    ) -> dict[str, torch.Tensor | None]:
        """Evaluate a batch as `FastMACE.forward` does; forces and stress are always made."""
        if training:
            raise ValueError("A replayed module cannot be trained.")
        edges = recordable(data, self.module.far)
        if edges is None:
            moved = {key: value.to(self.recorder.device) for key, value in data.items()}
            found: Any = self.module(moved, compute_stress=True)
            return {key: value.detach().cpu() for key, value in found.items()}
        inputs = {name: data[name] for name in INPUTS}
        results = self.recorder(self._evaluate, "evaluate", inputs, edges, to="cpu")
        results["stress"] = stress_of(results.pop("virial"), volumes(data["cell"]))
        return dict(results)

    def _evaluate(self, data: Mapping[str, torch.Tensor], edges: Edges) -> Tensors:
        found: Any = self.module.evaluate(data, edges, compute_stress=True)
        return dict(found)


def recordable(data: Mapping[str, torch.Tensor], far: float) -> Edges | None:
    """Return the edges of a batch, sorted for a recording, or None where they are too many."""
    if data["edge_index"].shape[1] > MOST_EDGES:
        return None
    edges = sort_edges(data, far, steady=True)
    return edges if len(edges.sender) <= MOST_EDGES else None


def replayed(module: torch.nn.Module, device: str) -> tuple[torch.nn.Module, str]:
    """Return the module in its fastest form for evaluation, and where its inputs have to be."""
    if device.startswith("cuda") and isinstance(module, FastMACE):
        return Replayed(module), "cpu"
    return module, device
