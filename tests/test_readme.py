"""The README's first table says what is stored, and so do the speed tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from systems import get_system

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
STORED = json.loads((ROOT / "examples/results/run_mo/results.json").read_text())
STAGES = ("zero_shot", "finetuned", "refined")
KEYS = ("force_rmse_meV_per_A", "energy_rmse_meV_per_atom")
ROWS = {
    "force RMSE `test_id`": ("test_id", "force_rmse_meV_per_A"),
    "energy RMSE `test_id`": ("test_id", "energy_rmse_meV_per_atom"),
    "force RMSE `test_ood`": ("test_ood", "force_rmse_meV_per_A"),
    "energy RMSE `test_ood`": ("test_ood", "energy_rmse_meV_per_atom"),
    "a0,": "a0",
    "C11,": "C11",
    "C12,": "C12",
    "C44,": "C44",
    "GSFE {110}": "gsfe_110_rigid_rmse",
    "GSFE {121}": "gsfe_121_rigid_rmse",
}


def cells(start):
    """Return the cells of the one row of a table that begins so, without emphasis."""
    (row,) = [line for line in README.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip().strip("*") for cell in row.strip("|").split("|")]


def agrees(text, value):
    """Whether a printed number is a value rounded to its digits."""
    decimals = len(text.partition(".")[2])
    return abs(float(text) - value) <= 0.5000001 * 10.0**-decimals


@pytest.mark.parametrize("row", ROWS)
def test_the_first_table_holds_the_stored_results(row):
    _, reference, *texts = cells(row)
    for text, stage in zip(texts, STAGES, strict=True):
        where = ROWS[row]
        if isinstance(where, str):
            found = STORED["properties"][stage][where]
            value = found["value"]
            if reference:
                assert agrees(reference, found["reference"]), (row, reference)
        else:
            value = STORED["errors"][stage][where[0]][where[1]]
        assert agrees(text, value), (row, stage, text, value)


def rows_after(heading):
    """Return the rows of the first table after a heading, as cells without emphasis."""
    table = README[README.index(heading) :].split("\n\n|", 1)[1].split("\n\n", 1)[0]
    lines = table.splitlines()[2:]
    return [[cell.strip().strip("*") for cell in line.strip("|").split("|")] for line in lines]


def stored(file):
    """Return the stored lines of `evaluation.py` by step, case, precision and peer."""
    found = {}
    for line in (ROOT / "examples/results/benchmarks" / file).read_text().splitlines():
        one = json.loads(line)
        if "name" in one:
            step, case, dtype = re.match(r"(\w+) step, (\w+) (\w+)", one["name"]).groups()
            found[step, case, dtype, one["against"]] = one
    return found


def assert_row(cells, one, keys):
    for text, key in zip(cells, keys, strict=True):
        assert agrees(text, one[key]), (one["name"], key, text)


def test_the_speed_table_is_stored():
    lines, case, step = stored("evaluation.jsonl"), "", ""
    rows = rows_after("## Speed")
    for first, second, dtype, *numbers in rows:
        case = re.findall(r"`(\w+)`", first)[0] if first else case
        step = {"training": "training", "MD": "md", "": step}[second]
        one = lines[step, case, dtype, "mace-torch"]
        assert_row(numbers, one, ("ours", "peer", "ratio", "ours_MB", "peer_MB"))
    assert len(rows) == len(lines)


def test_the_speed_table_of_a_gpu_is_stored():
    lines, case = stored("cuda.jsonl"), ""
    for first, second, *numbers in rows_after("On a GPU a step"):
        case = re.findall(r"`(\w+)`", first)[0] if first else case
        step = {"training": "training", "MD": "md"}[second]
        plain, cueq = (lines[step, case, "float32", peer] for peer in ("mace-torch", "cueq"))
        assert_row(numbers[:3], plain, ("ours", "peer", "ratio"))
        assert_row(numbers[3:], cueq, ("peer", "ratio"))


def test_the_table_of_properties_is_stored():
    names = {
        "elastic constants, Mo, 2 atoms": "elastic_mo",
        "elastic constants, Mo, 54 atoms": "elastic_mo_54",
        "phonons, Mo, 64 atoms": "phonons_mo",
        "phonons, MoS2 layer, 75 atoms": "phonons_layer",
    }
    file = ROOT / "examples/results/benchmarks/properties_vs_matcalc.jsonl"
    stored_lines = map(json.loads, file.read_text().splitlines())
    lines = {(x["name"], x["dtype"]): x for x in stored_lines if x["model"] != "seed"}
    name = ""
    rows = rows_after("Elastic constants and phonons against matcalc")
    for first, dtype, *numbers in rows:
        name = names.get(first, name)
        one = lines[f"{name} (s)", dtype]
        assert_row(numbers, one, ("ours", "peer", "ratio", "ours_MB", "peer_MB"))
    assert len(rows) == len(lines)


def test_the_table_of_accuracy_is_stored():
    rows = {
        "the seed as it is": "zero_shot",
        "from random weights": "scratch",
        "`mace_run_train` from the seed": "mace_run_train",
        "ours, by the recipe": "ours",
        "ours, then refined": "ours + lm",
    }
    file = ROOT / "examples/results/benchmarks/accuracy.jsonl"
    lines = {one["name"]: one for one in map(json.loads, file.read_text().splitlines())}
    system, found = "", rows_after("## Accuracy")
    for first, second, *numbers, seconds in found:
        system = first.strip("`") or system
        one = lines[f"accuracy on {system}: {rows[second]}"]
        assert one["epochs"] == 40 and agrees(seconds, one["wall_s"])
        errors = [one[name][key] for name in ("test_id", "test_ood") for key in KEYS]
        assert all(map(agrees, numbers, errors)), one["name"]
    assert len(found) == len(lines) - 1


def test_the_table_of_replay_frames_is_stored():
    lines = (ROOT / "examples/results/benchmarks/replay.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]

    def mean(stage, weight, value):
        of = [one for one in found if one["name"].startswith(f"replay on mo: weight {weight},")]
        assert len(of) == 3
        return sum(value(one[stage]) for one in of) / 3

    rows = {
        "`valid`, force RMSE meV/A": lambda m: m["force_rmse_meV_per_A"]["valid"],
        "`test_id`, force RMSE meV/A": lambda m: m["force_rmse_meV_per_A"]["test_id"],
        "`test_ood`, force RMSE meV/A": lambda m: m["force_rmse_meV_per_A"]["test_ood"],
        "the other half of the replay frames, force RMSE meV/A": (
            lambda m: m["force_rmse_meV_per_A"]["replay"]
        ),
        "elastic constant C44, GPa (DFT 97.7)": lambda m: m["C44"],
        "vacancy formation energy, eV": lambda m: m["vacancy_formation_energy"],
    }
    table = rows_after("**Fine-tuning forgets**")
    assert [row[0] for row in table] == list(rows)
    for name, first, *others in table:
        assert agrees(first, mean("zero_shot", "0", rows[name]))
        for text, weight in zip(others, ("0", "0.003", "0.01", "0.03"), strict=True):
            assert agrees(text, mean("refined", weight, rows[name])), (name, weight)
    assert get_system("mo").recipe["replay_weight"] == 0.01


def test_what_chosen_frames_are_worth_is_stored():
    path = ROOT / "examples/results/benchmarks/selection.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]

    def error(way):
        found = [
            one["out_of_distribution"]["rmse"]
            for one in lines
            if one["name"].startswith(f"selection on acetylacetone: {way},")
        ]
        assert len(found) == 5
        return f"{np.exp(np.mean(np.log(found))):.0f}"

    def rank(kind):
        found = [one for one in lines if one["name"].startswith(f"committee of {kind} ")]
        return f"{np.mean([one['rank_correlation'] for one in found]):.2f}"

    text = " ".join(README.split())
    assert f"from {error('none')} to {error('select')} meV/A, twelve drawn at random to" in text
    assert f"at random to {error('random')} (means over five seeds;" in text
    assert f"correlation of {rank('optimizers')} instead of {rank('seeds')} (" in text
    assert abs(float(error("farthest")) - float(error("select"))) < 2.0  # "do as well there"
