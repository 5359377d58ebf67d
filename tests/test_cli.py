"""The command line: the main job on small data, and one sentence for everything that is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase.io import write
from conftest import TINY, cu_frames
from mace_kinds import random_mace
from typer.testing import CliRunner

from ase_finetune.cli.app import app
from ase_finetune.data.read import read_frames
from systems import get_system

COMMANDS = ["run", "train", "refine", "evaluate", "properties", "systems", "study", "doctor"]
COMMANDS += ["report", "export", "curvature"]
runner = CliRunner()


def call(*arguments: object):
    return runner.invoke(app, [str(a) for a in arguments])


def refused(*arguments: object, exit_code: int = 2) -> str:
    """Run a command that must fail, and return its one sentence."""
    result = call(*arguments)
    assert result.exit_code == exit_code, result.output
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Training and test frames of Cu, and settings of a tiny model from scratch."""
    path = tmp_path_factory.mktemp("cli")
    train = cu_frames(10, 1)
    for i, frame in enumerate(train):
        frame.info["config_type"] = "hot" if i % 2 else "cold"
    write(path / "train.xyz", train)
    test = cu_frames(4, 2)
    for i, frame in enumerate(test):
        frame.info["config_type"] = "hot" if i % 2 else "cold"
    write(path / "test.xyz", test)
    settings = {
        "foundation": "scratch",
        "architecture": TINY,
        "epochs": 3,
        "lr": 0.01,
        "refine": {"evaluations": 12},
    }
    (path / "settings.yaml").write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    out = folder / "trained"
    result = call(
        "train",
        "--data",
        folder / "train.xyz",
        "--test",
        folder / "test.xyz",
        "--config",
        folder / "settings.yaml",
        "--stress_weight",
        2.5,
        "--out",
        out,
    )
    assert result.exit_code == 0, result.output
    assert "cold" in result.stdout and "hot" in result.stdout
    return out


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_a_run_leaves_everything_behind(trained):
    names = {p.name for p in trained.iterdir()}
    assert {
        "results.json",
        "config.yaml",
        "log.jsonl",
        "predictions.npz",
        "report.html",
        "state.pt",
        "checkpoints",
    } == names
    results = json.loads((trained / "results.json").read_text())
    assert list(results["errors"]) == ["zero_shot", "finetuned", "refined"]
    assert set(results["errors"]["refined"]) == {"train", "valid", "test"}
    assert set(results["errors_by_type"]["refined"]["test"]) == {"cold", "hot"}
    before, after = (
        results["errors"][s]["valid"]["force_rmse_meV_per_A"] for s in ("zero_shot", "refined")
    )
    assert after < before
    assert results["budget"]["gradient_equivalents"] == pytest.approx(3 + 12, abs=2)
    config = yaml.safe_load((trained / "config.yaml").read_text())
    # The flag in MACE's spelling goes over the file, the file over the default.
    assert config["stress_weight"] == 2.5
    assert config["epochs"] == 3
    log = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [r["stage"] for r in log[:4]] == ["finetuned"] * 3 + ["refined"]
    # The written config reproduces the run.
    again = trained.parent / "again"
    result = call(
        "train",
        "--data",
        trained.parent / "train.xyz",
        "--test",
        trained.parent / "test.xyz",
        "--config",
        trained / "config.yaml",
        "--out",
        again,
    )
    assert result.exit_code == 0, result.output
    weights = "checkpoints/refined/model.safetensors"
    assert (again / weights).read_bytes() == (trained / weights).read_bytes()


