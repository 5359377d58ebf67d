"""Conformance of every row of the optimizer registry, and the matrices within e3nn weights."""

from __future__ import annotations

import argparse
import io

import numpy as np
import pytest
import torch
import torch_optimizer
from mace.tools.scripts_utils import get_params_options
from mace_kinds import KINDS, random_mace
from reference_optimizers import RULES

from ase_finetune.fast_mace import accelerate
from ase_finetune.optimizers import build_optimizer, list_optimizers, optimizer_info
from ase_finetune.optimizers.blocks import Block, matrix_blocks
from ase_finetune.optimizers.groups import parameter_groups
from ase_finetune.optimizers.lamb import Lamb
from ase_finetune.optimizers.muon import orthogonalized
from ase_finetune.weights import evaluation_weights

SHAPES = ((4, 6), (7,), (5, 3), (1, 4))
# One gradient of a wide matrix leaves the null space of a basis open, to be chosen by LAPACK.
SQUARE = ((4, 4), (7,), (5, 5), (1, 4))
ROWS = list_optimizers()
STEPS = 50


def parameters(dtype=torch.float64, shapes=SHAPES):
    rng = np.random.default_rng(3)
    return [torch.nn.Parameter(torch.tensor(rng.normal(size=s), dtype=dtype)) for s in shapes]


def give_gradients(weights, step):
    """Of a nonlinear function, ill-conditioned and noisy, that depends on the weights only."""
    rng = np.random.default_rng(100 + step)
    for i, w in enumerate(weights):
        noise = torch.tensor(rng.normal(size=w.shape), dtype=w.dtype)
        w.grad = torch.sin(w.detach()) * 10.0**i + 0.1 * noise


def test_the_seven_are_there():
    assert set(ROWS) >= {"adam", "adamw", "radam", "sgd", "lamb", "ranger", "schedulefree"}
    assert set(ROWS) == set(RULES)
    for name in ROWS:
        row = optimizer_info(name)
        assert row.lr in row.lr_grid
        assert row.paper
        assert row.description


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ROWS)
def test_follows_the_published_rule(name, decay):
    """Two groups with their own rate and decay, 50 steps, against plain numpy."""
    weights = parameters(shapes=SQUARE if name == "soap" else SHAPES)
    rates = (optimizer_info(name).lr, 0.1 * optimizer_info(name).lr)
    groups = [
        {"params": weights[:2], "lr": rates[0], "weight_decay": decay},
        {"params": weights[2:], "lr": rates[1], "weight_decay": 2 * decay},
    ]
    optimizer = build_optimizer(name, groups, lr=123.0)
    expected = [w.detach().numpy().copy() for w in weights]
    kept = [{} for _ in weights]
    for step in range(STEPS):
        give_gradients(weights, step)
        gradients = [w.grad.numpy().copy() for w in weights]
        optimizer.step()
        for i, gradient in enumerate(gradients):
            lr, part = (rates[0], decay) if i < 2 else (rates[1], 2 * decay)
            expected[i] = RULES[name](expected[i], gradient, kept[i], lr, part)
    for w, reference in zip(weights, expected, strict=True):
        assert w.dtype == torch.float64
        assert np.allclose(w.detach().numpy(), reference, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ROWS)
def test_precision_is_that_of_the_weights(name, dtype):
    weights = parameters(dtype)
    optimizer = build_optimizer(name, weights)
    for step in range(12):
        give_gradients(weights, step)
        optimizer.step()
    tensors = [
        part
        for state in optimizer.state.values()
        for value in state.values()
        for part in (value if isinstance(value, list) else [value])
        if torch.is_tensor(part) and part.numel() > 1
    ]
    assert tensors or name == "sgd"
    assert {t.dtype for t in [*tensors, *weights]} == {dtype}


@pytest.mark.parametrize("name", ROWS)
def test_saved_state_continues_to_the_same_bits(name):
    def train(optimizer, weights, steps):
        for step in steps:
            give_gradients(weights, step)
            optimizer.step()

    through, stopped = parameters(), parameters()
    whole = build_optimizer(name, through, weight_decay=0.01)
    train(whole, through, range(25))
    first = build_optimizer(name, stopped, weight_decay=0.01)
    train(first, stopped, range(13))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = build_optimizer(name, stopped, weight_decay=0.01)
    second.load_state_dict(torch.load(file, weights_only=True))
    train(second, stopped, range(13, 25))
    assert all(torch.equal(a, b) for a, b in zip(through, stopped, strict=True))


@pytest.mark.parametrize("name", ROWS)
def test_closure_is_evaluated_with_gradients(name):
    weights = parameters()
    optimizer = build_optimizer(name, weights)

    def closure():
        optimizer.zero_grad()
        loss = sum((w**2).sum() for w in weights)
        loss.backward()
        return loss

    before = float(sum((w.detach() ** 2).sum() for w in weights))
    assert float(optimizer.step(closure).detach()) == before
    for _ in range(20):
        last = float(optimizer.step(closure).detach())
    assert last < before


