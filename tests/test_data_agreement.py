"""A foundation tells sign and unit of labels where no two frames are near each other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase.build import bulk
from doctor_faults import BUNDLED, SHARED, copies
from labelled_frames import clean, planted, scaled

from ase_finetune import Splits, TrainConfig
from ase_finetune.checkpoint import Checkpoint
from ase_finetune.data.agreement import contradiction
from ase_finetune.data.physics import label_consistency
from ase_finetune.errors import DataError
from ase_finetune.evaluate import predict_frames
from ase_finetune.start import prepare


@pytest.fixture(scope="module")
def seed():
    return Checkpoint.load("seed")


@pytest.fixture(scope="module")
def far_apart(seed):
    """Twelve cells of Mo, labelled like the seed but for a fifth of noise and softer by a tenth."""
    frames = []
    for index in range(12):
        atoms = bulk("Mo", cubic=True) * (2, 2, 1)
        atoms.rattle(0.12 + 0.01 * index, seed=index)
        frames.append(atoms)
    found = predict_frames(seed, frames)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(found.forces.shape) * 0.2 * found.forces.std()
    spread = 0.2 * found.energy.std()
    for index, frame in enumerate(frames):
        rows = slice(8 * index, 8 * index + 8)
        frame.info["REF_energy"] = 0.9 * float(found.energy[index]) + spread * rng.normal()
        frame.arrays["REF_forces"] = 0.9 * (found.forces + noise)[rows]
    assert label_consistency(frames).forces is None
    return frames


def per_atom(frame):
    frame.info["REF_energy"] /= len(frame)


FAULTS = {
    "sign": (scaled("REF_forces", -1.0), r"The forces of the {} set run against .* \(corr.* -0.9"),
    "Ry/bohr": (scaled("REF_forces", 1 / 25.711), "The forces of the {} set are .* Ry/bohr"),
    "hartree/bohr": (scaled("REF_forces", 1 / 51.422), "The forces of .* like hartree/bohr"),
    "kcal/mol/A": (scaled("REF_forces", 23.06), "The forces of the {} set .* like kcal/mol/A"),
    "unknown": (scaled("REF_forces", 7.0), "The forces of the {} set .* like another unit"),
    "hartree": (scaled("REF_energy", 1 / 27.2114), "one composition the energies of .* hartree"),
    "kJ/mol": (scaled("REF_energy", 96.485), "one composition the energies of .* like kJ/mol"),
    "per atom": (per_atom, "one composition the energies of the {} set .* energies per atom"),
    "energy sign": (scaled("REF_energy", -1.0), "The energies of the {} set run against"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_training_stops_on_labels_that_contradict_the_foundation(far_apart, fault):
    change, words = FAULTS[fault]
    config = TrainConfig(foundation="seed")
    frames = planted(far_apart, change)
    words = words.format("train")
    with pytest.raises(DataError, match=words) as error:
        prepare(Splits(frames[:10], frames[10:]), config)
    assert "\n" not in str(error.value)
    # From random weights there is nothing to compare with.
    prepare(Splits(frames[:10], frames[10:]), dataclasses.replace(config, foundation="scratch"))


def test_clean_labels_pass_and_validation_frames_are_judged_alone(far_apart):
    config = TrainConfig(foundation="seed")
    prepare(Splits(far_apart[:10], far_apart[10:]), config)
    wrong = planted(far_apart[10:], FAULTS["kcal/mol/A"][0])
    with pytest.raises(DataError, match="The forces of the valid set are"):
        prepare(Splits(far_apart[:10], wrong), config)


@pytest.mark.parametrize("name", [*BUNDLED, *SHARED])
def test_real_frames_agree_with_the_seed(name, seed):
    frames = copies(name)
    frames = frames[:: max(1, len(frames) // 40)]
    found = predict_frames(seed, frames)
    assert contradiction(frames, found.energy, found.forces, "seed") is None


def test_energies_that_follow_the_forces_outweigh_a_foundation():
    frames = clean("strained")
    energy = np.array([frame.info["REF_energy"] for frame in frames])
    forces = np.concatenate([frame.arrays["REF_forces"] for frame in frames])
    assert contradiction(frames, energy, forces, "it") is None
    assert contradiction(frames, -energy, -forces, "it") is None  # the foundation is wrong
    flipped = planted(frames, scaled("REF_forces", -1.0))
    assert "run against" in contradiction(flipped, energy, forces, "it")[0]
    few = contradiction(flipped[:2], energy[:2], forces[:8], "it")
    assert few is None  # 24 components
