"""Studies from the first run to the tables, one run after another in this process."""

from __future__ import annotations

import dataclasses
import json

import pytest
from conftest import TINY, cu_frames
from study_rows import made_up_rows
from typer.testing import CliRunner

from ase_finetune import Checkpoint, Splits, TrainConfig, trainer
from ase_finetune.cli.app import app
from ase_finetune.errors import ConfigError, DataError, UserError
from ase_finetune.evaluate import predict_frames
from ase_finetune.start import prepare
from ase_finetune.study import run as study_run
from ase_finetune.study.data import redrawn, split_note, thinned
from ase_finetune.study.engine import run_study
from ase_finetune.study.plan import Plan, tuned_arms
from ase_finetune.study.pool import SerialPool
from ase_finetune.study.store import load, read_rows
from ase_finetune.study.tables import make_study
from ase_finetune.study.text import markdown
from systems import get_system, list_systems

FORCE = "force_rmse_meV_per_A"


@pytest.fixture(scope="module")
def foundation(tmp_path_factory):
    """A small checkpoint: quicker to load than a model is to build."""
    config = TrainConfig(foundation="scratch", architecture=TINY)
    start = prepare(Splits(cu_frames(10, 1), cu_frames(4, 2)), config)
    return str(start.checkpoint.save(tmp_path_factory.mktemp("cu") / "foundation"))


@pytest.fixture
def copper(monkeypatch, foundation):
    """A plan on small frames of copper in the place of a bundled system's."""
    named = {
        "train": cu_frames(10, 1), "valid": cu_frames(4, 2),
        "test_id": cu_frames(4, 3), "test_ood": cu_frames(4, 4),
    }  # fmt: skip
    for frame in named["test_ood"]:
        frame.info["config_type"] = "hot"
    monkeypatch.setattr(study_run, "splits_of_run", lambda run: Splits.from_named(named))
    settings = {"foundation": foundation, "epochs": 3, "ema_decay": 0.0, "divergence_retries": 0}

    def plan(**changes):
        given = {"base": {"cu": settings}, "optimizers": ("adamw",), "seeds": 1, "trials": 3,
                 "extensions": 0}  # fmt: skip
        return Plan(**{**given, **changes})

    return plan


def do(plan, out, **more):
    return run_study(plan, out, lambda view: SerialPool(out, 1, view.record), **more)


def refuse(view):
    raise AssertionError("there is nothing to do")


def test_a_study_leaves_results_and_is_not_done_again(tmp_path, copper):
    plan = copper(refine=("lbfgs",), refine_settings={"evaluations": 4})
    rows = do(plan, tmp_path)
    assert all(row["outcome"] == "ok" for row in rows.values())
    assert len(rows) == 1 + 3 + 1 + 1
    (refined,) = (row for path, row in rows.items() if "+lbfgs" in path)
    parent = rows[refined["run"]["parent"]]
    assert parent["budget"]["gradient_equivalents"] == 3.0
    assert refined["budget"]["gradient_equivalents"] == 4.0
    assert refined["valid_force_rmse_meV_per_A"] <= parent["valid_force_rmse_meV_per_A"]
    assert refined["data_hash"] == parent["data_hash"]
    zero = rows["runs/cu/zero-shot"]
    assert set(zero["errors"]) == {"train", "valid", "test_id", "test_ood"}
    assert zero["errors_by_type"]["test_ood"]["hot"] == zero["errors"]["test_ood"]
    assert zero["errors"]["test_id"][FORCE] > parent["errors"]["test_id"][FORCE]
    assert zero["versions"]["torch"]
    assert not list(tmp_path.rglob("checkpoint"))
    assert not list(tmp_path.rglob("state.pt"))
    assert run_study(plan, tmp_path, refuse) == read_rows(tmp_path)


def test_errors_are_those_of_the_sets_apart(tmp_path, copper, monkeypatch):
    """All sets are evaluated in one call."""
    plan = copper()
    run = plan.run("cu", tuned_arms(plan)[0], 1e-3, 1)
    row = study_run.execute(str(tmp_path), run)
    tuned = Checkpoint.load(tmp_path / run.path / "checkpoint")
    for name, frames in study_run.splits_of_run(run).items():
        expected = predict_frames(tuned, frames).errors()
        assert row["errors"][name][FORCE] == pytest.approx(expected.force_rmse_meV_per_A, rel=1e-6)
        assert row["errors"][name]["n_frames"] == expected.n_frames


