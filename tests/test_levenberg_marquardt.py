"""Levenberg-Marquardt against exact solutions, explicit Jacobians and conjugate gradients."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from mace_kinds import random_mace

from ase_finetune.fast_mace import accelerate
from ase_finetune.gauss_newton import KrylovSpace, SecantModel
from ase_finetune.graphs import build_graph, collate, predict
from ase_finetune.levenberg_marquardt import LevenbergMarquardt, LMSettings
from ase_finetune.loss import Loss
from ase_finetune.residuals import Residuals

NUMBERS = [1, 8, 42]
DENSE, KRYLOV = 4e9, 0.0


def randn(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Function:
    """Any residual function of a few parameters, by autograd."""

    n_frames = 1

    def __init__(self, function, start) -> None:
        self.function, self.point = function, torch.as_tensor(start, dtype=torch.float64)
        self.size, self.rows = len(self.point), len(function(self.point))

    def move(self, point) -> None:
        self.point = point

    def values(self):
        return self.function(self.point)

    def jacobian(self):
        return self.values(), torch.autograd.functional.jacobian(self.function, self.point)

    def gradient(self):
        rho, J = self.jacobian()
        return rho, J.T @ rho

    def normal(self, vector):
        J = self.jacobian()[1]
        return J @ vector, J.T @ (J @ vector)


def frames() -> list[Atoms]:
    """Frames of different size, periodic and not, some labels absent."""
    crystal = bulk("Mo", cubic=True) * (2, 1, 1)
    crystal.numbers[1] = 8
    found = [crystal, molecule("H2O"), bulk("Mo", cubic=True), molecule("OH")]
    rng = np.random.default_rng(5)
    for atoms in found:
        atoms.rattle(0.05, seed=3)
        atoms.info["REF_energy"] = float(rng.normal())
        atoms.arrays["REF_forces"] = rng.normal(size=(len(atoms), 3))
        if atoms.pbc.all():
            atoms.info["REF_stress"] = 0.1 * rng.normal(size=6)
    del found[2].info["REF_energy"], found[3].arrays["REF_forces"]
    return found


def residuals(kind: str = "MP-0", fast: bool = True, batch_atoms: int = 6, weights=(2.0, 3.0, 5.0)):
    module = random_mace(kind, NUMBERS)
    module = accelerate(module) if fast else module
    E0s = dict.fromkeys(NUMBERS, 0.0)
    graphs = [build_graph(a, NUMBERS, 4.5, dtype=torch.float64, E0s=E0s) for a in frames()]
    graphs = [replace(g, weight=w) for g, w in zip(graphs, (1.0, 0.3, 2.0, 0.7), strict=True)]
    loss = Loss.for_graphs(graphs, *weights)
    return Residuals(module, graphs, loss, len(NUMBERS), batch_atoms=batch_atoms), graphs


@pytest.mark.parametrize(
    ("batch_atoms", "weights"),
    [
        (1, (2.0, 3.0, 5.0)),
        (1000, (2.0, 3.0, 5.0)),
        (6, (2.0, 0.0, 0.0)),
        (6, (0.0, 3.0, 0.0)),
        (6, (0.0, 0.0, 5.0)),
    ],
)
def test_half_the_squared_residuals_are_the_loss(batch_atoms, weights):
    problem, graphs = residuals(batch_atoms=batch_atoms, weights=weights)
    batch = collate(graphs, len(NUMBERS))
    result = predict(problem.module, batch, stress=True, training=True)
    loss = problem.loss(result, batch)
    rho, gradient = problem.gradient()
    assert 0.5 * float(rho.square().sum()) == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(rho, problem.values(), rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(loss, problem.parameters, allow_unused=True)
    expected = [
        torch.zeros_like(p) if g is None else g
        for g, p in zip(found, problem.parameters, strict=True)
    ]
    expected = torch.cat([g.reshape(-1) for g in expected])
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)
    labels = {0: 3, 1: 3 * (4 + 3 + 2), 2: 2 * 6}  # of energy, forces and stress in `frames`
    assert problem.rows == sum(n for k, n in labels.items() if weights[k] > 0)


@pytest.mark.parametrize(
    ("kind", "fast"), [("MP-0", True), ("MP-0", False), ("OMAT-0", True), ("OFF", True)]
)
def test_products_agree_with_the_jacobian_and_it_with_differences(kind, fast):
    problem, _ = residuals(kind, fast)
    rho, J = problem.jacobian()
    torch.testing.assert_close(rho, problem.values(), rtol=1e-12, atol=1e-12)
    v = randn(problem.size)

    def close(found, expected):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * float(expected.norm()))

    close(problem.normal(v)[0], J @ v)
    close(problem.normal(v)[1], J.T @ (J @ v))
    close(problem.gradient()[1], J.T @ rho)
    point, h = problem.point, 1e-5
    sides = []
    for sign in (1, -1):
        problem.move(point + sign * h * v)
        sides.append(problem.values())
    difference = (sides[0] - sides[1]) / (2 * h)
    assert float((difference - J @ v).norm()) < 1e-6 * float(difference.norm())


@pytest.mark.parametrize(
    ("atoms", "null"),
    [
        (bulk("Mo", cubic=True) * (2, 1, 1), 3),
        (molecule("H2O2"), 6),
        (Atoms("OMoO", positions=[[0, 0, -1.7], [0, 0, 0], [0, 0, 1.8]]), 7),
    ],
    ids=["cell", "molecule", "linear molecule"],
)
def test_rigid_motions_are_the_null_space_of_the_forces(atoms, null):
    atoms = atoms.copy()
    if null < 7:  # on a line, forces across it vanish too: only two differences along it are left
        atoms.rattle(0.1, seed=1)
    atoms.arrays["REF_forces"] = np.zeros((len(atoms), 3))
    graph = build_graph(atoms, NUMBERS, 4.5, dtype=torch.float64, E0s=dict.fromkeys(NUMBERS, 0.0))
    module = accelerate(random_mace("MP-0", NUMBERS))
    problem = Residuals(module, [graph], Loss.for_graphs([graph], 0.0, 1.0, 0.0), len(NUMBERS))
    J = problem.jacobian()[1]
    assert problem.size > problem.rows == 3 * len(atoms)
    values = torch.linalg.eigvalsh(J @ J.T)
    assert float(values[null - 1]) < 1e-12 * float(values[-1])
    assert float(values[null]) > 1e-9 * float(values[-1])


@pytest.mark.parametrize("max_bytes", [DENSE, KRYLOV], ids=["Gram", "CG"])
@pytest.mark.parametrize("shape", [(12, 5), (5, 12)], ids=["tall", "wide"])
def test_linear_residuals_are_solved_in_one_step(shape, max_bytes):
    A, b = randn(*shape), randn(shape[0])
    problem = Function(lambda x: A @ x - b, np.zeros(shape[1]))
    settings = LMSettings(
        1e3, damping=1e-14, scaling=0.0, jacobian_bytes=max_bytes, tolerance=1e-14
    )
    optimizer = LevenbergMarquardt(problem, settings)
    assert optimizer.dense is (max_bytes > 0)
    loss = next(optimizer.steps())
    exact = torch.linalg.pinv(A) @ b  # from zero, also the solution of smallest norm
    torch.testing.assert_close(problem.point, exact, rtol=1e-8, atol=1e-8)
    assert loss == pytest.approx(0.5 * float((A @ exact - b).square().sum()), abs=1e-12)


@pytest.mark.parametrize("max_bytes", [DENSE, KRYLOV], ids=["Gram", "CG"])
@pytest.mark.parametrize("shape", [(12, 5), (5, 12)], ids=["tall", "wide"])
def test_a_proximal_term_gives_the_ridge_solution(shape, max_bytes):
    A, b, start, p = randn(*shape), randn(shape[0]), randn(shape[1]), 0.7
    problem = Function(lambda x: A @ x - b, start)
    settings = LMSettings(1e3, damping=1e-2, proximal=p, jacobian_bytes=max_bytes, tolerance=1e-14)
    losses = list(LevenbergMarquardt(problem, settings).steps())
    exact = torch.linalg.solve(A.T @ A + p * torch.eye(shape[1]), A.T @ b + p * start)
    torch.testing.assert_close(problem.point, exact, rtol=1e-6, atol=1e-6)
    rest = (A @ exact - b).square().sum() + p * (exact - start).square().sum()
    assert losses[-1] == pytest.approx(0.5 * float(rest), rel=1e-12)


@pytest.mark.parametrize("max_bytes", [DENSE, KRYLOV], ids=["Gram", "CG"])
def test_rosenbrock(max_bytes):
    def function(x):
        return torch.stack([10.0 * (x[1] - x[0] ** 2), 1.0 - x[0]])

    problem = Function(function, [-1.2, 1.0])
    settings = LMSettings(500, jacobian_bytes=max_bytes, tolerance=1e-10)
    losses = list(LevenbergMarquardt(problem, settings).steps())
    assert losses[-1] < 1e-20
    assert all(b < a for a, b in itertools.pairwise(losses))
    torch.testing.assert_close(problem.point, torch.ones(2, dtype=torch.float64))


def test_scaled_damping_solves_the_scaled_normal_equations():
    A, b = randn(7, 5) * torch.tensor([1.0, 3.0, 0.2, 1.0, 5.0]), randn(7)
    D, mu = (A.T @ A).diagonal(), 0.04
    for s in (0.0, 0.5, 1.0):
        problem = Function(lambda x: A @ x - b, np.zeros(5))
        optimizer = LevenbergMarquardt(problem, LMSettings(100, scaling=s))
        optimizer.mu = mu
        next(optimizer.steps())
        scaled = A.T @ A + mu * torch.diag((D / D.max()) ** s)
        torch.testing.assert_close(problem.point, torch.linalg.solve(scaled, A.T @ b))


@pytest.mark.parametrize("max_bytes", [DENSE, KRYLOV], ids=["Gram", "CG"])
def test_a_step_to_where_the_loss_is_not_a_number_is_taken_back(max_bytes):
    seen = []

    def function(x):
        rho = torch.log(x)
        seen.append(bool(torch.isfinite(rho).all()))
        return rho

    problem = Function(function, [6.0, 9.0])  # the Gauss-Newton step goes to negative numbers
    settings = LMSettings(200, damping=1e-9, jacobian_bytes=max_bytes)
    losses = list(LevenbergMarquardt(problem, settings).steps())
    assert not all(seen)
    assert losses[-1] < 1e-15
    torch.testing.assert_close(problem.point, torch.ones(2, dtype=torch.float64))


def test_a_start_where_the_loss_is_not_a_number_ends_at_once():
    problem = Function(torch.log, [-1.0, 2.0])
    optimizer = LevenbergMarquardt(problem, LMSettings(50))
    assert list(optimizer.steps()) == []
    assert optimizer.ended == "loss not finite"
    torch.testing.assert_close(problem.point, torch.tensor([-1.0, 2.0], dtype=torch.float64))


@pytest.mark.parametrize("max_bytes", [DENSE, KRYLOV], ids=["Gram", "CG"])
def test_a_minimum_is_recognized(max_bytes):
    problem = Function(lambda x: torch.cat([x, torch.ones_like(x)]), [0.0, 0.0])
    optimizer = LevenbergMarquardt(problem, LMSettings(50, jacobian_bytes=max_bytes))
    assert list(optimizer.steps()) == []
    assert optimizer.ended == "no further decrease predicted"


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (300, 400)], ids=str)
def test_updates_are_those_of_an_explicit_matrix(shape):
    J, rho, offset = randn(*shape), randn(shape[0]), randn(shape[1])
    model, explicit = SecantModel(J.clone()), J.clone()
    for k in range(3):
        step = model.step(rho, offset, 0.1, 0.5 + k)
        change = step.change + 0.3 * randn(shape[0] + k)[k:]
        model.update(step, change)
        d = step.delta
        explicit += torch.outer(change - explicit @ d, d) / d.square().sum()
        torch.testing.assert_close(model.push(d), change)
    fresh = SecantModel(explicit)
    for p, mu in ((0.0, 0.2), (0.3, 0.2)):
        found, expected = model.step(rho, offset, p, mu), fresh.step(rho, offset, p, mu)
        torch.testing.assert_close(found.delta, expected.delta, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(found.change, explicit @ found.delta, rtol=1e-8, atol=1e-8)
        assert found.predicted == pytest.approx(expected.predicted, rel=1e-8)
    assert model.largest == pytest.approx(float(torch.linalg.matrix_norm(J, 2)) ** 2, rel=0.05)


@pytest.mark.parametrize("proximal", [0.0, 0.3])
def test_gram_matrix_and_conjugate_gradients_give_the_same_step(proximal):
    problem, _ = residuals()
    rho, J = problem.jacobian()
    offset = 0.01 * randn(problem.size)
    dense = SecantModel(J)
    mu = 1e-3 * dense.largest
    step = dense.step(rho, offset, proximal, mu)
    space = KrylovSpace(problem, problem.gradient()[1] + proximal * offset)
    while not space.exhausted and (space.dimension == 0 or space.residual(mu + proximal) > 1e-13):
        space.extend()
    found = SecantModel(space.images).step(rho, space.basis @ offset, proximal, mu)
    delta = space.basis.T @ found.delta
    assert float((delta - step.delta).norm()) < 1e-8 * float(step.delta.norm())
    assert found.predicted == pytest.approx(step.predicted, rel=1e-8)
    assert space.dimension <= problem.rows + 1


def test_a_step_in_the_krylov_space_is_an_iterate_of_conjugate_gradients():
    A, b, shift = randn(12, 9), randn(12), 0.3
    problem = Function(lambda x: A @ x - b, np.zeros(9))
    rho, gradient = problem.gradient()
    space = KrylovSpace(problem, gradient)
    x, r, p = torch.zeros(9, dtype=torch.float64), -gradient, -gradient
    for _ in range(4):
        space.extend()
        Ap = A.T @ (A @ p) + shift * p
        alpha = r.dot(r) / p.dot(Ap)
        x, rest = x + alpha * p, r - alpha * Ap
        p = rest + rest.dot(rest) / r.dot(r) * p
        r = rest
        step = SecantModel(space.images).step(
            rho, torch.zeros(space.dimension).double(), 0.0, shift
        )
        torch.testing.assert_close(space.basis.T @ step.delta, x, rtol=1e-10, atol=1e-10)
        assert space.residual(shift) == pytest.approx(float(r.norm() / gradient.norm()), rel=1e-8)
