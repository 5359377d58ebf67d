"""The same MACE, faster: an exact evaluation on the same parameters.

mace-torch contracts dense coupling tensors that are almost empty and materializes one feature per
edge, channel and component. Here the symmetric contraction is a sparse polynomial
(`fast_layers.SymmetricPowers`), and the convolution one batched matrix product per path over the
sorted edges (`fast_layers.Convolution`). Parameters and their names stay those of the module;
results agree to rounding (of the dtype that the module was built in), in every derivative by
parameters. Forces and stress come from one gradient by the edge vectors.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from ase_finetune._mace import modules
from ase_finetune.errors import FoundationError
from ase_finetune.fast_edges import Edges, sort_edges
from ase_finetune.fast_harmonics import Harmonics
from ase_finetune.fast_layers import (
    ByElement,
    Convolution,
    Features,
    Linear,
    RadialNet,
    Readout,
    SymmetricPowers,
)
from ase_finetune.memory import keep_freed_memory

_DENSITY = ("RealAgnosticDensityInteractionBlock", "RealAgnosticDensityResidualInteractionBlock")
_RESIDUAL = ("RealAgnosticResidualInteractionBlock", "RealAgnosticDensityResidualInteractionBlock")
_BLOCKS = ("RealAgnosticInteractionBlock", *_RESIDUAL, _DENSITY[0])
# What `FastMACE.evaluate` reads of a batch besides its edges.
INPUTS = ("node_attrs", "batch", "head", "ptr")
_READ_AGAIN = ("_steps", "_harmonics", "_embed", "_readouts")
_READOUTS = ("LinearReadoutBlock", "NonLinearReadoutBlock")


def accelerate(module: torch.nn.Module) -> torch.nn.Module:
    """Return an exact faster form of a MACE module; both share parameters.

    The process keeps the memory that an evaluation frees (`memory.keep_freed_memory`).

    Parameters
    ----------
    module
        A ``mace.modules.ScaleShiftMACE``. Its layers are shared, so a cast or a move of the result
        reaches it too.

    Raises
    ------
    FoundationError
        If a part of the module has no fast form; the sentence names it.
    """
    if isinstance(module, FastMACE):
        return module
    reason = _obstacle(module)
    if reason is not None:
        raise FoundationError(f"There is no fast evaluation for {reason}.")
    keep_freed_memory()
    return FastMACE(module)


def accelerated(module: torch.nn.Module) -> torch.nn.Module:
    """Return the accelerated module, or the module itself with a warning that says why."""
    try:
        return accelerate(module)
    except FoundationError as error:
        warnings.warn(f"{error} It is evaluated by mace-torch.", stacklevel=2)
        return module


def plain(module: torch.nn.Module) -> torch.nn.Module:
    """Return the mace-torch module of an accelerated one, or the module itself."""
    return module.plain() if isinstance(module, FastMACE) else module


def _obstacle(module: Any) -> str | None:
    if not isinstance(module, modules.ScaleShiftMACE):
        return f"a {type(module).__name__}"
    if hasattr(module, "joint_embedding"):
        return "charge, spin or field embeddings"
    if getattr(module, "lammps_mliap", False):
        return "a module that LAMMPS calls"
    harmonics: Any = module.spherical_harmonics
    if harmonics.irreps_out.ls != list(range(harmonics.irreps_out.lmax + 1)) or not (
        harmonics.normalize and harmonics.normalization == "component"
    ):
        return "spherical harmonics of another form"
    for block in module.interactions:
        if type(block).__name__ not in _BLOCKS:
            return f"the interaction {type(block).__name__}"
        layers: tuple[Any, ...] = (block.linear_up, block.linear)
        for layer in layers:
            if {ins.i_out for ins in layer.instructions} != set(range(len(layer.irreps_out))):
                return "irreps that no path leads to"
        if type(block.conv_tp).__name__ != "TensorProduct" or hasattr(block, "conv_fusion"):
            return "a fused tensor product"
    for product in module.products:
        if type(product.symmetric_contractions).__name__ != "SymmetricContraction":
            return f"a {type(product.symmetric_contractions).__name__}"
    for readout in module.readouts:
        if type(readout).__name__ not in _READOUTS:
            return f"the readout {type(readout).__name__}"
        if len(getattr(readout, "hidden_irreps", (0,))) != 1:
            return f"a readout through {readout.hidden_irreps}"
    return None


class _Interaction:
    """One interaction block and the product after it."""

    def __init__(self, block: Any, product: Any) -> None:
        name = type(block).__name__
        self.block, self.product = block, product
        self.residual, self.dense = name in _RESIDUAL, name in _DENSITY
        self.skip = ByElement(block.skip_tp)
        self.radial = RadialNet(block.conv_tp_weights)
        self.density = RadialNet(block.density_fn) if self.dense else None
        self.convolve = Convolution(block.conv_tp)
        self.up, self.down = Linear(block.linear_up), Linear(block.linear, self.convolve.scales)
        self.powers = SymmetricPowers(
            product.symmetric_contractions,
            agnostic=bool(getattr(product, "use_agnostic_product", False)),
        )
        self.mix = Linear(product.linear)

    def __call__(
        self,
        features: Features,
        harmonics: torch.Tensor,
        radial: torch.Tensor,
        cutoff: torch.Tensor | None,
        edges: Edges,
    ) -> Features:
        kept = self.skip(features, edges) if self.residual else None
        weights = self.radial(radial)
        if cutoff is not None:
            weights = weights * cutoff
        messages = self.down(self.convolve(self.up(features), harmonics, weights, edges))
        if self.density is None:
            scale: Any = 1.0 / self.block.avg_num_neighbors
        else:
            dense = torch.tanh(self.density(radial) ** 2)
            if cutoff is not None:
                dense = dense * cutoff
            sums = torch.cat([part.sum(1) for part in edges.by_block(dense)])
            scale = 1.0 / (sums.unsqueeze(2) + 1.0)
        if not self.residual:
            # The skip connection is linear in the messages, so a number can wait.
            messages = self.skip(messages, edges)
        joined = torch.cat([messages[i] for i in sorted(messages)], dim=1) * scale
        out = self.mix(self.powers(joined, edges))
        if kept is not None and self.product.use_sc:
            out = {i: value + kept[i] if i in kept else value for i, value in out.items()}
        return out


class FastMACE(torch.nn.Module):
    """A MACE module with a faster forward; made by :func:`accelerate`."""

    # Taken over from the module.
    atomic_energies_fn: Any
    atomic_numbers: torch.Tensor
    interactions: Any
    node_embedding: Any
    pair_repulsion_fn: Any
    products: Any
    radial_embedding: Any
    readouts: Any
    scale_shift: Any
    spherical_harmonics: Any

    def __init__(self, module: Any) -> None:
        super().__init__()
        for name, buffer in module.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        for name, child in module.named_children():
            self.add_module(name, child)
        # In a list, so that torch does not see a second owner of the same children.
        self._module = [module]
        self.heads = list(module.heads)
        # The pair repulsion reaches as far as two covalent radii, the rest to r_max.
        self.far = 2.0 * float(module.r_max) + 10.0
        self._steps: list[_Interaction] = []
        self._rebuild()

    def _rebuild(self) -> None:
        pairs = zip(self.interactions, self.products, strict=True)
        self._steps = [_Interaction(block, product) for block, product in pairs]
        self._harmonics = Harmonics(self.spherical_harmonics)
        self._embed = Linear(self.node_embedding.linear)
        self._readouts = [Readout(readout) for readout in self.readouts]

    def plain(self) -> torch.nn.Module:
        """Return the module of mace-torch, with the same parameters."""
        module: torch.nn.Module = self._module[0]
        return module

    def _apply(self, fn: Any, recurse: bool = True) -> FastMACE:
        # Casts and moves: the layers are shared, the module's own buffers follow.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in self.named_buffers(recurse=False):
            setattr(self._module[0], name, buffer)
        for step in self._steps:
            step.powers.kept.clear()
        return self

    def __getstate__(self) -> dict[str, Any]:
        # What is read from the layers is read again: it may not be copied without them.
        return {**self.__dict__, **dict.fromkeys(_READ_AGAIN)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._rebuild()

    def forward(
        self,
        data: dict[str, torch.Tensor],
        training: bool = False,
        compute_force: bool = True,
        compute_stress: bool = False,
    ) -> dict[str, torch.Tensor | None]:
        """Evaluate a batch: of ``ScaleShiftMACE.forward`` what training and dynamics need.

        The results can be differentiated by the parameters, not by positions or cell.

        Returns
        -------
        dict
            ``energy``, ``interaction_energy`` (graphs,) and ``node_energy`` (N,) in eV,
            ``forces`` (N, 3) in eV/A and ``stress`` (graphs, 3, 3) in eV/A^3, or None.
        """
        edges = sort_edges(data, self.far)
        out = self.evaluate(data, edges, training, compute_force, compute_stress)
        virial = out.pop("virial")
        out["stress"] = None if virial is None else stress_of(virial, volumes(data["cell"]))
        return out

    def evaluate(
        self,
        data: Mapping[str, torch.Tensor],
        edges: Edges,
        training: bool = False,
        compute_force: bool = True,
        compute_stress: bool = False,
    ) -> dict[str, torch.Tensor | None]:
        """Evaluate a batch whose edges are sorted already: `forward`, with the virial for stress.

        Which operations run depends on shapes, not on values, so that a GPU can record them.
        """
        batch, n_graphs = data["batch"], len(data["ptr"]) - 1
        heads = data["head"][batch] if "head" in data else torch.zeros_like(batch)
        vectors = edges.vectors
        if compute_force or compute_stress:
            vectors = vectors.requires_grad_(True)
        node_energy = self._energies(data, edges, vectors, heads[edges.order])[edges.inverse]
        energy = torch.zeros(n_graphs, dtype=node_energy.dtype, device=node_energy.device)
        energy = energy.index_add(0, batch, node_energy)
        forces, virial = None, None
        if compute_force or compute_stress:
            (slope,) = torch.autograd.grad(
                energy.sum(), vectors, create_graph=training, retain_graph=training
            )
            if compute_force:
                forces = _forces(slope, edges)
            if compute_stress:
                virial = _virial(slope, edges, batch, n_graphs)
        atoms = torch.arange(len(batch), device=batch.device)
        E0 = self.atomic_energies_fn(data["node_attrs"])[atoms, heads]
        total = energy + torch.zeros_like(energy).index_add(0, batch, E0.to(energy.dtype))
        return {
            "energy": total,
            "interaction_energy": energy,
            "node_energy": E0.double() + node_energy.double(),
            "forces": forces,
            "virial": virial,
        }

    def _energies(
        self,
        data: Mapping[str, torch.Tensor],
        edges: Edges,
        vectors: torch.Tensor,
        heads: torch.Tensor,
    ) -> torch.Tensor:
        """Scaled and shifted energies of the sorted atoms, eV, without E0s."""
        elements = data["node_attrs"][edges.order]
        pairs = torch.stack((edges.sender, edges.receiver))
        lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        harmonics = self._harmonics(vectors)
        radial, cutoff = self.radial_embedding(lengths, elements, pairs, self.atomic_numbers)
        atoms = torch.arange(len(elements), device=elements.device)
        parts = []
        if hasattr(self, "pair_repulsion_fn"):
            parts.append(self.pair_repulsion_fn(lengths, elements, pairs, self.atomic_numbers))
        features = self._embed({0: elements.unsqueeze(1)})
        layers: list[Features] = []
        for step in self._steps:
            features = step(features, harmonics, radial, cutoff, edges)
            layers.append(features)
        # One readout alone is of the last layer.
        for layer, readout in zip(layers[-len(self._readouts) :], self._readouts, strict=True):
            parts.append(readout(layer, heads)[atoms, heads])
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        scaled: torch.Tensor = self.scale_shift(total, heads)
        return scaled


def _forces(slope: torch.Tensor, edges: Edges) -> torch.Tensor:
    """Forces from dE/d(edge vector), in the order of the batch."""
    found = torch.zeros(len(edges.order), 3, dtype=slope.dtype, device=slope.device)
    found = found.index_add(0, edges.sender, slope).index_add(0, edges.receiver, -slope)
    return found[edges.inverse]


def _virial(slope: torch.Tensor, edges: Edges, batch: torch.Tensor, n_graphs: int) -> torch.Tensor:
    """Sum of dE/d(edge vector) times edge vector, (graphs, 3, 3), eV."""
    # Padding has a long vector, and a slope of exactly zero.
    virial = slope.unsqueeze(2) * edges.vectors.unsqueeze(1)
    graph = batch[edges.order][edges.receiver]
    total = torch.zeros(n_graphs, 3, 3, dtype=slope.dtype, device=slope.device)
    return total.index_add(0, graph, virial)


def volumes(cells: torch.Tensor) -> torch.Tensor:
    """Volumes (graphs,) of the cells (3 graphs, 3) of a batch."""
    volume: torch.Tensor = torch.linalg.det(cells.view(-1, 3, 3)).abs()
    return volume


def stress_of(virial: torch.Tensor, volume: torch.Tensor) -> torch.Tensor:
    """Stress (graphs, 3, 3) of virials; zero where the cell has no volume, as mace-torch has it."""
    stress = 0.5 * (virial + virial.transpose(1, 2)) / volume[:, None, None]
    return torch.where(stress.abs() < 1e10, stress, torch.zeros_like(stress))
