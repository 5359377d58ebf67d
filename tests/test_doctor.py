"""The doctor's parts, its report and its command; planted faults are in test_faults_doctor.py."""

from __future__ import annotations

import dataclasses
import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.units import Hartree
from labelled_frames import CLEAN, clean, dynamics, labelled, moved, shuffled
from typer.testing import CliRunner

from ase_finetune.cli.app import app
from ase_finetune.data.scale import all_electron
from ase_finetune.doctor.duplicates import check_pair, displacement, farthest, twins
from ase_finetune.doctor.energies import fit_zero
from ase_finetune.doctor.examine import examine
from ase_finetune.doctor.finding import Finding, listed, of_frames, ranked
from ase_finetune.doctor.geometry import close_pairs, geometry
from ase_finetune.doctor.levels import recorded
from ase_finetune.doctor.read import DEFAULT_KEYS, read_set
from ase_finetune.doctor.surrogate import surrogate
from ase_finetune.doctor.text import report, verdicts
from ase_finetune.errors import ConfigError, DataError

runner = CliRunner()


def written(tmp_path, frames, name="frames.xyz"):
    path = tmp_path / name
    ase.io.write(path, list(frames), format="extxyz")
    return path


def codes(diagnosis, *levels):
    return [f.code for f in diagnosis.findings if not levels or f.level in levels]


@pytest.mark.parametrize("name", sorted(set(CLEAN) - {"scan", "one frame"}))
def test_clean_frames_of_many_kinds(name, tmp_path):
    """Strains, heat, slabs, alloys, molecules, displacements: nothing is wrong with any."""
    diagnosis = examine([written(tmp_path, clean(name))])
    assert codes(diagnosis, "error", "warning") == []


def test_a_bond_scan_and_a_single_frame(tmp_path):
    """Stretched to twice its length, a dimer is not bound; a single frame says little."""
    assert codes(examine([written(tmp_path, clean("scan"))]), "error") == []
    assert codes(examine([written(tmp_path, clean("one frame"))]), "error", "warning") == []


def test_contents(tmp_path):
    frames = [frame.copy() for frame in clean("strained")]
    frames[0].info["config_type"] = "first"
    inside = examine([written(tmp_path, frames)]).sets["frames"]
    assert inside["n_frames"] == 12
    assert inside["frames_with_element"] == {"Cu": 12}
    assert inside["formulas"] == {"Cu4": 12}
    assert inside["periodic"] == {"xyz": 12}
    assert inside["config_types"] == {"first": 1}
    assert inside["n_labelled"] == {"energy": 12, "forces": 12, "stress": 12}
    energies = [f.info["REF_energy"] / 4 for f in frames]
    assert inside["energy_eV_per_atom"]["max"] == pytest.approx(max(energies), abs=1e-6)
    largest = max(np.linalg.norm(f.arrays["REF_forces"], axis=1).max() for f in frames)
    assert inside["force_eV_per_A"]["max"] == pytest.approx(largest, abs=1e-6)
    assert inside["consistency"]["forces"]["value"] == pytest.approx(1, abs=0.1)


def test_isolated_atoms_give_the_zero(tmp_path):
    atoms = [Atoms("H", info={"REF_energy": -13.0}), Atoms("O", info={"REF_energy": -430.0})]
    water = molecule("H2O")
    water.info["REF_energy"] = -13.0 * 2 - 430.0 - 9.6
    zero = fit_zero([*atoms, water])
    assert (zero.rank, zero.elements) == (2, 2)
    assert zero.isolated == {"H": -13.0, "O": -430.0}
    alone = fit_zero([water])
    assert alone.rank == 1
    total = 2 * alone.E0s["H"] + alone.E0s["O"]
    assert total == pytest.approx(water.info["REF_energy"])


