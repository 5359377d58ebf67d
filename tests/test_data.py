"""Reading labelled frames and splitting them."""

from __future__ import annotations

import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from ase_finetune.data.read import is_isolated_atom, label_keys, read_frames
from ase_finetune.data.splits import Splits, split_frames
from ase_finetune.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get("ASEFT_TEST_DATA", ROOT.parent / "shared" / "data"))
real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no extra data in {REAL}")


def copper(count: int = 6, seed: int = 0) -> list[Atoms]:
    frames = []
    for index in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=seed + index)
        atoms.calc = EMT()
        frames.append(atoms)
    return frames


def labelled(frames: list[Atoms], energy: str, forces: str, stress: str) -> list[Atoms]:
    out = []
    for frame in frames:
        copy = frame.copy()
        copy.info[energy] = frame.get_potential_energy()
        copy.arrays[forces] = frame.get_forces(apply_constraint=False)
        copy.info[stress] = frame.get_stress()
        out.append(copy)
    return out


def same_labels(frame: Atoms, source: Atoms, tolerance: float = 1e-7) -> None:
    assert isinstance(frame.info["REF_energy"], float)
    assert frame.calc is None
    assert frame.info["REF_energy"] == pytest.approx(source.get_potential_energy(), abs=tolerance)
    forces = source.get_forces(apply_constraint=False)
    np.testing.assert_allclose(frame.arrays["REF_forces"], forces, atol=tolerance)
    np.testing.assert_allclose(frame.info["REF_stress"], source.get_stress(), atol=tolerance)


@pytest.mark.parametrize(
    "keys", [("REF_energy", "REF_forces", "REF_stress"), ("dft_e", "dft_f", "dft_s")]
)
def test_extended_xyz_by_key(tmp_path, keys):
    source = copper()
    ase.io.write(tmp_path / "a.xyz", labelled(source, *keys))
    frames = read_frames(
        tmp_path / "a.xyz", energy_key=keys[0], forces_key=keys[1], stress_key=keys[2]
    )
    assert len(frames) == len(source)
    for frame, atoms in zip(frames, source, strict=True):
        same_labels(frame, atoms)
        assert not {"dft_e", "dft_s"} & set(frame.info)


@pytest.mark.parametrize("name", ["a.xyz", "a.traj"])
def test_calculator_results_only_when_named(tmp_path, name):
    source = copper(3)
    for atoms in source:
        atoms.get_stress()
    ase.io.write(tmp_path / name, source)
    with pytest.raises(DataError, match=r"--energy-key energy") as error:
        read_frames(tmp_path / name)
    assert str(error.value).count("\n") == 0
    frames = read_frames(
        tmp_path / name, energy_key="energy", forces_key="forces", stress_key="stress"
    )
    for frame, atoms in zip(frames, source, strict=True):
        same_labels(frame, atoms)


def test_free_energy_is_not_the_energy(tmp_path):
    atoms = bulk("Mo", cubic=True)
    atoms.calc = SinglePointCalculator(
        atoms, energy=-21.0, free_energy=-21.5, forces=np.zeros((2, 3))
    )
    ase.io.write(tmp_path / "a.traj", atoms)
    (frame,) = read_frames(tmp_path / "a.traj", energy_key="free_energy", forces_key="forces")
    assert frame.info["REF_energy"] == -21.5
    with pytest.raises(DataError, match="energy, free_energy"):
        read_frames(tmp_path / "a.traj", forces_key="forces")


def test_forces_are_raw_behind_constraints(tmp_path):
    (atoms,) = copper(1)
    atoms.set_constraint(FixAtoms([0]))
    atoms.get_forces()
    ase.io.write(tmp_path / "a.traj", atoms)
    (frame,) = read_frames(tmp_path / "a.traj", energy_key="energy", forces_key="forces")
    raw = atoms.get_forces(apply_constraint=False)
    assert np.abs(raw[0]).max() > 0.01
    np.testing.assert_allclose(frame.arrays["REF_forces"], raw)
    assert len(frame.constraints) == 1


@pytest.mark.parametrize("shape", [(3, 3), (9,)])
def test_stress_becomes_voigt(tmp_path, shape):
    (source,) = copper(1)
    frame = labelled([source], "REF_energy", "REF_forces", "REF_stress")[0]
    full = np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]])
    frame.info["REF_stress"] = full.reshape(shape)
    ase.io.write(tmp_path / "a.xyz", frame)
    (read,) = read_frames(tmp_path / "a.xyz")
    np.testing.assert_array_equal(read.info["REF_stress"], [1, 2, 3, 4, 5, 6])