def test_a_run_that_diverges_is_an_outcome_and_can_be_retried(tmp_path, copper, monkeypatch):
    plan = copper(optimizers=("adamw", "sgd"))
    run = plan.run("cu", tuned_arms(plan)[1], 1e9, 0)
    row = study_run.execute(str(tmp_path), run)
    assert row["outcome"] == "failed"
    assert "diverged" in row["reason"]
    assert study_run.execute(str(tmp_path), run) == study_run.read_run(tmp_path / run.path)
    # Only what failed is done again.
    plan = copper(optimizers=("adamw", "sgd"), grids={"sgd": (1e-3, 1e-2, 1e9)})
    rows = made_up_rows(plan, lambda run: None if run.lr == 1e9 else 0.0)
    for path, made_up in rows.items():
        study_run.write_run(tmp_path / path, made_up)
    (tmp_path / "plan.json").write_text(json.dumps(dataclasses.asdict(plan)))
    assert "attempts" in do(plan, tmp_path)["runs/cu/sgd/lr1e9/seed0"]
    again = do(plan, tmp_path, retry_failed=True)
    assert again["runs/cu/sgd/lr1e9/seed0"]["attempts"] == 2
    assert {p: r for p, r in again.items() if "1e9" not in p} == {
        p: study_run.read_run(tmp_path / p) for p in rows if "1e9" not in p
    }


def test_what_an_optimizer_raises_is_an_outcome_but_bad_data_end_the_study(
    tmp_path, copper, monkeypatch
):
    def broken(*_, **__):
        raise RuntimeError("singular matrix")

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "finetune", broken)
        rows = do(copper(), tmp_path / "a")
    reasons = {row["reason"] for row in rows.values() if row["outcome"] == "failed"}
    assert reasons == {"RuntimeError: singular matrix"}
    assert len(rows) == 1 + 3
    assert "| adamw | none | 3e-4! 1e-3! 3e-3! |" in markdown(make_study(*load(tmp_path / "a")))

    def bad(run):
        raise DataError("The frames are bad.")

    monkeypatch.setattr(study_run, "splits_of_run", bad)
    with pytest.raises(UserError, match="frames are bad"):
        do(copper(), tmp_path / "b")
    assert read_rows(tmp_path / "b") == {}


