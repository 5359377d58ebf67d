"""Checkpoints: round trip, atomic writing, and refusal of what is damaged or foreign."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from ase.build import bulk
from mace_kinds import random_mace

from ase_finetune import Checkpoint, FineTunedCalculator
from ase_finetune.checkpoint_checks import sealed
from ase_finetune.checkpoint_files import shallow_json
from ase_finetune.errors import CheckpointError


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.from_module(
        random_mace("MP-0 L0", [29, 42]),
        {29: -3.25, 42: -1234.5678901234567},
        stage="finetuned",
        foundation={"name": "random", "sha256": "0"},
        config={"lr": 1e-3},
        metrics={"valid": 1.0},
        data_hash="abc",
    )


@pytest.fixture
def saved(checkpoint, tmp_path):
    return checkpoint.save(tmp_path / "ckpt")


def test_round_trip_is_exact(checkpoint, saved):
    loaded = Checkpoint.load(saved)
    assert set(loaded.tensors) == set(checkpoint.tensors)
    for name, tensor in checkpoint.tensors.items():
        assert torch.equal(loaded.tensors[name], tensor)
    assert loaded.E0s == checkpoint.E0s
    assert loaded.config == {"lr": 1e-3}
    assert loaded.data_hash == "abc"
    atoms = bulk("Mo", cubic=True)
    atoms.calc = FineTunedCalculator(saved)
    energy = atoms.get_potential_energy()
    atoms.calc = FineTunedCalculator(checkpoint)
    assert atoms.get_potential_energy() == energy


def test_E0s_keep_double_precision_in_float32(checkpoint):
    """A total energy of thousands of eV must not lose its digits when the network is float32."""
    atoms = bulk("Mo", cubic=True)
    energies = []
    for dtype in ("float32", "float64"):
        atoms.calc = FineTunedCalculator(checkpoint, dtype=dtype)
        energies.append(atoms.get_potential_energy())
    assert energies[0] == pytest.approx(energies[1], abs=1e-5)


def test_what_is_installed_does_not_decide_what_weights_mean(checkpoint):
    """With cuequivariance beside it, mace-torch would build couplings of fewer weights."""
    named = {**checkpoint.architecture, "use_reduced_cg": True}
    other = dataclasses.replace(checkpoint, architecture=named)
    assert other.module().use_reduced_cg is False
    assert other.probe() == checkpoint.probe()
    name = next(key for key in checkpoint.tensors if key.endswith("weights_max"))
    fewer = {**checkpoint.tensors, name: checkpoint.tensors[name][:, :-1]}
    with pytest.raises(CheckpointError, match="use_reduced_cg of mace-torch is not supported"):
        dataclasses.replace(checkpoint, tensors=fewer).module()


def test_saving_replaces_a_checkpoint_and_nothing_else(checkpoint, saved, tmp_path):
    checkpoint.replace(stage="refined").save(saved)
    assert Checkpoint.load(saved).stage == "refined"
    assert [p.name for p in tmp_path.iterdir()] == ["ckpt"]
    (tmp_path / "thesis").mkdir()
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        checkpoint.save(tmp_path / "thesis")


def test_a_failed_write_leaves_the_old_one(checkpoint, saved, monkeypatch, tmp_path):
    import ase_finetune.checkpoint_files as module

    def full(path, payload):
        path.write_bytes(payload[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_synced", full)
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoint.save(saved)
    assert [p.name for p in tmp_path.iterdir()] == ["ckpt"]
    Checkpoint.load(saved)


def edit(folder, seal=True, **changes):
    """Change the document, by default as somebody who makes its hash fit would."""
    path = folder / "checkpoint.json"
    document = json.loads(path.read_text())
    document.update(changes)
    if seal:
        document = sealed({k: v for k, v in document.items() if k != "sha256"})
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("call", [1, 2])
def test_a_failed_replacement_leaves_the_old_or_the_new_one(
    checkpoint, tmp_path, monkeypatch, call
):
    """The first rename exchanges the checkpoint; without the second, it is the new one already."""
    target = checkpoint.save(tmp_path / "model")
    real, calls = os.replace, []

    def rename(source, destination):
        calls.append(1)
        if len(calls) == call:
            raise OSError(28, "No space left on device")
        real(source, destination)

    name = "interactions.0.linear_up.weight"
    other = checkpoint.replace(
        stage="refined", tensors={**checkpoint.tensors, name: 1.01 * checkpoint.tensors[name]}
    )
    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="No space"):
        patch.setattr(os, "replace", rename)
        other.save(target)
    assert Checkpoint.load(target).stage == ("finetuned" if call == 1 else "refined")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    checkpoint.save(target)
    assert sorted(p.name for p in target.iterdir()) == ["checkpoint.json", "model.safetensors"]
    assert Checkpoint.load(target).stage == "finetuned"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": "other"}, "not an ase-finetune checkpoint"),
        ({"format_version": 99}, "update ase-finetune"),
        ({"format_version": 1}, "changed after it was written"),
        ({"architecture": {}}, "describes no MACE model"),
        ({"E0s": {"Cu": "x", "Mo": 0}}, "not a finite number"),
        ({"E0s": {"Cu": 1.0}}, "different elements"),
        ({"elements": ["Mo", "Cu"]}, "different elements"),
        ({"elements": None}, "lacks a valid 'elements'"),
        ({"dispersion": 3}, "lacks a valid 'dispersion'"),
        ({"tensors_sha256": "0" * 64}, "weights are not those"),
        ({"probe": {"energy": 1.0, "forces_norm": 0.0}}, "library versions"),
    ],
)
def test_inconsistent_documents(saved, changes, sentence):
    edit(saved, **changes)
    with pytest.raises(CheckpointError, match=sentence):
        Checkpoint.load(saved)


def test_a_changed_number_is_noticed(saved):
    edit(saved, seal=False, E0s={"Cu": -3.26, "Mo": -1234.5678901234567})
    with pytest.raises(CheckpointError, match="changed after it was written"):
        Checkpoint.load(saved)


def test_a_document_of_format_1_is_read_as_before(checkpoint, saved):
    path = saved / "checkpoint.json"
    document = json.loads(path.read_text()) | {"format_version": 1}
    del document["sha256"], document["dispersion"]
    path.write_text(json.dumps(document))
    loaded = Checkpoint.load(saved)
    assert loaded.E0s == checkpoint.E0s
    assert loaded.dispersion is None


def test_damaged_files(saved):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="copy the whole folder"):
        Checkpoint.load(saved)
    weights.unlink()
    with pytest.raises(CheckpointError, match="Cannot read"):
        Checkpoint.load(saved)
    (saved / "checkpoint.json").write_text("{")
    with pytest.raises(CheckpointError, match="not readable JSON"):
        Checkpoint.load(saved)
    with pytest.raises(CheckpointError, match="not a checkpoint folder"):
        Checkpoint.load(saved / "nothing")


def test_what_may_have_been_meant_by_no_checkpoint(saved, tmp_path):
    run = tmp_path / "run"
    for stage in ("finetuned", "refined"):
        shutil.copytree(saved, run / "checkpoints" / stage)
        with pytest.raises(CheckpointError, match=f"did you mean .*checkpoints/{stage}\\?"):
            Checkpoint.load(run)
    (tmp_path / "tuned.model").write_bytes(b"")
    for name in ("small", tmp_path / "tuned.model"):
        with pytest.raises(CheckpointError, match=f"doctor FRAMES --foundation {name}`"):
            Checkpoint.load(name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"it has no checkpoint.json\)\.$"):
        Checkpoint.load(tmp_path / "empty")


def test_a_changed_weight_is_noticed_even_with_a_fitting_hash(saved):
    import hashlib

    from safetensors.torch import load, save

    tensors = load((saved / "model.safetensors").read_bytes())
    tensors["interactions.0.linear_up.weight"][0] += 0.1
    payload = save(tensors)
    (saved / "model.safetensors").write_bytes(payload)
    edit(saved, tensors_sha256=hashlib.sha256(payload).hexdigest())
    with pytest.raises(CheckpointError, match="probe cluster"):
        Checkpoint.load(saved)


def test_a_pickle_in_disguise_is_not_executed(saved, tmp_path):
    import hashlib

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    payload = pickle.dumps(Bomb())
    (saved / "model.safetensors").write_bytes(payload)
    edit(saved, tensors_sha256=hashlib.sha256(payload).hexdigest())
    with pytest.raises(CheckpointError, match="cannot be read"):
        Checkpoint.load(saved)
    assert not (tmp_path / "executed").exists()


_AUDIT = """
import sys
from ase_finetune import Checkpoint, FineTunedCalculator
from ase_finetune.calculator import FineTunedCalculator
import ase_finetune.architecture
seen = []
def hook(event, args):
    if event == "pickle.find_class":
        seen.append(args)