def test_asymmetric_stress_and_odd_energy_are_refused(tmp_path):
    (source,) = copper(1)
    frame = labelled([source], "REF_energy", "REF_forces", "REF_stress")[0]
    frame.info["REF_stress"] = np.array([[1.0, 0, 0], [1, 1, 0], [0, 0, 1]])
    ase.io.write(tmp_path / "a.xyz", frame)
    with pytest.raises(DataError, match="not a symmetric matrix"):
        read_frames(tmp_path / "a.xyz")
    frame.info["REF_stress"] = np.zeros(6)
    frame.info["REF_energy"] = "unknown"
    ase.io.write(tmp_path / "b.xyz", frame)
    with pytest.raises(DataError, match=r"b\.xyz, frame 0"):
        read_frames(tmp_path / "b.xyz")


def test_virial_is_named_as_such(tmp_path):
    frames = labelled(copper(2), "REF_energy", "REF_forces", "virial")
    for frame in frames:
        frame.info["virial"] = -frame.get_volume() * np.diag(frame.info["virial"][:3])
    ase.io.write(tmp_path / "a.xyz", frames)
    with pytest.raises(DataError, match="divide it by minus the cell volume"):
        read_frames(tmp_path / "a.xyz", stress_key="virial")


def test_missing_keys_are_listed(tmp_path):
    ase.io.write(tmp_path / "a.xyz", labelled(copper(2), "qm_energy", "qm_forces", "qm_stress"))
    with pytest.raises(DataError, match=r"pass `--energy-key qm_energy` if"):
        read_frames(tmp_path / "a.xyz")
    with pytest.raises(DataError, match=r"`--forces-key qm_forces`"):
        read_frames(tmp_path / "a.xyz", energy_key="qm_energy")
    keys = {"energy_key": "qm_energy", "forces_key": "qm_forces"}
    assert "REF_stress" not in read_frames(tmp_path / "a.xyz", **keys)[0].info
    with pytest.raises(DataError, match=r"`--stress-key qm_stress`"):
        read_frames(tmp_path / "a.xyz", **keys, stress=True)
    with pytest.raises(DataError, match="no stress under 'other'"):
        read_frames(tmp_path / "a.xyz", **keys, stress_key="other")
    ase.io.write(tmp_path / "bare.xyz", [atoms.copy() for atoms in copper(2)])
    with pytest.raises(DataError, match="nothing that looks like one"):
        read_frames(tmp_path / "bare.xyz")


def test_a_named_key_has_no_fallback(tmp_path):
    frames = labelled(copper(2), "dft_e", "dft_f", "dft_s")
    for key in ("dft_e", "dft_s"):
        frames[1].info["REF_" + {"e": "energy", "s": "stress"}[key[-1]]] = frames[1].info.pop(key)
    frames[1].arrays["REF_forces"] = frames[1].arrays.pop("dft_f")
    ase.io.write(tmp_path / "mixed.xyz", frames)
    found = read_frames(
        tmp_path / "mixed.xyz", energy_key="dft_e", forces_key="dft_f", stress_key="dft_s"
    )
    assert [("REF_energy" in f.info, "REF_stress" in f.info) for f in found] == [
        (True, True),
        (False, False),
    ]
    assert ["REF_forces" in f.arrays for f in found] == [True, False]


def test_label_keys_look_at_shapes():
    (frame,) = labelled(copper(1), "E_energy", "my_forces", "s_stress")
    frame.info["energy_levels"] = np.arange(7.0)
    frame.arrays["force_constant"] = np.arange(4.0)
    assert label_keys([frame]) == {
        "energy": ["E_energy"],
        "forces": ["my_forces"],
        "stress": ["s_stress"],
    }


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("no.xyz", None, "There is no file"),
        ("bad.xyz", "3\nLattice\nCu 0 0", "cannot be read"),
        ("empty.xyz", "", "no frames|cannot be read"),
        ("what.unknown", "hello", "cannot be read"),
        ("fake.h5", "not hdf5", "cannot be read"),
    ],
)
def test_unreadable_files(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words) as error:
        read_frames(tmp_path / name)
    assert "\n" not in str(error.value)


