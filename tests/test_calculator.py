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


def water(**changes) -> Atoms:
    atoms = molecule("H2O")
    for name, value in changes.items():
        setattr(atoms, name, value)
    return atoms


def at(index: int, position) -> np.ndarray:
    positions = molecule("H2O").positions
    positions[index] = position
    return positions


def overlapping_image() -> Atoms:
    atoms = bulk("Mo", cubic=True)
    atoms.positions[1] = atoms.positions[0] + atoms.cell[0] + [0, 1e-9, 0]
    return atoms


IMPOSSIBLE = {
    "empty": (Atoms(), "no atoms"),
    "unknown element": (bulk("Cu"), "does not know the elements Cu"),
    "ghost": (Atoms("X"), "does not know the elements X"),
    "same place": (water(positions=at(1, molecule("H2O").positions[2])), "Atoms 1 and 2 are at"),
    "almost the same place": (water(positions=at(1, [0, 0.001, 0.119262])), "Atoms 0 and 1 are at"),
    "same place by an image": (overlapping_image(), "Atoms 0 and 1 are at the same place"),
    "image of itself": (Atoms("O", cell=[9, 9, 0.001], pbc=True), "Atoms 0 and 0 are at the same"),
    "position not finite": (water(positions=at(2, [0, np.nan, 0])), "position 2 holds"),
    "cell not finite": (water(cell=[9, np.inf, 9]), "cell vector 1 holds"),
    "periodic without cell": (water(pbc=True), "periodic along a, but that cell vector is zero"),
    "half a cell": (water(cell=[5, 0, 0], pbc=(1, 1, 0)), "periodic along b, but that cell"),
    "flat cell": (water(cell=[[3, 0, 0], [3, 0, 1e-9], [0, 0, 5]], pbc=True), "in one plane"),
    "flat cell of a molecule": (water(cell=[[3, 0, 0], [3, 0, 0], [0, 0, 5]]), "in one plane"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_atoms_without_an_answer_are_refused_in_one_sentence(calc, case):
    atoms, sentence = IMPOSSIBLE[case]
    good = crystal()
    calc.get_property("energy", good)
    with pytest.raises(DataError, match=sentence) as caught:
        calc.get_property("energy", atoms.copy())
    assert "\n" not in str(caught.value)
    assert calc.results == {}  # nothing of the crystal is left to be taken for an answer
    with pytest.raises(DataError, match=sentence):
        calc.evaluate_batch([good, atoms])


def test_energies_that_are_not_finite_are_refused(calc, monkeypatch):
    import ase_finetune.calculator as module

    real = module.predict

    def broken(*args, **kwargs):
        found = real(*args, **kwargs)
        found.forces[0, 0] = np.inf
        return found

    monkeypatch.setattr(module, "predict", broken)
    with pytest.raises(DataError, match="no finite energy and forces"):
        calc.evaluate_batch([crystal()])


def test_bad_settings(calc, tmp_path):
    with pytest.raises(ConfigError, match="float32, float64"):
        FineTunedCalculator(calc.checkpoint, dtype="float16")
    with pytest.raises(ConfigError, match="Unknown setting dvice"):
        FineTunedCalculator(calc.checkpoint, dvice="cuda")
    with pytest.raises(ConfigError, match="dtype cannot be changed"):
        calc.set(dtype="float32")
    with pytest.raises(CheckpointError, match="not a checkpoint folder"):
        FineTunedCalculator(tmp_path)


def test_what_matters_recomputes_and_nothing_else(calc, monkeypatch):
    """The model sees elements, positions, cell and pbc; no entry of info, charge or spin."""
    atoms = crystal()
    atoms.calc = calc
    calls, real = [], calc.evaluate_batch

    def counted(frames):
        calls.append(1)
        return real(frames)

    monkeypatch.setattr(calc, "evaluate_batch", counted)
    first = atoms.get_potential_energy()
    atoms.info.update(head="other", charge=1, spin=3, total_charge=-1)
    atoms.set_initial_magnetic_moments([1.0] * len(atoms))
    atoms.set_initial_charges([0.5] * len(atoms))
    atoms.set_velocities(np.ones((len(atoms), 3)))
    atoms.get_forces()
    atoms.get_stress()
    assert len(calls) == 1
    assert real([atoms])[0]["energy"] == first
    energies = [first]
    for change in (
        lambda: atoms.positions.__iadd__(0.01 * np.arange(12).reshape(4, 3)),
        lambda: atoms.set_cell(1.01 * atoms.cell.array),
        lambda: atoms.set_pbc((True, True, False)),
        lambda: atoms.numbers.__setitem__(0, 8),
    ):
        change()
        energies.append(atoms.get_potential_energy())
    assert len(calls) == 5
    assert len(set(energies)) == 5


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_stress_without_a_full_cell_is_refused_and_the_rest_is_given(calc, rank):
    atoms = water(cell=[4.0 if i < rank else 0.0 for i in range(3)], pbc=np.arange(3) < rank)
    with pytest.raises(PropertyNotImplementedError, match="three vectors"):
        calc.get_property("stress", atoms)
    found = calc.get_property("forces", atoms)
    assert np.abs(found.sum(axis=0)).max() < 1e-10
    assert "stress" not in calc.results


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
    together = atoms.get_properties(["energy", "forces"])
    assert together["energy"] == atoms.get_potential_energy()
    assert "energy_var" in committee.results and "energy_var" not in together
    same = FineTunedCalculator((calc.checkpoint, calc.checkpoint))
    assert same.get_property("energy_var", atoms) == 0.0
    with pytest.raises(ConfigError, match="one or more"):
        FineTunedCalculator([])
    with pytest.raises(PropertyNotImplementedError):
        calc.get_property("energy_var", atoms)
