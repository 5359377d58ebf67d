"""What the commands do with the data that they are given: none is ignored, nothing is replaced."""

from __future__ import annotations

import json

import pytest
import yaml
from ase.io import write
from conftest import TINY, cu_frames
from test_cli import call, refused

from ase_finetune.checkpoint import Checkpoint
from systems import get_system


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two files of frames of Cu, a file of Mo, and a run of a tiny model on the first two."""
    path = tmp_path_factory.mktemp("data")
    write(path / "a.xyz", cu_frames(6, 1))
    write(path / "b.xyz", cu_frames(5, 2))
    write(path / "mo.xyz", get_system("mo").frames()["train"][:8])
    settings = {"foundation": "scratch", "architecture": TINY, "epochs": 2, "lr": 0.01}
    (path / "settings.yaml").write_text(yaml.safe_dump({**settings, "refine": None}))
    done = call("train", *both(path), "--config", path / "settings.yaml", "--out", path / "run")
    assert done.exit_code == 0, done.output
    assert "Validation: 1 of 11 frames are held out" in " ".join(done.output.split())
    return path


def both(folder):
    return "--data", folder / "a.xyz", "--data", folder / "b.xyz"


def test_all_files_are_trained_on(folder):
    found = json.loads((folder / "run" / "results.json").read_text())
    assert found["provenance"]["n_frames"] == {"train": 10, "valid": 1}


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("train", ["--valid", "absent.xyz", "--valid-fraction", "0.5"]),
        ("train", ["--split-by", "banana", "--energy-key", "energy"]),
        ("train", ["--test", "absent.xyz"]),
        ("refine", ["--forces-key", "forces"]),
        ("evaluate", ["--stress-key", "stress"]),
    ],
)
def test_options_for_files_are_refused_with_a_system(command, options):
    checkpoint = [] if command == "train" else ["seed"]
    said = refused(command, *checkpoint, "--system", "mo", *options)
    assert all(flag in said for flag in options if flag.startswith("--"))


def test_evaluate_keeps_the_results_of_a_run(folder):
    before = (folder / "run" / "results.json").read_bytes()
    tuned = folder / "run" / "checkpoints" / "finetuned"
    said = refused("evaluate", tuned, "--data", folder / "a.xyz", "--out", folder / "run")
    assert "already holds results" in said
    assert (folder / "run" / "results.json").read_bytes() == before


def test_evaluate_says_where_energies_are_an_offset(folder):
    found = json.loads(call("evaluate", "seed", "--data", folder / "mo.xyz", "--json").stdout)
    assert "energies lie +453" in found["notes"][0]
    tuned = folder / "run" / "checkpoints" / "finetuned"
    assert "notes" not in json.loads(call("evaluate", tuned, *both(folder), "--json").stdout)


def test_refine_stops_on_energies_of_another_level(folder, tmp_path):
    said = refused("refine", "seed", "--data", folder / "mo.xyz", "--out", tmp_path / "r")
    assert "eV/atom" in said and "train --foundation CKPT" in said
    assert not (tmp_path / "r").exists()


def test_refine_says_where_its_frames_are_others(folder, tmp_path):
    tuned = folder / "run" / "checkpoints" / "finetuned"
    own = call("refine", tuned, *both(folder), "--evaluations", 2, "--out", tmp_path / "own")
    assert own.exit_code == 0 and "not those of the training" not in own.output
    other = ["--valid-fraction", 0.3, "--evaluations", 2, "--out", tmp_path / "other"]
    done = call("refine", tuned, *both(folder), *other)
    assert "are not those of the training" in " ".join(done.output.split())
    hashes = [Checkpoint.load(p).data_hash for p in (tuned, tmp_path / "own", tmp_path / "other")]
    assert hashes[0] == hashes[1] != hashes[2]


def test_refine_takes_loss_weights_and_no_idle_options(folder, tmp_path):
    tuned = folder / "run" / "checkpoints" / "finetuned"
    given = ["--data", folder / "a.xyz", "--out", tmp_path / "r"]
    assert "--history" in refused("refine", tuned, *given, "--method", "lm", "--history", 5)
    assert "--nvt-gate-ps" in refused("refine", tuned, *given, "--nvt-gate-K", 500)
    done = call("refine", tuned, *given, "--energy-weight", 7, "--evaluations", 2)
    assert done.exit_code == 0, done.output
    assert Checkpoint.load(tmp_path / "r").config["refine"]["energy_weight"] == 7.0
