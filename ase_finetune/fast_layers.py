"""Constants of MACE layers, read from the module, in the form that the fast evaluation uses.

Features are kept per angular momentum as (atoms, 2l+1, channels), channels last, so that every
mixing of channels is one matrix product.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ase_finetune._mace import o3
from ase_finetune.constant import Constant
from ase_finetune.fast_edges import Edges

_Table = dict[tuple[int, ...], np.ndarray]  # monomial -> coefficients (2l+1, paths)
# Sets of elements, times powers, whose coefficients are kept.
_MOST_KEPT = 64
Features = dict[int, torch.Tensor]  # position in the irreps -> (atoms, 2l+1, channels)


class Linear:
    """An ``o3.Linear`` without biases, one matrix product per output block.

    ``scales`` are further constant factors by input block.
    """

    def __init__(self, module: Any, scales: Mapping[int, float] | None = None) -> None:
        self.module = module
        self.sizes = [math.prod(ins.path_shape) for ins in module.instructions]
        # Output block -> (input block, index of its weights, shape, factor).
        self.outputs: dict[int, list[tuple[int, int, tuple[int, ...], float]]] = {}
        for index, ins in enumerate(module.instructions):
            factor = float(ins.path_weight) * (scales or {}).get(ins.i_in, 1.0)
            path = (ins.i_in, index, tuple(ins.path_shape), factor)
            self.outputs.setdefault(ins.i_out, []).append(path)

    def __call__(self, features: Features) -> Features:
        weights = self.module.weight.split(self.sizes)
        found = {}
        for out, paths in self.outputs.items():
            matrices = [weights[k].view(shape) * factor for _, k, shape, factor in paths]
            if len(paths) == 1:
                found[out] = features[paths[0][0]] @ matrices[0]
            else:
                joined = torch.cat([features[i] for i, *_ in paths], dim=-1)
                found[out] = joined @ torch.cat(matrices, dim=0)
        return found


class Readout:
    """A readout: a linear map to one energy for each head, or two with a nonlinearity between."""

    def __init__(self, module: Any) -> None:
        self.module = module
        names = ("linear",) if hasattr(module, "linear") else ("linear_1", "linear_2")
        self.linears = [Linear(getattr(module, name)) for name in names]

    def __call__(self, features: Features, heads: torch.Tensor) -> torch.Tensor:
        """Return the energies (atoms, heads)."""
        x = self.linears[0](features)[0].squeeze(1)
        if len(self.linears) == 1:
            return x
        x = self.module.non_linearity(x)
        if self.module.num_heads > 1:
            every = torch.arange(self.module.num_heads, device=x.device)
            own = (heads.unsqueeze(1) == every).to(x.dtype)
            x = (x.unflatten(1, (len(every), -1)) * own.unsqueeze(2)).flatten(1)
        return self.linears[1]({0: x.unsqueeze(1)})[0].squeeze(1)


class ByElement:
    """A ``FullyConnectedTensorProduct`` with one-hot elements: one matrix per element."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.sizes = [math.prod(ins.path_shape) for ins in module.instructions]
        # The coupling of l with a scalar is the unit matrix over sqrt(2l+1).
        self.factors = [
            float(ins.path_weight) / module.irreps_in1[ins.i_in1].ir.dim ** 0.5
            for ins in module.instructions
        ]

    def __call__(self, features: Features, edges: Edges) -> Features:
        found: Features = {}
        weights = self.module.weight.split(self.sizes)
        for ins, weight, factor in zip(
            self.module.instructions, weights, self.factors, strict=True
        ):
            matrices = (weight.view(ins.path_shape) * factor).unbind(1)
            parts = edges.by_species(features[ins.i_in1])
            value = _cat([x @ matrices[z] for z, x in zip(edges.species, parts, strict=True)])
            found[ins.i_out] = found[ins.i_out] + value if ins.i_out in found else value
        return found


class RadialNet:
    """A ``FullyConnectedNet`` of e3nn: its constant factors are moved into the weights."""

    def __init__(self, module: Any) -> None:
        self.layers = []
        carried = 1.0
        for layer in module:
            if layer.act is None:
                scale = (layer.h_in * layer.var_in / layer.var_out) ** -0.5
                self.layers.append((layer, scale * carried, None))
                carried = 1.0
            else:
                scale = (layer.h_in * layer.var_in) ** -0.5
                constant = getattr(layer.act, "cst", 1.0)
                function = getattr(layer.act, "f", layer.act)
                self.layers.append((layer, scale * carried, function))
                carried = constant * layer.var_out**0.5
        self.last = carried

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        for layer, scale, function in self.layers:
            x = x @ (layer.weight * scale)
            if function is not None:
                x = function(x)
        return x if self.last == 1.0 else x * self.last