def test_two_codes_in_one_file_are_told_apart(tmp_path):
    """All-electron water beside copper on a scale of its own."""
    frames = [frame.copy() for frame in clean("molecule")[::4]]
    for frame in frames:
        frame.info["REF_energy"] += 2 * all_electron(1) + all_electron(8)
    diagnosis = examine([written(tmp_path, [*frames, *clean("strained")])])
    scale = diagnosis.sets["frames"]["E0s"]["scale"]
    assert "all-electron total energies in eV (H2O)" in scale
    assert "relative to atoms" in scale
    assert "valence" not in scale
    (finding,) = [f for f in diagnosis.findings if f.code == "fixed_composition"]
    assert "same proportions" not in finding.message
    assert "rank 2 of 3" in finding.message
    for frame in frames:
        frame.info["REF_energy"] /= Hartree
    diagnosis = examine([written(tmp_path, [*frames, *clean("strained")])])
    (finding,) = [f for f in diagnosis.findings if f.code == "energy_unit"]
    assert (
        finding.message == "The energies of H2O look like all-electron total energies in hartree."
    )
    assert finding.frames == tuple(range(10))


@pytest.mark.parametrize(
    ("number", "hartree", "tolerance"),
    [(1, -0.5, 0.1), (6, -37.69, 0.01), (8, -74.81, 0.01), (18, -526.8, 0.01), (42, -3975.5, 0.01)],
)
def test_all_electron_energies(number, hartree, tolerance):
    """Hartree-Fock energies of the neutral atoms, hartree (Clementi and Roetti 1974)."""
    assert all_electron(number) == pytest.approx(hartree * Hartree, rel=tolerance)


def test_close_pairs_count_every_pair_once():
    for atoms, cutoff in (
        (bulk("Cu", cubic=True), 5.0),
        (bulk("Cu", cubic=True) * (3, 3, 3), 5.0),
        (bulk("Mo"), 5.0),
    ):
        atoms.rattle(0.05, seed=0)
        first, second, distance = close_pairs(atoms, cutoff)
        from ase.neighborlist import neighbor_list

        _, _, every = neighbor_list("ijd", atoms, cutoff)
        np.testing.assert_allclose(np.sort(np.repeat(distance, 2)), np.sort(every), atol=1e-9)
        assert (first <= second).all()
    cluster = molecule("C6H6")
    assert len(close_pairs(cluster, 10.0)[0]) == 12 * 11 // 2


def test_the_linear_model_knows_wrong_energies_and_two_levels():
    frames = dynamics(bulk("Cu", cubic=True) * (2, 2, 1), 800, 80, 5, 4.0)
    shapes = geometry(frames, 6)
    energy = np.array([f.info["REF_energy"] / len(f) for f in frames])
    sound = surrogate(shapes.features, energy, 1)
    assert sound.explained > 0.9
    assert sound.levels is None
    wrong = energy.copy()
    wrong[11] += 30 * sound.scatter
    assert np.abs(surrogate(shapes.features, wrong, 1).scores).argmax() == 11
    high = np.random.default_rng(0).random(80) < 0.4
    two = surrogate(shapes.features, energy + 0.1 * high, 1).levels
    assert two.step == pytest.approx(0.1, rel=0.1)
    assert (two.high == high).mean() > 0.98
    assert surrogate(shapes.features[:20], energy[:20], 1) is None


def test_twins_and_displacements():
    frames = list(clean("alloys"))[:6]
    frames += [frames[2].copy(), moved(frames[4], 3e-4)]
    frames[6].positions += frames[6].cell.array[1]
    found = twins(frames)
    assert found.same == [(2, 6)]
    assert found.near == [(4, 7)]
    water = molecule("H2O")
    turned = water.copy()
    turned.rotate(70, (1, 2, 3))
    turned.translate([3, 2, 1])
    assert farthest(water, turned) < 1e-9
    turned.positions[0] += [0.1, 0, 0]
    assert 0.02 < np.abs(displacement(water, turned)).max() < 0.1


def test_trajectories_may_be_cut_in_blocks_not_frame_by_frame():
    frames = dynamics(bulk("Cu", cubic=True) * (2, 2, 2), 300, 60, 5, 2.0)
    held = sorted(np.random.default_rng(0).choice(60, 15, replace=False))
    rest = [frame for i, frame in enumerate(frames) if i not in held]
    found = check_pair(rest, [frames[i] for i in held], ("train", "test"), "error")
    assert [f.code for f in found] == ["trajectory_split"]
    assert check_pair(frames[:45], frames[45:], ("train", "test"), "error") == []


