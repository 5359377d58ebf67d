"""The scripts that make and measure the bundled seed."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from ase_finetune.foundations import SEED

SCRIPTS = Path(__file__).parents[1] / "examples" / "pretrain_seed"


@pytest.fixture
def script(monkeypatch):
    """Import a script by name; the scripts import each other."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def test_dynamics_report_temperature_drift_and_trouble(script):
    stability = script("stability")
    plan = stability.Plan("mo", 300.0, 2.0, 0.08, 0.04, "float64")
    result = stability.run(plan, SEED)
    assert result["problem"] is None and result["reached_ps"] == pytest.approx(0.08)
    assert 0 < result["temperature_mean_K"] < 900
    assert abs(result["drift_meV_per_atom_per_ps"]) < 50
    assert result["fluctuation_meV_per_atom"] < 1.0


def test_broken_structures_and_reacted_water_are_seen(script):
    stability = script("stability")
    water = molecule("H2O", vacuum=5.0)
    assert stability.broken(water, 300.0) is None and stability.reacted(water) == 0
    far = water.copy()
    far.positions[1] += 1.0
    assert stability.reacted(far) == 1
    close = water.copy()
    close.positions[1] = close.positions[0] + 0.1
    assert "A apart" in stability.broken(close, 300.0)
    hot = water.copy()
    hot.set_momenta(np.full((3, 3), 5.0))
    assert "temperature" in stability.broken(hot, 300.0)
    lost = water.copy()
    lost.positions[0, 0] = np.nan
    assert "finite" in stability.broken(lost, 300.0)


def test_exploration_ends_where_the_labels_do(script):
    explore = script("explore")

    from ase.calculators.lj import LennardJones

    atoms = Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]], cell=[12.0] * 3, pbc=True)
    calculator = LennardJones(sigma=3.4, epsilon=0.01, rc=6.0)
    plan = explore.Plan(atoms, 50.0, 1.0, 20, 5)
    frames = explore.run(plan, calculator, np.random.default_rng(1))
    assert len(frames) == 4 and all(len(f) == 2 for f in frames)
    strong = LennardJones(sigma=3.4, epsilon=1e4, rc=6.0)
    hot = explore.Plan(atoms, 1e6, 5.0, 20, 5)
    assert len(explore.run(hot, strong, np.random.default_rng(1))) < 4

    class Failing(LennardJones):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.results["forces"] = np.full((2, 3), np.nan)

    assert (
        explore.run(plan, Failing(sigma=3.4, epsilon=0.01, rc=6.0), np.random.default_rng(1)) == []
    )


def test_comparison_pairs_seeds(script, capsys):
    compare = script("compare")
    results = [
        {
            "system": "mo",
            "foundation": start,
            "seed": seed,
            "errors": {
                split: {"force_rmse_meV_per_A": value * seed} for split in ("test_id", "test_ood")
            },
        }
        for start, value in (("seed", 50.0), ("scratch", 100.0))
        for seed in (1, 2)
    ]
    compare.table(results)
    assert "seed/scratch 0.50 (0.50 to 0.50)" in capsys.readouterr().out


def test_stored_comparisons_are_by_the_recipes_of_today(script, monkeypatch, tmp_path):
    stored = SCRIPTS.parent / "results" / "seed" / "compare.json"
    rows = json.loads(stored.read_text())
    assert all(row["recipe"] == script("compare").recipe_of(row["system"]) for row in rows)
    rows[0]["recipe"] = {**rows[0]["recipe"], "lr": 1.0}
    path = tmp_path / "compare.json"
    path.write_text(json.dumps(rows))
    monkeypatch.setattr("sys.argv", ["compare.py", "--out", str(path)])
    with pytest.raises(SystemExit, match="another recipe"):
        script("compare").main()


def test_the_shipped_card_is_complete():
    card = (SEED / "CARD.md").read_text()
    assert "{{" not in card and "}}" not in card
    document = json.loads((SEED / "checkpoint.json").read_text())
    for family, errors in document["metrics"]["held_out"].items():
        row = next(line for line in card.splitlines() if line.startswith(f"| {family} |"))
        assert f"| {errors['force_percent_of_rms']:.0f} |" in row
