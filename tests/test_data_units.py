"""Wrong units and signs of labels are found and named; clean frames raise nothing."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.units import GPa, Hartree, kcal, kJ, mol
from doctor_faults import BUNDLED, SHARED, copies
from labelled_frames import (
    CLEAN,
    DFT,
    FORCE_FAULTS,
    REAL_FILES,
    STRESS_FAULTS,
    clean,
    dynamics,
    labelled,
    periodic,
    planted,
    real,
    real_data,
    scaled,
    strained,
)

from ase_finetune.data.checks import check_frames
from ase_finetune.data.pairs import work_pairs
from ase_finetune.data.physics import label_consistency, pressure_slope
from ase_finetune.data.scale import all_electron, check_energy_scale, energy_scales, foreign_unit
from ase_finetune.data.units import label_notes
from ase_finetune.errors import DataError


@pytest.mark.parametrize("name", CLEAN)
def test_clean_frames_pass(name):
    frames = clean(name)
    check_frames(frames, stress=periodic(frames), elements=[1, 8, 29, 79])
    assert label_notes(frames) == []


@pytest.mark.faults
@pytest.mark.parametrize("fault", FORCE_FAULTS)
@pytest.mark.parametrize("name", ["strained", "dynamics", "slab", "molecule", "open slab", "scan"])
def test_force_units_and_signs(name, fault):
    if (name, fault) == ("scan", "per atom"):
        pytest.skip("energies per atom of a dimer are within the allowed slope")
    change, words = FORCE_FAULTS[fault]
    with pytest.raises(DataError, match=words) as error:
        check_frames(planted(clean(name), change), stress=False)
    assert "\n" not in str(error.value)


@pytest.mark.faults
@pytest.mark.parametrize("fault", STRESS_FAULTS)
@pytest.mark.parametrize("name", ["strained", "curve", "primitive curve"])
def test_stress_units_and_signs(name, fault):
    change, words = STRESS_FAULTS[fault]
    frames = planted(clean(name), change)
    with pytest.raises(DataError, match=words) as error:
        check_frames(frames, stress=True)
    assert "\n" not in str(error.value)
    check_frames(frames, stress=False)


@pytest.mark.faults
@pytest.mark.parametrize(("factor", "words"), [(1 / GPa, "in GPa"), (-1.0, "opposite sign")])
@pytest.mark.parametrize("name", ["strained", "curve"])
def test_a_wrong_stress_is_noted_where_it_is_not_trained_on(name, factor, words):
    frames = planted(clean(name), scaled("REF_stress", factor))
    check_frames(frames, stress=False)
    (note,) = label_notes(frames)
    assert "train stress contradicts" in note
    assert words in note
    assert "cutoff" not in note


@pytest.mark.parametrize("name", ["alloys", "breathing"])
def test_stress_without_strained_pairs(name):
    """Volumes and pressures decide where no two frames are near each other."""
    with pytest.raises(DataError, match=r"sign|compression positive"):
        check_frames(planted(clean(name), scaled("REF_stress", -1.0)), stress=True)
    with pytest.raises(DataError, match=r"unit|GPa"):
        check_frames(planted(clean(name), scaled("REF_stress", 1 / GPa)), stress=True)


def test_bulk_modulus_from_pressures():
    modulus, correlation = pressure_slope(clean("curve"))
    assert correlation < -0.99
    assert modulus == pytest.approx(134.5, rel=0.1)  # EMT, (C11 + 2 C12) / 3 at equilibrium


def test_hot_expanded_frames_have_a_positive_modulus():
    """Heat raises the pressure: without the energy in the fit the modulus would be negative."""
    cold = [labelled(bulk("Cu", a=3.59, cubic=True) * (2, 2, 2)) for _ in range(1)]
    cold += dynamics(bulk("Cu", a=3.59, cubic=True) * (2, 2, 2), 100, 15, 5, 2.0)
    hot = dynamics(bulk("Cu", a=3.63, cubic=True) * (2, 2, 2), 4000, 15, 10, 2.0)
    frames = [*cold, *hot]
    volumes = [a.get_volume() for a in frames]
    pressures = [-a.info["REF_stress"][:3].mean() for a in frames]
    assert np.corrcoef(volumes, pressures)[0, 1] > 0.9
    assert pressure_slope(frames)[0] > 0 or abs(pressure_slope(frames)[1]) < 0.9
    check_frames(frames, stress=True)


def test_shear_order_is_noted_not_fatal():
    frames = []
    for i, j in ((1, 2), (0, 2), (0, 1)):
        for shear in (-0.04, -0.02, 0.02, 0.04):
            strain = np.eye(3) * (1 + shear / 4)
            strain[i, j] = strain[j, i] = shear
            atoms = bulk("Cu", a=3.6, cubic=True)
            atoms.set_cell(atoms.cell @ strain, scale_atoms=True)
            frames.append(labelled(atoms))
    assert label_notes(frames) == []
    for frame in frames:
        frame.info["REF_stress"] = frame.info["REF_stress"][[0, 1, 2, 4, 3, 5]]
    check_frames(frames, stress=True)
    assert label_consistency(frames).shear_order == ("xz", "yz", "xy")
    (note,) = label_notes(frames)
    assert "xz yz xy, not yz xz xy" in note


@pytest.mark.parametrize("gpa", [-2.0, 1.0])
def test_pressure_offset(gpa):
    frames = [frame.copy() for frame in clean("curve")]
    for frame in frames:
        frame.info["REF_stress"] = (
            frame.info["REF_stress"] - np.array([1, 1, 1, 0, 0, 0]) * gpa * GPa
        )
    before = label_consistency(clean("curve")).pressure_offset_gpa
    assert abs(before) < 0.1
    assert label_consistency(frames).pressure_offset_gpa - before == pytest.approx(gpa, rel=1e-3)
    check_frames(frames, stress=True)
    assert len(label_notes(frames)) == 1


def with_energies(total: float, to_eV: float = 1.0) -> list[Atoms]:
    """Water at 300 K whose energies have another zero, and another unit than eV."""
    frames = [frame.copy() for frame in clean("molecule")[::4]]
    for frame in frames:
        frame.info["REF_energy"] = (total + frame.info["REF_energy"]) / to_eV
    return frames


@pytest.mark.parametrize(
    ("unit", "to_eV"), [("hartree", Hartree), ("kcal/mol", kcal / mol), ("kJ/mol", kJ / mol)]
)
def test_all_electron_energies_of_another_unit_stop(unit, to_eV):
    total = 2 * all_electron(1) + all_electron(8)
    frames = with_energies(total, to_eV)
    with pytest.raises(DataError, match=rf"train set look like .* in {unit} \(H2O\): multiply"):
        check_energy_scale(frames, "train")
    # A part of the frames is enough where the forces confirm it.
    with pytest.raises(DataError, match=unit):
        check_energy_scale([*frames, *strained(24)], "train")
    check_energy_scale(with_energies(total), "train")


@pytest.mark.parametrize("name", CLEAN)
def test_scales_of_clean_frames(name):
    check_energy_scale(clean(name), "train")


def test_energies_of_a_size_by_chance_do_not_stop():
    """Valence electrons in eV may weigh what all do in hartree, as in CHCl3."""
    total = (2 * all_electron(1) + all_electron(8)) / Hartree - 2.1
    frames = with_energies(total)
    (scale,) = energy_scales(frames)
    assert scale.to_eV == 1.0
    check_energy_scale(frames, "train")
    few = [*frames[:2], *strained(6)]
    assert len(energy_scales(few)) == 2
    assert foreign_unit(energy_scales(few)) is None
    check_energy_scale(few, "train")


@pytest.mark.parametrize("name", [*BUNDLED, *SHARED])
def test_scales_of_real_frames(name):
    check_energy_scale(copies(name), "train")


def test_work_is_independent_of_rotation():
    frames = strained(6)
    pairs = work_pairs(frames)
    turned = []
    for index, frame in enumerate(frames):
        atoms = Atoms(frame.numbers, cell=frame.cell, positions=frame.positions, pbc=True)
        atoms.rotate(17.0 * index, (1, 2, 3), rotate_cell=True)
        turned.append(labelled(atoms))
    again = work_pairs(turned)
    np.testing.assert_allclose(again.energy, pairs.energy, atol=1e-9)
    np.testing.assert_allclose(again.force_work, pairs.force_work, atol=1e-9)
    np.testing.assert_allclose(
        np.sum(again.stress_parts, axis=0), np.sum(pairs.stress_parts, axis=0), atol=1e-9
    )


def test_work_errors_are_of_third_order():
    """Halving strain and displacement must cut the trapezoid's error about eightfold."""

    def misfit(size: float) -> float:
        ideal = bulk("Cu", a=3.6, cubic=True)
        frames = []
        for sign in (-1, 1):
            atoms = ideal.copy()
            shape = np.array([[0.5, 0.2, 0], [0.2, 1, 0.1], [0, 0.1, -0.3]])
            atoms.set_cell(atoms.cell @ (np.eye(3) + sign * size * shape), scale_atoms=True)
            atoms.positions[1] += sign * size * np.array([0.5, 0.3, 0.1])
            frames.append(labelled(atoms))
        pairs = work_pairs(frames)
        return float((pairs.energy - pairs.force_work - np.sum(pairs.stress_parts, axis=0))[0])

    assert abs(misfit(0.02) / misfit(0.01)) == pytest.approx(8, rel=0.25)


