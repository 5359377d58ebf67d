"""The analysis as a whole on a tiny MACE, its files, and the command."""

from __future__ import annotations

import dataclasses
import json

import h5py
import numpy as np
import pytest
import torch
from ase.io import write
from conftest import cu_frames
from tiny_curvature import WEIGHTS, dense_hessian, normal, tiny_residuals, tiny_start
from typer.testing import CliRunner

from ase_finetune.cli.app import app
from ase_finetune.cli.curvature import table
from ase_finetune.config import TrainConfig
from ase_finetune.curvature import (
    Curvature,
    CurvatureSettings,
    Property,
    SavedRun,
    Statistics,
    View,
)
from ase_finetune.curvature.analysis import Candidate
from ase_finetune.curvature.files import document, read_results
from ase_finetune.curvature.hessian import preconditioned
from ase_finetune.curvature.outcome import ResidualMetrics
from ase_finetune.curvature.preconditioners import Blockwise, apply
from ase_finetune.curvature.products import LossProducts
from ase_finetune.curvature.selection import spread
from ase_finetune.curvature.states import Decay, from_optimizer
from ase_finetune.data.splits import Splits
from ase_finetune.errors import CheckpointError, ConfigError
from ase_finetune.loss import Loss
from ase_finetune.trainer import finetune

SETTINGS = CurvatureSettings(
    optimizers=("adam", "soap", "lm"),
    view=View(steps=30, lanczos=12, probes=2),
    statistics=Statistics(steps=12, batch_size=2),
)


@pytest.fixture(scope="module")
def study():
    start, graphs = tiny_start(cu_frames(3, 1))
    gap = Property([(1.0, graphs[0]), (-1.0, graphs[1])], "eV")
    return Curvature(start, graphs, WEIGHTS, SETTINGS, {"gap": gap})


@pytest.fixture(scope="module")
def result(study):
    before = study.residuals.point
    found = study.run()
    assert torch.equal(study.residuals.point, before)
    return found


@pytest.fixture(scope="module")
def dense(study):
    rho, J = study.residuals.jacobian()
    return rho, J, dense_hessian(study.residuals, study.graphs)


def test_spectra_are_those_of_dense_matrices(study, result, dense):
    rho, J, H = dense
    frames = study.candidates(J, rho)
    for name, candidate in frames.items():
        F = candidate.P.factor(torch.eye(len(H), dtype=H.dtype)).T
        o = result.optimizers[name]
        exact = torch.linalg.eigvalsh(F.T @ J.T @ J @ F).flip(0)
        assert np.allclose(o.eigenvalues[:5], exact[:5], rtol=1e-8), name
        bent = torch.linalg.eigvalsh(F.T @ H @ F)
        for extreme, value in ((o.hessian.largest, bent[-1]), (o.hessian.smallest, bent[0])):
            slack = extreme.half_width + 1e-9 * float(bent.abs().max())
            assert float((bent - extreme.value).abs().min()) <= slack
            assert extreme.value == pytest.approx(float(value), rel=0.05)
        step = -F @ F.T @ (rho @ J)
        assert o.hessian.sharpness == pytest.approx(float(step @ H @ step / (step @ step)))
        assert o.spectrum.rank == result.rows - result.invisible
    assert result.optimizers["sgd"].gains == dict.fromkeys(result.optimizers["sgd"].gains, 0.0)
    assert result.optimizers["sgd"].hessian.alignment == pytest.approx(1.0)
    ratio = float((H - J.T @ J).norm() / H.norm())
    found = result.hessian_minus_gauss_newton
    assert found.value == pytest.approx(ratio, abs=max(0.1, 2 * found.half_width))
    exact = float((H - J.T @ J).trace())
    beyond = result.trace_beyond_gauss_newton
    assert abs(beyond.value - exact) < 2 * beyond.half_width


def test_loss_left_is_that_of_the_linearized_iteration(study, result, dense):
    rho, J, _ = dense
    P = study.candidates(J, rho)["lm"].P
    left = rho.clone()
    for _ in range(result.steps):
        left = left - J @ apply(P, (left @ J)[None])[0]
    expected = float(left.square().sum() / rho.square().sum())
    assert result.optimizers["lm"].loss_left == pytest.approx(expected, rel=1e-6)
    for o in result.optimizers.values():
        assert o.loss_left_best <= o.loss_left * 1.2 or o.loss_left > 1.0
        assert o.best_lr * o.spectrum.largest < o.threshold
        assert float(o.residual_shares.sum()) == pytest.approx(1.0)


