"""Refinement of a small model by Levenberg-Marquardt: budget, gate, L-BFGS beside it."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from ase import Atoms
from typer.testing import CliRunner

from ase_finetune import RefineConfig, Splits, finetune, refine
from ase_finetune.checkpoint import Checkpoint
from ase_finetune.cli.app import app
from ase_finetune.cli.options import resolve
from ase_finetune.errors import ConfigError
from ase_finetune.evaluate import predict_frames


@pytest.fixture(scope="module")
def tuned(splits, tiny_config):
    return finetune(splits, tiny_config)


def relabelled(checkpoint: Checkpoint, atoms: list[Atoms]) -> list[Atoms]:
    """Give frames the labels of a checkpoint."""
    predicted, first, found = predict_frames(checkpoint, atoms), 0, []
    for i, frame in enumerate(atoms):
        copy = frame.copy()
        copy.info["REF_energy"] = float(predicted.energy[i])
        copy.arrays["REF_forces"] = predicted.forces[first : first + len(frame)]
        copy.info["REF_stress"] = predicted.stress[i]
        first += len(frame)
        found.append(copy)
    return found


@pytest.mark.parametrize("gigabytes", [4.0, 0.0], ids=["Gram", "CG"])
def test_refinement_is_monotone_within_its_budget_and_repeats(splits, tuned, gigabytes):
    config = RefineConfig(method="lm", evaluations=60, jacobian_GB=gigabytes)
    records = []
    refined = refine(tuned, splits, config, progress=records.append)
    losses = [r["train_loss"] for r in records]
    assert len(losses) >= 2
    assert all(b < a for a, b in itertools.pairwise(losses))
    assert 0 < records[0]["gradient_equivalents"] <= refined.metrics["gradient_equivalents"] <= 60
    assert refined.metrics["accepted"]
    found = predict_frames(refined, splits.valid).errors().force_rmse_meV_per_A
    assert found == pytest.approx(refined.metrics["valid_force_rmse_meV_per_A"], rel=1e-9)
    assert found == pytest.approx(min(r["valid_force_rmse_meV_per_A"] for r in records), rel=1e-9)
    assert found < refined.metrics["valid_force_rmse_before_meV_per_A"]
    assert refined.metrics["note"].startswith("Gram" if gigabytes else "Conjugate")
    json.dumps(refined.metrics, allow_nan=False)
    again = refine(tuned, splits, config)
    assert all(torch.equal(again.tensors[k], v) for k, v in refined.tensors.items())


def test_what_fits_the_start_is_left_as_it_is(splits, tuned):
    valid = relabelled(tuned, splits.valid)
    refined = refine(tuned, Splits(splits.train, valid), RefineConfig(method="lm", evaluations=40))
    assert not refined.metrics["accepted"]
    assert all(torch.equal(refined.tensors[k], v) for k, v in tuned.tensors.items())


def test_levenberg_marquardt_passes_lbfgs_on_labels_that_can_be_fitted(splits, tuned):
    """The labels are those of a perturbed copy, so that an exact fit exists."""
    generator = torch.Generator().manual_seed(2)
    module = tuned.module("float64")
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += 0.05 * noise
    target = Checkpoint.from_module(module, tuned.E0s, stage="finetuned", foundation={})
    known = Splits(relabelled(target, splits.train), relabelled(target, splits.valid))
    last = {}
    for method in ("lbfgs", "lm"):
        refined = refine(tuned, known, RefineConfig(method=method, evaluations=150, history=50))
        assert refined.metrics["gradient_equivalents"] <= 150
        last[method] = refined.metrics["history"][-1]["train_loss"]
    assert last["lm"] < 0.1 * last["lbfgs"]


def test_a_jacobian_beyond_the_budget_is_not_begun(splits, tuned):
    refined = refine(tuned, splits, RefineConfig(method="lm", evaluations=8))
    assert refined.metrics["note"].endswith("costs more than the budget.")
    assert refined.metrics["gradient_equivalents"] <= 8


def test_a_proximal_term_keeps_the_weights_near(splits, tuned):
    def distance(proximal):
        config = RefineConfig(method="lm", evaluations=60, proximal=proximal)
        found = refine(tuned, splits, config).tensors
        return math.sqrt(
            sum(
                float((found[k].double() - v.double()).square().sum())
                for k, v in tuned.tensors.items()
            )
        )

    assert 0 < distance(10.0) < distance(0.0)


@pytest.mark.parametrize(
    "values", [{"damping": 0.0}, {"scaling": 1.1}, {"products": 0}, {"jacobian_GB": -1.0}]
)
def test_bad_settings(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        RefineConfig(method="lm", **values)


def test_recipes_and_the_command_take_the_method(splits, tiny_config, tmp_path):
    assert resolve({"refine": {"method": "lm", "damping": 0.1}}, 7)[1] == RefineConfig(
        method="lm", damping=0.1, evaluations=7
    )
    from ase.io import write

    write(tmp_path / "train.xyz", splits.train)
    write(tmp_path / "valid.xyz", splits.valid)
    own = Splits.from_files(tmp_path / "train.xyz", valid=tmp_path / "valid.xyz", stress=True)
    finetune(own, tiny_config).save(tmp_path / "tuned")
    arguments = ["refine", str(tmp_path / "tuned"), "--method", "lm", "--evaluations", "30"]
    for name in ("data", "valid"):
        arguments += [f"--{name}", str(tmp_path / f"{'train' if name == 'data' else name}.xyz")]
    out = tmp_path / "refined"
    done = CliRunner().invoke(app, [*arguments, "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    # Which of its two paths was taken is said, not only stored.
    assert "costs more than the budget." in " ".join(done.stderr.split())
    refined = Checkpoint.load(out)
    assert refined.stage == "refined"
    assert refined.config["refine"]["method"] == "lm"
    assert refined.metrics["history"][-1]["stage"] == "refined"
