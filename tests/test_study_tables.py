"""From rows to verdicts, tables and figures."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from study_rows import made_up_rows
from typer.testing import CliRunner

from ase_finetune.cli.app import app
from ase_finetune.study.plan import Plan
from ase_finetune.study.store import load, write_study
from ase_finetune.study.tables import (
    Condition,
    Reach,
    correlations,
    figure_condition,
    make_study,
    no_decay,
    reach,
)
from ase_finetune.study.text import markdown

ROOT = Path(__file__).parents[1]
# Logs of what is better or worse than AdamW.
EFFECTS = {"adam": 0.0, "adamw": 0.0, "sgd": 0.4, "soap": -0.3, "lamb": 0.0}
FORCE = "force_rmse_meV_per_A"


def plan(**changes):
    given = {"base": {"mo": {"epochs": 5}, "acetylacetone": {"epochs": 5}}, "seeds": 5,
             "optimizers": tuple(EFFECTS)}  # fmt: skip
    return Plan(**{**given, **changes})


def effect(run):
    if run.arm == "lamb" and run.seed == 3:
        return None
    value = EFFECTS.get(run.arm.split("+")[0].removesuffix("-no-decay"), 0.0)
    return value - (0.2 if run.refine else 0.0)


def study(**changes):
    one = plan(**changes)
    return make_study(one, made_up_rows(one, effect))


def verdicts(made, condition, family="against adamw"):
    return {
        (c.arm, c.against): c.paired.verdict
        for c in made.comparisons
        if c.condition == condition and c.family == family
    }


def test_planted_differences_are_found_and_planted_equality_is_not():
    made = study()
    for condition in made.conditions("mo"):
        assert verdicts(made, condition) == {
            ("adam", "adamw"): "not distinguished",
            ("sgd", "adamw"): "worse",
            ("soap", "adamw"): "better",
            ("lamb", "adamw"): "failed on 1 of 5 seeds",
        }
    soap = made.ratio(Condition("mo", "test_id"), "soap", "adamw", "against adamw")
    assert soap.ratio == pytest.approx(math.exp(-0.3), rel=0.05)


def test_the_budget_to_adamws_error_is_read_from_the_curves():
    made = study(refine=("lbfgs",), refine_on=("adamw",))
    rows = {path: dict(row) for path, row in made.rows.items()}
    for row in rows.values():
        run, seed = row["run"], row["run"]["seed"]
        if run["purpose"] == "evaluation" and run["arm"] == "adamw":
            # Thinned: the best epoch is not among the points.
            row["curve"] = [[1.0, 9.0], [3.0, 6.0 + seed], [4.0, 6.0 + seed]]
            row |= {"best_epoch": 2, "valid_force_rmse_meV_per_A": 5.0 + seed}
        if run["purpose"] == "evaluation" and run["arm"] == "soap":
            row["curve"] = [[1.0, 5.0 + seed if seed < 4 else 99.0], [4.0, 90.0]]
        if run["arm"] == "adamw+lbfgs":
            row["curve"] = [[3.0, 0.1]]
    again = make_study(made.plan, rows)
    assert reach(again, "mo", "soap") == Reach(0.25, 3, 5)
    assert reach(again, "mo", "adamw") == Reach(0.5, 5, 5)
    # What the start has reached counts.
    assert reach(again, "mo", "adamw+lbfgs") == Reach(0.5, 5, 5)
    assert reach(again, "mo", "zero-shot") is None
    assert "| 0.25 (3/5) |" in markdown(again)
    for row in rows.values():
        if row["run"]["arm"] == "soap" and row["run"]["seed"] == 1:
            row |= {"curve": None, "outcome": "failed"}
    assert reach(make_study(made.plan, rows), "mo", "soap") == Reach(None, 2, 5)


def test_a_ratio_is_that_of_the_rows():
    made = study()
    ours, theirs = (made.of("mo", arm) for arm in ("soap", "adamw"))
    logs = [
        math.log(ours[s]["errors"]["test_ood"][FORCE] / theirs[s]["errors"]["test_ood"][FORCE])
        for s in range(1, 6)
    ]
    found = made.ratio(Condition("mo", "test_ood"), "soap", "adamw", "against adamw")
    assert found.ratio == pytest.approx(math.exp(np.mean(logs)))


def test_refined_arms_are_compared_with_their_start_and_with_more_steps():
    made = study(refine=("lbfgs", "lm"), controls=("more-steps",))
    condition = Condition("mo", "test_id")
    assert verdicts(made, condition, "refinement") == {
        ("soap+lbfgs", "soap"): "better",
        ("soap+lm", "soap"): "better",
        ("soap+more", "soap"): "not distinguished",
    }
    assert verdicts(made, condition, "same budget") == {
        ("soap+lbfgs", "soap+more"): "better",
        ("soap+lm", "soap+more"): "better",
    }
    # Budgets are those of 5 passes and 80 evaluations, however they were spent.
    lines = markdown(made).splitlines()
    for arm in ("soap+lbfgs", "soap+lm", "soap+more"):
        assert any(x.startswith(f"| {arm} | 1e-3 | - | 5/5 | 85 |") for x in lines), arm


def test_acetylacetone_stands_in_the_figure_at_600_K():
    made = study()
    shown = figure_condition("acetylacetone")
    assert (shown.split, shown.kind) == ("test_ood", "md_600K")
    assert shown in made.conditions("acetylacetone")
    row = made.of("acetylacetone", "adamw")[1]
    assert shown.error(row) == row["errors_by_type"]["test_ood"]["md_600K"][FORCE]


def test_tests_choose_nothing():
    one = plan(refine=("lm",))
    rows = made_up_rows(one, effect)
    paths = set(make_study(one, rows).rows)
    for row in rows.values():
        for split in ("test_id", "test_ood"):
            if row["outcome"] == "ok":
                row["errors"][split][FORCE] = 1.0 / row["errors"][split][FORCE]
    made = make_study(one, rows)
    assert set(made.rows) == paths
    assert "soap+lm" in made.arms("mo")
    assert verdicts(made, Condition("mo", "test_id"))["soap", "adamw"] == "worse"


def test_rows_that_the_plan_does_not_call_for_stay_out():
    one = plan()
    rows = made_up_rows(one, effect)
    rows["runs/mo/adamw/lr9e-9/seed1"] = rows["runs/mo/adamw/lr1e-3/seed1"]
    assert "runs/mo/adamw/lr9e-9/seed1" not in make_study(one, rows).rows


def test_smaller_fractions_are_a_table_of_their_own():
    made = study(fractions=(0.25, 0.5))
    family = verdicts(made, Condition("mo", "test_id"), "0.25 of the frames")
    assert family["soap", "adamw"] == "better"
    assert sum(x.startswith("| soap | 0.25 |") for x in markdown(made).splitlines()) == 5


def test_the_control_without_decay_must_agree_in_every_digit():
    one = plan(controls=("no-decay",))
    rows = made_up_rows(one, effect)
    made = make_study(one, rows)
    assert no_decay(made, "mo") == {"seeds": [1], "adamw_without_decay_equals_adam": False}
    assert "DIFFERS" in markdown(made)
    for system in one.base:
        adam = rows[f"runs/{system}/adam/lr1e-3/seed1"]
        control = rows[f"runs/{system}/adamw-no-decay/lr1e-3/seed1"]
        control |= {name: adam[name] for name in ("errors", "curve")}
    assert no_decay(make_study(one, rows), "mo")["adamw_without_decay_equals_adam"]
    assert no_decay(study(), "mo") is None


def test_conditioning_is_correlated_with_the_error_by_rank():
    made = study()
    kappa = {"mo": {name: 5.0 + value for name, value in EFFECTS.items()}}
    found = {row["condition"]: row for row in correlations(made, kappa)}
    assert set(found) == {"mo, test_id", "mo, test_ood"}
    assert found["mo, test_id"]["n"] == 5
    assert found["mo, test_id"]["rho"] > 0.6
    assert "| mo, test_id | 5 |" in markdown(made, kappa)


def test_one_seed_or_two_are_too_few():
    for seeds, words in ((1, "1 seed: too few"), (2, "2 seeds: too few")):
        made = study(seeds=seeds)
        assert words in markdown(made)
        assert all("too few" in c.paired.verdict for c in made.comparisons)


def test_tables_and_figures_come_from_the_stored_results_without_torch(tmp_path):
    made = study(fractions=(0.5,), refine=("lm",))
    write_study(tmp_path, made, {})
    others = [
        {"system": "mo", "arm": "other-program", "seed": s, "errors": row["errors"]}
        for s, row in made.of("mo", "adam").items()
    ]
    (tmp_path / "external.json").write_text(json.dumps(others))
    measured = {n: {"gauss_newton": {"log10_kappa": value}} for n, value in EFFECTS.items()}
    views = {"system": "mo", "views": [{"optimizers": measured}]}
    (tmp_path / "curvature.json").write_text(json.dumps(views))
    code = (
        "import sys; from ase_finetune.cli.app import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules and 'distributed' not in sys.modules"
    )
    arguments = ["study", "--tabulate", str(tmp_path)]
    arguments += ["--curvature", str(tmp_path / "curvature.json")]
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT
    )
    assert found.returncode == 0, found.stderr
    assert "| other-program |" in (tmp_path / "study.md").read_text()
    for name in ("relative_to_adam", "relative_to_adam_id", "learning_curves"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000
    again = make_study(*load(tmp_path))
    ours = {(c.condition, c.family, c.arm): c.paired for c in made.comparisons}
    theirs = {(c.condition, c.family, c.arm): c.paired for c in again.comparisons}
    assert ours.items() <= theirs.items()
    document = json.loads((tmp_path / "study.json").read_text())
    assert len(document["rows"]) == len(made.rows) + 5
    assert document["selections"]["mo"]["adam"]["lr"] == 1e-3
    assert document["curvature"][0]["n"] == 5
    table = (tmp_path / "study.md").read_text()
    assert f"| adam | {EFFECTS['adam']:.2f} |" in table
    result = CliRunner().invoke(app, ["study", "--tabulate", str(tmp_path)])
    assert result.exit_code == 0 and (tmp_path / "study.md").read_text() == table


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("study.json", "{", "damaged"),
        ("study.json", "{}", "not of a study"),
        ("study.json", '{"plan": {"optimisers": []}, "rows": {}}', "Unknown setting"),
        ("external.json", '[{"arm": "x"}]', "system, arm, seed and errors"),
        ("curvature.json", '{"system": "mo", "views": []}', "no curvature.json of a system"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path, name, content, message):
    write_study(tmp_path, study(seeds=1), {})
    (tmp_path / name).write_text(content)
    command = ["study", "--tabulate", str(tmp_path)]
    if name == "curvature.json":
        command += ["--curvature", str(tmp_path / name)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert message in result.stderr
