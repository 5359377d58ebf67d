"""The main job on the bundled system with the bundled seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ase_finetune import Checkpoint
from ase_finetune.cli.app import app
from ase_finetune.foundations import SEED

STAGES = ["zero_shot", "finetuned", "refined"]


def run(out: Path, *arguments: object) -> dict:
    result = CliRunner().invoke(app, ["run", "mo", "--out", str(out), *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return json.loads((out / "results.json").read_text())


def force(results: dict, stage: str, split: str) -> float:
    return results["errors"][stage][split]["force_rmse_meV_per_A"]


def test_the_seed_is_small_and_says_what_it_is():
    assert sum(p.stat().st_size for p in SEED.iterdir()) < 3_000_000
    assert {1, 6, 8, 16, 42} <= set(Checkpoint.load(SEED).numbers)
    card = (SEED / "CARD.md").read_text()
    assert "should start from a MACE foundation model" in card
    assert "sevenn" in card


def test_a_brief_run_has_every_part(tmp_path):
    results = run(tmp_path / "mo", "--epochs", 2, "--refine", 6)
    assert list(results["errors"]) == STAGES
    assert set(results["errors"]["refined"]) == {
        "train", "valid", "test_id", "test_ood", "replay",
    }  # fmt: skip
    for stage in STAGES:
        assert results["failures"][stage] == {}
        rows = results["properties"][stage]
        for name in ("a0", "C11", "C12", "C44"):
            assert rows[name]["reference"] > 0
            assert rows[name]["relative_error"] is not None
            assert "GPAW" in rows[name]["reference_source"]
        for plane in ("110", "121"):
            assert rows[f"gsfe_{plane}_rigid_rmse"]["unit"] == "J/m^2"
            assert rows[f"gamma_usf_{plane}_relaxed"]["value"] > 0.2
    assert results["provenance"]["foundation"]["name"] == "seed"
    assert (tmp_path / "mo" / "report.html").stat().st_size > 50_000
    # The seed is a potential for Mo before any fine-tuning.
    assert results["properties"]["zero_shot"]["a0"]["value"] == pytest.approx(3.16, abs=0.03)


@pytest.mark.slow
def test_the_bundled_recipe_improves_forces_and_physics(tmp_path):
    """Bounds hold what was reached with room for another machine; the aims are tighter."""
    results = run(tmp_path / "mo")
    assert force(results, "refined", "test_id") < 0.55 * force(results, "zero_shot", "test_id")
    # Less is forgotten than without replay frames, where it is 2.2 to 3.0 times (replay.jsonl).
    assert force(results, "refined", "replay") < 2.0 * force(results, "zero_shot", "replay")
    # The refinement was accepted.
    assert force(results, "refined", "valid") < force(results, "finetuned", "valid")
    before, after = (results["properties"][stage] for stage in ("zero_shot", "refined"))
    assert abs(after["a0"]["relative_error"]) < 0.005
    for name in ("C11", "C12"):
        assert abs(after[name]["relative_error"]) < 0.2
    for plane in ("110", "121"):
        name = f"gsfe_{plane}_rigid_rmse"
        assert after[name]["value"] < before[name]["value"]