def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(tmp_path, copper):
    plan = copper()
    run = plan.run("cu", tuned_arms(plan)[0], 1e-3, 1)
    whole = study_run.execute(str(tmp_path / "whole"), run)

    def stop(record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study_run.execute(str(tmp_path / "half"), run, progress=stop)
    seen = []
    found = study_run.execute(str(tmp_path / "half"), run, progress=seen.append)
    assert [record["epoch"] for record in seen] == [3]
    assert found["attempts"] == 2
    for key in ("errors", "valid_force_rmse_meV_per_A", "data_hash", "curve"):
        assert found[key] == whole[key]
    # A state that cannot be used is dropped, and that is said.
    other = plan.run("cu", tuned_arms(plan)[0], 3e-3, 1)
    folder = tmp_path / "half" / other.path
    folder.mkdir(parents=True)
    (folder / "state.pt").write_bytes(b"damaged")
    assert "Begun anew" in study_run.execute(str(tmp_path / "half"), other)["note"]


def test_weights_that_were_not_kept_are_trained_again_for_a_later_refinement(tmp_path, copper):
    plan = copper(refine=("lm",), refine_on=("adamw",))
    parent = plan.run("cu", tuned_arms(plan)[0], 1e-3, 1)
    refined = dataclasses.replace(
        parent, arm="adamw+lm", purpose="refinement", parent=parent.path,
        refine={"method": "lm", "evaluations": 6},
    )  # fmt: skip
    study_run.execute(str(tmp_path / "a"), parent)
    kept = study_run.execute(str(tmp_path / "a"), refined)
    study_run.drop_checkpoint(tmp_path / "a" / parent.path)
    (tmp_path / "a" / refined.path / "run.json").unlink()
    again = study_run.execute(str(tmp_path / "a"), refined)
    assert "note" not in kept
    assert "trained again" in again["note"]
    assert again["errors"] == kept["errors"]


@pytest.mark.slow
def test_a_study_with_all_its_parts(tmp_path, copper):
    plan = copper(
        optimizers=("adam", "adamw", "schedulefree"), seeds=2, fractions=(0.5,),
        controls=("no-decay", "ema-cosine", "more-steps", "scratch"),
        refine=("lbfgs", "lm"), refine_settings={"evaluations": 4},
    )  # fmt: skip
    rows = do(plan, tmp_path)
    assert all(row["outcome"] == "ok" for row in rows.values())
    # Zero-shot, five tuned arms, three of them at half the frames, no decay, refinement.
    assert len(rows) == 1 + 5 * (3 + 2) + 3 * 2 + 1 + 2 * 3
    text = markdown(make_study(*load(tmp_path)))
    assert "AdamW without decay equals Adam" in text


def test_two_studies_never_work_in_one_folder(tmp_path, copper):
    import fcntl

    with open(tmp_path / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="Another study"):
            do(copper(), tmp_path)


@pytest.mark.slow
def test_the_command_on_molybdenum(tmp_path):
    out = tmp_path / "study"
    command = ["study", "mo", "--out", str(out), "--optimizers", "adamw,schedulefree", "--seeds",
               "2", "--epochs", "2", "--trials", "3", "--extensions", "0", "--default-dtype",
               "float32", "--workers", "0"]  # fmt: skip
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    document = json.loads((out / "study.json").read_text())
    assert len(document["rows"]) == 1 + 6 + 4
    pairs = [row for row in document["rows"].values() if row["run"]["purpose"] == "evaluation"]
    assert all(row["outcome"] == "ok" for row in pairs)
    assert "too few, needs 3" in (out / "study.md").read_text()
    assert result.stdout.startswith("# Optimizer study")
    again = CliRunner().invoke(app, [*command, "--json"])
    assert again.exit_code == 0
    assert json.loads(again.stdout)["plan"]["optimizers"] == ["adamw", "schedulefree"]
    refused = CliRunner().invoke(app, [*command, "--epochs", "3"])
    assert refused.exit_code == 2
    assert "other settings (epochs)" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study"], "Name a system"),
        (["study", "mo", "--optimizers", "adam"], "adamw"),
        (["study", "mo", "--threads", "0"], "--threads"),
        (["study", "mo", "--slurm", "quue=x"], "queue"),
        (["study", "mo", "--slurm", "walltime=2h"], "HH:MM:SS"),
        (["study", "mo", "--scheduler", "a", "--slurm", "queue=x"], "not both"),
        (["study", "--tabulate", "nowhere"], "holds no study"),
        (["study", "mo", "--fractions", "half"], "not numbers"),
        (["study", "unknown"], "unknown"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_recipes_and_batches_come_from_the_command_line(tmp_path, monkeypatch):
    from ase_finetune.study import engine

    plans = []

    def stop(plan, *_, **__):
        plans.append(plan)
        raise ConfigError("Seen.")

    monkeypatch.setattr(engine, "run_study", stop)
    file = tmp_path / "recipes.yaml"
    file.write_text("recipes: {mine: {optimizer: soap, batch_size: 2, ema_decay: 0.99}}\n")
    command = ["study", "mo", "--optimizers", "adamw", "--config", str(file), "--batch-size", "3"]
    result = CliRunner().invoke(app, [*command, "--refine", "lm", "--refine-on", "all"])
    assert "Seen." in result.stderr
    (plan,) = plans
    assert plan.base["mo"]["batch_size"] == 3
    assert plan.refine_on == ("adamw", "mine")
    assert plan.recipes == {"mine": {"optimizer": "soap", "batch_size": 2, "ema_decay": 0.99}}
    for text in ("recipes: 5", "recipes: [soap]", "recipes:"):
        file.write_text(text + "\n")
        result = CliRunner().invoke(app, [*command, "--refine", "lm", "--refine-on", "all"])
        assert (result.exit_code, "name: settings" in result.stderr) == (2, True), text


@pytest.mark.parametrize("name", list_systems())
def test_seeds_redraw_whole_trajectories_and_never_touch_the_tests(name):
    bundled = Splits.from_named(get_system(name).frames())
    drawn = [redrawn(bundled, seed) for seed in (1, 2, 1)]
    pool = sorted(str(a.info["id"]) for a in [*bundled.train, *bundled.valid])
    for splits in drawn:
        assert splits.tests is bundled.tests
        assert sorted(str(a.info["id"]) for a in [*splits.train, *splits.valid]) == pool
        splits.check(stress=False)
        trajectories = [{_group(a) for a in part} for part in (splits.train, splits.valid)]
        assert not trajectories[0] & trajectories[1]
        kinds = [{a.info["config_type"] for a in part} for part in (bundled.valid, splits.valid)]
        assert kinds[0] == kinds[1]
        isolated = [a for a in splits.valid if len(a) == 1]
        assert not isolated
    assert drawn[0].data_hash() == drawn[2].data_hash()
    if name in ("mo", "acetylacetone"):
        assert len({bundled.data_hash(), drawn[0].data_hash(), drawn[1].data_hash()}) == 3


def _group(atoms):
    """Dynamics at one temperature are numbered by trajectory, then frame; all else by frame."""
    name = str(atoms.info["id"])
    return name.rsplit("_", 1)[0] if name.startswith("md_") else name


def test_smaller_fractions_are_parts_of_larger_ones():
    bundled = Splits.from_named(get_system("mo").frames())
    small, large = (thinned(bundled, f, 3) for f in (0.25, 0.5))
    ids = [{a.info["id"] for a in s.train} for s in (small, large, bundled)]
    assert ids[0] < ids[1] < ids[2]
    kinds = [{a.info["config_type"] for a in s.train} for s in (small, bundled)]
    assert kinds[0] == kinds[1]
    assert len(large.train) == pytest.approx(16, abs=3)
    assert small.valid is bundled.valid


def test_frames_that_do_not_tell_their_trajectory_are_not_redrawn():
    with pytest.raises(DataError, match="--no-resplit"):
        redrawn(Splits(cu_frames(3, 1), cu_frames(1, 2)), 1)
    assert split_note(True) != split_note(False)
    plan = Plan({"cu": {}}, ("adamw",), resplit=False)
    assert not plan.run("cu", tuned_arms(plan)[0], 1e-3, 1).resplit
