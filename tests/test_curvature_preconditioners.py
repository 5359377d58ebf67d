"""Preconditioners against dense matrices and against the steps that the optimizers take."""

from __future__ import annotations

import math

import pytest
import torch
from mace_kinds import random_mace
from tiny_curvature import normal

from ase_finetune.curvature.gather import (
    Statistics,
    batch_gradients,
    lbfgs_at_rest,
    lm_at_rest,
    state_at_rest,
)
from ase_finetune.curvature.preconditioners import Blockwise, Damped, LowRank, apply
from ase_finetune.curvature.states import from_lbfgs, from_optimizer
from ase_finetune.errors import ConfigError
from ase_finetune.gauss_newton import SecantModel
from ase_finetune.levenberg_marquardt import LMSettings
from ase_finetune.optimizers import build_optimizer, list_optimizers, optimizer_info
from ase_finetune.optimizers.groups import parameter_groups

SHAPES = [(6, 4), (3, 5), (7,)]


def dense(P, size):
    """P and F F^T as matrices; rows are images of unit vectors, which symmetry allows."""
    eye = torch.eye(size, dtype=torch.float64)
    F = P.factor(eye).T
    whole = apply(P, eye)
    assert torch.allclose(whole, F @ F.T, rtol=1e-9, atol=1e-12 * float(whole.abs().max()))
    assert torch.allclose(P.transposed(eye).T, F.T, rtol=1e-9, atol=1e-12)
    assert torch.allclose(whole, whole.T, rtol=1e-9, atol=1e-12 * float(whole.abs().max()))
    return whole


def stepped(name, steps, options=None, weight_decay=0.0):
    """Parameters before and after the last of some steps with random gradients."""
    parameters = [torch.nn.Parameter(normal(*s, seed=k)) for k, s in enumerate(SHAPES)]
    optimizer = build_optimizer(
        name, parameters, lr=1e-3, weight_decay=weight_decay, options=options
    )
    gradients = []
    for step in range(steps):
        before = [p.detach().clone() for p in parameters]
        gradients = [normal(*s, seed=100 * step + k) for k, s in enumerate(SHAPES)]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return optimizer, parameters, before, gradients


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def momentum(name, optimizer, parameters, gradients):
    """What P acts on in the last step, from the state after it."""
    parts = []
    for p, g in zip(parameters, gradients, strict=True):
        group = optimizer.param_groups[0]
        state = optimizer.state[p]
        if name == "sgd":
            parts.append(g + group["momentum"] * state["momentum_buffer"])
        elif name == "schedulefree":
            parts.append(g)
        elif name == "muon" and p.ndim == 2:
            parts.append(state["momentum"])
        else:
            m = state["exp_avg"].view_as(p)
            parts.append(m / (1.0 - group["betas"][0] ** float(state["step"])))
    return flat(parts)


@pytest.mark.parametrize("name", list_optimizers())
def test_the_last_step_is_that_of_the_preconditioner_read_from_the_state(name):
    options = {"muon": {"nesterov": False}, "soap": {"refresh": 5}}.get(name)
    # 22 is beyond RAdam's first steps, and no multiple of SOAP's refresh or Lookahead's period.
    optimizer, parameters, before, gradients = stepped(name, 22, options)
    z = [optimizer.state[p]["z"].clone() for p in parameters] if name == "schedulefree" else None
    after = [p.detach().clone() for p in parameters]
    with torch.no_grad():  # LAMB scales by the norm of the weights before the step
        for p, old in zip(parameters, before, strict=True):
            p.copy_(old)
    P, decay = from_optimizer(name, optimizer, parameters)
    assert decay is None
    size = sum(p.numel() for p in parameters)
    matrix = dense(P, size)
    expected = -1e-3 * matrix @ momentum(name, optimizer, parameters, gradients)
    if z is None:
        moved = flat(after) - flat(before)
    else:
        earlier, same, _, _ = stepped(name, 21, options)  # z moves by -lr P g
        moved = flat(z) - flat([earlier.state[p]["z"] for p in same])
    assert torch.allclose(moved, expected, rtol=1e-9, atol=1e-15)


def test_every_optimizer_of_the_registry_has_a_rule_and_foreign_ones_are_refused():
    parameter = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ConfigError, match="no rule"):
        from_optimizer("rmsprop", torch.optim.RMSprop([parameter]), [parameter])


