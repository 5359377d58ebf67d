"""MoS2 from stored DFT forces, through the code that every model goes through."""

from __future__ import annotations

import functools
from itertools import pairwise
from pathlib import Path

import numpy as np
import phonopy
import pytest
import yaml
from ase import Atoms
from harmonic_crystals import ForceConstants, Replay
from mos2_force_sets import best_name, force_set
from phonopy.structure.atoms import PhonopyAtoms

from properties import StructureError, band_errors, load_phonons, phonon_bands, write_phonons

SYSTEM = Path(__file__).parents[1] / "systems" / "data" / "mos2.h5"
ARGUMENTS = {"dimension": 2, "relax_cell": False}


@functools.cache
def replayed(name="4x4"):
    stored = force_set(name)
    calc = Replay([stored.perfect, *stored.displaced], [stored.undisplaced, *stored.forces])
    found = phonon_bands(
        stored.cell, calc, supercell=stored.matrix, distance=stored.distance, **ARGUMENTS
    )
    assert sorted(calc.asked) == list(range(len(stored.displaced) + 1))
    return found


@functools.cache
def plain_phonopy():
    """The same force sets by phonopy's and symfc's own interface, with full force constants."""
    stored = force_set()
    unit = PhonopyAtoms(
        numbers=stored.cell.numbers, cell=stored.cell.cell, positions=stored.cell.positions
    )
    phonon = phonopy.Phonopy(unit, stored.matrix, primitive_matrix="P", log_level=0)
    first = []
    for moved, forces in zip(stored.moved, stored.forces, strict=True):
        (atom,) = np.flatnonzero(np.abs(moved).max(1) > 0)
        change = forces - stored.undisplaced
        first.append({"number": int(atom), "displacement": moved[atom], "forces": change})
    phonon.dataset = {"natom": len(stored.perfect), "first_atoms": first}
    phonon.produce_force_constants(fc_calculator="symfc", show_drift=False)
    return phonon


def test_replay_gives_what_phonopy_gives():
    found = replayed()
    corners = [(0, 0, 0), (1 / 2, 0, 0), (1 / 3, 1 / 3, 0), (0, 0, 0)]
    steps = np.linspace(0, 1, 51)[:, None]
    parts = [np.array(a) + steps * (np.array(b) - a) for a, b in pairwise(corners)]
    q = np.concatenate([parts[0], parts[1][1:], parts[2][1:]])
    assert found.path.q == pytest.approx(q, abs=1e-12)
    expected = plain_phonopy().run_qpoints(q).frequencies
    assert found.frequencies == pytest.approx(expected, abs=1e-6)


def test_replay_gives_the_stored_bands():
    """Stored by the generator of the data, which does not use this package's phonons."""
    if not SYSTEM.is_file():
        pytest.skip(f"no bands of MoS2 in {SYSTEM}")
    from systems.hdf5 import read_references

    stored = {r.name: r.value for r in read_references(SYSTEM) if r.default}
    bands, found = stored["phonon_bands"], replayed(best_name()).quantities("replay")
    assert (bands.x_unit, bands.y_unit) == ("path", "THz")
    assert found["phonon_bands"].x == pytest.approx(bands.x, abs=1e-9)
    assert found["phonon_bands"].y == pytest.approx(bands.y, abs=1e-6)
    modes = [name for name in stored if name.startswith("frequency_Gamma_")]
    assert len(modes) == 4
    for name in modes:
        assert found[name].value == pytest.approx(stored[name].value, abs=1e-6)


def test_modes_at_gamma():
    """The numbers of an earlier script with the same forces; Raman shifts 386 and 404 1/cm."""
    found = dict(replayed().gamma_modes)
    expected = {"E''": 8.33, "E'": 11.24, "A1'": 12.07, "A2''": 13.86}
    assert found == pytest.approx(expected, abs=0.006)
    assert 33.35641 * found["E'"] == pytest.approx(386, rel=0.03)
    assert 33.35641 * found["A1'"] == pytest.approx(404, rel=0.03)


def test_degeneracies():
    """Three acoustic modes and two pairs at Gamma."""
    gamma = replayed().at("G")
    assert gamma[:3] == pytest.approx(0.0, abs=1e-5)
    assert gamma[[3, 5]] == pytest.approx(gamma[[4, 6]], abs=1e-6)
    assert np.diff(gamma)[[2, 4, 6, 7]].min() > 0.5


def test_acoustic_modes_before_the_sum_rule():
    """The grid of the DFT code leaves a net force; subtracting it removes most of the error."""
    found = replayed().acoustic
    assert found.raw == pytest.approx([-1.905, 0.104, 0.104], abs=0.01)
    assert found.subtracted == pytest.approx([0.108, 0.108, 0.394], abs=0.01)
    assert found.corrected == pytest.approx(0.0, abs=1e-5)
    assert replayed().n_imaginary == 0


def test_time_reversal():
    """w(q) = w(-q), in a crystal without inversion."""
    stored, found = force_set(), replayed()
    q = np.array([[0.13, 0.29, 0.0], [0.4, 0.05, 0.0]])
    both = found.phonon.run_qpoints(np.concatenate([q, -q])).frequencies
    assert both[:2] == pytest.approx(both[2:], abs=1e-8)
    assert np.ptp(both[:2], axis=0).max() > 0.1
    assert stored.cell.numbers.tolist() == [42, 16, 16]


