"""Products with the curvature of the loss, against differences, dense matrices and symmetry."""

from __future__ import annotations

import pytest
import torch
from conftest import cu_frames
from tiny_curvature import normal, rattled, tiny_residuals

from ase_finetune.curvature.metrics import RowSpectrum, visible_rank
from ase_finetune.curvature.products import (
    KINDS,
    LossProducts,
    energy_gradient,
    frame_gradients,
    row_kinds,
)


@pytest.fixture(scope="module")
def problem():
    residuals, graphs = tiny_residuals()
    return residuals, graphs, LossProducts(residuals)


@pytest.mark.parametrize("accelerate", [True, False])
def test_hessian_product_is_that_of_central_differences(accelerate):
    residuals, _ = tiny_residuals(accelerate=accelerate)
    vector = normal(1, residuals.size)
    exact = LossProducts(residuals).hessian(vector)[0]
    theta, errors = residuals.point, []
    for step in (1e-3, 1e-4, 1e-5, 1e-6):
        sides = []
        for sign in (1.0, -1.0):
            residuals.move(theta + sign * step * vector[0])
            sides.append(residuals.gradient()[1])
        residuals.move(theta)
        errors.append(float(((sides[0] - sides[1]) / (2 * step) - exact).norm() / exact.norm()))
    assert min(errors) < 1e-7, errors
    # The truncation error must be seen to fall with the square of the step.
    assert errors[0] / errors[1] == pytest.approx(100.0, rel=0.3)


def test_hessian_is_symmetric_and_has_a_part_beyond_gauss_newton(problem):
    residuals, _, products = problem
    vectors = normal(3, residuals.size, seed=1)
    images = products.hessian(vectors)
    gram = vectors @ images.T
    assert float((gram - gram.T).abs().max() / gram.abs().max()) < 1e-13
    _, J = residuals.jacobian()
    rest = images - vectors @ J.T @ J
    # At random weights the residuals are large, and so is their curvature.
    assert float(rest.norm() / images.norm()) > 0.1


def test_vectors_together_equal_vectors_alone_to_the_bit(problem):
    residuals, _, products = problem
    vectors = normal(2, residuals.size, seed=2)
    together = products.hessian(vectors)
    assert torch.equal(together, products.hessian(vectors))
    for k in range(2):
        assert torch.equal(together[k], products.hessian(vectors[k : k + 1])[0])


def test_gauss_newton_and_jacobian_products_are_those_of_the_dense_jacobian(problem):
    residuals, _, products = problem
    vectors = normal(2, residuals.size, seed=3)
    _, J = residuals.jacobian()
    assert torch.allclose(products.push(vectors), vectors @ J.T, rtol=1e-10, atol=1e-12)
    dense = vectors @ J.T @ J
    assert torch.allclose(products.gauss_newton(vectors), dense, rtol=1e-9, atol=1e-11)


def test_gradients_of_frames_add_up_to_that_of_the_loss(problem):
    residuals, graphs, _ = problem
    total = frame_gradients(residuals, graphs).sum(0)
    assert torch.allclose(total, residuals.gradient()[1], rtol=1e-10, atol=1e-13)


def test_gradient_of_an_energy_difference_is_exact(problem):
    residuals, graphs, _ = problem
    terms = [(2.0, graphs[0]), (-1.5, graphs[1])]
    _, gradient = energy_gradient(residuals, terms)
    theta, direction, step = residuals.point, normal(residuals.size, seed=4), 1e-4
    sides = []
    for sign in (1.0, -1.0):
        residuals.move(theta + sign * step * direction)
        sides.append(energy_gradient(residuals, terms)[0])
    residuals.move(theta)
    expected = (sides[0] - sides[1]) / (2 * step)
    assert float(gradient @ direction) == pytest.approx(expected, rel=1e-6)


def test_rows_are_told_apart(problem):
    residuals, _, _ = problem
    kinds = torch.cat([row_kinds(part, residuals.loss) for part in residuals.parts])
    assert len(kinds) == residuals.rows
    counts = [int((kinds == k).sum()) for k in range(len(KINDS))]
    assert counts == [3, 3 * 3 * 4, 18]
    # A change of the label of an energy changes the rows of energies alone.
    rho, J = residuals.jacobian()
    assert float(rho[kinds == 1].norm()) > 0.0 and J.shape[0] == len(kinds)


@pytest.mark.parametrize(
    ("frames", "stress", "expected"),
    [
        ([("CH3OH", 1)], False, 6),
        ([("CH3OH", 1), ("NH3", 2)], False, 12),
        ([("NH3", 3), ("NH3", 4), ("NH3", 5)], False, 18),
        (1, True, 3),
        (2, True, 6),
    ],
)
def test_null_space_in_row_space_is_rigid_motion(frames, stress, expected):
    """Forces have no sum, and no torque on a molecule: 6 directions each, 3 for a cell."""
    if isinstance(frames, int):
        atoms = cu_frames(frames, 7)
    else:
        atoms = [rattled(name, seed) for name, seed in frames]
    residuals, _ = tiny_residuals(atoms, stress=stress)
    _, J = residuals.jacobian()
    assert J.shape[1] > J.shape[0]
    values = RowSpectrum.of(J).eigenvalues / RowSpectrum.of(J).eigenvalues[0]
    found = int((values < 1e-28).sum())
    assert found == expected, values[-expected - 2 :]
    assert float(values[-expected - 1]) > 1e-24
    # And these are rigid motions, not something else: a shift of all forces of a frame.
    shift = torch.zeros(len(J), dtype=J.dtype)
    shift[residuals.places[0][1 : 1 + 3 * len(atoms[0])]] = torch.tensor(
        [1.0, 0.0, 0.0] * len(atoms[0]), dtype=J.dtype
    )
    assert float((shift @ J).norm() / J.norm()) < 1e-12


def test_gram_spectrum_is_the_nonzero_spectrum_of_gauss_newton(problem):
    residuals, _, _ = problem
    _, J = residuals.jacobian()
    rows = RowSpectrum.of(J)
    dense = torch.linalg.eigvalsh(J.T @ J).flip(0)
    rank = visible_rank(rows.eigenvalues)
    kept = int((rows.eigenvalues > 1e-12 * rows.eigenvalues[0]).sum())
    assert 12 < kept <= rank <= len(J)
    assert torch.allclose(rows.eigenvalues[:kept], dense[:kept], rtol=1e-3)
    assert torch.allclose(rows.eigenvalues[:6], dense[:6], rtol=1e-8)
    assert float(dense[len(J) :].abs().max() / dense[0]) < 1e-13
    # Rows alone, and eigenvectors in row space.
    some = torch.arange(0, len(J), 2)
    assert torch.allclose(
        rows.of_rows(some)[:10], RowSpectrum.of(J[some]).eigenvalues[:10], rtol=1e-10
    )
    projected = rows.vectors.T @ J @ J.T @ rows.vectors
    assert torch.allclose(projected.diagonal()[:kept], rows.eigenvalues[:kept], rtol=1e-3)
