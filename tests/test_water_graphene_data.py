"""DFT data of water on graphene: provenance, splits by trajectory, intact water, grid noise."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes

from ase_finetune import FineTunedCalculator
from ase_finetune.data.read import is_isolated_atom
from properties import compare
from systems import get_system
from systems.dft.assemble import assemble
from systems.dft.cp2k import net_force
from systems.dft.shards import CP2K_KEYS
from systems.dft.water_graphene_convergence import TABLE
from systems.dft.water_graphene_frames import (
    ADSORPTION,
    ATOMS,
    CONVERGENCE_FRAMES,
    CUTOFF_RY,
    DRAWN,
    EARLIER,
    MESH,
    SELECTED,
    TRAJECTORIES,
    TRANSFER,
    adsorption_id,
    hydrogens,
    intact,
    label_jobs,
    plan_levels,
    sampled,
    split_of,
)
from systems.dft.water_graphene_kpoints import TABLE as KPOINTS
from systems.dft.water_graphene_references import water_geometry
from systems.dft.water_graphene_sample import packed
from systems.hdf5 import file_attributes, iterate_frames, read_references
from systems.water_graphene import (
    TRANSFER_IDS,
    adsorption_energies,
    adsorption_structures,
    film,
    proton_transfer_structures,
    sheet,
)

# What the bundled file has at least; 7 more are references.
MINIMUM_COUNTS = {"train": 38, "valid": 7, "test_id": 7, "test_ood": 19}
OUT_OF_DISTRIBUTION = {"md_500K", "coverage_04", "coverage_14"}


@pytest.fixture(scope="module")
def system():
    return get_system("water_graphene")


@pytest.fixture(scope="module")
def splits(system):
    return system.frames()


@pytest.fixture(scope="module")
def frames(system):
    return {a.info["id"]: a for a in iterate_frames(system.data_file)}


def trajectory_frames(frames):
    others = (ATOMS, ADSORPTION, TRANSFER, SELECTED, DRAWN)
    return [a for a in frames.values() if a.info["config_type"] not in others]


def test_every_label_has_its_provenance(system, frames):
    assert sum(system.counts().values()) == len(frames)
    for name, atoms in frames.items():
        for key in CP2K_KEYS:
            assert atoms.info[key] not in ("", None), (name, key)
        assert atoms.info["functional"] == "PBE"
        assert atoms.info["dispersion"].startswith("D3(BJ)")
        assert (atoms.info["cutoff_Ry"], atoms.info["rel_cutoff_Ry"]) == (CUTOFF_RY, 60.0)
        assert "edited" not in atoms.info["commit"]
        assert atoms.pbc.all()
        assert np.isfinite(atoms.info["REF_energy"])
        assert np.isfinite(atoms.arrays["REF_forces"]).all()
        # The stress of this cell was not checked against the energy, so it is not stored.
        assert "REF_stress" not in atoms.info
    assert "dispersion" in system.provenance()["energy"]


def test_counts(splits):
    counts = {split: len(members) for split, members in splits.items()}
    for split, least in MINIMUM_COUNTS.items():
        assert counts[split] >= least, counts
    assert {a.info["config_type"] for a in splits["test_ood"]} <= OUT_OF_DISTRIBUTION


def test_trajectories_stay_in_one_split(splits):
    owners = {}
    for split, members in splits.items():
        for atoms in members:
            assert split_of(atoms) == split
            if atoms.info["config_type"] != ATOMS:
                owners.setdefault(atoms.info["id"].rsplit("_", 1)[0], set()).add(split)
    assert all(len(found) == 1 for found in owners.values()), owners
    planned = {t.name for t in (*TRAJECTORIES, EARLIER)}
    later = {name for name in owners if name.startswith((SELECTED, DRAWN))}
    assert set(owners) <= planned | later and len(planned) == len(TRAJECTORIES) + 1
    assert all(owners[name] == {"train"} for name in later)
    for split, more in (("train", {SELECTED, DRAWN}), ("valid", set()), ("test_id", set())):
        assert {a.info["config_type"] for a in splits[split]} <= {"md_300K", ATOMS} | more
    in_distribution = Counter(t.split for t in TRAJECTORIES if t.family == "md_300K")
    assert in_distribution == {"train": 4, "valid": 2, "test_id": 2}


def test_free_atoms_are_for_E0s_only(splits):
    """The basis is made for condensed matter and for H falls 1.0 eV short of the limit of PBE.

    These energies belong to the labels, where a fixed composition leaves the E0s open; they are
    no reference values.
    """
    expected = {"H": -12.63, "C": -146.37, "O": -431.60}
    free = [a for a in splits["train"] if is_isolated_atom(a)]
    assert {str(a.symbols) for a in free} == set(expected)
    for atoms in free:
        assert atoms.info["REF_energy"] == pytest.approx(expected[str(atoms.symbols)], abs=0.02)
        assert atoms.info["spin"] == {"H": 1, "C": 2, "O": 2}[str(atoms.symbols)]
    others = [a for s in ("valid", "test_id", "test_ood") for a in splits[s]]
    assert not any(is_isolated_atom(a) for a in others)


def test_no_geometry_is_in_two_splits(splits):
    for left, right in combinations(splits.values(), 2):
        for a in left:
            for b in right:
                assert a.info["id"] != b.info["id"]
                if len(a) == len(b):
                    assert np.abs(a.positions - b.positions).max() > 0.1


def test_frames_of_a_trajectory_are_apart():
    """100 fs or more, so that no two frames are near copies."""
    groups = {}
    for name, atoms in sampled().items():
        if name.startswith((SELECTED, DRAWN)):
            continue  # a proton on its way is another structure after 10 fs
        groups.setdefault(name.rsplit("_", 1)[0], []).append(atoms)
    for members in groups.values():
        for a, b in combinations(members, 2):
            hydrogen = a.numbers == 1
            move = np.linalg.norm((a.positions - b.positions)[hydrogen], axis=1)
            assert np.sqrt(np.mean(move**2)) > 0.1


def test_water_is_intact_in_every_frame(frames):
    for atoms in trajectory_frames(frames):
        assert intact(atoms), atoms.info["id"]
    for name, atoms in sampled().items():
        if not name.startswith(SELECTED):
            assert intact(atoms) == (name != TRANSFER_IDS[1])
    broken = molecule("H2O")
    broken.set_cell([9.0] * 3)
    broken.positions[1] += [0.0, 2.0, 0.0]
    assert not intact(broken) and hydrogens(broken).tolist() == [1]


def test_the_plan_is_what_is_stored(frames):
    jobs = {job.id: job for job in label_jobs()}
    levels = plan_levels()
    for name, atoms in frames.items():
        assert np.allclose(jobs[name].atoms.positions, atoms.positions, atol=2e-8), name
        assert np.allclose(jobs[name].atoms.cell, atoms.cell, atol=1e-9)
        smeared = levels[name].smearing_K > 0.0
        assert atoms.info["smearing"] == ("Fermi-Dirac 300 K" if smeared else "none")


def test_forces_sum_to_zero(frames):
    """But for the grid: at 600 Ry the sum reached 0.2 eV/A, hence 1000 Ry."""
    for name, atoms in frames.items():
        if len(atoms) > 1:
            assert net_force(atoms.arrays["REF_forces"]) < 0.05, name


def test_file_is_what_the_shards_give(system, tmp_path):
    path = assemble("water_graphene", tmp_path / "again.h5")
    for old, new in zip(iterate_frames(system.data_file), iterate_frames(path), strict=True):
        assert old.info == new.info and old == new
        assert np.array_equal(old.arrays["REF_forces"], new.arrays["REF_forces"])
    assert file_attributes(path) == system.provenance()
    for before, after in zip(system.all_references(), read_references(path), strict=True):
        assert (before.name, before.label) == (after.name, after.label)


def test_water_looks_like_water(frames):
    """O-H near 0.98 A, H-O-H near 105 degrees, the first molecules some 3 A above the sheet."""
    found = water_geometry([a for a in frames.values() if a.info["config_type"] == "md_300K"])
    mean, sigma = ({k: f(v) for k, v in found.items()} for f in (np.mean, np.std))
    assert 0.96 < mean["OH_distance"] < 1.00 and sigma["OH_distance"] < 0.06
    assert 103.0 < mean["HOH_angle"] < 107.0 and sigma["HOH_angle"] < 9.0
    assert 3.0 < mean["oxygen_height"] < 7.0


def test_distributions_of_sampled_frames_hold_all_of_them(system):
    stored = {(ref.name, ref.label): ref.value for ref in system.all_references()}
    for name in ("OH_distance", "HOH_angle", "oxygen_height"):
        curve = stored[f"{name}_distribution", "sampled_frames"]
        weights = curve.y * (curve.x[1] - curve.x[0])
        assert weights.sum() == pytest.approx(1.0, abs=1e-6), name
        mean, sigma = (
            stored[f"{name}_{kind}", "sampled_frames"].value for kind in ("mean", "sigma")
        )
        assert weights @ curve.x == pytest.approx(mean, abs=0.1 * sigma)


def test_published_values_are_no_targets(system):
    stored = {(ref.name, ref.label): ref for ref in system.all_references()}
    for name in ("g_OO_peak_position", "g_OO_minimum_position", "D"):
        assert not stored[name, "experiment"].default
        assert "doi" in stored[name, "experiment"].value.source
    assert stored["D", "experiment"].value.value == pytest.approx(2.41e-5, rel=0.01)
    assert not stored["HOH_angle_mean", "sampled_frames"].default


def test_adsorption_energy(system, frames):
    """PBE-D3 binds one H2O on graphene by 0.1 to 0.2 eV, 3.1 to 3.5 A above the sheet."""
    found = system.references()
    assert -220.0 < found["adsorption_energy"].value < -80.0
    assert 3.0 < found["adsorption_height"].value < 3.6
    totals = {s: frames[adsorption_id(s)].info["REF_energy"] for s in adsorption_structures()}
    again = adsorption_energies(totals).quantities("again")
    assert again["adsorption_energy"].value == found["adsorption_energy"].value


def test_proton_transfer_costs_energy_that_models_are_asked_for(system, frames):
    molecules, ions = proton_transfer_structures()
    assert (hydrogens(molecules) == 2).all()
    assert sorted(hydrogens(ions)) == [1, *[2] * 8, 3]
    stored = [frames[name] for name in TRANSFER_IDS]
    energy = system.references()["proton_transfer_energy"].value
    assert energy == stored[1].info["REF_energy"] - stored[0].info["REF_energy"]
    assert 1.0 < energy < 2.5  # eV
    assert all(split_of(atoms) == "reference" for atoms in stored)
    seed = FineTunedCalculator("seed")
    found = system.compute("proton_transfer", seed).quantities("seed")["proton_transfer_energy"]
    expected = seed.get_potential_energy(ions) - seed.get_potential_energy(molecules)
    assert found.value == pytest.approx(expected, abs=1e-6) and found.unit == "eV"


def test_adsorption_of_a_model_is_that_of_the_same_structures(system):
    class Pair(Calculator):
        """Lennard-Jones well between O and the mean plane of C; nothing else."""

        implemented_properties = ("energy", "forces")

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            energy = 0.0
            if {6, 8} <= set(self.atoms.numbers):
                z = self.atoms.positions[:, 2]
                rest = 3.2 / (z[self.atoms.numbers == 8] - z[self.atoms.numbers == 6].mean())
                energy = float(0.1 * np.sum(rest**12 - 2.0 * rest**6))
            self.results = {"energy": energy, "forces": np.zeros((len(self.atoms), 3))}

    found = system.compute("adsorption", Pair()).quantities("pair")
    assert found["adsorption_energy"].value == pytest.approx(-100.0, abs=3.0)
    assert found["adsorption_height"].value == pytest.approx(3.2, abs=0.05)
    adsorption = {n: v for n, v in system.references().items() if n.startswith("adsorption")}
    assert set(compare(found, adsorption)) == set(adsorption) and len(adsorption) == 3


def test_structures():
    flat = sheet()
    distances = flat.get_all_distances(mic=True)
    np.fill_diagonal(distances, np.inf)
    assert distances.min() == pytest.approx(2.467 / 3**0.5)
    assert (np.isclose(distances, distances.min(), atol=1e-6).sum(axis=1) == 3).all()
    for count in (4, 14):
        start = packed(count, np.random.default_rng(1))
        assert isinstance(start, Atoms) and intact(start)
        assert int((start.numbers == 8).sum()) == count


def test_dynamics_start_from_a_bundled_frame():
    start = film()
    assert len(start) == 62 and intact(start)


def test_cutoff_table():
    """The cutoff of the labels against the largest: 10 meV/A rms, net force 50 meV/A."""
    table = json.loads(TABLE.read_text())
    assert "--convergence" in table["command"]
    cutoffs = {400.0, 600.0, 800.0, CUTOFF_RY, 1200.0}
    found = {(row["frame"], row["cutoff_Ry"]) for row in table["rows"]}
    assert found == {(name, cutoff) for name in CONVERGENCE_FRAMES for cutoff in cutoffs}
    chosen = [row for row in table["rows"] if row["cutoff_Ry"] == CUTOFF_RY]
    for row in chosen:
        assert row["finest_Ry"] > CUTOFF_RY
        assert row["force_rms_meV_per_A"] < 10.0 and row["net_force_meV_per_A"] < 50.0
    coarse = [row for row in table["rows"] if row["cutoff_Ry"] == 600.0]
    assert all(row["force_rms_meV_per_A"] > 10.0 for row in coarse)


def test_the_k_mesh_leaves_a_perfect_sheet_alone(frames):
    """At Gamma it feels 1.16 eV/A along y; as the labels are computed, 0.03."""
    rows = {tuple(row["kpts"]): row for row in json.loads(KPOINTS.read_text())["rows"]}
    force = {mesh: row["force_max_eV_per_A"] for mesh, row in rows.items()}
    assert force[1, 1, 1] > 1.0
    assert force[MESH] < 0.04 and force[6, 6, 1] < 0.01
    for name, atoms in frames.items():
        meshed = plan_levels()[name].kpts == MESH
        assert meshed is (6 in atoms.numbers and len(atoms) > 1), name
        assert atoms.info["kpts"] == ("2x2x1 Monkhorst-Pack" if meshed else "1x1x1 gamma")
    flat = frames[adsorption_id("sheet")].arrays["REF_forces"]
    assert np.abs(flat).max() == pytest.approx(force[MESH], abs=0.005)