@pytest.mark.parametrize("name", ROWS)
def test_parameters_without_gradient_stay(name):
    weights = parameters()
    optimizer = build_optimizer(name, weights, weight_decay=0.1)
    before = weights[1].detach().clone()
    for step in range(7):
        give_gradients(weights, step)
        weights[1].grad = None
        optimizer.step()
    assert torch.equal(weights[1], before)


def test_adamw_without_decay_is_adam():
    results = []
    for name in ("adam", "adamw"):
        weights = parameters()
        optimizer = build_optimizer(name, weights)
        for step in range(STEPS):
            give_gradients(weights, step)
            optimizer.step()
        results.append(weights)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("name", ["muon", "soap"])
def test_rounding_does_not_make_the_first_steps(name):
    """Single precision takes the steps of double precision."""
    moved = []
    for dtype in (torch.float64, torch.float32):
        rng = np.random.default_rng(2)
        weight = torch.nn.Parameter(torch.zeros(48, 48, dtype=dtype))
        optimizer = build_optimizer(name, [weight], lr=1.0)
        for _ in range(3):
            weight.grad = torch.tensor(rng.normal(size=(48, 48)), dtype=dtype)
            optimizer.step()
        moved.append(weight.detach().double())
    assert float((moved[0] - moved[1]).norm()) < 1e-2 * float(moved[0].norm())


def test_steps_of_soap_keep_their_size_where_the_bases_are_followed():
    """A direction keeps its second moment: else large gradients meet the scale of small ones."""
    rng = np.random.default_rng(3)
    U, V = (np.linalg.qr(rng.normal(size=(24, 24)))[0] for _ in range(2))
    sizes = np.geomspace(1.0, 1e-3, 24)
    weight = torch.nn.Parameter(torch.zeros(24, 24, dtype=torch.float64))
    optimizer = build_optimizer("soap", [weight], lr=1.0)
    steps = []
    for _ in range(45):
        random = sizes[:, None] * rng.normal(size=(24, 24)) * sizes
        weight.grad = torch.tensor(U @ random @ V.T)
        before = weight.detach().clone()
        optimizer.step()
        steps.append(float((weight.detach() - before).square().mean().sqrt()))
    # The first gradient makes bases, which the 11th, 21st, ... change for the steps after them.
    for last in (10, 20, 30, 40):
        assert steps[last + 1] < 1.5 * steps[last]


def test_a_matrix_without_gradient_stays_under_muon():
    """Elements that a batch lacks have zero gradients; momentum made orthogonal never decays."""
    flat = torch.nn.Parameter(torch.ones(2 * 3 * 4, dtype=torch.float64))
    block = Block(0, (3, 2, 4))
    optimizer = build_optimizer("muon", [{"params": [flat], "blocks": [[tuple(block)]]}])
    for step in range(3):
        give_gradients([flat], step)
        if step > 0:
            block.view(flat.grad)[0] = 0.0
        before = block.view(flat.detach()).clone()
        optimizer.step()
    after = block.view(flat.detach())
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])