def test_isolated_atom_without_forces(tmp_path):
    atom = Atoms("Cu", info={"REF_energy": -1.0, "config_type": "IsolatedAtom"})
    others = labelled(copper(2), "REF_energy", "REF_forces", "REF_stress")
    ase.io.write(tmp_path / "a.xyz", [atom, *others])
    frames = read_frames(tmp_path / "a.xyz")
    np.testing.assert_array_equal(frames[0].arrays["REF_forces"], np.zeros((1, 3)))
    assert [is_isolated_atom(frame) for frame in frames] == [True, False, False]


def numbered(count: int, **info: str) -> list[Atoms]:
    return [
        Atoms("H2", positions=[[0, 0, 0], [0, 0, 1]], info={"n": i, **info}) for i in range(count)
    ]


def steps(frames: list[Atoms]) -> list[int]:
    return [frame.info["n"] for frame in frames]


def test_trajectories_lose_their_end():
    frames = numbered(20, trajectory="a", config_type="x") + numbered(10, traj="b", config_type="x")
    train, valid = split_frames(frames, valid_fraction=0.2)
    assert steps(valid) == [16, 17, 18, 19, 8, 9]
    assert steps(train) == [*range(16), *range(8)]


@pytest.mark.parametrize("seed", range(8))
def test_blocks_are_contiguous_for_any_seed(seed):
    frames = numbered(40, trajectory="a")
    train, valid = split_frames(frames, valid_fraction=0.25, seed=seed)
    held = steps(valid)
    assert held == list(range(held[0], held[0] + 10))
    assert sorted(steps(train) + held) == list(range(40))
    assert steps(split_frames(frames, valid_fraction=0.25, seed=seed)[1]) == held


def test_seeds_differ():
    frames = numbered(40, trajectory="a")
    starts = {split_frames(frames, valid_fraction=0.1, seed=s)[1][0].info["n"] for s in range(8)}
    assert len(starts) > 3


def test_configuration_types_are_held_out_in_blocks():
    """A type may hide several trajectories: the blocks must reach all of it."""
    frames = numbered(108, config_type="md") + numbered(9, config_type="surface")
    frames += numbered(2, config_type="rare")
    _, valid = split_frames(frames, valid_fraction=0.1)
    md = [f.info["n"] for f in valid if f.info["config_type"] == "md"]
    assert len(md) == 11
    runs = np.split(md, np.flatnonzero(np.diff(md) > 1) + 1)
    assert 2 <= len(runs) <= 4
    assert all(len(run) >= 3 for run in runs)
    assert md[0] < 40 < 80 < md[-1]
    kinds = [f.info["config_type"] for f in valid]
    assert kinds.count("surface") == 1
    assert "rare" not in kinds


def test_isolated_atoms_stay_in_train():
    atoms = [Atoms("H", info={"config_type": "IsolatedAtom", "n": -1}) for _ in range(3)]
    train, valid = split_frames(atoms + numbered(10, config_type="md"), valid_fraction=0.5)
    assert steps(train) == [-1, -1, -1, 0, 1, 2, 3, 4]
    assert steps(valid) == [5, 6, 7, 8, 9]


def test_split_by_named_key_and_by_type():
    frames = [f for run in "ab" for f in numbered(6, run=run, trajectory="t", config_type="c")]
    assert steps(split_frames(frames, valid_fraction=0.2, by="run")[1]) == [5, 5]
    assert steps(split_frames(frames, valid_fraction=0.2, by="config_type")[1]) == [4, 5]
    with pytest.raises(DataError, match="has no 'temperature' to split by"):
        split_frames(frames, valid_fraction=0.2, by="temperature")


def test_tiny_and_impossible_splits():
    train, valid = split_frames(numbered(3), valid_fraction=0.1)
    assert (len(train), len(valid)) == (2, 1)
    with pytest.raises(DataError, match="too few frames"):
        split_frames(numbered(1), valid_fraction=0.1)
    with pytest.raises(DataError, match="too few frames"):
        split_frames([], valid_fraction=0.1)
    for fraction in (0.0, 1.0, -0.1):
        with pytest.raises(DataError, match="between 0 and 1"):
            split_frames(numbered(9), valid_fraction=fraction)


