"""The README's first table says what is stored, and so do the speed tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
STORED = json.loads((ROOT / "examples/results/run_mo/results.json").read_text())
STAGES = ("zero_shot", "finetuned", "refined")
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
    """Return the number cells of each row of the first table after a heading."""
    table = README[README.index(heading) :].split("\n\n|", 1)[1].split("\n\n", 1)[0]
    lines = ("|" + table).splitlines()[2:]
    return [re.findall(r"(?<![\w{])\d+(?:\.\d+)?(?![\w}])", line) for line in lines]


@pytest.mark.parametrize(
    ("heading", "file"), [("## Speed", "evaluation.jsonl"), ("On a GPU a step", "cuda.jsonl")]
)
def test_every_number_of_the_speed_tables_is_stored(heading, file):
    lines = (ROOT / "examples/results/benchmarks" / file).read_text().splitlines()
    stored = [v for x in map(json.loads, lines) for v in x.values() if isinstance(v, (int, float))]
    for row in rows_after(heading):
        for text in row:
            if text in ("54", "14", "32", "64"):  # atoms, bits
                continue
            assert any(agrees(text, value) for value in stored), (row, text)