@dataclass(frozen=True)
class _Path:
    """One uvu path: blocks of features, harmonics and output; coupling (mid, in * out) or none."""

    i_in: int
    i_edge: int
    i_out: int
    coupling: Constant | None


class Convolution:
    """Tensor product of neighbor features and harmonics, weighted per edge, summed over edges.

    Sum_e w[e,c] x[s(e),a,c] Z[e,a,m] with Z = Y.C is one batched matrix product per path and
    block of atoms; the product over all of (edge, channel, m) never exists. ``scales`` holds the
    factors, by output block, that are left to the linear map after it.
    """

    def __init__(self, module: Any) -> None:
        self.paths: list[_Path] = []
        self.scales: dict[int, float] = {}
        self.widths = [module.irreps_in1[ins.i_in1].mul for ins in module.instructions]
        self.harmonics = [ir.dim for _, ir in module.irreps_in2]
        for ins in module.instructions:
            left, middle, right = (
                irreps[i].ir.l
                for irreps, i in (
                    (module.irreps_in1, ins.i_in1),
                    (module.irreps_in2, ins.i_in2),
                    (module.irreps_out, ins.i_out),
                )
            )
            coupling = None
            if left == 0:
                # Coupling with a scalar is the unit matrix over sqrt(2l+1).
                self.scales[ins.i_out] = float(ins.path_weight) / (2 * right + 1) ** 0.5
            else:
                tensor = o3.wigner_3j(left, middle, right, dtype=torch.float64)
                coupling = Constant((tensor * ins.path_weight).permute(1, 0, 2).flatten(1))
            self.paths.append(_Path(ins.i_in1, ins.i_in2, ins.i_out, coupling))

    def __call__(
        self, features: Features, harmonics: torch.Tensor, weights: torch.Tensor, edges: Edges
    ) -> Features:
        sent = {i: x.index_select(0, edges.sender) for i, x in features.items()}
        by_l = harmonics.split(self.harmonics, dim=1)
        found = {}
        for path, weight in zip(self.paths, weights.split(self.widths, dim=1), strict=True):
            x = sent[path.i_in]
            messages, geometry = x * weight.unsqueeze(1), by_l[path.i_edge]
            n_out = geometry.shape[1]
            if path.coupling is not None:
                geometry = geometry @ path.coupling.like(geometry)
                n_out = geometry.shape[1] // x.shape[1]
            parts = []
            pairs = zip(edges.by_block(geometry), edges.by_block(messages), strict=True)
            for left, right in pairs:
                left = left.reshape(len(left), -1, n_out)
                parts.append(left.transpose(1, 2) @ right.flatten(1, 2))
            found[path.i_out] = _cat(parts)
        return found


