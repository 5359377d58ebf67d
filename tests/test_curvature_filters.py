"""Every filter against the real optimizer on a quadratic with that spectrum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ase_finetune.curvature.filters import (
    adam,
    gradient_descent,
    momentum,
    optimizer_filter,
    schedule_free,
)
from ase_finetune.curvature.gather import lbfgs_at_rest, lm_at_rest
from ase_finetune.curvature.preconditioners import apply
from ase_finetune.errors import ConfigError
from ase_finetune.levenberg_marquardt import LMSettings
from ase_finetune.optimizers import build_optimizer, list_optimizers
from ase_finetune.weights import evaluation_weights

STEPS = 25
SPECTRUM = torch.logspace(-2, 1.2, 30, dtype=torch.float64)
# Errors of this size leave second moments far below eps = 1, which freezes P at the identity.
SMALL = 1e-9
# torch's RAdam adds eps to a second moment that is not corrected for its bias, so that a large eps
# would not freeze P; here the second moment itself is held where its corrected value is 1.
HELD = ("radam", "ranger")


class Quadratic(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.theta = torch.nn.Parameter(SMALL * torch.ones(size, dtype=torch.float64))


def run(name, options, steps=STEPS, lr=0.1):
    module = Quadratic(len(SPECTRUM))
    optimizer = build_optimizer(name, [module.theta], lr=lr, options=options)
    zeros, state = torch.zeros_like(module.theta), optimizer.state[module.theta]
    beta2 = optimizer.param_groups[0].get("betas", (0.0, 0.0))[1]
    if name in HELD:
        state |= {"step": torch.tensor(0.0), "exp_avg": zeros.clone()}
    for step in range(1, steps + 1):
        if name in HELD:
            state["exp_avg_sq"] = (zeros + 1.0 - beta2**step) / beta2
        module.theta.grad = SPECTRUM * module.theta.detach()
        optimizer.step()
    return evaluation_weights(module, None, optimizer)["theta"].numpy() / SMALL


def check(found, filter_, h, steps=STEPS):
    expected = filter_.curve(h, steps)
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-7), np.abs(found - expected).max()
    assert np.abs(expected).min() < 0.5 < np.abs(expected).max()  # something was filtered


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "radam", "ranger", "schedulefree"])
def test_filter_is_what_the_optimizer_does_on_a_quadratic(name):
    options = {} if name == "sgd" else {"eps": 0.0 if name in HELD else 1.0}
    rule = optimizer_filter(name, {**options, "unrectified": 1.0})
    check(run(name, options), rule, 0.1 * SPECTRUM.numpy())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {"nesterov": False}),
        ("sgd", {"momentum": 0.0, "nesterov": False}),
        ("adam", {"eps": 1.0, "betas": (0.0, 0.9)}),
        ("ranger", {"eps": 0.0, "k": 4, "alpha": 0.3}),
        ("radam", {"eps": 0.0, "betas": (0.8, 0.99)}),
        ("schedulefree", {"eps": 1.0, "betas": (0.98, 0.999)}),
    ],
)
def test_filter_follows_the_options(name, options):
    rule = optimizer_filter(name, {**options, "unrectified": 1.0})
    check(run(name, options), rule, 0.1 * SPECTRUM.numpy())
    default = optimizer_filter(name, {"unrectified": 1.0}).curve(0.1 * SPECTRUM.numpy(), STEPS)
    assert not np.allclose(default, rule.curve(0.1 * SPECTRUM.numpy(), STEPS), rtol=1e-3)


def test_filter_of_lamb_with_its_trust_ratio_held():
    """One entry's weight and another's constant gradient hold both norms."""
    extra = torch.tensor([1.0, 0.0], dtype=torch.float64)  # weight, no gradient; and the reverse
    theta = torch.nn.Parameter(torch.cat([SMALL * torch.ones(30, dtype=torch.float64), extra]))
    optimizer = build_optimizer("lamb", [theta], lr=1e-7, options={"eps": 1.0})
    pull = 1e-3
    for _ in range(STEPS):
        gradient = torch.cat([SPECTRUM * theta.detach()[:30], torch.tensor([0.0, pull])])
        theta.grad = gradient
        optimizer.step()
    # eps = 1 freezes D only while the pull is small beside it: P = trust / (1 + pull) there.
    trust = float(theta.detach()[:31].norm()) / (pull / (1.0 + pull))
    h = 1e-7 * trust * SPECTRUM.numpy()
    check_small = optimizer_filter("lamb").curve(h, STEPS)
    found = theta.detach()[:30].numpy() / SMALL
    assert np.allclose(found, check_small, rtol=1e-4, atol=1e-6)
    assert found.min() < 0.99


def test_filter_of_soap_idles_in_its_first_step():
    theta = torch.nn.Parameter(SMALL * torch.ones(5, 6, dtype=torch.float64))
    optimizer = build_optimizer("soap", [theta], lr=0.1, options={"eps": 1.0})
    for _ in range(STEPS):
        theta.grad = SPECTRUM.view(5, 6) * theta.detach()
        optimizer.step()
    check(theta.detach().numpy().ravel() / SMALL, optimizer_filter("soap"), 0.1 * SPECTRUM.numpy())


@pytest.mark.parametrize("nesterov", [True, False])
def test_filter_of_muon_with_its_left_factor_held(nesterov, monkeypatch):
    """Newton and Schulz's map is not linear; with a factor of 1 in its place, the rest is."""
    monkeypatch.setattr("ase_finetune.optimizers.muon.orthogonalized", lambda x, n: x)
    theta = torch.nn.Parameter(SMALL * torch.ones(5, 6, dtype=torch.float64))
    options = {"nesterov": nesterov}
    optimizer = build_optimizer("muon", [theta], lr=0.3, options=options)
    for _ in range(STEPS):
        theta.grad = SPECTRUM.view(5, 6) * theta.detach()
        optimizer.step()
    h = 0.3 * 0.2 * math.sqrt(6) * SPECTRUM.numpy()
    check(theta.detach().numpy().ravel() / SMALL, optimizer_filter("muon", options), h)


