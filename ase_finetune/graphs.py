"""Frames as graphs: neighbor lists made once, batches collated from them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from ase import Atoms

from ase_finetune.data.read import WEIGHT_KEY
from ase_finetune.errors import DataError
from ase_finetune.neighbors import Neighbors, bounding_cell, near_origin, pairs

FAR = 100.0  # A, where float32 begins to cost forces digits: 4e-6 A of a position
KEEP_BYTES = 5e8  # of the graphs of one set


@dataclass(frozen=True)
class Graph:
    """One frame as tensors.

    Attributes
    ----------
    positions
        Shape (N, 3), A; moved near the origin where float32 would lose digits.
    species
        Shape (N,), index of each atom's element in the model's list.
    cell
        Shape (3, 3), A; the frame's own, or a bounding cell where that has no volume.
    edge_index
        Shape (2, E), sender and receiver.
    unit_shifts
        Shape (E, 3), cell vectors crossed from sender to receiver.
    energy, forces, stress
        Labels in eV (E0s subtracted), eV/A and eV/A^3 (Voigt), or None.
    weight
        Of the frame in the loss.
    """

    positions: torch.Tensor
    species: torch.Tensor
    cell: torch.Tensor
    edge_index: torch.Tensor
    unit_shifts: torch.Tensor
    energy: float | None = None
    forces: torch.Tensor | None = None
    stress: torch.Tensor | None = None
    weight: float = 1.0

    @property
    def n_atoms(self) -> int:
        return int(self.positions.shape[0])

    def __len__(self) -> int:
        return self.n_atoms

    @property
    def n_bytes(self) -> int:
        """Size of the tensors in memory."""
        parts = (getattr(self, f.name) for f in dataclasses.fields(self))
        return sum(t.numel() * t.element_size() for t in parts if isinstance(t, torch.Tensor))


class LabelledGraphs(Sequence[Graph]):
    """Graphs of labelled frames, made when they are first asked for and kept within bounds.

    Neighbor lists take many times the memory of the frames themselves, so that those of a large
    data set cannot all be kept; a graph that is not kept is made again each time.

    Parameters
    ----------
    frames
        Labelled frames.
    numbers, r_max, dtype, E0s
        As for :func:`build_graph`.
    stress
        Whether stress labels are kept.
    keep_bytes
        Largest sum of the sizes of the graphs that are kept.
    """

    def __init__(
        self,
        frames: Sequence[Atoms],
        numbers: Sequence[int],
        r_max: float,
        *,
        dtype: torch.dtype,
        E0s: dict[int, float],
        stress: bool,
        keep_bytes: float = KEEP_BYTES,
    ) -> None:
        self.frames, self.stress = frames, stress
        self._make = functools.partial(
            build_graph, numbers=numbers, r_max=r_max, dtype=dtype, E0s=E0s
        )
        self._kept: dict[int, Graph] = {}
        self._free = keep_bytes

    def __len__(self) -> int:
        return len(self.frames)

    @overload
    def __getitem__(self, index: int) -> Graph: ...

    @overload
    def __getitem__(self, index: slice) -> list[Graph]: ...

    def __getitem__(self, index: int | slice) -> Graph | list[Graph]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        if place in self._kept:
            return self._kept[place]
        graph = self._make(self.frames[place])
        if not self.stress:
            graph = dataclasses.replace(graph, stress=None)
        if graph.n_bytes <= self._free:
            self._free -= graph.n_bytes
            self._kept[place] = graph
        return graph

    def label_counts(self) -> tuple[float, float, float]:
        """Return the numbers of energies, force and stress components, each times its weight."""
        energies = forces = stresses = 0.0
        for frame in self.frames:
            weight = frame_weight(frame)
            energies += weight if "REF_energy" in frame.info else 0.0
            forces += weight * 3 * len(frame) if "REF_forces" in frame.arrays else 0.0
            stresses += weight * 6 if self.stress and "REF_stress" in frame.info else 0.0
        return energies, forces, stresses


@dataclass(frozen=True)
class Batch:
    """Graphs joined for one evaluation; labels absent in a graph are masked out."""

    inputs: dict[str, torch.Tensor]
    n_atoms: torch.Tensor
    energy: torch.Tensor
    forces: torch.Tensor
    stress: torch.Tensor
    has_energy: torch.Tensor
    has_forces: torch.Tensor
    has_stress: torch.Tensor
    weight: torch.Tensor

    @property
    def n_graphs(self) -> int:
        return int(self.n_atoms.shape[0])


def frame_weight(atoms: Atoms) -> float:
    """Return the weight of a frame in the loss, 1 unless it states another."""
    return float(atoms.info.get(WEIGHT_KEY, 1.0))


def species_index(atoms: Atoms, numbers: Sequence[int]) -> np.ndarray:
    """Return each atom's index in the model's element list.

    Raises
    ------
    DataError
        If the model does not know an element of the frame.
    """
    table = {int(z): i for i, z in enumerate(numbers)}
    unknown = sorted(
        {s for s, z in zip(atoms.symbols, atoms.numbers, strict=True) if int(z) not in table}
    )
    if unknown:
        raise DataError(f"The model does not know the elements {', '.join(unknown)}.")
    return np.array([table[int(z)] for z in atoms.numbers], dtype=np.int64)


def build_graph(
    atoms: Atoms,
    numbers: Sequence[int],
    r_max: float,
    *,
    dtype: torch.dtype,
    E0s: dict[int, float] | None = None,
    neighbors: Neighbors | None = None,
) -> Graph:
    """Make the graph of one frame, with labels when ``E0s`` is given.

    Parameters
    ----------
    atoms
        A frame; labels under ``REF_energy``, ``REF_forces`` and ``REF_stress``.
    numbers
        The model's element list.
    r_max
        Cutoff, A.
    dtype
        Dtype of the floating-point tensors. In float32, a frame with a coordinate beyond `FAR` is
        wrapped and moved by :func:`~ase_finetune.neighbors.near_origin`, in float64; others keep
        their positions, and so their bits.
    E0s
        Energy of each isolated element in eV, subtracted from the energy label in float64, since
        total energies lose digits in float32.
    neighbors
        Those of the frame within the cutoff, if they are known.
    """
    species = species_index(atoms, numbers)
    if neighbors is None:
        neighbors = pairs(atoms, r_max)
    # A slab with a stated cell height keeps it, so that its stress refers to that volume.
    full = atoms.cell.rank == 3
    cell = np.array(atoms.cell.array) if full else bounding_cell(atoms, r_max)
    positions = np.array(atoms.positions)
    if dtype == torch.float32 and len(atoms) and np.abs(positions).max() > FAR:
        positions, neighbors = near_origin(atoms, cell, neighbors)
    energy, forces, stress, weight = None, None, None, 1.0
    if E0s is not None:
        weight = frame_weight(atoms)
        if "REF_energy" in atoms.info:
            energy = float(atoms.info["REF_energy"]) - sum(E0s[int(z)] for z in atoms.numbers)
        if "REF_forces" in atoms.arrays:
            forces = torch.as_tensor(np.asarray(atoms.arrays["REF_forces"]), dtype=dtype)
        if "REF_stress" in atoms.info:
            stress = torch.as_tensor(np.asarray(atoms.info["REF_stress"]), dtype=dtype)
    return Graph(
        positions=torch.as_tensor(positions, dtype=dtype),
        species=torch.as_tensor(species),
        cell=torch.as_tensor(cell, dtype=dtype),
        edge_index=torch.as_tensor(neighbors.edge_index),
        unit_shifts=torch.as_tensor(neighbors.unit_shifts, dtype=dtype),
        energy=energy,
        forces=forces,
        stress=stress,
        weight=weight,
    )


def collate(graphs: Sequence[Graph], n_elements: int, device: torch.device | str = "cpu") -> Batch:
    """Join graphs into the input that a MACE module takes, with their labels."""
    dtype = graphs[0].positions.dtype
    sizes = torch.tensor([g.n_atoms for g in graphs])
    offsets = torch.cumsum(sizes, 0) - sizes
    species = torch.cat([g.species for g in graphs])
    index = torch.arange(len(graphs))
    edges = torch.cat([g.edge_index + o for g, o in zip(graphs, offsets, strict=True)], dim=1)
    unit_shifts = torch.cat([g.unit_shifts for g in graphs])
    shifts = torch.cat([g.unit_shifts @ g.cell for g in graphs])
    inputs = {
        "positions": torch.cat([g.positions for g in graphs]),
        "node_attrs": torch.nn.functional.one_hot(species, n_elements).to(dtype),
        "cell": torch.cat([g.cell for g in graphs]),
        "edge_index": edges,
        "unit_shifts": unit_shifts,
        "shifts": shifts,
        "batch": torch.repeat_interleave(index, sizes),
        "ptr": torch.cat([torch.zeros(1, dtype=torch.int64), torch.cumsum(sizes, 0)]),
        "head": torch.zeros(len(graphs), dtype=torch.int64),
    }
    zeros = [torch.zeros(g.n_atoms, 3, dtype=dtype) for g in graphs]
    none = torch.zeros(6, dtype=dtype)
    batch = Batch(
        inputs={k: v.to(device) for k, v in inputs.items()},
        n_atoms=sizes.to(device),
        energy=torch.tensor([g.energy or 0.0 for g in graphs], dtype=dtype, device=device),
        forces=torch.cat(
            [z if g.forces is None else g.forces for g, z in zip(graphs, zeros, strict=True)]
        ).to(device),
        stress=torch.stack([none if g.stress is None else g.stress for g in graphs]).to(device),
        has_energy=torch.tensor([g.energy is not None for g in graphs], device=device),
        has_forces=torch.tensor([g.forces is not None for g in graphs], device=device),
        has_stress=torch.tensor([g.stress is not None for g in graphs], device=device),
        weight=torch.tensor([g.weight for g in graphs], dtype=dtype, device=device),
    )
    return batch


@dataclass(frozen=True)
class Prediction:
    """What a module says of a batch: energies in eV without E0s, eV/A, eV/A^3 (Voigt)."""

    energy: torch.Tensor
    node_energy: torch.Tensor
    forces: torch.Tensor
    stress: torch.Tensor | None


def predict(
    module: torch.nn.Module, batch: Batch, *, stress: bool, training: bool = False
) -> Prediction:
    """Evaluate a MACE module on a batch.

    Parameters
    ----------
    module
        A single-head MACE.
    batch
        As from :func:`collate`; it may be used again.
    stress
        Whether to return stresses.
    training
        Keep the graph, so that the result can be differentiated by the parameters.
    """
    inputs = dict(batch.inputs)  # the module writes into the dictionary, and needs fresh leaves
    inputs["positions"] = inputs["positions"].detach().clone()
    out = module(inputs, training=training, compute_force=True, compute_stress=stress)
    energy, forces = out["interaction_energy"], out["forces"]
    node_E0 = module.atomic_energies_fn(inputs["node_attrs"])[:, 0]  # type: ignore[operator]
    node_energy = out["node_energy"] - node_E0.double()
    voigt = to_voigt(out["stress"]) if stress else None
    if not training:
        energy, forces = energy.detach(), forces.detach()
        voigt = None if voigt is None else voigt.detach()
    return Prediction(energy, node_energy.detach(), forces, voigt)


def to_voigt(s: torch.Tensor) -> torch.Tensor:
    """Return tensors (n, 3, 3) as (n, 6), xx yy zz yz xz xy."""
    return torch.stack(
        [s[:, 0, 0], s[:, 1, 1], s[:, 2, 2], s[:, 1, 2], s[:, 0, 2], s[:, 0, 1]], dim=1
    )
