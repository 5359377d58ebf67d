"""The calculator: finite differences, invariances, batches, ASE's contract."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError, get_calculator_class
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.optimize import BFGS
from mace_kinds import random_mace

from ase_finetune import Checkpoint, FineTunedCalculator
from ase_finetune.errors import CheckpointError, ConfigError, DataError


@pytest.fixture(scope="module")
def calc() -> FineTunedCalculator:
    return FineTunedCalculator(
        Checkpoint.from_module(
            random_mace("OFF", [1, 8, 42]),
            {1: -13.5, 8: -430.0, 42: -4.25},
            stage="finetuned",
            foundation={},
        )
    )


def crystal() -> Atoms:
    atoms = bulk("Mo", cubic=True) * (2, 1, 1)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * np.arange(9).reshape(3, 3) / 9), True)
    atoms.rattle(0.15, seed=5)
    return atoms


def test_forces_and_stress_are_derivatives_of_the_energy(calc):
    atoms = crystal()
    atoms.calc = calc
    forces = calculate_numerical_forces(atoms, 1e-4)
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=2e-8)
    stress = calculate_numerical_stress(atoms, 1e-5)
    np.testing.assert_allclose(atoms.get_stress(), stress, atol=1e-9)
    assert np.abs(atoms.get_forces().sum(axis=0)).max() < 1e-12
    assert np.abs(atoms.get_forces()).max() > 1e-3


def test_energies_add_up_and_free_energy_is_there(calc):
    atoms = crystal()
    atoms.calc = calc
    total = atoms.get_potential_energy()
    assert atoms.get_potential_energies().sum() == pytest.approx(total, abs=1e-9)
    assert atoms.get_potential_energy(force_consistent=True) == total


def test_rotation_permutation_translation_and_other_lattice_vectors(calc):
    atoms = crystal()
    atoms.calc = calc
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    turned = atoms.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    turned.calc = calc
    assert turned.get_potential_energy() == pytest.approx(energy, abs=1e-9)
    np.testing.assert_allclose(
        np.linalg.norm(turned.get_forces(), axis=1), np.linalg.norm(forces, axis=1), atol=1e-10
    )
    order = [2, 0, 3, 1]
    permuted = atoms[order]
    permuted.positions += [0.3, -7.0, 11.0]
    permuted.wrap()
    permuted.calc = calc
    np.testing.assert_allclose(permuted.get_forces(), forces[order], atol=1e-10)
    sheared = atoms.copy()
    sheared.set_cell(np.array([[1, 0, 0], [1, 1, 0], [0, 2, 1]]) @ atoms.cell.array)
    sheared.calc = calc
    np.testing.assert_allclose(sheared.get_forces(), forces, atol=1e-10)


def test_supercell_has_the_same_energy_per_atom(calc):
    small, large = bulk("Mo"), bulk("Mo") * (3, 3, 3)
    for atoms in (small, large):
        atoms.calc = calc
    per_atom = small.get_potential_energy()
    assert large.get_potential_energy() / 27 == pytest.approx(per_atom, abs=1e-10)


@pytest.mark.parametrize("pbc", [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 1)])
def test_mixed_periodicity_is_a_cell_with_vacuum(calc, pbc):
    atoms = molecule("H2O")
    atoms.rattle(0.1, seed=2)
    atoms.positions -= 30.0  # outside the cell, as molecules may be
    atoms.cell = [3.0, 3.1, 3.2]
    atoms.pbc = pbc
    padded = atoms.copy()
    padded.cell = [n if p else 40.0 for n, p in zip((3.0, 3.1, 3.2), pbc, strict=True)]
    padded.pbc = True
    atoms.calc = calc
    padded.calc = calc
    energy = atoms.get_potential_energy()
    assert padded.get_potential_energy() == pytest.approx(energy, abs=1e-9)


def test_a_molecule_without_a_cell_has_no_stress(calc):
    atoms = molecule("H2O")
    atoms.calc = calc
    assert atoms.get_forces().shape == (3, 3)
    with pytest.raises(PropertyNotImplementedError, match="three vectors"):
        atoms.get_stress()


def test_an_isolated_atom_has_its_E0_and_no_force(calc):
    atoms = Atoms("O")
    atoms.calc = calc
    assert abs(atoms.get_potential_energy() + 430.0) < 5.0
    assert np.abs(atoms.get_forces()).max() == 0.0


def test_batch_equals_single_in_any_mixture(calc):
    frames = [crystal(), molecule("H2O"), bulk("Mo")]
    together = calc.evaluate_batch(frames)
    for frame, found in zip(frames, together, strict=True):
        frame.calc = calc
        assert found["energy"] == pytest.approx(frame.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(found["forces"], frame.get_forces(), atol=1e-11)
    assert "stress" not in together[1]
    pieces = calc.evaluate_batch(frames, batch_atoms=1)
    assert pieces[0]["energy"] == pytest.approx(together[0]["energy"], abs=1e-10)


def test_repeated_evaluation_is_the_same_bits(calc):
    first, second = (calc.evaluate_batch([crystal()])[0] for _ in range(2))
    assert first["energy"] == second["energy"]
    assert np.array_equal(first["forces"], second["forces"])


def test_bad_atoms_and_settings(calc, tmp_path):
    empty = Atoms()
    with pytest.raises(DataError, match="no atoms"):
        calc.calculate(empty)
    alien = bulk("Cu")
    alien.calc = calc
    with pytest.raises(DataError, match="Cu"):
        alien.get_potential_energy()
    with pytest.raises(ConfigError, match="float32, float64"):
        FineTunedCalculator(calc.checkpoint, dtype="float16")
    with pytest.raises(CheckpointError, match="not a checkpoint folder"):
        FineTunedCalculator(tmp_path)


def test_properties_do_not_leak_into_other_calculators(calc):
    calc.implemented_properties.append("made_up")
    try:
        assert "made_up" not in EMT().implemented_properties
        assert "made_up" not in FineTunedCalculator.implemented_properties
    finally:
        calc.implemented_properties.remove("made_up")


def test_ase_knows_the_name(calc):
    assert get_calculator_class("ase_finetune") is FineTunedCalculator


def test_relaxation_runs_and_parameters_serialize(calc, tmp_path):
    import json

    atoms = crystal()
    atoms.calc = calc
    before = atoms.get_potential_energy()
    BFGS(atoms, logfile=None).run(fmax=1e-5, steps=5)
    assert atoms.get_potential_energy() < before
    saved = calc.checkpoint.save(tmp_path / "ckpt")
    json.dumps(FineTunedCalculator(saved).todict())


def test_the_bundled_seed_by_name():
    calc = FineTunedCalculator("seed")
    assert calc.checkpoint.stage == "zero_shot"
    assert calc.todict()["checkpoint"] == "seed"
    assert calc.implemented_properties == [
        "energy", "free_energy", "energies", "forces", "stress",
    ]  # fmt: skip


def test_a_committee_gives_mean_and_variance(calc):
    other = FineTunedCalculator(
        Checkpoint.from_module(
            random_mace("MP-0", [8, 42]), {8: -431.0, 42: -4.0}, stage="finetuned", foundation={}
        )
    )
    committee = FineTunedCalculator([calc.checkpoint, other.checkpoint])
    atoms = crystal()
    alone = [one.evaluate_batch([atoms])[0] for one in (calc, other)]
    atoms.calc = committee
    for key, method in (
        ("energy", atoms.get_potential_energy),
        ("forces", atoms.get_forces),
        ("stress", atoms.get_stress),
        ("energies", atoms.get_potential_energies),
    ):
        expected = 0.5 * (alone[0][key] + alone[1][key])
        np.testing.assert_allclose(method(), expected, rtol=1e-12, atol=1e-14)
    for spread, key in (("energy_var", "energy"), ("forces_var", "forces")):
        expected = 0.25 * (alone[0][key] - alone[1][key]) ** 2
        np.testing.assert_allclose(committee.get_property(spread, atoms), expected, rtol=1e-9)
    same = FineTunedCalculator((calc.checkpoint, calc.checkpoint))
    assert same.get_property("energy_var", atoms) == 0.0
    with pytest.raises(ConfigError, match="one or more"):
        FineTunedCalculator([])
    with pytest.raises(PropertyNotImplementedError):
        calc.get_property("energy_var", atoms)