def _cat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class SymmetricPowers:
    """A MACE symmetric contraction as polynomials with few nonzero coefficients.

    The coupling tensors are symmetric in the features, so a product of nu of them is a sum over
    monomials x_i x_j ... with i <= j <= ...; those without any coefficient are left out. The
    weights of an element are multiplied into the coefficients before any atom is touched.
    """

    def __init__(self, module: Any, *, agnostic: bool) -> None:
        self.contractions = list(module.contractions)
        self.agnostic = agnostic
        self.order = self.contractions[0].correlation
        needed: list[set[tuple[int, ...]]] = [set() for _ in range(self.order)]
        tables: list[list[tuple[_Table, int, int]]] = []
        for contraction in self.contractions:
            rows: list[tuple[_Table, int, int]] = []
            for nu in range(1, self.order + 1):
                u = contraction.U_tensors(nu).double().cpu().numpy()
                if u.ndim == nu + 1:
                    u = u[None]
                table = _monomials(u, nu)
                needed[nu - 1].update(table)
                rows.append((table, u.shape[0], u.shape[-1]))
            tables.append(rows)
        for nu in range(self.order - 1, 0, -1):
            # A monomial is its head times one more feature.
            needed[nu - 1].update(key[:-1] for key in needed[nu])
        dim = self.contractions[0].U_tensors(1).shape[-2]
        needed[0].update((i,) for i in range(dim))
        self.keys = [sorted(keys) for keys in needed]
        self.factors: list[tuple[Constant, Constant]] = []
        for nu in range(1, self.order):
            heads = {key: i for i, key in enumerate(self.keys[nu - 1])}
            self.factors.append(
                (
                    Constant(torch.tensor([heads[key[:-1]] for key in self.keys[nu]])),
                    Constant(torch.tensor([key[-1] for key in self.keys[nu]])),
                )
            )
        self.chosen: dict[tuple[int, ...], Constant] = {}
        self.kept: dict[Any, tuple[list[tuple[int, int]], tuple[torch.Tensor, ...]]] = {}
        # Per power: coefficients (2l+1 of all outputs, monomials, weights of all outputs).
        self.sizes = [rows[0][1] for rows in tables]
        self.tables = [
            Constant(
                _block_diagonal(
                    [_dense(table, self.keys[nu], size, paths) for table, size, paths in rows]
                )
            )
            for nu, rows in enumerate(zip(*tables, strict=True))
        ]

    def _coefficients(
        self, nu: int, species: tuple[int, ...], like: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Coefficients (2l+1 of all outputs, monomials, channels) of a power, by element.

        Of weights that are not trained they are kept, which small molecules feel. Not on a GPU,
        where a recorded step has to read the weights themselves.
        """
        # `weights_max` belongs to the highest power, `weights` to the others from above.
        weights = [
            c.weights_max if nu == self.order else c.weights[self.order - nu - 1]
            for c in self.contractions
        ]
        if like.is_cuda or any(w.requires_grad or w.is_inference() for w in weights):
            return self._combined(nu, weights, species, like)
        key, state = (nu, species, like.dtype), [(w.data_ptr(), w._version) for w in weights]
        found = self.kept.get(key)
        if found is None or found[0] != state:
            if len(self.kept) >= _MOST_KEPT:
                self.kept.clear()
            with torch.inference_mode(False):
                found = self.kept[key] = (state, self._combined(nu, weights, species, like))
        return found[1]

    def _combined(
        self,
        nu: int,
        weights: Sequence[torch.Tensor],
        species: tuple[int, ...],
        like: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        joined = weights[0] if len(weights) == 1 else torch.cat(list(weights), dim=1)
        if len(species) < len(joined):
            joined = joined.index_select(0, self._chosen(species).on(joined.device))
        return torch.matmul(self.tables[nu - 1].like(like), joined.unsqueeze(1)).unbind(0)

    def _chosen(self, species: tuple[int, ...]) -> Constant:
        """Index of elements, kept for good: a recorded step reads it where it is."""
        found = self.chosen.get(species)
        if found is None:
            with torch.inference_mode(False):  # else it could not be used in training later
                found = self.chosen[species] = Constant(torch.tensor(species))
        return found

    def __call__(self, features: torch.Tensor, edges: Edges) -> Features:
        """Take (atoms, components, channels), give the blocks of the output."""
        monomials = [features]
        for heads, last in self.factors:
            at = [index.on(features.device) for index in (heads, last)]
            monomials.append(monomials[-1].index_select(1, at[0]) * features.index_select(1, at[1]))
        species = (0,) if self.agnostic else edges.species
        pieces: list[torch.Tensor] = []
        for nu, x in enumerate(monomials, start=1):
            parts = (x,) if self.agnostic else edges.by_species(x)
            coefficients = self._coefficients(nu, species, features)
            terms = [_contract(p, c) for p, c in zip(parts, coefficients, strict=True)]
            pieces = [a + b for a, b in zip(pieces, terms, strict=True)] if pieces else terms
        return dict(enumerate(_cat(pieces).split(self.sizes, dim=1)))


def _contract(monomials: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    """Sum (n, x, c) times (m, x, c) over x, to (n, m, c)."""
    if len(coefficients) == 1:
        return (monomials * coefficients).sum(1, keepdim=True)
    # One matrix product per channel.
    by_channel = monomials.permute(2, 0, 1).contiguous()
    return (by_channel @ coefficients.permute(2, 1, 0).contiguous()).permute(1, 2, 0)


def _block_diagonal(tables: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join (m, x, k) tables of the outputs along m, each with weights k of its own."""
    total, first = sum(t.shape[2] for t in tables), 0
    wide = []
    for table in tables:
        padded = table.new_zeros(*table.shape[:2], total)
        padded[:, :, first : first + table.shape[2]] = table
        first += table.shape[2]
        wide.append(padded)
    return torch.cat(wide)


def _monomials(u: np.ndarray, nu: int) -> _Table:
    """Return the coefficients (2l+1, paths) of every monomial with a nonzero one."""
    dim = u.shape[1]
    found: _Table = {}
    tiny = 1e-10 * max(float(np.abs(u).max()), 1e-30)
    for key in itertools.combinations_with_replacement(range(dim), nu):
        orders = np.array(sorted(set(itertools.permutations(key))))
        total = u[(slice(None), *orders.T)].sum(axis=1)
        if np.abs(total).max() > tiny:
            found[key] = total
    return found


def _dense(
    table: _Table,
    keys: Sequence[tuple[int, ...]],
    size: int,
    paths: int,
) -> torch.Tensor:
    """Return coefficients (2l+1, monomials, paths)."""
    dense = np.zeros((size, len(keys), paths))
    for i, key in enumerate(keys):
        if key in table:
            dense[:, i] = table[key]
    return torch.as_tensor(dense)