def test_repeats_in_another_order_are_noted(tmp_path):
    frames = list(clean("alloys"))
    diagnosis = examine([written(tmp_path, [*frames, shuffled(frames[3])])])
    (finding,) = [f for f in diagnosis.findings if f.code == "equivalent_frames"]
    assert (finding.level, finding.frames) == ("note", (30,))


def test_labels_of_a_calculator_need_their_names(tmp_path):
    frames = []
    for seed in range(6):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        atoms.get_potential_energy()
        atoms.get_forces()
        frames.append(atoms)
    path = tmp_path / "frames.traj"
    ase.io.write(path, frames)
    diagnosis = examine([path])
    assert codes(diagnosis, "error") == ["energy_key", "forces_key"]
    assert "--energy-key free_energy" in diagnosis.recommended
    assert "Mend the errors" not in verdicts(diagnosis)
    assert "naming the keys" in verdicts(diagnosis)
    named = {"energy": "energy", "forces": "forces", "stress": "REF_stress"}
    assert codes(examine([path], keys=named), "error") == []


def test_a_stress_is_named_only_with_a_weight(tmp_path):
    frames = [frame.copy() for frame in clean("strained")]
    for frame in frames:
        frame.info["stress_GPaw"] = frame.info.pop("REF_stress")
    command = examine([written(tmp_path, frames)]).recommended
    assert command.endswith("--stress-key stress_GPaw --stress-weight 100")
    del frames[3].info["stress_GPaw"]
    assert "--stress" not in examine([written(tmp_path, frames)]).recommended


def test_energies_that_are_not_totals_are_not_taken(tmp_path):
    frames = [frame.copy() for frame in clean("strained")]
    for frame in frames:
        frame.info["kinetic_energy"] = 1.0
        del frame.info["REF_energy"]
    diagnosis = examine([written(tmp_path, frames)])
    assert codes(diagnosis, "error") == ["energy_missing"]
    assert "--energy-key" not in diagnosis.recommended


def test_unusable_labels_are_named_not_fatal(tmp_path):
    frames = [frame.copy() for frame in clean("strained")]
    frames[3].info["REF_energy"] = "failed"
    frames[5].info["REF_stress"] = np.arange(5.0)
    data = read_set(written(tmp_path, frames), "data", DEFAULT_KEYS)
    (finding,) = data.findings
    assert (finding.code, finding.frames) == ("label_shape", (3, 5))


def test_what_frames_record():
    frames = [molecule("H2O") for _ in range(4)]
    for i, frame in enumerate(frames):
        frame.info.update(functional="PBE" if i else "BLYP", comment="with D3(BJ)", d3_energy=0.1)
    found = recorded(frames)
    assert found.theory == {"functional": {"PBE": 3, "BLYP": 1}}
    assert found.dispersion == {}
    assert found.words["D3(BJ)"] == 4


def test_findings_are_frozen_ranked_and_spelled():
    note = Finding("note", "a", "A.", "Do.", "x")
    error = Finding("error", "b", "B.", "Do.", "x", (1,))
    assert ranked([note, error]) == [error, note]
    with pytest.raises(dataclasses.FrozenInstanceError):
        note.level = "error"
    assert listed(range(3)) == "0, 1, 2"
    assert listed(range(20), 2) == "0, 1, ... (20 in all)"
    assert of_frames(3, 3) == "all 3 frames"
    assert of_frames(1, 1) == "the only frame"


def test_every_sentence_is_one(tmp_path):
    frames = [frame.copy() for frame in clean("strained")]
    frames[3].info["REF_energy"] = float("nan")
    frames[4].cell[:] = 0
    for frame in frames:
        frame.arrays["REF_forces"] *= -1
        frame.info["REF_stress"] = frame.info["REF_stress"] * 160.2
    diagnosis = examine([written(tmp_path, frames)])
    assert diagnosis.counts["error"] >= 4
    for finding in diagnosis.findings:
        for text in (finding.message, finding.action):
            assert text.endswith(".")
            assert "\n" not in text
    text = report(diagnosis)
    assert verdicts(diagnosis) in text
    assert text.index("ERROR") < text.index("note [")
    assert "Mend the errors first" in text