@pytest.mark.parametrize("name", ["lbfgs", "lm"])
def test_filters_of_second_order_are_repeated_maps(name):
    """theta <- theta - P grad on the residuals themselves, along eigenvectors of J P J^T."""
    J = (
        torch.linspace(1, 30, 10, dtype=torch.float64).sqrt().diag()
        @ torch.linalg.qr(
            torch.randn(30, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        )[0].T
    )
    rho = torch.ones(10, dtype=torch.float64)
    if name == "lbfgs":
        P = lbfgs_at_rest(J, rho, 5, 5)
    else:
        P, _ = lm_at_rest(J, LMSettings(budget=1.0, damping=0.1, scaling=0.0))
    left = rho.clone()
    for _ in range(4):
        left = left - J @ apply(P, (left @ J)[None])[0]
    values, vectors = torch.linalg.eigh(J @ apply(P, J).T)
    curve = torch.from_numpy(optimizer_filter(name).curve(values.numpy(), 4))
    assert torch.allclose(vectors @ (curve * (vectors.T @ rho)), left, rtol=1e-7, atol=1e-9)
    if name == "lm":
        mu = 0.1 * 30.0
        exact = mu / (torch.linspace(1, 30, 10, dtype=torch.float64) + mu)
        # A double square root in between: ten digits are what is left.
        assert torch.allclose(torch.sort(1 - values).values, torch.sort(exact).values, rtol=1e-9)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (gradient_descent(), 2.0),
        (momentum(0.9, nesterov=False), 2 + 2 * 0.9),
        (momentum(0.9, nesterov=True), (2 + 2 * 0.9) / (1 + 2 * 0.9)),
        (adam(0.9), (2 + 2 * 0.9) / (1 - 0.9)),
        (adam(0.95), (2 + 2 * 0.95) / (1 - 0.95)),
        (schedule_free(0.9), 2 / (1 - 0.9)),
    ],
)
def test_thresholds_are_those_in_closed_form(rule, expected):
    assert rule.threshold() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", [*list_optimizers(), "lbfgs", "lm"])
def test_errors_fall_below_the_threshold_and_grow_above(name):
    # RAdam's rectifier comes near 1 soon with this beta2.
    options = {"betas": (0.9, 0.9)} if name in HELD else {}
    rule = optimizer_filter(name, options)
    threshold = rule.threshold()
    below, above = (
        abs(float(rule.curve(np.array([x * threshold]), 3000)[0])) for x in (0.95, 1.05)
    )
    assert below < 1.5 and above > 1e3, (below, above)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="no filter"):
        optimizer_filter("rmsprop")
