"""Settings and the registry fail at construction, with the valid choices in the sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ase_finetune import Checkpoint
from ase_finetune.cli.options import HELP, read_config, resolve
from ase_finetune.config import RefineConfig, TrainConfig, from_mapping
from ase_finetune.errors import ConfigError
from ase_finetune.evaluate import resolve_device
from ase_finetune.optimizers import build_optimizer, list_optimizers, optimizer_info
from ase_finetune.weights import frozen


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"optimizer": "adm"}, "Unknown optimizer 'adm'; choose one of .*adamw"),
        ({"epochs": 0}, "epochs is 0; it must be a whole number of at least 1"),
        ({"epochs": 1.5}, "whole number"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"schedule": "step"}, "constant, cosine"),
        ({"E0s": "guess"}, "estimated, foundation, average, isolated"),
        ({"default_dtype": "half"}, "float32, float64"),
        ({"device": "tpu"}, "cpu, cuda"),
        ({"batchsize": 3}, "Unknown setting 'batchsize'; did you mean batch_size"),
        ({"energy_weight": 0, "forces_weight": 0, "stress_weight": 0}, "All loss weights"),
        ({"architecture": {"r_max": 4.0}}, "scratch"),
        ({"optimizer_options": {"lr": 1.0}}, "Set lr itself"),
        ({"optimizer_options": 3}, "optimizer_options is 3"),
        ({"foundation": 3}, "foundation is 3"),
        ({"device": 3}, "device is 3"),
        ({"E0s": 3}, "E0s is 3"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"clip": float("inf")}, "clip is inf"),
    ],
)
def test_bad_training_settings(values, sentence):
    with pytest.raises(ConfigError, match=sentence):
        from_mapping(TrainConfig, values)


@pytest.mark.parametrize("name", list_optimizers())
def test_resolved_settings_hold_the_learning_rate(name):
    assert TrainConfig(optimizer=name).resolved()["lr"] == optimizer_info(name).lr
    assert TrainConfig(optimizer=name, lr=0.5).resolved()["lr"] == 0.5


@pytest.mark.parametrize(
    "values", [{"method": "newton"}, {"evaluations": 0}, {"history": -1}, {"proximal": -1.0}]
)
def test_bad_refinement_settings(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        from_mapping(RefineConfig, values)


@pytest.mark.parametrize("name", list_optimizers())
def test_optimizers_keep_dtype_and_obey_groups(name):
    parameters = [torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)]
    optimizer = build_optimizer(
        name, [{"params": parameters[:1], "lr": 1e-2}, {"params": parameters[1:], "lr": 1e-6}]
    )
    for _ in range(10):
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 0.5)
        optimizer.step()
    moved = [float((1 - p.detach()).abs().max()) for p in parameters]
    assert parameters[0].dtype == torch.float64
    assert moved[0] > 1e-3
    assert moved[1] < 1e-4


def test_numbers_that_yaml_takes_for_text(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("lr: 1e-3\noptimizer_options: {betas: [9E-1, 0.99]}\nfoundation: 1e5x\n")
    found = read_config(path)
    assert found == {
        "lr": 1e-3,
        "optimizer_options": {"betas": [0.9, 0.99]},
        "foundation": "1e5x",
    }


def test_a_file_of_settings_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read_config(tmp_path / "no.yaml")
    (tmp_path / "broken.yaml").write_text("lr: [")
    with pytest.raises(ConfigError, match="not a readable YAML"):
        read_config(tmp_path / "broken.yaml")


def test_no_refinement_is_null_in_a_file():
    with pytest.raises(ConfigError, match=r"refine is 0; write `refine: null`"):
        resolve({"refine": 0}, None)
    assert resolve({"refine": None}, None)[1] is None


def test_impossible_option_of_an_optimizer():
    with pytest.raises(ConfigError, match="does not take these settings"):
        build_optimizer("adamw", [torch.nn.Parameter(torch.ones(1))], options={"betas": 2})


@pytest.mark.parametrize("device", ["cuda:99", "cuda:x", "tpu"])
def test_devices_that_are_not_there(device):
    with pytest.raises(ConfigError, match="device"):
        resolve_device(device)


def test_unknown_option_of_an_optimizer():
    with pytest.raises(ConfigError, match=r"no option 'momentums'; it takes .*betas"):
        build_optimizer("adamw", [torch.nn.Parameter(torch.ones(1))], options={"momentums": 1})


def test_the_rate_of_a_recipe_is_that_of_its_optimizer():
    recipe = {"optimizer": "soap", "lr": 1e-2, "ema_decay": 0.99, "epochs": 80, "batch_size": 2}
    own, _ = resolve({"epochs": 3}, None, recipe)
    assert (own.optimizer, own.lr, own.ema_decay, own.epochs) == ("soap", 1e-2, 0.99, 3)
    other, _ = resolve({"optimizer": "adamw"}, None, recipe)
    assert (other.optimizer, other.lr, other.ema_decay) == ("adamw", None, 0.99)
    assert (other.epochs, other.batch_size) == (80, 2)
    given, _ = resolve({"optimizer": "muon", "lr": 5e-3}, None, recipe)
    assert (given.optimizer, given.lr) == ("muon", 5e-3)
    averaging, _ = resolve({"optimizer": "schedulefree"}, None, {**recipe, "schedule": "cosine"})
    assert (averaging.lr, averaging.ema_decay, averaging.schedule) == (None, None, "constant")
    with pytest.raises(ConfigError, match="Unknown optimizer"):
        resolve({"optimizer": "soup"}, None, recipe)


def test_only_the_seed_brings_replay_frames():
    recipe = {"epochs": 3, "replay_weight": 0.03}
    for changes, weight in (
        ({}, 0.03),
        ({"foundation": "seed"}, 0.03),
        ({"foundation": "scratch"}, 0.0),
        ({"foundation": "small"}, 0.0),
        ({"foundation": "small", "replay_weight": 0.1}, 0.1),
        ({"replay_weight": 0.0}, 0.0),
    ):
        assert resolve(changes, None, recipe)[0].replay_weight == weight


def test_the_pattern_that_the_help_and_the_guide_give_is_one_of_a_mace():
    shown = HELP["freeze"].split("'")[1]
    assert f"'{shown}'``" in (Path(__file__).parents[1] / "docs/guide.rst").read_text()
    assert 0 < len(frozen(Checkpoint.load("seed").module("float32"), [shown])) < 20