def test_two_files(tmp_path):
    frames = list(clean("dynamics"))
    train = written(tmp_path, frames[:30], "train.xyz")
    test = written(tmp_path, [*frames[30:], frames[4]], "test.xyz")
    diagnosis = examine([train], tests=[test])
    (finding,) = [f for f in diagnosis.findings if f.level == "error"]
    assert (finding.code, finding.source, finding.frames) == ("leakage", "train and test", (10,))
    assert f"--data {train} --test {test}" in diagnosis.recommended
    again = tmp_path / "other"
    again.mkdir()
    with pytest.raises(ConfigError, match="Two files are called train"):
        examine([train], tests=[written(again, frames, "train.xyz")])


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        examine([tmp_path / "no.xyz"])
    (tmp_path / "empty.xyz").write_text("")
    with pytest.raises(DataError, match=r"empty\.xyz"):
        examine([tmp_path / "empty.xyz"])


def test_zero_shot_errors(tmp_path):
    rng = np.random.default_rng(0)
    frames = []
    for index in range(6):
        atoms = bulk("Mo", cubic=True)
        atoms.rattle(0.1, seed=index)
        frames.append(atoms)
    from ase_finetune.calculator import FineTunedCalculator
    from ase_finetune.checkpoint import SEED, Checkpoint

    calculator = FineTunedCalculator(Checkpoint.load(SEED))
    for atoms in frames:
        atoms.calc = calculator
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
        atoms.info["REF_energy"] = energy + 5.0 * len(atoms)
        atoms.arrays["REF_forces"] = forces + 0.01 * rng.standard_normal(forces.shape)
    path = written(tmp_path, frames)
    found = examine([path], foundation="seed").sets["frames"]["zero_shot"]
    # The constant shift is what E0s take up.
    assert found["errors"]["energy_rmse_meV_per_atom"] < 0.1
    assert found["errors"]["force_rmse_meV_per_A"] == pytest.approx(10, rel=0.4)
    assert found["force_correlation"] > 0.9
    for atoms in frames:
        atoms.arrays["REF_forces"] *= -1
    diagnosis = examine([written(tmp_path, frames)], foundation="seed")
    assert "zero_shot_labels" in codes(diagnosis, "error")


def test_the_command(tmp_path):
    path = written(tmp_path, clean("strained"))
    result = runner.invoke(app, ["doctor", str(path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "Verdicts: 0 errors, 0 warnings" in result.stdout
    document = json.loads((tmp_path / "out" / "doctor.json").read_text())
    assert (tmp_path / "out" / "doctor.txt").read_text().strip() in result.stdout
    assert list(document) == [
        "format",
        "format_version",
        "counts",
        "findings",
        "recommended",
        "sets",
    ]
    assert set(document["findings"][0]) == {
        "level",
        "code",
        "message",
        "action",
        "source",
        "frames",
    }


def test_exit_codes_of_the_command(tmp_path):
    frames = [frame.copy() for frame in clean("strained")]
    for frame in frames:
        frame.arrays["REF_forces"] *= -1
    path = written(tmp_path, frames)
    result = runner.invoke(app, ["doctor", str(path), "--json"])
    assert result.exit_code == 1
    assert "force_sign" in [f["code"] for f in json.loads(result.stdout)["findings"]]
    assert runner.invoke(app, ["doctor", str(tmp_path / "no.xyz")]).exit_code == 2
    result = runner.invoke(app, ["doctor", str(path), "--foundation", "no-such"])
    assert result.exit_code == 2
    assert "no-such" in result.output


def test_labelled_frames_round_trip(tmp_path):
    """What the doctor judges are the labels of the file, to the last digit it holds."""
    frame = labelled(bulk("Cu", cubic=True) * (2, 1, 1))
    data = read_set(written(tmp_path, [frame]), "data", DEFAULT_KEYS)
    (read,) = data.frames
    np.testing.assert_allclose(read.arrays["REF_forces"], frame.arrays["REF_forces"], atol=1e-8)
    assert read.info["REF_energy"] == pytest.approx(frame.info["REF_energy"])
