"""Every place where an ASE calculator is used: each is tried with ours, and the physics checked."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import get_calculator_class
from ase.filters import FrechetCellFilter
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from mace_kinds import random_mace

from ase_finetune import Checkpoint, FineTunedCalculator
from ase_finetune.errors import CheckpointError


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    checkpoint = Checkpoint.from_module(
        random_mace("MP-0 L0", [1, 8, 42]), {1: -13.5, 8: -430.0, 42: -4.25},
        stage="finetuned", foundation={},
    )  # fmt: skip
    return checkpoint.save(tmp_path_factory.mktemp("uses") / "model")


@pytest.fixture(scope="module")
def calc(path) -> FineTunedCalculator:
    return FineTunedCalculator(path)


@pytest.fixture(scope="module")
def seed() -> FineTunedCalculator:
    return FineTunedCalculator("seed")


def crystal() -> Atoms:
    atoms = bulk("Mo", cubic=True)
    atoms.rattle(0.1, seed=5)
    return atoms


def test_ase_lists_the_plugin():
    found = subprocess.run(
        [sys.executable, "-m", "ase", "info", "--plugins"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    ours = found[found.index("ase_finetune") :].split("\n\n\n")[0]
    assert "CalculatorPlugin" in ours
    assert "ase-finetune-h5" in ours


def test_ase_makes_the_calculator_from_the_plugin_and_by_name():
    from ase._4.plugins import plugins

    (plugin,) = (p for p in plugins.calculators if p.name == "ase_finetune")
    assert plugin.package == "ase_finetune"
    assert plugin() is get_calculator_class("ase_finetune") is FineTunedCalculator


def test_loading_the_plugin_leaves_torch_unloaded():
    code = "import sys, ase.io, ase._4.plugins; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_optimize_a_molecule_and_a_cell(seed):
    water = molecule("H2O")
    water.rattle(0.05, seed=1)
    water.calc = seed
    assert BFGS(water, logfile=None).run(fmax=0.01, steps=60)
    assert 0.9 < water.get_distance(0, 1) < 1.05
    crystal = bulk("Mo", a=3.0, cubic=True)
    crystal.calc = seed
    assert FIRE(FrechetCellFilter(crystal), logfile=None).run(fmax=0.005, steps=200)
    assert crystal.cell.lengths()[0] == pytest.approx(3.16, abs=0.05)
    assert np.abs(crystal.get_stress()).max() < 0.005


@pytest.mark.parametrize("steps", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_velocity_verlet_conserves_energy(seed, steps):
    """The error of the integrator is of second order: a half step has a quarter of it."""
    from ase.md.velocitydistribution import thermalize_momenta
    from ase.md.verlet import VelocityVerlet

    wandering = {}
    for timestep_fs in (2.0, 1.0):
        atoms = bulk("Mo", a=3.16, cubic=True) * (2, 2, 2)
        atoms.calc = seed
        thermalize_momenta(atoms, temperature_K=600, rng=np.random.default_rng(3))
        md = VelocityVerlet(atoms, timestep_fs * units.fs)
        energies = []
        for _ in md.irun(int(steps / timestep_fs)):
            energies.append(atoms.get_total_energy())
        wandering[timestep_fs] = np.ptp(energies) / len(atoms)
    assert wandering[1.0] < 1e-4  # eV/atom, of 78 meV/atom of kinetic energy
    assert wandering[2.0] / wandering[1.0] == pytest.approx(4.0, rel=0.35)


def test_ase_phonons_agree_with_phonopy_through_ase(seed, tmp_path):
    """Two codes, the same displacements: frequencies at the zone boundary of bcc Mo."""
    from ase.phonons import Phonons
    from phonopy import Phonopy
    from phonopy.interface.calculator import get_default_displacement_distance
    from phonopy.structure.atoms import PhonopyAtoms

    cell = bulk("Mo", a=3.16)
    phonons = Phonons(cell, seed, supercell=(3, 3, 3), delta=0.01, name=str(tmp_path / "ph"))
    phonons.run()
    phonons.read(acoustic=True)
    q = [0.0, 0.0, 1 / 3]
    of_ase = np.sort(phonons.band_structure([q], verbose=False)[0]) / units._hplanck * units._e
    of_ase = of_ase * 1e-12

    phonopy = Phonopy(
        PhonopyAtoms(symbols=["Mo"], cell=cell.cell.array, scaled_positions=[[0, 0, 0]]),
        np.diag([3, 3, 3]), primitive_matrix="P",
    )  # fmt: skip
    assert get_default_displacement_distance(None) == 0.01
    phonopy.generate_displacements(distance=0.01)
    forces = []
    for displaced in phonopy.supercells_with_displacements:
        atoms = Atoms(
            displaced.symbols, scaled_positions=displaced.scaled_positions,
            cell=displaced.cell, pbc=True, calculator=seed,
        )  # fmt: skip
        forces.append(atoms.get_forces())
    phonopy.forces = forces
    phonopy.produce_force_constants()
    of_phonopy = np.sort(phonopy.get_frequencies(q))
    assert of_ase.min() > 2.0  # THz
    np.testing.assert_allclose(of_ase, of_phonopy, atol=0.02)


def test_nudged_elastic_band_finds_the_barrier_of_a_symmetric_path(seed):
    """Inversion of a water molecule through its linear form, with one calculator for all."""
    ends = []
    for sign in (1, -1):
        atoms = Atoms("OH2", [[0, 0, 0], [0.76, 0.59 * sign, 0], [-0.76, 0.59 * sign, 0]])
        atoms.calc = seed
        BFGS(atoms, logfile=None).run(fmax=0.01, steps=80)
        ends.append(atoms)
    images = [ends[0], *(ends[0].copy() for _ in range(3)), ends[1]]
    for image in images[1:-1]:
        image.calc = seed
    band = NEB(images, climb=True, allow_shared_calculator=True)
    band.interpolate()
    assert FIRE(band, logfile=None).run(fmax=0.05, steps=200)
    energies = [image.get_potential_energy() for image in images]
    assert np.argmax(energies) == 2
    assert energies[0] == pytest.approx(energies[4], abs=1e-3)
    assert energies[2] - energies[0] > 0.1
    assert images[2].get_angle(1, 0, 2) == pytest.approx(180.0, abs=3.0)


def test_matcalc_relaxes_through_ase(seed):
    matcalc = pytest.importorskip("matcalc", reason="matcalc is not installed")
    relaxed = matcalc.RelaxCalc(seed, fmax=0.01, perturb_distance=None).calc(bulk("Mo", a=3.05))
    assert relaxed["final_structure"].volume == pytest.approx(3.16**3 / 2, rel=0.05)


def _energies(calculator, frames):
    return [one["energy"] for one in calculator.evaluate_batch(frames)]


def test_a_process_that_is_spawned_gets_the_calculator_by_path(calc):
    frames = [crystal(), molecule("H2O")]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        elsewhere = pool.starmap(_energies, [(calc, frames)])[0]
    np.testing.assert_allclose(elsewhere, _energies(calc, frames), rtol=0, atol=1e-9)


def test_pickling_takes_the_path_and_not_the_weights(calc, path):
    atoms = crystal()
    atoms.calc = calc
    expected = atoms.get_forces()
    text = pickle.dumps(calc)
    assert len(text) < (path / "model.safetensors").stat().st_size / 10
    again = pickle.loads(text)
    assert again.results["energy"] == calc.results["energy"]
    assert np.array_equal(again.evaluate_batch([atoms])[0]["forces"], expected)
    assert again.todict() == calc.todict()
    joined = pickle.loads(pickle.dumps(atoms))
    assert np.array_equal(joined.get_forces(), expected)
    joined.rattle(0.1)
    assert not np.array_equal(joined.get_forces(), expected)


def test_pickling_a_calculator_of_a_checkpoint_takes_the_weights(calc):
    alone = FineTunedCalculator(calc.checkpoint, dtype="float32")
    again = pickle.loads(pickle.dumps(alone))
    assert _energies(again, [crystal()]) == _energies(alone, [crystal()])
    committee = FineTunedCalculator([calc.checkpoint, calc.checkpoint])
    assert len(pickle.loads(pickle.dumps(committee)).checkpoints) == 2


def test_another_model_under_the_pickled_path_is_refused(calc, tmp_path):
    saved = calc.checkpoint.save(tmp_path / "model")
    text = pickle.dumps(FineTunedCalculator(saved))
    calc.checkpoint.replace(E0s={1: -13.5, 8: -430.0, 42: -4.26}).save(saved)
    with pytest.raises(CheckpointError, match="another model than when"):
        pickle.loads(text)


def test_deepcopy_is_independent_of_the_files_and_of_the_original(calc, tmp_path):
    original = FineTunedCalculator(calc.checkpoint.save(tmp_path / "model"))
    (tmp_path / "model" / "checkpoint.json").unlink()
    atoms = crystal()
    atoms.calc = original
    energy = atoms.get_potential_energy()
    twin = copy.deepcopy(atoms)
    assert twin.calc is not original
    twin.rattle(0.1, seed=1)
    assert twin.get_potential_energy() != energy
    assert original.results["energy"] == energy
    assert atoms.get_potential_energy() == energy
