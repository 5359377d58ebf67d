"""Sets of frames from files: none is lost, and none is trained on that names another set."""

from __future__ import annotations

import pytest
from ase.io import write
from conftest import cu_frames

from ase_finetune import TrainConfig
from ase_finetune.data.splits import Splits
from ase_finetune.errors import DataError
from ase_finetune.stages import data_notes
from ase_finetune.study.data import redrawn
from systems import get_system


def named_frames(names):
    frames = cu_frames(len(names), 1)
    for frame, name in zip(frames, names, strict=True):
        if name is not None:
            frame.info["split"] = name
    return frames


@pytest.fixture
def file(tmp_path):
    def make(names, name="frames.xyz"):
        write(tmp_path / name, named_frames(names))
        return tmp_path / name

    return make


def counts(splits):
    return {name: len(frames) for name, frames in splits.items()}


def test_several_files_are_one_set(tmp_path):
    for i, n in enumerate((7, 5, 2, 2)):
        write(tmp_path / f"{i}.xyz", cu_frames(n, i))
    paths = [tmp_path / f"{i}.xyz" for i in range(4)]
    assert counts(Splits.from_files(paths[:2], valid=paths[2:])) == {"train": 12, "valid": 4}


def test_a_frame_without_a_set_is_not_trained_on(file):
    path = file(["train"] * 5 + ["valid", "test", None])
    with pytest.raises(
        DataError, match=r"1 of 8 frames to train on \(first: 7, .*frames.xyz@7\) do not say"
    ):
        Splits.from_files(path)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("val", "valid"), ("Validation", "valid"), ("dev", "valid"), ("Train", "train")],
)
def test_other_spellings_are_no_test_sets(name, meant, file):
    path = file(["valid" if meant == "train" else "train"] * 5 + [name, name])
    with pytest.raises(DataError, match=f"a set '{name}': call it '{meant}'"):
        Splits.from_files(path)
    frames = cu_frames(2, 1)
    with pytest.raises(DataError, match=f"call it '{meant}'"):
        Splits.from_named({"train": frames, "valid": frames, name: frames})


def test_frames_of_a_test_set_alone_are_not_trained_on(file):
    with pytest.raises(DataError, match="All frames to train on are of the set 'test_ood'"):
        Splits.from_files(file(["test_ood"] * 8))
    assert counts(Splits.from_files(file(["train"] * 8))) == {"train": 7, "valid": 1}


def test_validation_frames_of_another_file_leave_tests_out_of_training(file, tmp_path):
    write(tmp_path / "valid.xyz", cu_frames(3, 2))
    path = file(["train"] * 5 + ["test", "test"])
    found = counts(Splits.from_files(path, valid=tmp_path / "valid.xyz"))
    assert found == {"train": 5, "test": 2, "valid": 3}
    path = file(["train"] * 5 + ["valid", "test"], "own.xyz")
    with pytest.raises(DataError, match="leave one of the two out"):
        Splits.from_files(path, valid=tmp_path / "valid.xyz")


def test_notes_say_what_is_held_out(file):
    (note,) = Splits.from_files(file([None] * 12)).notes
    assert note.startswith("Validation: 1 of 12 frames are held out, in blocks")
    assert Splits.from_files(file(["train"] * 5 + ["valid"])).notes == ()


def test_a_set_shows_its_counts():
    frames = cu_frames(3, 1)
    assert repr(Splits(frames[:2], frames[2:])) == "<Splits train=2 valid=1 replay=0>"


def test_hash_of_the_fit_is_without_tests():
    frames = cu_frames(4, 1)
    own = Splits(frames[:2], frames[2:3])
    tested = Splits(frames[:2], frames[2:3], {"test": frames[3:]})
    assert own.fit_hashes() == tested.fit_hashes()
    assert own.data_hash() != tested.data_hash()
    assert own.fit_hashes() != Splits(frames[:1], frames[1:3]).fit_hashes()


def test_elements_that_only_a_test_set_has_are_told():
    frames = cu_frames(4, 1)
    foreign = frames[3].copy()
    foreign.symbols[0] = "Au"
    notes = data_notes(Splits(frames[:2], frames[2:3], {"alloy": [foreign]}), TrainConfig())
    assert any(
        note.startswith("alloy has Au, of which no training frame has any") for note in notes
    )
    notes = data_notes(Splits(frames[:2], frames[2:3], {"own": frames[3:]}), TrainConfig())
    assert not any("E0s" in note for note in notes)


def test_validation_frames_beyond_training_are_told():
    """They are what parts the draws of Mo on which SOAP loses from the others."""
    bundled = Splits.from_named(get_system("mo").frames())
    config = TrainConfig(stress_weight=1.0)
    assert not any("(RMS)" in note for note in data_notes(bundled, config))
    told = [
        seed
        for seed in range(1, 6)
        if any("(RMS)" in note for note in data_notes(redrawn(bundled, seed), config))
    ]
    assert told == [1, 3]
    (note,) = (n for n in data_notes(redrawn(bundled, 1), config) if "(RMS)" in n)
    assert note.startswith("1 of 6 validation frames (first: 1) has forces of up to 2.61 eV/A")
    assert "frames to train on 1.23 at most" in note


def test_what_is_wrong_is_named_by_file_and_index(tmp_path):
    """Held-out frames have other numbers in their set than in the file."""
    frames = cu_frames(20, 1)
    frames[19].arrays["REF_forces"][0, 0] = float("nan")
    write(tmp_path / "frames.xyz", frames[:19])
    write(tmp_path / "more.xyz", [*frames[:2], frames[19]])
    splits = Splits.from_files([tmp_path / "frames.xyz"], valid=tmp_path / "more.xyz")
    with pytest.raises(DataError, match=r"frame 2 of the valid set \(.*more.xyz@2\) is not finite"):
        splits.check(stress=False)
    frames[19].arrays["REF_forces"][0, 0] = 0.0
    del frames[18].info["REF_energy"]
    write(tmp_path / "frames.xyz", frames)
    splits = Splits.from_files(tmp_path / "frames.xyz", valid_fraction=0.1)
    place = r"1 of 2 frames of the valid set \(first: 0, .*frames.xyz@18\) have no energy"
    with pytest.raises(DataError, match=place):
        splits.check(stress=False)
    with pytest.raises(
        DataError, match=r"Frame 0, .*frames.xyz@0 has no 'run' .* has REF_energy, REF_stress\)"
    ):
        Splits.from_files(tmp_path / "frames.xyz", by="run")