def test_cells_with_60_and_120_degrees_agree():
    """K is (1/3, 1/3, 0) in one and (1/3, 2/3, 0) in the other; (1/3, 1/3, 0) is not K there."""
    stored = force_set()
    calc = ForceConstants(stored.perfect, plain_phonopy().force_constants)
    acute = stored.cell.copy()
    acute.set_cell([stored.cell.cell[0], stored.cell.cell[0] + stored.cell.cell[1], [0, 0, 15.0]])
    assert stored.cell.cell.angles()[2] == pytest.approx(120)
    assert acute.cell.angles()[2] == pytest.approx(60)
    one, other = (
        phonon_bands(cell, calc, supercell=stored.matrix, **ARGUMENTS)
        for cell in (stored.cell, acute)
    )
    assert other.path.x == pytest.approx(one.path.x, abs=1e-12)
    assert other.frequencies == pytest.approx(one.frequencies, abs=1e-5)
    assert one.frequencies == pytest.approx(replayed().frequencies, abs=1e-5)
    at_corner = other.phonon.run_qpoints([(1 / 3, 2 / 3, 0), (1 / 3, 1 / 3, 0)]).frequencies
    assert at_corner[0] == pytest.approx(one.at("K"), abs=1e-5)
    assert np.abs(at_corner[1] - one.at("K")).max() > 0.5


def test_files_are_read_by_phonopy_and_here(tmp_path):
    found = replayed()
    params, bands = write_phonons(found, tmp_path / "phonons")
    assert (params.name, bands.name) == ("phonopy_params.yaml", "band.yaml")
    loaded = phonopy.load(params, log_level=0)
    again = loaded.run_qpoints(found.path.q).frequencies
    assert again == pytest.approx(found.frequencies, abs=1e-6)
    written = yaml.load(bands.read_text(), yaml.CSafeLoader)
    assert written["labels"] == [["$\\Gamma$", "M"], ["M", "K"], ["K", "$\\Gamma$"]]
    table = np.array([[mode["frequency"] for mode in q["band"]] for q in written["phonon"]])
    once = np.delete(table, [51, 102], axis=0)
    assert once == pytest.approx(found.frequencies, abs=1e-6)
    read = load_phonons(params, dimension=2)
    assert read.frequencies == pytest.approx(found.frequencies, abs=1e-6)
    assert read.gamma_modes == pytest.approx(found.gamma_modes, abs=1e-6)
    assert read.acoustic.raw is None


def test_force_sets_of_another_program_are_read(tmp_path):
    stored = force_set()
    phonon = plain_phonopy().replicate()
    phonon.dataset = plain_phonopy().dataset
    phonon.forces = stored.forces
    file = tmp_path / "force_sets.yaml"
    phonon.save(file)
    read = load_phonons(file, undisplaced=stored.undisplaced, dimension=2)
    assert read.frequencies == pytest.approx(replayed().frequencies, abs=1e-6)
    assert read.acoustic.raw == pytest.approx(replayed().acoustic.raw, abs=1e-6)
    assert read.residual_force == pytest.approx(replayed().residual_force)
    kept = load_phonons(file, dimension=2)
    assert np.abs(kept.frequencies - read.frequencies).max() > 0.1


def test_objects_of_phonopy_are_read():
    read = load_phonons(plain_phonopy(), dimension=2)
    assert read.frequencies == pytest.approx(replayed().frequencies, abs=1e-6)
    errors = band_errors(replayed(), read)
    assert errors.mae_matched == pytest.approx(0.0, abs=1e-6)
    assert errors.overlap.min() > 1 - 1e-6
    compared = replayed().against(read)
    assert (compared.errors.mae, compared.errors.mae_matched) == (errors.mae, errors.mae_matched)
    assert {"phonon_mae", "phonon_mae_matched"} <= set(compared.quantities("DFT"))
    assert "phonon_mae" not in replayed().quantities("DFT")


def test_what_is_no_phonon_calculation_is_refused(tmp_path):
    bare = plain_phonopy().replicate()
    with pytest.raises(StructureError, match="neither forces"):
        load_phonons(bare, dimension=2)
    bare.generate_displacements(distance=0.01)
    file = tmp_path / "displacements.yaml"
    bare.save(file)
    with pytest.raises(StructureError, match="neither forces"):
        load_phonons(file, dimension=2)
    with pytest.raises(StructureError, match="say dimension=2"):
        load_phonons(plain_phonopy())
    with pytest.raises(StructureError, match="shape"):
        load_phonons(plain_phonopy(), undisplaced=np.zeros((3, 3)), dimension=2)
    charged = load_phonons(plain_phonopy(), dimension=2).phonon.replicate()
    charged.force_constants = plain_phonopy().force_constants
    charged.nac_params = {"born": np.zeros((3, 3, 3)), "dielectric": np.eye(3), "factor": 14.4}
    with pytest.raises(StructureError, match="non-analytic"):
        load_phonons(charged, dimension=2)
    charged.save(file, settings={"force_constants": True})
    assert "born" in file.read_text()
    read = load_phonons(file, dimension=2)
    assert read.frequencies == pytest.approx(replayed().frequencies, abs=1e-6)


def test_replay_refuses_what_it_does_not_know():
    stored = force_set()
    calc = Replay([stored.perfect], [stored.undisplaced])
    moved = Atoms(stored.perfect)
    moved.positions[0, 0] += 0.01
    moved.calc = calc
    with pytest.raises(RuntimeError, match="no stored forces"):
        moved.get_forces()