@real_data
@pytest.mark.parametrize("name", REAL_FILES)
def test_real_frames_pass(name):
    check_frames(real(name), stress="mo" in name, elements=[1, 6, 8, 16, 42])


@real_data
@pytest.mark.faults
@pytest.mark.parametrize("fault", FORCE_FAULTS)
@pytest.mark.parametrize("name", REAL_FILES)
def test_real_force_faults(name, fault):
    change, words = FORCE_FAULTS[fault]
    with pytest.raises(DataError, match=words):
        check_frames(planted(real(name), change), stress=False)


@real_data
@pytest.mark.faults
@pytest.mark.parametrize("fault", STRESS_FAULTS)
@pytest.mark.parametrize("name", [n for n in REAL_FILES if "mo" in n])
def test_real_stress_faults(name, fault):
    change, words = STRESS_FAULTS[fault]
    with pytest.raises(DataError, match=words):
        check_frames(planted(real(name), change), stress=True)


@real_data
def test_shear_stresses_of_the_published_mo_frames_are_swapped():
    """Their last three components are xz yz xy: mode 5 shears yz, yet the stress is in place xz."""
    assert label_consistency(real(REAL_FILES[0])).shear_order == ("xz", "yz", "xy")


@real_data
def test_pressure_of_the_gpaw_frames():
    """-0.1 to -0.26 GPa by the notes beside them."""
    assert -0.3 < label_consistency(real(DFT.name)).pressure_offset_gpa < 0.0
