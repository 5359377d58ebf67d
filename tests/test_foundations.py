"""Foundations: mace-torch's own files, every published layer type, pruning, heads."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from mace.calculators import MACECalculator
from mace_kinds import KINDS, random_mace

from ase_finetune.calculator import FineTunedCalculator
from ase_finetune.checkpoint import Checkpoint
from ase_finetune.errors import FoundationError
from ase_finetune.foundations import load_foundation

NUMBERS = [1, 8, 29, 42]


def water():
    atoms = molecule("H2O")
    atoms.cell, atoms.pbc = [5.0, 5.2, 4.8], True
    atoms.rattle(0.1, seed=1)
    return atoms


def attached(path, elements, head=None):
    with pytest.warns(UserWarning, match="executes code"):
        found = load_foundation(path, elements, head=head)
    return FineTunedCalculator(
        Checkpoint.from_module(found.module, found.E0s, stage="zero_shot", foundation={})
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_type_equals_mace_calculator_after_pruning(kind, tmp_path):
    path = tmp_path / "foundation.model"
    torch.save(random_mace(kind, NUMBERS), path)
    head = "special" if kind == "multi-head" else None
    ours, peer = water(), water()
    ours.calc = attached(path, [1, 8], head)
    peer.calc = MACECalculator(
        model_paths=str(path),
        device="cpu",
        default_dtype="float64",
        **({"head": head} if head else {}),
    )
    assert ours.get_potential_energy() == pytest.approx(peer.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(ours.get_forces(), peer.get_forces(), atol=1e-10)
    np.testing.assert_allclose(ours.get_stress(), peer.get_stress(), atol=1e-12)


def test_float32_file_in_float64_keeps_its_rounding(tmp_path):
    path = tmp_path / "foundation.model"
    torch.save(random_mace("MP-0", [42], "float32"), path)
    atoms = bulk("Mo", cubic=True)
    atoms.rattle(0.1, seed=3)
    peer = atoms.copy()
    atoms.calc = attached(path, [42])
    peer.calc = MACECalculator(model_paths=str(path), device="cpu", default_dtype="float64")
    assert atoms.get_potential_energy() == pytest.approx(peer.get_potential_energy(), abs=1e-6)


def test_several_heads_need_a_choice(tmp_path):
    path = tmp_path / "foundation.model"
    torch.save(random_mace("multi-head", [42]), path)
    with pytest.warns(UserWarning), pytest.raises(FoundationError, match="pt_head, special"):
        load_foundation(path, [42])


def test_couplings_of_another_basis_are_refused(tmp_path):
    module = random_mace("MP-0", [29, 42])
    module.use_reduced_cg = True
    torch.save(module, tmp_path / "same.model")
    with pytest.warns(UserWarning, match="executes code"):
        load_foundation(tmp_path / "same.model")
    contraction = module.products[0].symmetric_contractions.contractions[0]
    contraction.U_matrix_3 *= -1.0
    torch.save(module, tmp_path / "other.model")
    with (
        pytest.warns(UserWarning, match="executes code"),
        pytest.raises(FoundationError, match="reduced couplings"),
    ):
        load_foundation(tmp_path / "other.model")


def test_missing_element_is_named(tmp_path):
    path = tmp_path / "foundation.model"
    torch.save(random_mace("MP-0 L0", [1, 8]), path)
    with pytest.warns(UserWarning), pytest.raises(FoundationError, match="does not know Mo"):
        load_foundation(path, [1, 42])


def test_unknown_name_lists_what_is_known():
    with pytest.raises(FoundationError, match=r"'meduim'.*seed.*medium-mpa-0"):
        load_foundation("meduim")


def test_a_file_that_is_no_model(tmp_path):
    path = tmp_path / "notes.model"
    path.write_text("not a model")
    with pytest.warns(UserWarning), pytest.raises(FoundationError, match="not a model that mace"):
        load_foundation(path)


def test_a_model_without_network_says_so(monkeypatch):
    from mace.calculators import foundations_models

    def offline(name):
        raise OSError("no network")

    monkeypatch.setattr(foundations_models, "download_mace_mp_checkpoint", offline)
    with pytest.raises(FoundationError, match=r"could not be downloaded.*\.model file"):
        load_foundation("small")


def test_a_named_model_is_loaded_through_mace_torch(monkeypatch, tmp_path):
    """The real path with the download replaced by a file that mace-torch could have fetched."""
    from mace.calculators import foundations_models

    path = tmp_path / "mp0.model"
    torch.save(random_mace("MP-0 L0", NUMBERS), path)
    monkeypatch.setattr(foundations_models, "download_mace_mp_checkpoint", lambda name: str(path))
    with pytest.warns(UserWarning, match="executes code"):
        found = load_foundation("small", [42])
    assert found.numbers == [42]
    assert found.name == "small"


def test_the_hash_is_of_the_weights_that_were_read(tmp_path):
    """A kill between the two steps of a replacement leaves the new weights beside the old ones."""
    one, other = (
        Checkpoint.from_module(
            random_mace(kind, [42]), {42: -4.0}, stage="finetuned", foundation={}
        )
        for kind in ("MP-0", "OFF")
    )
    folder = one.save(tmp_path / "model")
    old = (folder / "model.safetensors").read_bytes()
    whole = load_foundation(other.save(folder)).sha256
    assert whole == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "model.safetensors").rename(folder / ".model.safetensors.next")
    (folder / "model.safetensors").write_bytes(old)
    assert load_foundation(folder).sha256 == whole


def test_a_head_that_a_checkpoint_lacks_is_refused():
    with pytest.raises(FoundationError, match="no head 'mp'"):
        load_foundation("seed", head="mp")
