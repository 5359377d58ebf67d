"""Which runs a study consists of, without running any."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import pytest

from ase_finetune.errors import ConfigError
from ase_finetune.optimizers import list_optimizers, optimizer_info
from ase_finetune.study.engine import merged_plan
from ase_finetune.study.plan import Plan, short, trial_grid, tuned_arms
from ase_finetune.study.schedule import (
    forecast,
    known_runs,
    next_runs,
    selections,
    tuning,
    winner,
)
from ase_finetune.study.store import plan_from
from ase_finetune.study.view import remaining_s, spoken

BASE = {"mo": {"epochs": 5, "schedule": "cosine", "ema_decay": 0.99}}


def plan(**changes):
    given = {"base": BASE, "optimizers": ("adam", "adamw", "schedulefree"), "seeds": 3}
    return Plan(**{**given, **changes})


def outcome(value):
    if value is None:
        return {"outcome": "failed", "reason": "diverged"}
    return {"outcome": "ok", "valid_force_rmse_meV_per_A": value}


def simulate(one, judge, rows=None):
    """Finish runs as `judge(run)` says until there are none; also the number of rounds."""
    rows, rounds = dict(rows or {}), 0
    while runs := next_runs(one, rows):
        rounds += 1
        for run in runs:
            rows[run.path] = outcome(judge(run))
    return rows, rounds


def valley(best):
    """A validation error with its minimum at a learning rate."""
    return lambda run: 10.0 + abs(math.log(run.lr / best)) if run.lr else 99.0


@pytest.mark.parametrize("optimizer", list_optimizers())
@pytest.mark.parametrize("trials", [3, 4, 5, 6])
def test_every_optimizer_gets_as_many_trials(optimizer, trials):
    grid = trial_grid(optimizer, trials)
    row = optimizer_info(optimizer)
    assert len(grid) == trials
    assert grid == sorted(grid)
    assert grid[0] <= row.lr <= grid[-1]
    shared = set(grid) & set(row.lr_grid)
    assert len(shared) == min(trials, len(row.lr_grid))
    for ratio in (b / a for a, b in itertools.pairwise(grid)):
        assert 2.9 < ratio < 10.1


def test_grids_go_on_as_they_began():
    assert trial_grid("adamw", 5)[-1] == 1e-2
    assert trial_grid("schedulefree", 4) == [3e-4, 1e-3, 3e-3, 1e-2]
    assert trial_grid("sgd", 6) == [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]


def test_folders_are_readable():
    assert [short(x) for x in (1e-3, 3e-4, 2.5e-3, 1.0, 10.0)] == [
        "1e-3", "3e-4", "2.5e-3", "1e0", "1e1",
    ]  # fmt: skip
    one = plan(refine=("lm",), fractions=(0.5,))
    rows, _ = simulate(one, valley(1e-3))
    for path in (
        "runs/mo/zero-shot",
        "runs/mo/adamw/lr1e-3/seed0",
        "runs/mo/adamw/lr1e-3/seed3",
        "runs/mo/adamw/fraction0.5/lr1e-3/seed2",
    ):
        assert path in rows
    assert any(path.endswith("+lm/lr1e-3/seed1") for path in rows)


def test_tuning_comes_first_and_on_a_seed_of_its_own():
    one = plan()
    runs = next_runs(one, {})
    assert {run.purpose for run in runs} == {"zero_shot", "tuning"}
    assert {run.seed for run in runs} == {0}
    assert len(runs) == 1 + 3 * 4
    rows, _ = simulate(one, valley(1e-3))
    evaluated = [run for run in known_runs(one, rows) if run.purpose == "evaluation"]
    assert {run.seed for run in evaluated} == {1, 2, 3}
    assert len(evaluated) == 9


def test_an_arm_does_not_wait_for_the_tuning_of_others():
    one = plan()
    rows = {
        run.path: outcome(valley(1e-3)(run))
        for run in next_runs(one, {})
        if run.arm in ("adamw", "zero-shot")
    }
    arms = {run.arm for run in next_runs(one, rows) if run.purpose == "evaluation"}
    assert arms == {"adamw"}


def test_the_best_inside_the_grid_extends_nothing():
    rows, _ = simulate(plan(), valley(1e-3))
    choice = selections(plan(), rows)["mo"]["adamw"]
    assert (choice.lr, choice.extended, choice.at_edge) == (1e-3, (), False)
    assert len(choice.trials) == 4


@pytest.mark.parametrize(
    ("best", "extended", "chosen", "edge"),
    [
        (1e-2, (1e-2, 3e-2), 1e-2, False),
        (1e-1, (1e-2, 3e-2), 3e-2, True),
        (1e-6, (3e-5, 1e-5), 1e-5, True),
    ],
)
def test_an_edge_grows_the_grid_as_often_as_allowed(best, extended, chosen, edge):
    one = plan(optimizers=("adamw",), extensions=2)
    rows, _ = simulate(one, valley(best))
    choice = selections(one, rows)["mo"]["adamw"]
    assert choice.extended == pytest.approx(extended)
    assert choice.lr == pytest.approx(chosen)
    assert choice.at_edge is edge
    assert len(choice.trials) == 6
    short_one = plan(optimizers=("adamw",), extensions=0)
    assert selections(short_one, simulate(short_one, valley(best))[0])["mo"]["adamw"].at_edge


def test_a_failed_trial_is_no_choice_and_an_arm_that_always_fails_is_left_out():
    one = plan(optimizers=("adamw", "sgd"), extensions=1)
    rows, _ = simulate(
        one, lambda run: None if run.arm == "sgd" or (run.lr or 0) >= 3e-3 else valley(1)(run)
    )
    choices = selections(one, rows)["mo"]
    assert choices["adamw"].lr == 1e-3
    assert choices["adamw"].trials[-1] == (3e-3, None)
    assert choices["sgd"].lr is None
    assert not any(run.arm == "sgd" and run.seed for run in known_runs(one, rows))


def test_the_same_settings_but_where_an_optimizer_forbids_them():
    by_arm = {run.arm: run for run in next_runs(plan(decay=0.02), {})}
    assert by_arm["adamw"].settings["schedule"] == "cosine"
    assert by_arm["schedulefree"].settings["schedule"] == "constant"
    assert by_arm["schedulefree"].settings["ema_decay"] == 0.0
    assert by_arm["adam"].settings["weight_decay"] == 0.0
    assert by_arm["adamw"].settings["weight_decay"] == 0.02
    assert by_arm["adamw"].config().seed == 0


def test_controls():
    base = {"mo": {"epochs": 5, "schedule": "constant", "ema_decay": 0.0}}
    one = plan(
        base=base, controls=("no-decay", "ema-cosine", "more-steps", "scratch"), refine=("lbfgs",),
        refine_on=("adamw",), refine_settings={"evaluations": 7},
    )  # fmt: skip
    rows, _ = simulate(one, valley(1e-3))
    runs = known_runs(one, rows)
    by_arm = {run.arm: run for run in runs if run.purpose != "tuning"}
    no_decay = by_arm["adamw-no-decay"]
    assert (no_decay.settings["weight_decay"], no_decay.seed) == (0.0, 1)
    assert no_decay.settings["optimizer"] == "adamw"
    cosine = by_arm["adam-ema-cosine"].settings
    assert (cosine["schedule"], cosine["ema_decay"]) == ("cosine", 0.99)
    assert by_arm["adamw-scratch"].settings["foundation"] == "scratch"
    assert by_arm["adamw+more"].config().epochs == 12
    refined = by_arm["adamw+lbfgs"]
    assert refined.refine == {"evaluations": 7, "method": "lbfgs"}
    assert refined.parent == f"runs/mo/adamw/lr1e-3/seed{refined.seed}"
    assert refined.cost == 7
    # They are tuned as the others are.
    trials = [r for r in runs if r.purpose == "tuning"]
    assert {a.name: sum(r.arm == a.name for r in trials) for a in tuned_arms(one)} == {
        "adam": 4, "adamw": 4, "schedulefree": 4, "adam-ema-cosine": 4, "adamw-scratch": 4,
    }  # fmt: skip


def test_recipes_are_tuned_and_compared_like_optimizers():
    recipe = {"optimizer": "soap", "batch_size": 2, "ema_decay": 0.99, "weight_decay": 0.0}
    one = plan(recipes={"mine": recipe}, refine=("lm",), refine_on=("mine",))
    assert one.grids["soap"] == tuple(trial_grid("soap", 4))
    rows, _ = simulate(one, lambda run: valley(3e-3)(run) - (run.arm == "mine"))
    mine = [row for row in known_runs(one, rows) if row.arm == "mine"]
    assert {run.seed for run in mine} == {0, 1, 2, 3}
    config = mine[0].config()
    assert (config.optimizer, config.batch_size, config.ema_decay) == ("soap", 2, 0.99)
    assert config.weight_decay == 0.0
    assert len([run for run in known_runs(one, rows) if run.arm == "mine+lm"]) == 3
    # The others are as they would be without it, and only optimizers can be the winner.
    alone = plan()
    assert {r.path for r in known_runs(alone, rows)} < {r.path for r in known_runs(one, rows)}
    evaluated = {a: [r for r in known_runs(one, rows) if r.arm == a and r.seed] for a in
                 ("adam", "adamw", "schedulefree", "mine")}  # fmt: skip
    assert winner(one, "mo", evaluated, rows) != "mine"


def test_the_winner_is_found_by_validation_once_all_are_done():
    one = plan(refine=("lbfgs", "lm"))

    def judge(run):
        best = {"adam": 9.0, "adamw": 10.0, "schedulefree": 8.0}
        return 50.0 if run.lr is None or run.refine else best[run.arm] + valley(1e-3)(run)

    rows = {}
    while runs := next_runs(one, rows):
        assert not any(r.refine for r in runs) or not any(r.purpose == "evaluation" for r in runs)
        rows |= {run.path: outcome(judge(run)) for run in runs}
    refined = [run for run in known_runs(one, rows) if run.refine]
    assert {run.arm for run in refined} == {"schedulefree+lbfgs", "schedulefree+lm"}
    assert len(refined) == 6


def test_an_arm_that_failed_on_a_seed_does_not_win_and_failed_seeds_are_not_refined():
    one = plan(optimizers=("adamw", "adam"), refine=("lm",), refine_on=("winner", "adam"))

    def judge(run):
        if run.arm == "adam" and run.seed == 2:
            return None
        return (5.0 if run.arm == "adam" else 10.0) + valley(1e-3)(run)

    rows, _ = simulate(one, judge)
    evaluated = {
        name: [r for r in known_runs(one, rows) if r.arm == name and r.seed]
        for name in ("adam", "adamw")
    }
    assert winner(one, "mo", evaluated, rows) == "adamw"
    arms = [(r.arm, r.seed) for r in known_runs(one, rows) if r.refine]
    assert sorted(arms) == [("adam+lm", 1), ("adam+lm", 3), *(("adamw+lm", s) for s in (1, 2, 3))]


def test_nothing_is_done_twice_and_a_larger_plan_adds_only_what_is_new():
    rows, _ = simulate(plan(), valley(1e-3))
    assert next_runs(plan(), rows) == []
    more = next_runs(plan(seeds=4), rows)
    assert {(run.seed, run.purpose) for run in more} == {(4, "evaluation")}
    lamb = next_runs(plan(optimizers=("adam", "adamw", "schedulefree", "lamb")), rows)
    assert {run.arm for run in lamb} == {"lamb"}


def test_the_forecast_is_what_comes_if_no_grid_grows():
    one = plan(refine=("lm",), fractions=(0.5,), controls=("no-decay",))
    ahead = {run.path for run in forecast(one, {})}
    rows, _ = simulate(one, lambda run: valley(1e-3)(run) if run.arm != "schedulefree" else
                       valley(3e-3)(run))  # fmt: skip
    done = {path for path in rows if "+lm" not in path}
    assert {path for path in ahead if "+lm" not in path} == done
    assert len(ahead) == len(rows)
    assert forecast(one, rows) == []


def test_the_estimate_uses_what_runs_of_the_system_took():
    one = plan()
    runs = next_runs(one, {})
    assert remaining_s(runs, {}, 2) is None
    rows = {
        "x": {
            "outcome": "ok",
            "run": {"system": "mo"},
            "budget": {"wall_s": 20.0, "gradient_equivalents": 5.0},
        }
    }
    # Twelve trials of 5 passes at 4 s each, by two workers.
    assert remaining_s(runs, rows, 2) == pytest.approx(12 * 5 * 4 / 2)
    assert spoken(None) == "time left not known yet"
    assert spoken(600.0) == "about 10 min left"
    assert spoken(7200.0) == "about 2.0 h left"


def test_a_plan_survives_json():
    one = plan(refine=("lm",), refine_settings={"evaluations": 5}, fractions=(0.5,))
    again = plan_from(json.loads(json.dumps(dataclasses.asdict(one))))
    assert [run.path for run in forecast(again, {})] == [run.path for run in forecast(one, {})]


def test_a_folder_keeps_its_settings_and_grows(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps(dataclasses.asdict(plan())))
    grown = merged_plan(plan(optimizers=("adamw", "soap"), seeds=2, refine=("lm",)), tmp_path)
    assert grown.optimizers == ("adam", "adamw", "schedulefree", "soap")
    assert (grown.seeds, grown.refine) == (3, ("lm",))
    with pytest.raises(ConfigError, match="other settings \\(epochs\\)"):
        merged_plan(plan(base={"mo": {**BASE["mo"], "epochs": 6}}), tmp_path)
    with pytest.raises(ConfigError, match="other settings \\(trials\\)"):
        merged_plan(plan(trials=5), tmp_path)
    grown = merged_plan(plan(recipes={"mine": {"optimizer": "soap"}}), tmp_path)
    assert grown.recipes == {"mine": {"optimizer": "soap"}}
    (tmp_path / "plan.json").write_text(json.dumps(dataclasses.asdict(grown)))
    with pytest.raises(ConfigError, match="the recipe mine"):
        merged_plan(plan(recipes={"mine": {"optimizer": "muon"}}), tmp_path)
    assert merged_plan(plan(), tmp_path).recipes == grown.recipes
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(ConfigError, match="damaged"):
        merged_plan(plan(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizers": ("adam",)}, "adamw"),
        ({"optimizers": ("adamw", "adamm")}, "Unknown optimizer"),
        ({"controls": ("nothing",)}, "Unknown control"),
        ({"controls": ("more-steps",)}, "refine"),
        ({"optimizers": ("adamw",), "controls": ("no-decay",)}, "adam"),
        ({"refine": ("newton",)}, "method"),
        ({"refine_on": ("lamb",)}, "lamb"),
        ({"trials": 2}, "at least 3"),
        ({"seeds": 0}, "seed"),
        ({"fractions": (1.5,)}, "between 0 and 1"),
        ({"base": {}}, "at least one system"),
        ({"base": {"mo": {"epoch": 3}}}, "epochs"),
        ({"base": {"mo": {"replay_weight": 0.1}}}, "no replay frames"),
        ({"recipes": {1: {"optimizer": "soap"}}}, "letters"),
        ({"recipes": {"winner": {"optimizer": "soap"}}}, "another arm"),
        ({"recipes": {"mine": {"optimizer": ["soap"]}}}, "names no optimizer"),
        ({"recipes": {"mine": {"optimizer": "soap", "epoch_frames": 9}}}, "epoch_frames itself"),
        ({"recipes": {"a": {"optimizer": "soap", "replay_weight": 0.1}}}, "no replay frames"),
        ({"recipes": {"a b": {"optimizer": "soap"}}}, "letters"),
        ({"recipes": {"adamw-scratch": {"optimizer": "soap"}}}, "another arm"),
        ({"recipes": {"mine": {"batch_size": 2}}}, "names no optimizer"),
        ({"recipes": {"mine": {"optimizer": "soup"}}}, "Unknown optimizer"),
        ({"recipes": {"mine": {"optimizer": "soap", "epochs": 9}}}, "epochs itself"),
        ({"recipes": {"mine": {"optimizer": "soap", "batchsize": 9}}}, "batch_size"),
        ({"recipes": {"mine": {"optimizer": "schedulefree", "ema_decay": 0.9}}}, "averag"),
    ],
)
def test_a_bad_plan_is_refused_before_anything_runs(changes, message):
    with pytest.raises(ConfigError, match=message):
        plan(**changes)


def test_tuning_can_be_asked_for_while_it_goes_on():
    one = plan()
    runs, choice = tuning(one, "mo", tuned_arms(one)[0], {})
    assert (len(runs), choice) == (4, None)
