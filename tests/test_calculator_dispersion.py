"""Dispersion in the labels is recorded with the model, so that it is not added twice."""

from __future__ import annotations

import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from mace_kinds import random_mace

from ase_finetune import Checkpoint, FineTunedCalculator
from ase_finetune.dispersion import label_dispersion
from ase_finetune.errors import ConfigError
from systems import get_system


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.from_module(
        random_mace("MP-0 L0", [42]), {42: -4.25}, stage="finetuned", foundation={}
    )


def frames(*infos) -> list[Atoms]:
    result = []
    for info in infos:
        atoms = bulk("Mo", cubic=True)
        atoms.info.update(info)
        result.append(atoms)
    return result


@pytest.mark.parametrize(
    ("infos", "expected"),
    [
        ([{}], None),
        ([{"dispersion": "none"}], "none"),
        ([{"dispersion": False}, {"vdw": "off"}], "none"),
        ([{"dispersion": "none"}, {}], None),
        ([{"dispersion": "D3(BJ)"}, {}], "D3(BJ)"),
        ([{"dispersion": "D3(BJ)"}, {"dispersion": "none"}], "D3(BJ)"),
        ([{"dispersion": "D4"}, {"dispersion": "D3(BJ)"}], "D3(BJ); D4"),
        ([{"functional": "PBE"}], None),
        ([{"functional": "PBE-D3"}], "PBE-D3"),
        ([{"level_of_theory": "VASP optB88-vdW, 500 eV"}], "VASP optB88-vdW, 500 eV"),
        ([], None),
    ],
)
def test_what_frames_say(infos, expected):
    assert label_dispersion(frames(*infos)) == expected


def test_isolated_atoms_have_none_and_do_not_matter():
    atom = Atoms("Mo", info={"dispersion": "none", "config_type": "IsolatedAtom"})
    assert label_dispersion([atom, *frames({"dispersion": "D3(BJ)"})]) == "D3(BJ)"
    assert label_dispersion([atom]) is None


@pytest.mark.parametrize(
    ("system", "start"),
    [("mo", "none"), ("mos2", "none"), ("water_graphene", "D3(BJ)"), ("acetylacetone", "D3(BJ)")],
)
def test_the_bundled_data_say_it(system, start):
    found = label_dispersion(get_system(system).frames()["train"])
    assert found is not None
    assert found.startswith(start)


def test_it_is_kept_with_the_checkpoint(checkpoint, tmp_path):
    saved = checkpoint.replace(dispersion="D3(BJ)").save(tmp_path / "model")
    assert Checkpoint.load(saved).dispersion == "D3(BJ)"
    assert FineTunedCalculator(saved).dispersion == "D3(BJ)"


def test_a_correction_is_added_once(checkpoint):
    """Lennard-Jones stands for any calculator of a dispersion energy."""
    correction = LennardJones(sigma=2.0, epsilon=0.01, rc=6.0)
    atoms = bulk("Mo", cubic=True)
    with pytest.raises(ConfigError, match="does not say whether"):
        FineTunedCalculator(checkpoint).with_dispersion(correction)
    included = FineTunedCalculator(checkpoint.replace(dispersion="D3(BJ)"))
    with pytest.raises(ConfigError, match=r"already \(D3\(BJ\)\).*twice"):
        included.with_dispersion(correction)
    mixed = [checkpoint.replace(dispersion=d) for d in ("none", "D4")]
    with pytest.raises(ConfigError, match="D4"):
        FineTunedCalculator(mixed).with_dispersion(correction)
    without = FineTunedCalculator(checkpoint.replace(dispersion="none"))
    both = without.with_dispersion(correction)
    assert isinstance(both, SumCalculator)
    expected = without.get_potential_energy(atoms) + correction.get_potential_energy(atoms)
    assert both.get_potential_energy(atoms) == pytest.approx(expected, abs=1e-12)
