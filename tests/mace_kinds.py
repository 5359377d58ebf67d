"""Random-weight MACE modules with the layer types of the published foundation models, evaluated."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from ase_finetune._mace import modules, o3
from ase_finetune.architecture import default_dtype
from ase_finetune.checkpoint import Checkpoint
from ase_finetune.foundations import load_foundation
from ase_finetune.gradients import Gradients
from ase_finetune.graphs import build_graph, collate
from ase_finetune.loss import Loss

_BASE = {
    "r_max": 4.5,
    "num_bessel": 6,
    "num_polynomial_cutoff": 5,
    "max_ell": 2,
    "num_interactions": 2,
    "correlation": 3,
    "avg_num_neighbors": 14.0,
    "radial_MLP": [8, 8],
    "radial_type": "bessel",
    # mace-torch's own default where cuequivariance is installed is another basis.
    "use_reduced_cg": False,
    "gate": torch.nn.functional.silu,
    "interaction_cls_first": modules.RealAgnosticResidualInteractionBlock,
    "interaction_cls": modules.RealAgnosticResidualInteractionBlock,
}
_DENSITY = {
    "interaction_cls_first": modules.RealAgnosticDensityInteractionBlock,
    "interaction_cls": modules.RealAgnosticDensityResidualInteractionBlock,
    "distance_transform": "Agnesi",
    "pair_repulsion": True,
}
_BUILT: dict[tuple[str, tuple[int, ...], str], torch.nn.Module] = {}
KINDS = {
    "MP-0": {"hidden": "8x0e+8x1o"},
    "MP-0 L0": {"hidden": "8x0e"},
    "MP-0b": {"hidden": "8x0e+8x1o", "distance_transform": "Agnesi", "pair_repulsion": True},
    "MPA-0": {"hidden": "8x0e+8x1o", **_DENSITY},
    "OMAT-0": {"hidden": "8x0e+8x1o+8x2e", **_DENSITY},
    "OFF": {
        "hidden": "8x0e+8x1o",
        "interaction_cls_first": modules.RealAgnosticInteractionBlock,
    },
    "multi-head": {"hidden": "8x0e+8x1o", "heads": ["pt_head", "special"], **_DENSITY},
}


def random_mace(kind: str, numbers: list[int], dtype: str = "float64") -> torch.nn.Module:
    """Build one of `KINDS` with random weights, scale, shift and E0s."""
    # e3nn compiles every layer, which takes seconds; a copy of what was built takes a tenth.
    key = (repr(sorted(KINDS[kind].items(), key=str)), tuple(numbers), dtype)
    if key not in _BUILT:
        _BUILT[key] = _random_mace(kind, numbers, dtype)
    return copy.deepcopy(_BUILT[key])


def _random_mace(kind: str, numbers: list[int], dtype: str) -> torch.nn.Module:
    options = dict(KINDS[kind])
    heads = options.get("heads", ["Default"])
    rng = np.random.default_rng(7)
    with default_dtype(getattr(torch, dtype)), torch.random.fork_rng():
        torch.manual_seed(7)
        module = modules.ScaleShiftMACE(
            **{
                **_BASE,
                "hidden_irreps": o3.Irreps(options.pop("hidden")),
                **options,
                "MLP_irreps": o3.Irreps("6x0e"),
                "num_elements": len(numbers),
                "atomic_numbers": numbers,
                "heads": heads,
                "atomic_energies": -5 * rng.random((len(heads), len(numbers))),
                "atomic_inter_scale": [1.3] * len(heads),
                "atomic_inter_shift": [0.2] * len(heads),
            }
        )
    return module


NUMBERS = [1, 8, 42]
# Neither the foundation's nor small: total energies of some codes are like these.
E0S = {1: -13.66318129, 8: -2042.03300999, 42: -110158.12345678}


def from_file(path, head=None, dtype="float64") -> Checkpoint:
    """What --foundation PATH starts from."""
    with pytest.warns(UserWarning, match="executes code"):
        found = load_foundation(path, None, head=head, dtype=dtype)
    return Checkpoint.from_module(found.module, found.E0s, stage="zero_shot", foundation={})


def evaluation_frames() -> list[Atoms]:
    """Periodic and isolated, few and many neighbors, an atom with none, absent elements."""
    crystal = bulk("Mo", cubic=True) * (2, 1, 1)
    crystal.numbers[1] = 8
    boxed = molecule("H2O", vacuum=3.0)
    boxed.pbc = True
    found = [crystal, molecule("H2O"), boxed]
    for seed, atoms in enumerate(found):
        atoms.rattle(0.1, seed=seed)
    return [*found, Atoms("O", cell=[20.0] * 3, pbc=True)]


def evaluation_batch(module, atoms, dtype="float64", heads=None, device="cpu"):
    """Collate the frames for a module of `NUMBERS`, with a head for each if wanted."""
    kind = getattr(torch, dtype)
    graphs = [build_graph(a, NUMBERS, float(module.r_max), dtype=kind) for a in atoms]
    joined = collate(graphs, len(NUMBERS), device)
    if heads is not None:
        joined = dataclasses.replace(
            joined, inputs={**joined.inputs, "head": torch.tensor(heads, device=device)}
        )
    return joined


def derivatives(module, joined):
    """Energies, forces, stress, gradient of a loss of them, and a Hessian-vector product."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    out = module(dict(joined.inputs), training=True, compute_stress=True)
    loss = 1e-3 * out["energy"].square().sum() + out["forces"].square().sum()
    loss = loss + out["stress"].square().sum()
    gradient = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    generator = torch.Generator().manual_seed(3)
    product = sum(
        (g * torch.randn(g.shape, generator=generator, dtype=g.dtype).to(g.device)).sum()
        for g in gradient
        if g is not None
    )
    curvature = torch.autograd.grad(product, parameters, allow_unused=True)

    def flat(tensors):
        pairs = zip(tensors, parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if t is None else t).flatten() for t, p in pairs])

    found = {key: out[key] for key in ("energy", "node_energy", "forces", "stress")}
    found |= {"gradient": flat(gradient), "hessian_vector": flat(curvature)}
    return {key: value.detach().double() for key, value in found.items()}


