"""Lanczos, densities and traces against full diagonalization."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_curvature import dense_hessian, normal, tiny_residuals

from ase_finetune.curvature.lanczos import Density, Interval, Lanczos, advance, probes, trace
from ase_finetune.curvature.products import LossProducts


def matrix(values: torch.Tensor) -> torch.Tensor:
    Q = torch.linalg.qr(normal(len(values), len(values), seed=5))[0]
    return Q @ values.diag() @ Q.T


def process(A: torch.Tensor, start: torch.Tensor, steps: int) -> Lanczos:
    made = Lanczos(start)
    advance([made], lambda alive, x: x @ A, steps)
    return made


def test_all_steps_give_all_eigenvalues_once():
    # Ten decades with a wide gap: plain Lanczos would find the largest several times.
    values = torch.logspace(-8, 2, 40, dtype=torch.float64)
    found, weights, residuals = process(matrix(values), normal(40), 60).ritz()
    assert len(found) == 40
    assert torch.allclose(found, values, atol=1e-11, rtol=1e-6)
    assert float(weights.sum()) == pytest.approx(1.0)
    assert float(residuals.max()) < 1e-9


def test_it_stops_in_an_invariant_space():
    values = torch.tensor([3.0, 3.0, 1.0, 1.0, 0.0, -2.0], dtype=torch.float64)
    found, _, residuals = process(values.diag(), torch.ones(6, dtype=torch.float64), 10).ritz()
    assert torch.allclose(found, torch.tensor([-2.0, 0.0, 1.0, 3.0], dtype=torch.float64))
    assert float(residuals.max()) == 0.0
    with pytest.raises(ValueError, match="not zero"):
        Lanczos(torch.zeros(3))


def test_residuals_bound_the_distance_to_an_eigenvalue():
    values = torch.cat([torch.linspace(0, 1, 60, dtype=torch.float64), torch.tensor([9.0])])
    found, _, residuals = process(matrix(values), normal(61, seed=2), 12).ritz()
    distance = (found[:, None] - values[None]).abs().min(1).values
    assert bool((distance <= residuals + 1e-12).all())
    assert float(residuals[-1]) < 1e-6 < float(residuals[0])


def test_hutchinson_covers_the_trace_as_often_as_it_says():
    A = matrix(torch.linspace(-1, 4, 30, dtype=torch.float64))
    exact = float(A.trace())
    hits = 0
    for seed in range(200):
        signs = probes(8, 30, seed)
        found = trace(signs, signs @ A)
        hits += abs(found.value - exact) <= found.half_width
    assert 176 <= hits <= 200  # 95 % of 200 less three standard deviations
    assert math.isnan(Interval.of([1.0]).half_width)
    # A diagonal matrix has no variance.
    diagonal = torch.linspace(1, 2, 30, dtype=torch.float64).diag()
    signs = probes(3, 30, 0)
    found = trace(signs, signs @ diagonal)
    assert found.value == pytest.approx(45.0) and found.half_width < 1e-12


@pytest.fixture(scope="module")
def tiny():
    residuals, graphs = tiny_residuals()
    H = dense_hessian(residuals, graphs)
    vectors = normal(2, len(H), seed=8)
    assert torch.allclose(LossProducts(residuals).hessian(vectors), vectors @ H, rtol=1e-9)
    return H, torch.linalg.eigvalsh(0.5 * (H + H.T))


def test_density_of_a_tiny_mace_is_that_of_full_diagonalization(tiny):
    H, exact = tiny
    started = [Lanczos(v) for v in probes(40, len(H), 3)]
    advance(started, lambda alive, x: x @ H, 30)
    density = Density.of(started, len(H))
    largest = float(exact.abs().max())
    for share in (-0.1, -1e-2, 1e-2, 0.1, 0.3):
        at = share * largest
        found = float(density.cumulative(torch.tensor([at]))[0])
        assert found == pytest.approx(float((exact < at).double().mean()), abs=0.01), share
    for function in (lambda x: x, torch.square, torch.abs):
        interval = density.integral(function)
        expected = float(function(exact).sum())
        assert abs(interval.value - expected) < 2.0 * interval.half_width
    negative = density.share(lambda x: x.clamp(max=0).abs(), torch.abs)
    expected = float(exact.clamp(max=0).abs().sum() / exact.abs().sum())
    assert negative.value == pytest.approx(expected, abs=0.05)
    ends = [p.ritz()[0] for p in started]
    assert max(float(e[-1]) for e in ends) == pytest.approx(float(exact[-1]), rel=1e-6)
    assert min(float(e[0]) for e in ends) == pytest.approx(float(exact[0]), rel=1e-6)


def test_probes_leave_inactive_coordinates_alone_and_repeat():
    active = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    signs = probes(5, 4, 1, active)
    assert bool((signs[:, 1] == 0).all()) and set(np.unique(signs[:, 0])) <= {-1.0, 1.0}
    assert torch.equal(signs, probes(5, 4, 1, active))