def written(path: Path, frames: list[Atoms]) -> Path:
    ase.io.write(path, frames)
    return path


def test_from_files(tmp_path):
    keys = ("REF_energy", "REF_forces", "REF_stress")
    train = written(tmp_path / "train.xyz", labelled(copper(10), *keys))
    warm = written(tmp_path / "warm.xyz", labelled(copper(4, seed=50), *keys))
    splits = Splits.from_files(train, tests=[warm], stress=True)
    assert [(n, len(f)) for n, f in splits.items()] == [("train", 9), ("valid", 1), ("warm", 4)]
    splits.check(stress=True, elements=[29])
    splits = Splits.from_files(train, valid=warm, tests={"test_ood": warm})
    assert [(n, len(f)) for n, f in splits.items()] == [
        ("train", 10),
        ("valid", 4),
        ("test_ood", 4),
    ]
    with pytest.raises(DataError, match="4 of 4 frames of the test_ood set are in the valid set"):
        splits.check(stress=False)
    with pytest.raises(DataError, match="Two sets are called"):
        Splits.from_files(train, tests=[warm, warm])


def test_splits_that_frames_name(tmp_path):
    frames = labelled(copper(6), "REF_energy", "REF_forces", "REF_stress")
    for frame, name in zip(
        frames, ["test_ood", "train", "valid", "train", "train", "train"], strict=True
    ):
        frame.info["split"] = name
    path = written(tmp_path / "a.xyz", frames)
    splits = Splits.from_files(path)
    assert [(n, len(f)) for n, f in splits.items()] == [("train", 4), ("valid", 1), ("test_ood", 1)]
    assert splits.train[0].positions == pytest.approx(frames[1].positions, abs=1e-6)
    with pytest.raises(DataError, match="no 'valid' set"):
        Splits.from_named({"train": frames})


def test_one_split_name_for_all_splits_nothing(tmp_path):
    frames = labelled(copper(10), "REF_energy", "REF_forces", "REF_stress")
    ase.io.write(tmp_path / "frames.h5", frames, format="ase-finetune-h5")
    splits = Splits.from_files(tmp_path / "frames.h5")
    assert {name: len(found) for name, found in splits.items()} == {"train": 9, "valid": 1}


def test_split_names_without_train_are_refused(tmp_path):
    frames = labelled(copper(4), "REF_energy", "REF_forces", "REF_stress")
    for index, frame in enumerate(frames):
        frame.info["split"] = "valid" if index == 0 else "test"
    ase.io.write(tmp_path / "frames.xyz", frames)
    with pytest.raises(DataError, match=r"no 'train' set among \['test', 'valid'\]"):
        Splits.from_files(tmp_path / "frames.xyz")


def test_data_hash_sees_every_label():
    frames = labelled(copper(3), "REF_energy", "REF_forces", "REF_stress")
    original = Splits(frames[:2], frames[2:]).data_hash()
    assert original == Splits([f.copy() for f in frames[:2]], frames[2:]).data_hash()
    assert len(original) == 64
    seen = {original, Splits(frames[1::-1], frames[2:]).data_hash()}
    seen.add(Splits(frames[:2], [], {"valid": frames[2:]}).data_hash())

    def changed(change):
        copies = [deepcopy(f) for f in frames]
        change(copies[1])
        seen.add(Splits(copies[:2], copies[2:]).data_hash())

    changed(lambda a: a.info.__setitem__("REF_energy", a.info["REF_energy"] + 1e-9))
    changed(lambda a: a.arrays["REF_forces"].__setitem__((0, 0), 7.0))
    changed(lambda a: a.info["REF_stress"].__setitem__(5, 7.0))
    changed(lambda a: a.info.pop("REF_stress"))
    changed(lambda a: a.positions.__setitem__((0, 0), 0.123))
    changed(lambda a: a.set_cell(a.cell * 1.001))
    changed(lambda a: a.set_pbc([True, True, False]))
    changed(lambda a: a.numbers.__setitem__(0, 28))
    assert len(seen) == 11


def test_hdf5_frames_come_with_their_splits():
    path = ROOT / "systems" / "data" / "mo.h5"
    splits = Splits.from_files(path, stress=True)
    assert splits.train and splits.valid and "test_id" in splits.tests
    splits.check(stress=True, elements=[42])


def test_import_leaves_torch_alone():
    code = "import sys, ase_finetune.data.splits; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
