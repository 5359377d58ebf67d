"""The DFT data of Mo: provenance, splits, and that energies, forces and stress belong together."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
from ase import units
from scipy.interpolate import CubicSpline

from systems import get_system
from systems.dft.assemble import RECIPES, assemble, split_of
from systems.dft.mo_frames import RIGID_SLIPS, label_jobs, slip_cell
from systems.dft.mo_references import PUBLISHED_GSFE, elastic_differences
from systems.dft.shards import PROVENANCE_KEYS, append_frame, read_shard
from systems.hdf5 import file_attributes, iterate_frames, read_references
from systems.system import DATA

IN_DISTRIBUTION = {
    "eos",
    "strain",
    "rattle_300K",
    "rattle_1200K",
    "slip_110",
    "slip_121",
}
OUT_OF_DISTRIBUTION = {"rattle_2400K", "vacancy", "surface_110", "surface_100"}


@pytest.fixture(scope="module")
def mo():
    return get_system("mo")


@pytest.fixture(scope="module")
def splits(mo):
    return mo.frames()


@pytest.fixture(scope="module")
def frames(mo):
    return {a.info["id"]: a for a in iterate_frames(mo.data_file)}


def family(frames, name):
    return [frames[key] for key in sorted(frames) if frames[key].info["config_type"] == name]


def test_every_label_has_its_provenance(mo, frames):
    assert len(frames) >= 40
    assert sum(mo.counts().values()) == len(frames)
    for name, atoms in frames.items():
        for key in PROVENANCE_KEYS:
            assert atoms.info[key] not in ("", None), (name, key)
        assert atoms.info["functional"] == "PBE" and atoms.info["dispersion"] == "none"
        assert atoms.info["cutoff_eV"] == 550.0
        assert atoms.pbc.all()
        assert np.isfinite(atoms.info["REF_energy"])
        assert np.isfinite(atoms.arrays["REF_forces"]).all()
        assert atoms.info["REF_stress"].shape == (6,)


def test_k_mesh_is_fixed_per_family_and_size(frames):
    meshes = {}
    for atoms in frames.values():
        meshes.setdefault((atoms.info["config_type"], len(atoms)), set()).add(atoms.info["kpts"])
    assert all(len(found) == 1 for found in meshes.values()), meshes


def test_splits_are_disjoint_and_cover_the_families(splits):
    for (_, left), (_, right) in combinations(splits.items(), 2):
        assert not {a.info["id"] for a in left} & {a.info["id"] for a in right}
        for a in left:
            for b in right:
                same = len(a) == len(b) and np.allclose(a.cell, b.cell, atol=1e-6)
                assert not (same and np.allclose(a.positions, b.positions, atol=1e-4)), (
                    a.info["id"],
                    b.info["id"],
                )
    for split in ("train", "valid", "test_id"):
        assert {a.info["config_type"] for a in splits[split]} == IN_DISTRIBUTION, split
    assert {a.info["config_type"] for a in splits["test_ood"]} == OUT_OF_DISTRIBUTION
    # The cells that define the reference elastic constants are in no set.
    assert "elastic" not in {a.info["config_type"] for s in splits.values() for a in s}


def test_split_does_not_depend_on_the_other_frames(frames):
    for atoms in frames.values():
        assert split_of(atoms, RECIPES["mo"]) == atoms.info["split"]


def test_file_is_what_the_shards_give(mo, tmp_path):
    path = assemble("mo", tmp_path / "mo.h5")
    for old, new in zip(iterate_frames(mo.data_file), iterate_frames(path), strict=True):
        assert old.info.keys() == new.info.keys()
        assert all(np.array_equal(old.info[key], new.info[key]) for key in old.info)
        assert old == new
        assert np.array_equal(old.arrays["REF_forces"], new.arrays["REF_forces"])
    assert file_attributes(path) == mo.provenance()
    for before, after in zip(mo.all_references(), read_references(path), strict=True):
        assert (before.name, before.label, before.default) == (
            after.name,
            after.label,
            after.default,
        )
        if hasattr(before.value, "value"):
            # The fit of the equation of state stops at other last digits on another processor.
            assert before.value.value == pytest.approx(after.value.value, rel=1e-6)


def test_stored_structures_are_the_plan(frames):
    """The generator still builds what was labelled; two families came from an earlier run."""
    jobs = {job.id: job for job in label_jobs()}
    planned = [a for a in frames.values() if a.info["config_type"] != "strain"]
    for atoms in planned:
        job = jobs[atoms.info["id"]]
        assert np.allclose(job.atoms.cell, atoms.cell, atol=1e-9)
        assert np.allclose(job.atoms.positions, atoms.positions, atol=2e-8)
        assert atoms.info["kpts"] == "x".join(map(str, job.kpts)) + " gamma"


def test_forces_sum_to_zero(frames):
    """Within the noise of the plane-wave grid (egg box); it is largest far from equilibrium."""
    for name, atoms in frames.items():
        net = np.abs(atoms.arrays["REF_forces"].sum(axis=0)).max()
        assert net < 0.002, (name, net)


def test_energy_is_smooth_in_volume(frames):
    """A mesh or basis that changes along the curve would show as a kink of meV/atom."""
    eos = sorted(family(frames, "eos"), key=lambda a: a.cell.volume)
    volume = np.array([a.cell.volume / len(a) for a in eos])
    energy = np.array([a.info["REF_energy"] / len(a) for a in eos])
    for i in range(1, len(eos) - 1):
        others = np.arange(len(eos)) != i
        predicted = CubicSpline(volume[others], energy[others])(volume[i])
        assert abs(predicted - energy[i]) < 0.004, eos[i].info["id"]
    residual = energy - np.polynomial.Polynomial.fit(volume, energy, 5)(volume)
    assert np.abs(residual).max() < 0.0005


def test_pressure_agrees_with_the_energy_volume_slope(frames):
    eos = sorted(family(frames, "eos"), key=lambda a: a.cell.volume)
    volume = np.array([a.cell.volume for a in eos])
    energy = np.array([a.info["REF_energy"] for a in eos])
    slope = np.polynomial.Polynomial.fit(volume, energy, 6).deriv()
    # The ends of a fitted polynomial have the least reliable slope.
    for atoms, v in list(zip(eos, volume, strict=True))[1:-1]:
        label = -atoms.info["REF_stress"][:3].mean() / units.GPa
        assert label == pytest.approx(-slope(v) / units.GPa, abs=0.3), atoms.info["id"]


def test_stress_agrees_with_the_energy_under_uniaxial_strain_and_shear(frames):
    """Central differences of stored frames: dE/de / V against the stress component."""
    zero, xx, yz, xx_back, *_ = family(frames, "elastic")
    h = 0.005
    slope = (xx.info["REF_energy"] - xx_back.info["REF_energy"]) / (2 * h) / zero.cell.volume
    assert slope / units.GPa == pytest.approx(zero.info["REF_stress"][0] / units.GPa, abs=0.3)
    # Shear: E(e) - E(0) = V (2 e) sigma_yz(e) / 2 while linear, sigma_yz(0) = 0 by symmetry.
    rise = (yz.info["REF_energy"] - zero.info["REF_energy"]) / (h * zero.cell.volume)
    assert rise / units.GPa == pytest.approx(yz.info["REF_stress"][3] / units.GPa, abs=0.15)


def test_own_values_beside_published_ones(mo):
    """Ours come from PAW setups at a finite k-mesh and 0.2 eV smearing.

    a0 and B against all-electron WIEN2k (3.1606 A, 258.9 GPa): 0.1 % and 3 %; the smearing and
    the fitted range make the difference in B. C_ij of Mo depend on k-mesh and smearing, since the
    Fermi surface nests: published PBE values spread over 459-479, 162-164 and 97-109 GPa, and
    ours lie within 8 % of the authors' 459, 162, 97.
    """
    found = {name: ref.value for name, ref in mo.references().items() if hasattr(ref, "value")}
    assert found["a0"] == pytest.approx(3.1606, rel=1e-3)
    assert found["bulk_modulus_eos"] == pytest.approx(258.9, rel=0.03)
    for name, value in {"C11": 459.0, "C12": 162.0, "C44": 97.0}.items():
        assert found[name] == pytest.approx(value, rel=0.08), name
    # Two routes, energies and stresses.
    assert found["bulk_modulus_vrh"] == pytest.approx(found["bulk_modulus_eos"], rel=0.01)


def test_elastic_differences_are_linear(frames):
    small, large = elastic_differences(family(frames, "elastic")).values()
    assert np.allclose(small, large, rtol=0.01)


def test_published_references_are_there_with_their_sources(mo):
    stored = {(ref.name, ref.label): ref for ref in mo.all_references()}
    for name in ("a0", "C11", "C12", "C44"):
        assert {label for key, label in stored if key == name} >= {"gpaw", "tutorial", "mlearn"}
        assert stored[name, "gpaw"].default
    assert stored["a0", "wien2k"].value.value == 3.1606
    for plane, values in PUBLISHED_GSFE.items():
        curves = [
            r
            for (n, label), r in stored.items()
            if n.startswith(f"gsfe_{plane}") and label == "published"
        ]
        assert len(curves) == 2 and not any(c.default for c in curves)
        assert np.array_equal(curves[0].value.y, values)
        assert curves[0].value.x == pytest.approx(np.arange(12) / 11)
        assert "2506.21935" in curves[0].value.source


@pytest.mark.parametrize("plane", ["110", "121"])
def test_own_rigid_slip_energies_beside_the_published_curve(mo, plane):
    """Ours are rigid and lie -2 to +12 % beside the published points of unknown mode.

    Relaxation along the normal lowers ours by more than the difference (next test), so the
    published curve is neither our rigid nor our fully relaxed one.
    """
    stored = {(ref.name, ref.label): ref.value for ref in mo.all_references()}
    ours = stored[f"gsfe_{plane}_rigid", "gpaw"]
    published = dict(zip(range(12), PUBLISHED_GSFE[plane], strict=True))
    inner = [
        (gamma, published[round(11 * x)])
        for x, gamma in zip(ours.x, ours.y, strict=True)
        if 0 < x < 1
    ]
    assert len(inner) >= 2
    for gamma, theirs in inner:
        assert 0.97 < gamma / theirs < 1.13
    assert ours.y[0] == ours.y[-1] == 0.0


def test_relaxation_along_the_normal_lowers_the_slip_energy(frames):
    """The stored near-relaxed cell at x = 4/11 lies below rigid and published energies."""
    zero, rigid, relaxed = (frames[f"slip_121_{i:02d}"] for i in (0, 5, 12))
    area = np.linalg.norm(np.cross(zero.cell[0], zero.cell[1]))
    gamma = [
        (a.info["REF_energy"] - zero.info["REF_energy"]) / area * units.m**2 / units.J
        for a in (rigid, relaxed)
    ]
    assert gamma[1] < PUBLISHED_GSFE["121"][4] < gamma[0]
    pull = [np.abs(a.arrays["REF_forces"][:, 2]).max() for a in (rigid, relaxed)]
    assert pull[1] < 0.4 * pull[0]


def test_six_planes_are_enough_for_a_rigid_fault(frames):
    """Twice the planes, with the folded k-mesh, give the same slip energy."""
    zero, short, long = (frames[f"slip_121_{i:02d}"].info["REF_energy"] for i in (0, 5, 18))
    assert len(frames["slip_121_18"]) == 2 * len(frames["slip_121_00"])
    assert long - 2 * zero == pytest.approx(short - zero, rel=0.01)


def test_slip_energy_is_asymmetric_on_121_with_the_anti_twinning_side_higher(frames):
    """The rigid DFT curve is itself asymmetric; +x is the anti-twinning sense, as published."""
    zero, early, late = (frames[f"slip_121_{i:02d}"].info["REF_energy"] for i in (0, 5, 3))
    assert (early - zero) / (late - zero) == pytest.approx(
        PUBLISHED_GSFE["121"][4] / PUBLISHED_GSFE["121"][7], rel=0.05
    )


def test_slip_by_a_lattice_vector_gives_the_crystal_back():
    for plane in RIGID_SLIPS:
        start = slip_cell(plane, 0.0, a=3.16, planes=6)
        end = slip_cell(plane, 1.0, a=3.16, planes=6)
        for cell in (start, end):
            distances = np.sort(cell.get_all_distances(mic=True).ravel())
            assert distances[6] == pytest.approx(3.16 * np.sqrt(3) / 2)


def test_convergence_table(mo):
    """k-mesh and cutoff: what the labels' setting leaves open."""
    table = json.loads((DATA / "mo_convergence.json").read_text())
    assert "--convergence" in table["command"]
    rows = {(r["cell_atoms"], r["kpts"].split()[0], r["cutoff_eV"]): r for r in table["rows"]}
    base = rows[2, "8x8x8", 550.0]
    assert abs(base["pressure_label_GPa"] - base["pressure_dE_dV_GPa"]) < 0.3
    assert base["a0_A"] == pytest.approx(mo.references()["a0"].value, abs=0.001)
    for row in table["rows"]:
        if row["cutoff_eV"] >= 550.0:
            assert row["a0_A"] == pytest.approx(base["a0_A"], abs=0.005)


def test_shards_keep_whole_frames_and_unique_ids(tmp_path, frames):
    path = tmp_path / "shard.extxyz"
    atoms = next(iter(frames.values())).copy()
    append_frame(path, atoms)
    stored = read_shard(path)
    assert list(stored) == [atoms.info["id"]]
    assert stored[atoms.info["id"]].info["REF_energy"] == atoms.info["REF_energy"]
    append_frame(path, atoms)
    with pytest.raises(ValueError, match="twice"):
        read_shard(path)
    del atoms.info["code"]
    with pytest.raises(ValueError, match="lacks code"):
        append_frame(path, atoms)