sys.addaudithook(hook)
FineTunedCalculator(sys.argv[1])
print(len(seen))
assert not seen, seen
"""


def test_loading_never_unpickles(saved):
    found = subprocess.run(
        [sys.executable, "-c", _AUDIT, str(saved)], capture_output=True, text=True, check=False
    )
    assert found.stdout.strip() == "0", found.stderr


_SAFE = """
import os, sys, pathlib, pickle, torch
import {}
assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
class Bomb:
    def __reduce__(self):
        return (open, (sys.argv[1], "w"))
torch.save(Bomb(), sys.argv[1] + ".pt")
try:
    torch.load(sys.argv[1] + ".pt")
except pickle.UnpicklingError:
    print("refused", pathlib.Path(sys.argv[1]).exists())
"""


@pytest.mark.parametrize(
    "modules",
    ["ase_finetune.calculator", "ase_finetune.run, ase_finetune.cli, ase_finetune.export"],
)
def test_importing_leaves_safe_loading_on(modules, tmp_path):
    """mace-torch turns it off for the whole process."""
    clean = {k: v for k, v in os.environ.items() if k != "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"}
    found = subprocess.run(
        [sys.executable, "-c", _SAFE.format(modules), str(tmp_path / "executed")],
        capture_output=True, text=True, env=clean, check=False,
    )  # fmt: skip
    assert found.stdout.strip() == "refused False", found.stderr


def test_json_that_is_too_deep_is_refused_before_it_is_read():
    """Where a library raised the recursion limit, reading it would end the process."""
    assert shallow_json(b'{"a": ["[[[[", "\\"[[", {"b": []}]}') == {"a": ["[[[[", '"[[', {"b": []}]}
    assert shallow_json(b"[" * 64 + b"]" * 64)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        for opening in (b"[", b'{"a":'):
            with pytest.raises(ValueError, match="deep"):
                shallow_json(opening * 200_000)
    finally:
        sys.setrecursionlimit(limit)