@pytest.mark.parametrize(("name", "coupled"), [("adam", True), ("adamw", False), ("lamb", False)])
def test_decay_is_coupled_or_not_as_the_step_shows(name, coupled):
    optimizer, parameters, before, gradients = stepped(name, 9, weight_decay=0.3)
    with torch.no_grad():
        for p, old in zip(parameters, before, strict=True):
            p.copy_(old)
    P, decay = from_optimizer(name, optimizer, parameters)
    assert decay is not None and decay.coupled is coupled
    matrix = dense(P, len(decay.diagonal))
    m = momentum(name, optimizer, parameters, gradients)
    # Decoupled, it is a step of its own; coupled, it is within the moment already.
    own = torch.zeros_like(m) if coupled else decay.diagonal * flat(before)
    with torch.no_grad():
        moved = -1e-3 * (matrix @ m + own)
    again, again_parameters, _, _ = stepped(name, 9, weight_decay=0.3)
    del again
    assert torch.allclose(flat(again_parameters) - flat(before), moved, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", ["muon", "soap"])
def test_blocks_within_e3nn_weights_are_turned_as_a_dense_construction_says(name):
    """On a MACE of two elements, whose skip connection holds a matrix per element."""
    module = random_mace("MP-0 L0", [6, 8])
    size = sum(p.numel() for p in module.parameters())
    frames = normal(12, size, seed=3)
    optimizer = state_at_rest(name, module, frames, Statistics(steps=11, batch_size=2, clip=0.0))
    parameters = list(module.parameters())
    P, _ = from_optimizer(name, optimizer, parameters)
    groups = parameter_groups(module, 0.0, blocks=True)
    blocks = {p: b for g in groups for p, b in zip(g["params"], g["blocks"], strict=True)}
    start, tested = 0, 0
    for p in parameters:
        state = optimizer.state[p]
        for i, (offset, shape) in enumerate(blocks[p]):
            count = math.prod(shape)
            x = torch.zeros(1, size, dtype=torch.float64)
            given = normal(count, seed=7)
            x[0, start + offset : start + offset + count] = given
            image = apply(P, x)[0]
            found = image[start + offset : start + offset + count].clone()
            image[start + offset : start + offset + count] = 0.0
            assert float(image.abs().max()) == 0.0
            expected = torch.empty(shape, dtype=torch.float64)
            for k in range(shape[1] if len(shape) == 3 else 1):

                def pick(t, k=k, shape=shape):
                    t = t.reshape(shape)
                    return t[:, k] if len(shape) == 3 else t

                X = pick(given)
                if name == "muon":
                    M = pick(state["momentum"].reshape(-1)[offset : offset + count])
                    image_k = polynomial(M, X)
                else:
                    v = pick(state["exp_avg_sq"].reshape(-1)[offset : offset + count])
                    step, group = state["step"], optimizer.param_groups[0]
                    L, R = state["left_basis"][i][k], state["right_basis"][i][k]
                    D = 1 / ((v / (1 - group["betas"][1] ** step)).sqrt() + group["eps"])
                    image_k = L @ (D * (L.T @ X @ R)) @ R.T
                if len(shape) == 3:
                    expected[:, k] = image_k
                else:
                    expected = image_k
            assert torch.allclose(found, expected.reshape(-1), rtol=1e-8, atol=1e-10)
            tested += len(shape) == 3
        start += p.numel()
    assert tested > 0


def polynomial(M, X):
    """Newton and Schulz's product of polynomials of M M^T, applied to another matrix."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = M.shape[0] > M.shape[1]
    x, y = (M.T, X.T) if tall else (M, X)
    norm = M.norm()
    x, y = x / norm, y / norm
    for _ in range(5):
        A = x @ x.T
        S = a * torch.eye(len(A), dtype=A.dtype) + b * A + c * A @ A
        x, y = S @ x, S @ y
    scale = 0.2 * max(M.shape) ** 0.5
    return scale * (y.T if tall else y)


def test_lbfgs_is_its_two_loops():
    size, A = 12, normal(12, 12, seed=1)
    H = A @ A.T + 0.1 * torch.eye(size, dtype=torch.float64)
    theta = torch.nn.Parameter(normal(size, seed=2))
    optimizer = torch.optim.LBFGS([theta], lr=1.0, max_iter=6, history_size=4,
                                  line_search_fn="strong_wolfe", tolerance_grad=0,
                                  tolerance_change=0)  # fmt: skip

    def closure():
        theta.grad = H @ theta.detach()
        return 0.5 * float(theta.detach() @ H @ theta.detach())

    with pytest.raises(ConfigError, match="no curvature pairs"):
        from_lbfgs(optimizer)
    optimizer.step(closure)
    P = dense(from_lbfgs(optimizer), size)
    state = optimizer.state[theta]
    assert len(state["old_stps"]) == 4
    # The direction of the last iteration was made of these pairs and the gradient before it;
    # afterwards prev_flat_grad is the gradient it started from.
    assert torch.allclose(-P @ state["prev_flat_grad"], state["d"], rtol=1e-8, atol=1e-12)
    # Secant equations: P y = s for the last pair.
    assert torch.allclose(P @ state["old_dirs"][-1], state["old_stps"][-1], rtol=1e-8, atol=1e-12)
    q = normal(size, seed=3)
    assert torch.allclose(P @ q, two_loops(state, q), rtol=1e-8, atol=1e-12)
    with pytest.raises(ValueError, match="positive definite"):
        LowRank.from_pairs(torch.eye(2, 3).double(), -torch.eye(2, 3).double(), 1.0)


def two_loops(state, q):
    pairs = list(zip(state["old_stps"], state["old_dirs"], strict=True))
    shares = []
    for s, y in reversed(pairs):
        shares.append(float(s @ q) / float(s @ y))
        q = q - shares[-1] * y
    q = q * float(state["H_diag"])
    for (s, y), share in zip(pairs, reversed(shares), strict=True):
        q = q + s * (share - float(y @ q) / float(s @ y))
    return q


def test_lbfgs_at_rest_solves_the_model_it_saw():
    J, rho = normal(8, 30, seed=1), normal(8, seed=2)
    P = lbfgs_at_rest(J, rho, 40, 40)
    step = -apply(P, (rho @ J)[None])[0]
    assert float((rho + J @ step).norm()) < 0.1 * float(rho.norm())


@pytest.mark.parametrize("scaling", [0.0, 0.5])
def test_lm_is_the_step_of_levenberg_marquardt(scaling):
    J, rho = normal(7, 20, seed=1) * torch.logspace(0, 2, 20, dtype=torch.float64), normal(7)
    P, mu = lm_at_rest(J, LMSettings(budget=1.0, damping=1e-2, scaling=scaling))
    scale = torch.ones(20, dtype=torch.float64) if P.scale is None else P.scale
    step = SecantModel(J * scale).step(rho, torch.zeros(20, dtype=torch.float64), 0.0, mu)
    found = -apply(P, (rho @ J)[None])[0]
    assert torch.allclose(found, scale * step.delta, rtol=1e-8, atol=1e-12)
    S = scale.diag()
    inverse = torch.linalg.inv(S @ J.T @ J @ S + mu * torch.eye(20, dtype=torch.float64))
    assert torch.allclose(apply(P, torch.eye(20).double()), S @ inverse @ S, rtol=1e-7, atol=1e-12)
    with pytest.raises(ValueError, match="positive"):
        Damped(J, 0.0)


def test_states_at_rest_see_the_mini_batches_of_training():
    frames = normal(10, 5, seed=1)
    settings = Statistics(steps=7, batch_size=4, clip=0.0, seed=3)
    found = list(batch_gradients(frames, settings))
    assert len(found) == 7
    # 4 + 4 + 2 frames: each pass sees every frame once, scaled to the whole.
    first = (4 * found[0] + 4 * found[1] + 2 * found[2]) / 10
    assert torch.allclose(first, frames.sum(0))
    clipped = list(batch_gradients(frames, Statistics(steps=7, batch_size=4, clip=0.5, seed=3)))
    assert max(float(g.norm()) for g in clipped) == pytest.approx(0.5)


def test_adam_adamw_and_schedulefree_are_one_preconditioner_at_one_theta():
    module = random_mace("MP-0 L0", [6])
    frames = normal(6, sum(p.numel() for p in module.parameters()), seed=4)
    found = {
        name: from_optimizer(
            name, state_at_rest(name, module, frames, Statistics(steps=12)),
            list(module.parameters()),
        )[0]
        for name in ("adam", "adamw", "schedulefree", "radam", "sgd")
    }  # fmt: skip
    reference = found["adam"].diagonal
    assert torch.equal(found["adamw"].diagonal, reference)
    assert torch.allclose(found["schedulefree"].diagonal, reference, rtol=1e-12)
    ratio = found["radam"].diagonal / reference
    # Up to eps, which torch's RAdam adds before the bias is corrected.
    assert float(ratio.max() - ratio.min()) < 1e-4 * float(ratio[0]) < 1e-4 * 0.2
    assert isinstance(found["sgd"], Blockwise) and bool((found["sgd"].diagonal == 1).all())
    assert all(optimizer_info(n).blocks == (n in ("muon", "soap")) for n in list_optimizers())