def test_lamb_agrees_with_the_library_where_that_is_right():
    """Without bias correction both moments differ from ours by factors that |u| divides out."""
    ours, theirs = parameters(), parameters()
    ours_step = Lamb(ours, lr=1e-2, eps=0.0)
    theirs_step = torch_optimizer.Lamb(theirs, lr=1e-2, eps=0.0, clamp_value=1e9)
    for step in range(STEPS):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        ours_step.step()
        theirs_step.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_deployed_weights_of_schedulefree_are_its_average():
    module = torch.nn.Linear(3, 2).double()
    optimizer = build_optimizer("schedulefree", module.parameters(), lr=1e-2)
    assert torch.equal(evaluation_weights(module, None, optimizer)["weight"], module.weight)
    for step in range(9):
        give_gradients(list(module.parameters()), step)
        optimizer.step()
    y = module.weight.detach().clone()
    found = evaluation_weights(module, None, optimizer)
    assert torch.equal(module.weight, y)
    optimizer.eval()
    for name, x in module.named_parameters():
        assert torch.allclose(found[name], x, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(found["weight"], y, rtol=1e-3)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_matrices_are_found_within_flat_weights(kind):
    module = random_mace(kind, [1, 8, 42])
    blocks = matrix_blocks(module)
    weights = dict(module.named_parameters())
    assert any(weights[name].ndim == 1 for name in blocks)
    for name, parts in blocks.items():
        covered = sum(int(np.prod(part.shape)) for part in parts)
        assert covered == weights[name].numel()
        for part in parts:
            view = part.view(weights[name].detach().reshape(-1))
            # Channels, and MLP widths by paths; never a whole flat vector.
            assert max(view.shape[1:]) <= (8 * 20 if weights[name].ndim == 2 else 32)
            assert min(view.shape[1:]) >= 2
    assert not any(name.startswith(("node_embedding", "readouts")) for name in blocks)
    assert "interactions.1.linear.weight" in blocks
    skip = blocks["interactions.1.skip_tp.weight"]
    assert all(len(part.shape) == 3 and part.shape[1] == 3 for part in skip)


def test_block_of_a_path_is_what_e3nn_multiplies_with():
    """The layer's output on one channel is that row of the block, times e3nn's normalization."""
    module = random_mace("MP-0", [1, 8])
    linear = module.interactions[1].linear_up
    block = matrix_blocks(module)["interactions.1.linear_up.weight"][0]
    matrix = block.view(linear.weight.detach())[0]
    inputs = torch.zeros(matrix.shape[0], linear.irreps_in.dim, dtype=torch.float64)
    inputs[:, : matrix.shape[0]] = torch.eye(matrix.shape[0], dtype=torch.float64)
    out = linear(inputs)[:, : matrix.shape[1]].detach()
    assert torch.allclose(out * matrix.shape[0] ** 0.5, matrix, atol=1e-12)


def test_no_flat_vector_is_treated_as_one_matrix():
    """A step on flat weights with blocks is the step on the matrices by themselves."""
    rng = np.random.default_rng(5)
    whole = torch.nn.Parameter(torch.tensor(rng.normal(size=2 * 3 * 4 + 5 * 5)))
    blocks = [Block(0, (3, 2, 4)), Block(24, (5, 5))]
    for name in ("muon", "soap"):
        flat = torch.nn.Parameter(whole.detach().clone())
        parts = [
            torch.nn.Parameter(matrix.clone())
            for block in blocks
            for matrix in block.view(flat.detach())
        ]
        group = {"params": [flat], "blocks": [[tuple(block) for block in blocks]]}
        optimizers = [build_optimizer(name, [group]), build_optimizer(name, parts)]
        for step in range(12):
            give_gradients([flat], step)
            gradients = [m for block in blocks for m in block.view(flat.grad)]
            for part, gradient in zip(parts, gradients, strict=True):
                part.grad = gradient.clone()
            for optimizer in optimizers:
                optimizer.step()
        together = [m for block in blocks for m in block.view(flat.detach())]
        for part, matrix in zip(parts, together, strict=True):
            assert torch.allclose(part, matrix, rtol=1e-9, atol=1e-12)


def test_orthogonalized_matrices_have_singular_values_near_one():
    matrices = torch.tensor(np.random.default_rng(1).normal(size=(6, 5, 9)))
    values = torch.linalg.svdvals(orthogonalized(matrices, 5))
    assert 0.3 < float(values.min()) <= float(values.max()) < 1.3
    tall = orthogonalized(matrices.mT, 5)
    assert torch.allclose(tall, orthogonalized(matrices, 5).mT)
    assert torch.isfinite(orthogonalized(torch.zeros(1, 3, 3), 5)).all()


@pytest.mark.parametrize("kind", ["MP-0", "OMAT-0", "OFF"])
def test_what_decays_beside_what_mace_torch_decays(kind):
    module = random_mace(kind, [1, 8])
    names = {parameter: name for name, parameter in module.named_parameters()}
    arguments = argparse.Namespace(
        lr_params_factors="{}", freeze=0, lr=1.0, weight_decay=0.1, amsgrad=False, beta=0.9
    )
    ours, theirs = (
        {names[p] for group in groups if group["weight_decay"] for p in group["params"]}
        for groups in (
            parameter_groups(module, 0.1),
            get_params_options(arguments, module)["params"],
        )
    )
    assert ours - theirs == {f"interactions.{i}.linear_up.weight" for i in range(2)}
    assert theirs < ours


@pytest.mark.parametrize("fast", [False, True])
def test_groups_tell_where_matrices_are(fast):
    module = random_mace("MP-0", [1, 8])
    given = accelerate(module) if fast else module
    groups = parameter_groups(given, 0.1, blocks=True)
    assert sum(len(g["params"]) for g in groups) == len(list(module.parameters()))
    for group in groups:
        assert len(group["blocks"]) == len(group["params"])
    assert sum(bool(b) for g in groups for b in g["blocks"]) == len(matrix_blocks(module))
    assert all("blocks" not in group for group in parameter_groups(given, 0.1))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lamb", {"betas": (0.9, 1.0)}),
        ("ranger", {"k": 0}),
        ("muon", {"momentum": 1.0}),
        ("soap", {"refresh": 0}),
        ("sgd", {"momentum": -1.0}),
        ("radam", {"betas": 3}),
        ("schedulefree", {"eps": "small"}),
        ("schedulefree", {"betas": (0.0, 0.999)}),
    ],
)
def test_impossible_options_are_refused(name, options):
    from ase_finetune.errors import ConfigError

    with pytest.raises(ConfigError, match="does not take these settings"):
        build_optimizer(name, parameters(), options=options)
