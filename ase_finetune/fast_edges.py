"""Edges in the order that the fast evaluation needs: by receiver, in blocks of equal length.

Atoms are sorted by element and number of neighbors and put into blocks whose members are padded
to one number of edges each, so that a sum over the neighbors of every atom of a block is one
batched matrix product. A padding edge is longer than any cutoff, so that its radial function and
all its derivatives are exactly zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

# A block takes in one more atom while its padding stays below this many edges, which cost as much
# as the calls for another block on a CPU (by measurement) and on a GPU (by estimate), or below this
# share of all its edges.
PADDED_EDGES = {"cpu": 150, "cuda": 2500}
PADDED_SHARE = 0.05
# Where shapes are to stay the same from step to step, a block holds all atoms of an element and its
# width is a multiple of this.
STEADY_WIDTH = 8


@dataclass(frozen=True)
class Block:
    """Consecutive sorted atoms, ``size`` of them, with ``width`` edges each."""

    size: int
    width: int


@dataclass(frozen=True)
class Edges:
    """A batch in sorted order.

    Attributes
    ----------
    order, inverse
        Shape (N,): sorted atom -> atom, and back.
    species, counts
        Index of each element that is present, and how many sorted atoms it has.
    blocks
        Partition of the sorted atoms.
    sender, receiver
        Shape (E,), sorted atoms at both ends, padding included.
    vectors
        Shape (E, 3), A, from sender to receiver.
    """

    order: torch.Tensor
    inverse: torch.Tensor
    species: tuple[int, ...]
    counts: tuple[int, ...]
    blocks: tuple[Block, ...]
    sender: torch.Tensor
    receiver: torch.Tensor
    vectors: torch.Tensor

    def by_species(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Split sorted atoms by element."""
        return tuple(torch.split(x, list(self.counts)))

    def by_block(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Split edges (E, ...) by block into (atoms, width, ...)."""
        parts = torch.split(x, [b.size * b.width for b in self.blocks])
        return tuple(
            p.view(b.size, b.width, *p.shape[1:]) for p, b in zip(parts, self.blocks, strict=True)
        )


def _blocks(species: np.ndarray, degree: np.ndarray, padded: int) -> list[tuple[int, int, int]]:
    """Cut atoms, sorted by element and then by falling degree, into (start, stop, width)."""
    found, start = [], 0
    while start < len(degree):
        width = max(int(degree[start]), 1)
        stop, edges = start, 0
        while stop < len(degree) and species[stop] == species[start]:
            edges += max(int(degree[stop]), 1)
            waste = width * (stop + 1 - start) - edges
            if waste > max(padded, PADDED_SHARE * edges):
                break
            stop += 1
        found.append((start, stop, width))
        start = stop
    return found


def _steady_blocks(species: np.ndarray, degree: np.ndarray) -> list[tuple[int, int, int]]:
    """Make one block of each element, as wide as its most edges, rounded up."""
    starts = np.flatnonzero(np.diff(species, prepend=-1))
    stops = [*starts[1:], len(species)]
    widths = [max(int(d), 1) for d in degree[starts]]  # degrees fall
    return [
        (int(a), int(b), STEADY_WIDTH * -(-width // STEADY_WIDTH))
        for a, b, width in zip(starts, stops, widths, strict=True)
    ]


def sort_edges(inputs: Mapping[str, torch.Tensor], far: float, *, steady: bool = False) -> Edges:
    """Sort and pad the edges of a batch (the inputs of a MACE module).

    Parameters
    ----------
    inputs
        ``positions`` (N, 3), ``node_attrs`` (N, elements), ``edge_index`` (2, E) and ``shifts``
        (E, 3), in A.
    far
        Length of a padding edge, A, beyond every cutoff.
    steady
        Make few different shapes rather than little padding.
    """
    positions = inputs["positions"].detach()
    device, dtype = positions.device, positions.dtype
    n = positions.shape[0]
    species = inputs["node_attrs"].detach().argmax(dim=1).cpu().numpy()
    sender, receiver = inputs["edge_index"].cpu().numpy()
    degree = np.bincount(receiver, minlength=n)
    order = np.lexsort((np.arange(n), -degree, species))
    inverse = np.empty_like(order)
    inverse[order] = np.arange(n)
    if steady:
        cuts = _steady_blocks(species[order], degree[order])
    else:
        padded = PADDED_EDGES.get(device.type, PADDED_EDGES["cpu"])
        cuts = _blocks(species[order], degree[order], padded)
    widths = np.empty(n, dtype=np.int64)
    blocks = []
    for start, stop, width in cuts:
        blocks.append(Block(stop - start, width))
        widths[start:stop] = width
    # Real edges go to the front of their atom's row; the rest pads it from the atom to itself.
    by_receiver = np.argsort(inverse[receiver], kind="stable")
    rows = inverse[receiver[by_receiver]]
    before = np.cumsum(degree[order]) - degree[order]
    place = (np.cumsum(widths) - widths - before)[rows] + np.arange(len(rows))
    full_receiver = np.repeat(np.arange(n), widths)
    full_sender = full_receiver.copy()
    full_sender[place] = inverse[sender[by_receiver]]
    shifts = torch.zeros(len(full_receiver), 3, dtype=dtype, device=device)
    shifts[:, 0] = far
    at = torch.as_tensor(place, device=device)
    shifts[at] = inputs["shifts"].detach()[torch.as_tensor(by_receiver, device=device)]
    to_sender = torch.as_tensor(full_sender, device=device)
    to_receiver = torch.as_tensor(full_receiver, device=device)
    ordered = torch.as_tensor(order, device=device)
    place_of = positions[ordered]
    present, counts = np.unique(species, return_counts=True)
    return Edges(
        order=ordered,
        inverse=torch.as_tensor(inverse, device=device),
        species=tuple(present.tolist()),
        counts=tuple(counts.tolist()),
        blocks=tuple(blocks),
        sender=to_sender,
        receiver=to_receiver,
        vectors=place_of[to_receiver] - place_of[to_sender] + shifts,
    )