def test_terms_and_properties_are_projections(study, result, dense):
    _, J, _ = dense
    sgd = result.optimizers["sgd"]
    traces = sum(term.trace for term in sgd.terms.values())
    assert traces == pytest.approx(float(J.square().sum()), rel=1e-9)
    assert set(sgd.terms) == {"energy", "forces", "stress"}
    value, unit, within = result.property_values["gap"]
    assert unit == "eV" and np.isfinite(value)
    # An energy difference of training frames is no new direction beyond their own rows.
    assert within == pytest.approx(1.0, abs=1e-6)
    assert float(sgd.properties["gap"].sum()) == pytest.approx(within)


def test_half_samples_give_every_number_an_interval(result):
    for o in result.optimizers.values():
        assert all(np.isfinite(v) for v in o.errors.values())
    assert result.optimizers["adam"].errors["gain_log10_kappa"] > 0.0
    assert result.optimizers["sgd"].errors["gain_log10_kappa"] == 0.0


@pytest.mark.parametrize("coupled", [True, False])
def test_decay_enters_as_the_theory_says(coupled):
    residuals, graphs = tiny_residuals()
    H = dense_hessian(residuals, graphs)
    D = normal(len(H), seed=1).square() + 0.1
    # Constant on what F mixes: here F is diagonal.
    decay = Decay(0.3 * normal(len(H), seed=2).abs(), coupled)
    candidate = Candidate("adam", Blockwise(D), 1e-3, decay)
    vectors = normal(2, len(H), seed=3)
    found = preconditioned(candidate, LossProducts(residuals).hessian)(vectors)
    root, shift = D.sqrt().diag(), decay.diagonal.diag()
    whole = root @ (H + shift) @ root if coupled else root @ H @ root + shift
    assert torch.allclose(found, vectors @ whole, rtol=1e-8, atol=1e-9)


def test_frames_are_spread_and_memory_is_kept(study):
    start, graphs = tiny_start(cu_frames(6, 2))
    loss = Loss.for_graphs(graphs, **WEIGHTS)
    assert spread(graphs, loss, 60) == [0, 2, 5]
    assert spread(graphs, loss, 10**6) == list(range(6))
    with pytest.raises(ConfigError, match=r"No frame has at most 5 residuals.*raise --rows"):
        spread(graphs, loss, 5)
    little = CurvatureSettings(optimizers=("adam",), memory_GB=1e-4)
    with pytest.raises(ConfigError, match="too little"):
        Curvature(start, graphs, WEIGHTS, little)
    enough = CurvatureSettings(optimizers=("adam",), memory_GB=1.2e-3)
    limited = Curvature(start, graphs, WEIGHTS, enough)
    assert limited.residuals.rows < 6 * 19 and "Memory" in limited.estimate().text
    assert study.estimate().seconds > 0.0
    for wrong in ({"optimizers": ("adamm",)}, {"rows": 1}, {"view": View(lanczos=0)}):
        with pytest.raises(ConfigError):
            CurvatureSettings(**wrong)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    frames = cu_frames(5, 4)
    config = TrainConfig(
        foundation="scratch", architecture={"hidden_irreps": "4x0e", "max_ell": 1,
                                            "correlation": 2, "radial_MLP": [8], "r_max": 4.0},
        epochs=2, batch_size=2, stress_weight=10.0, optimizer="adamw", lr=3e-3,
    )  # fmt: skip
    splits = Splits(frames[:4], frames[4:], {})
    finetune(splits, dataclasses.replace(config, epochs=1)).save(folder / "early")
    done = finetune(splits, config, out=folder)
    done.save(folder / "checkpoint")
    write(folder / "frames.xyz", frames[:4], columns=["symbols", "positions", "REF_forces"])
    return folder