def gradients_of(kind, device="cpu", accelerate=True):
    """Return a random module in float64 and what adds up the gradients of its loss."""
    module = random_mace(kind, NUMBERS)
    checkpoint = Checkpoint.from_module(
        module, dict.fromkeys(NUMBERS, 0.0), stage="zero_shot", foundation={}
    )
    module = checkpoint.module("float64", device, accelerate=accelerate)
    return module, Gradients(module, list(module.parameters()), len(NUMBERS), device)


def labelled_graphs(r_max, seed):
    """Return graphs of `evaluation_frames` with labels, some of them without, and their loss."""
    rng, graphs = np.random.default_rng(seed), []
    for k, atoms in enumerate(evaluation_frames()):
        atoms.positions += rng.normal(0.0, 1e-3, atoms.positions.shape)
        atoms.info["REF_energy"] = float(rng.normal())
        if k != 1:
            atoms.arrays["REF_forces"] = rng.normal(size=(len(atoms), 3))
        if k == 0:
            atoms.info["REF_stress"] = 0.01 * rng.normal(size=6)
        E0s = dict.fromkeys(NUMBERS, 0.0)
        graphs.append(build_graph(atoms, NUMBERS, r_max, dtype=torch.float64, E0s=E0s))
    return graphs, Loss.for_graphs(graphs, 1.0, 10.0, 1.0)


def assert_same_gradients(module, other, tolerance):
    """Compare the gradients that two modules have collected, relative to the largest of each."""
    for (name, a), b in zip(module.named_parameters(), other.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if b.grad is not None:
            scale = float(b.grad.abs().max()) + 1e-12
            assert float((a.grad.cpu() - b.grad).abs().max()) < tolerance * scale, name