def test_evaluate_prints_the_same_errors_as_the_run(trained):
    result = call(
        "evaluate",
        trained / "checkpoints" / "refined",
        "--data",
        trained.parent / "test.xyz",
        "--json",
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["errors"]["refined"]["test"]
    stored = json.loads((trained / "results.json").read_text())["errors"]["refined"]["test"]
    assert found["force_rmse_meV_per_A"] == pytest.approx(stored["force_rmse_meV_per_A"], rel=1e-9)


def test_refine_command(trained, tmp_path):
    result = call(
        "refine",
        trained / "checkpoints" / "finetuned",
        "--data",
        trained.parent / "train.xyz",
        "--evaluations",
        3,
        "--out",
        tmp_path / "r",
    )
    assert result.exit_code == 0, result.output
    assert "Validation force RMSE" in result.stdout
    assert (tmp_path / "r" / "checkpoint.json").is_file()


def test_runs_are_not_mixed(trained):
    base = [
        "train",
        "--data",
        trained.parent / "train.xyz",
        "--config",
        trained.parent / "settings.yaml",
        "--out",
        trained,
    ]
    assert "already holds a run" in refused(*base)
    assert "not both" in refused(*base, "--overwrite", "--resume")
    before = {p.name: p.read_bytes() for p in trained.iterdir() if p.is_file()}
    assert "other settings" in refused(*base, "--resume", "--lr", "0.02")
    assert {p.name: p.read_bytes() for p in trained.iterdir() if p.is_file()} == before
    absent = trained.parent / "absent"
    assert "no state.pt" in refused(*base[:-1], absent, "--resume")
    assert not absent.exists()
    own = trained / "checkpoints" / "finetuned"
    assert "exists" in refused("refine", own, "--data", base[2], "--out", own)
    twice = ["evaluate", own, "--data", base[2], "--data", base[2]]
    assert "Two files are called train" in refused(*twice)


def test_systems_lists_provenance():
    result = call("systems", "--json")
    rows = json.loads(result.stdout)
    assert rows["mo"]["license"] == "CC-BY-4.0"
    assert rows["mo"]["frames"]["train"] > 10


def test_systems_exports_what_train_reads(folder, tmp_path):
    path = tmp_path / "mo.xyz"
    result = call("systems", "mo", "--export", path)
    assert result.exit_code == 0, result.output
    assert "; the 7 reference structures are not among them" in result.stdout
    frames = read_frames(path)
    bundled = get_system("mo").frames()
    assert len(frames) == sum(map(len, bundled.values()))
    assert frames[0].info["REF_energy"] == pytest.approx(bundled["train"][0].info["REF_energy"])
    np.testing.assert_allclose(frames[0].positions, bundled["train"][0].positions, atol=1e-7)
    assert "exists" in refused("systems", "mo", "--export", path)
    assert "Name the system" in refused("systems", "--export", tmp_path / "x.xyz")
    assert "no system 'mu'" in refused("systems", "mu")


def planted(kind: str, folder: Path) -> list[object]:
    """Write frames with one fault and return the arguments of a training on them."""
    frames = cu_frames(10, 1)
    test = cu_frames(3, 4)
    extra: list[object] = []
    if kind == "nan":
        frames[3].arrays["REF_forces"][0, 0] = np.nan
    elif kind == "no labels":
        for frame in frames:
            frame.info["dft_energy"] = frame.info.pop("REF_energy")
            frame.arrays["dft_forces"] = frame.arrays.pop("REF_forces")
    elif kind == "no stress":
        for frame in frames:
            del frame.info["REF_stress"]
        extra = ["--stress-weight", 1]
    elif kind == "stress sign":
        for frame in frames:
            frame.info["REF_stress"] = -frame.info["REF_stress"]
        extra = ["--stress-weight", 1]
    elif kind == "leak":
        test = [*test, frames[0]]
    elif kind == "overlap":
        frames[2].positions[1] = frames[2].positions[0] + [0.2, 0, 0]
    elif kind == "element":
        torch.save(random_mace("MP-0 L0", [1, 8]), folder / "oh.model")
        extra = ["--foundation", folder / "oh.model"]
    write(folder / "train.xyz", frames)
    write(folder / "test.xyz", test)
    return ["train", "--data", folder / "train.xyz", "--test", folder / "test.xyz", *extra]


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("nan", "not finite|NaN|nan"),
        ("no labels", "dft_energy.*--energy-key"),
        ("no stress", "stress"),
        ("stress sign", "sign"),
        ("leak", "1 of 4 frames of the test set are in the train set"),
        ("overlap", "overlap"),
        ("element", "does not know Cu"),
    ],
)
def test_each_bad_input_ends_with_one_sentence(kind, sentence, folder, tmp_path):
    import re

    arguments = planted(kind, tmp_path)
    if kind != "element":
        arguments += ["--config", folder / "settings.yaml"]
    message = refused(*arguments, "--out", tmp_path / "run")
    assert re.search(sentence, message), message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "moly"], "There is no system 'moly'; choose one of: mo"),
        (["run", "mo", "--foundation", "sead"], "Unknown foundation 'sead'"),
        (["run", "mo", "--optimizer", "adamm"], "Unknown optimizer 'adamm'; choose one of"),
        (["train"], "--data with your frames or --system"),
        (["train", "--data", "absent.xyz"], "absent.xyz"),
        (["evaluate", "nowhere", "--system", "mo"], "not a checkpoint folder"),
        (["properties", "nowhere", "mo"], "not a checkpoint folder"),
        (["properties", "nowhere", "mo", "--only", "melting"], "has no property melting"),
    ],
)
def test_unknown_names(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_bad_config_files(folder, tmp_path):
    (tmp_path / "typo.yaml").write_text("learning_rate: 1\nepoch: 3\n")
    base = ["train", "--data", folder / "train.xyz", "--out", tmp_path / "run", "--config"]
    assert "Unknown setting 'learning_rate'" in refused(*base, tmp_path / "typo.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert "name: value" in refused(*base, tmp_path / "list.yaml")
    assert "does not exist" in refused(*base, tmp_path / "absent.yaml")


def test_an_unwritable_output_is_one_sentence(folder, tmp_path):
    (tmp_path / "file").write_text("")
    base = ["train", "--data", folder / "train.xyz", "--config", folder / "settings.yaml", "--out"]
    assert "is a file" in refused(*base, tmp_path / "file")
    assert "file" in refused(*base, tmp_path / "file" / "run")


def test_help_needs_no_torch():
    code = (
        "import sys; from ase_finetune.cli.app import main; sys.argv = ['ase-finetune', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'ase' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_real_mo_and_acetylacetone_by_configuration_type(shared_data, folder, tmp_path):
    """The public VASP and ORCA sets run through the same command."""
    quick = ["--config", folder / "settings.yaml", "--epochs", 1, "--refine", 0, "--json"]
    result = call(
        "train",
        "--data",
        shared_data / "mo_vasp_pbe_test.xyz",
        "--test",
        shared_data / "mo_vasp_pbe_test.xyz",
        *quick,
        "--out",
        tmp_path / "leak",
    )
    assert result.exit_code == 2
    acac = [
        "train",
        "--data",
        shared_data / "acac_train_300K.xyz",
        "--test",
        shared_data / "acac_test_600K.xyz",
        "--out",
        tmp_path / "acac",
    ]
    assert "stress" in refused(*acac, *quick, "--stress-weight", 1)
