"""The properties command: which properties, whose calculator, which files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from matplotlib.figure import Figure
from typer.testing import CliRunner

from ase_finetune.cli.app import app
from ase_finetune.cli.properties import any_calculator, chosen_properties
from ase_finetune.errors import ConfigError
from systems import get_system

FINNIS_SINCLAIR = "finnis_sinclair:FinnisSinclair"


def test_words_stand_for_all_that_begin_with_them():
    mo = get_system("mo")
    assert chosen_properties(mo, None) == list(mo.properties)
    assert chosen_properties(mo, "gsfe") == [n for n in mo.properties if n.startswith("gsfe_")]
    assert chosen_properties(mo, "gsfe_121, elastic, gsfe_121_rigid") == [
        "gsfe_121_rigid",
        "gsfe_121_relaxed",
        "elastic",
    ]
    for word in ("gs", "melting", ""):
        with pytest.raises(ConfigError, match="it has lattice, elastic"):
            chosen_properties(mo, word)


def test_calculators_by_name():
    assert isinstance(any_calculator("emt", None, "cpu"), EMT)
    lj = any_calculator("lj", '{"sigma": 2.5, "rc": 6.0}', "cpu")
    assert isinstance(lj, LennardJones)
    assert lj.parameters["sigma"] == 2.5
    assert type(any_calculator(FINNIS_SINCLAIR, None, "cpu")).__name__ == "FinnisSinclair"


def test_a_module_in_the_working_directory_is_found(tmp_path):
    module = FINNIS_SINCLAIR.split(":")[0]
    shutil.copy(Path(__file__).with_name(f"{module}.py"), tmp_path)
    script = shutil.which("ase-finetune", path=str(Path(sys.executable).parent))
    command = [script, "properties", "mo", "--calculator", FINNIS_SINCLAIR, "--only", "lattice"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "a0" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("spec", "arguments", "word"),
    [
        ("no_such_calculator", None, "There is no calculator"),
        ("mace:nowhere.model", None, "There is no model file"),
        ("no_such_module:Class", None, "There is no Class"),
        ("ase.calculators.emt:Missing", None, "There is no Missing"),
        ("emt", "{", "no JSON"),
        ("emt", "[1]", "JSON object"),
        ("ase.build:bulk", None, "could not be made: TypeError"),
    ],
)
def test_senseless_calculators_are_refused(spec, arguments, word):
    with pytest.raises(ConfigError, match=word):
        any_calculator(spec, arguments, "cpu")


def test_a_file_that_is_no_model_is_refused(tmp_path):
    path = tmp_path / "foreign.model"
    path.write_text("no model")
    with pytest.raises(ConfigError, match="could not load"):
        any_calculator(f"mace:{path}", None, "cpu")


def test_foreign_calculator_leaves_results_curves_and_figures(tmp_path):
    done = CliRunner().invoke(
        app,
        ["properties", "mo", "--calculator", FINNIS_SINCLAIR, "--only", "elastic,gsfe_110_rigid",
         "--out", str(tmp_path), "--json"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    stored = json.loads((tmp_path / "results.json").read_text())
    assert printed["properties"] == stored["properties"]
    assert stored["provenance"] == {"system": "mo", "calculator": FINNIS_SINCLAIR}
    rows = stored["properties"][FINNIS_SINCLAIR]
    assert rows["C11"]["value"] == pytest.approx(464.7, rel=5e-3)
    assert rows["C11"]["relative_error"] is not None
    assert "gsfe_110_rigid" in json.loads((tmp_path / "curves.json").read_text())[FINNIS_SINCLAIR]
    pictures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert pictures == ["elastic.png", "gsfe_110_rigid.png"]
    assert all((tmp_path / "figures" / name).stat().st_size > 5000 for name in pictures)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["seed"], "a system"),
        (["seed", "mo", "--calculator", "emt"], "without a checkpoint"),
        ([], "and a system"),
        (["--calculator", "emt"], "a system alone"),
        (["mo", "--calculator", "emt", "--device", "cuda"], "--device applies"),
        (["mo", "--calculator", "emt", "--no-accelerate"], "--no-accelerate applies"),
        (["nowhere", "--calculator", "emt"], "no system 'nowhere'"),
        (["mo", "--calculator", "emt", "--only", "elastic"], "No value for elastic"),
    ],
)
def test_bad_input_is_one_sentence(arguments, word):
    done = CliRunner().invoke(app, ["properties", *arguments])
    assert done.exit_code == 2
    assert word in done.stderr
    assert "Traceback" not in done.output


def test_every_result_with_a_figure_is_drawn():
    """Figures by type of result; numbers alone have none."""
    from ase.build import bulk
    from finnis_sinclair import A0, FinnisSinclair

    from properties import lattice_constant, vacancy_formation
    from properties.figures import figures

    crystal = lattice_constant(bulk("Mo", "bcc", a=A0, cubic=True), FinnisSinclair())
    drawn = figures(crystal, "FS", {})
    assert list(drawn) == ["eos"]
    assert isinstance(drawn["eos"], Figure)
    vacancy = vacancy_formation(crystal.atoms, FinnisSinclair(), repeat=(2, 2, 2))
    assert figures(vacancy, "FS", {}) == {}