def test_a_saved_run_is_looked_at_where_it_ended(trained):
    from ase_finetune.checkpoint import Checkpoint
    from ase_finetune.start import make_graphs

    saved, loaded = SavedRun.read(trained), Checkpoint.load(trained / "checkpoint")
    assert (saved.optimizer, saved.steps, saved.lr) == ("adamw", 4, 3e-3)
    graphs = list(make_graphs(cu_frames(5, 4)[:4], loaded, "float64", stress=True))
    settings = CurvatureSettings(optimizers=("adamw",), view=View(probes=0, steps=5))
    study = Curvature(loaded, graphs, WEIGHTS, settings)
    before = study.residuals.point
    found = study.run_trajectory(saved)
    assert found.view == "trajectory" and set(found.optimizers) == {"sgd", "adamw"}
    assert torch.equal(study.residuals.point, before)
    # Its own theta and its own second moments, both from the file.
    raw = torch.load(trained / "state.pt", weights_only=True)
    optimizer = saved.install(study.module)
    point = torch.cat(
        [raw["parameters"][n].reshape(-1) for n, _ in study.module.named_parameters()]
    )
    assert torch.equal(study.residuals.point, point) and not torch.equal(point, before)
    P, _ = from_optimizer("adamw", optimizer, study.residuals.parameters)
    _, J = study.residuals.jacobian()
    exact = torch.linalg.eigvalsh((J * P.diagonal) @ J.T).flip(0)
    assert np.allclose(found.optimizers["adamw"].eigenvalues[:5], exact[:5], rtol=1e-8)
    with pytest.raises(CheckpointError, match=r"no state\.pt"):
        SavedRun.read(trained / "checkpoint")


def test_the_command_writes_numbers_spectra_and_figures(trained, tmp_path):
    out = tmp_path / "curvature"
    command = ["curvature", str(trained / "checkpoint"), "--data", str(trained / "frames.xyz"),
               "--optimizers", "adam,lbfgs", "--rows", "60", "--gradients", "6", "--lanczos", "3",
               "--probes", "1", "--steps", "10", "--run", str(trained), "--before",
               str(trained / "early"), "--batch-size", "3", "--out", str(out)]  # fmt: skip
    runner = CliRunner()
    done = runner.invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found == json.loads((out / "curvature.json").read_text())
    assert found["views"][0]["details"]["statistics"]["batch_size"] == 3
    views = found["views"]
    assert [v["view"] for v in views] == ["same theta", "trajectory", "before"]
    assert views[2]["loss"] > views[0]["loss"] and list(views[2]["optimizers"]) == ["sgd"]
    assert list(views[0]["optimizers"]) == ["sgd", "adam", "lbfgs"]
    assert views[0]["rows"] <= 60 and views[0]["optimizers"]["adam"]["stability_threshold"] > 37
    with h5py.File(out / "curvature.h5") as file:
        values = file["view_0/adam/eigenvalues"][:]
        assert len(values) == views[0]["rows"] and file["view_1/adamw"].attrs["lr"] == 3e-3
    assert float(values[0]) == views[0]["optimizers"]["adam"]["gauss_newton"]["largest"]
    assert (
        len(list((out / "figures").glob("*.png"))) == 11
        and (out / "figures" / "refinement.png").is_file()
    )
    read = read_results(out)
    assert document(read) == {"views": views}
    assert np.array_equal(read[0].optimizers["adam"].eigenvalues, values)
    again = runner.invoke(app, command)
    assert again.exit_code == 2 and "already holds" in again.stderr
    wrong = runner.invoke(
        app, [*command[:4], "--optimizers", "newton", "--out", str(tmp_path / "x")]
    )
    assert wrong.exit_code == 2 and "newton" in wrong.stderr and not (tmp_path / "x").exists()


def test_residual_metrics_of_known_shares():
    even = ResidualMetrics.of(np.full(8, 0.05))  # the rest is in the null space
    assert even.effective_directions == pytest.approx(8.0) and even.soft_half == pytest.approx(0.5)
    stiff = ResidualMetrics.of(np.array([0.6, 0.4, 0.0, 0.0]))
    assert stiff.effective_directions == pytest.approx(
        np.exp(-0.6 * np.log(0.6) - 0.4 * np.log(0.4))
    )
    assert stiff.soft_half == 0.0


def test_one_frame_is_one_and_has_no_interval(result):
    name, o = next(iter(result.optimizers.items()))
    bare = dataclasses.replace(o, errors=dict.fromkeys(o.errors, float("nan")))
    alone = dataclasses.replace(result, frames=1, optimizers={name: bare})
    made = table(alone)
    assert "of 1 frame, " in str(made.title)
    assert [str(made.columns[k]._cells[0])[-3:] for k in (2, 4)] == ["± -", "± -"]


def test_a_document_holds_no_nan(result):
    text = json.dumps(document([result]), allow_nan=False)
    assert "same theta" in text
