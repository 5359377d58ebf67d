"""Frames of the foundation's own domain, seen again: to measure what is forgotten, or to keep it.

Measured are force errors against the labels of the frames, or against the foundation where they
have none. Trained on are the foundation's own answers, so that nothing but structures is needed and
no other level of theory is mixed in (distillation; Li and Hoiem, arXiv 1606.09282).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from ase_finetune.checkpoint import SEED, Checkpoint
from ase_finetune.data.checks import check_structures
from ase_finetune.data.hashes import hash_of_structures
from ase_finetune.data.read import (
    ENERGY_KEY,
    FORCES_KEY,
    STRESS_KEY,
    WEIGHT_KEY,
    is_isolated_atom,
    read_frames,
)
from ase_finetune.data.splits import REPLAY, Splits, split_frames
from ase_finetune.errors import ConfigError, DataError
from ase_finetune.evaluate import predict_frames
from ase_finetune.foundations import load_foundation

_BUNDLED = SEED / "replay.h5"
_LABELLER = "labelled_by"  # in `info` of a frame whose forces are the foundation's


@dataclass(frozen=True)
class Replay:
    """Frames with forces as their only labels, and what the user should know of them."""

    frames: Sequence[Atoms] = ()
    notes: tuple[str, ...] = ()

    def measured_hash(self) -> str | None:
        """SHA-256 over structures and forces; None without frames.

        Forces that a foundation gave count as that foundation, since another number of threads
        rounds them otherwise.
        """
        if not self.frames:
            return None
        digest = hashlib.sha256(hash_of_structures(self.frames).encode())
        for atoms in self.frames:
            forces = np.ascontiguousarray(atoms.arrays[FORCES_KEY], dtype="<f8")
            labeller = atoms.info.get(_LABELLER)
            digest.update(forces.tobytes() if labeller is None else labeller.encode())
        return digest.hexdigest()


def replay_frames(path: Path | None, foundation: Checkpoint) -> Replay:
    """Return the frames on which forgetting is measured, with forces as their only labels.

    Parameters
    ----------
    path
        Frames of the foundation's own domain. None takes those that come with the seed, and for
        any other foundation none.
    foundation
        Before fine-tuning. Frames with elements that it has not (or that were pruned, since the
        training data lack them) are left out, and frames without forces are labelled by it.

    Raises
    ------
    DataError
        If a file is given and no frame of it is left.
    """
    bundled = path is None
    if path is None:
        if foundation.foundation.get("name") != "seed":
            return Replay()
        path = _BUNDLED
    known = set(foundation.numbers)
    every = read_frames(path, labelled=False)
    frames = [
        atoms
        for atoms in every
        if set(atoms.numbers.tolist()) <= known and not is_isolated_atom(atoms)
    ]
    if not frames and not bundled:
        raise DataError(
            f"No frame of {path} consists of the elements of the training data; "
            "give other frames to measure forgetting on."
        )
    for atoms in frames:
        # The shift of the E0s to the new labels moves every energy, which is not forgetting, and
        # a stress means little without the energy's level of theory.
        for name in (ENERGY_KEY, STRESS_KEY, _LABELLER):
            atoms.info.pop(name, None)
    _label(frames, foundation)
    note = (
        f"Replay: {len(frames)} of {len(every)} frames of {path.name}, those of the elements of "
        "the training data; their force errors show what is forgotten."
    )
    return Replay(frames, (note,))


def with_replay(
    splits: Splits, frames: Sequence[Atoms], foundation: Checkpoint, weight: float
) -> Splits:
    """Return splits that train on more frames, labelled by the foundation.

    Parameters
    ----------
    splits
        Without such frames.
    frames
        Structures; labels that they may have are not looked at.
    foundation
        The beginning of the training, ``prepare(splits, config).checkpoint``, whose E0s are those
        of the training data: its energies are at home among their labels.
    weight
        Of each frame in the loss, where a training frame has 1; the settings' ``replay_weight``.

    Raises
    ------
    DataError
        If atoms overlap, or the foundation's answers are no numbers.
    """
    found = predict_frames(foundation, frames)
    labelled, first = [], 0
    for i, atoms in enumerate(frames):
        one = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        one.info = {"config_type": REPLAY, WEIGHT_KEY: weight, ENERGY_KEY: float(found.energy[i])}
        if atoms.cell.rank == 3:
            one.info[STRESS_KEY] = found.stress[i]
        one.arrays[FORCES_KEY] = found.forces[first : first + len(one)]
        first += len(one)
        labelled.append(one)
    check_structures(labelled, stress=False, elements=foundation.numbers, name=REPLAY)
    return dataclasses.replace(splits, replay=labelled)


def share_replay(
    splits: Splits, replay: Replay, foundation: Checkpoint, weight: float
) -> tuple[Splits, Replay]:
    """Train on half of the replay frames and measure forgetting on the other, split by blocks.

    Raises
    ------
    DataError
        If there are none, or too few.
    """
    fitted, measured = halves(replay.frames)
    note = (
        f"{len(fitted)} of them are trained on, labelled by the foundation, with weight "
        f"{weight:g}; errors are those of the other {len(measured)}."
    )
    return (
        with_replay(splits, fitted, foundation, weight),
        Replay(measured, (*replay.notes, note)),
    )


def halves(frames: Sequence[Atoms]) -> tuple[list[Atoms], list[Atoms]]:
    """Return the replay frames to train on and those to measure on.

    By blocks of each trajectory or configuration type, as `split_frames` does, so that neighbors
    in a trajectory are not on both sides.

    Raises
    ------
    DataError
        If there are none, or too few.
    """
    if not frames:
        raise DataError("There are no replay frames to train on: give some (--replay).")
    try:
        return split_frames(frames, valid_fraction=0.5)
    except DataError as error:
        raise DataError(
            f"{len(frames)} replay frames are too few to train on some and measure on others: "
            "give more, or replay weight 0."
        ) from error


def replay_of(
    tuned: Checkpoint, splits: Splits, path: Path | None = None, weight: float | None = None
) -> tuple[Splits, Replay]:
    """Return splits with replay frames, for the refinement of a fine-tuned checkpoint.

    Parameters
    ----------
    tuned
        Of the foundation that its settings name, which is loaded again.
    splits
        Its training data.
    path
        Replay frames, as for `replay_frames`.
    weight
        Of each. None: that of the training, whose frames these must then be. 0 gives the splits
        as they are.

    Raises
    ------
    ConfigError
        If it has no foundation, or that or the frames are not those of the training.
    DataError, FoundationError
        If there are no frames, or the foundation cannot be loaded.
    """
    asked = float(tuned.config.get("replay_weight", 0.0)) if weight is None else weight
    if asked == 0.0:
        return splits, Replay()
    name = tuned.config.get("foundation", "scratch")
    if tuned.stage == "zero_shot" or name == "scratch":
        raise ConfigError(
            "The checkpoint was not fine-tuned from a foundation, which would label replay frames."
        )
    loaded = load_foundation(
        name, tuned.numbers, head=tuned.config["head"], dtype=tuned.config["default_dtype"]
    )
    if loaded.sha256 != tuned.foundation["sha256"]:
        raise ConfigError(f"The foundation {name} has changed since the checkpoint was made.")
    foundation = Checkpoint.from_module(
        loaded.module,
        tuned.E0s,
        stage="zero_shot",
        foundation={"name": loaded.name, "sha256": loaded.sha256},
    )
    replayed, measured = share_replay(splits, replay_frames(path, foundation), foundation, asked)
    if weight is None and replayed.replay_hash() != tuned.metrics.get("replay_hash"):
        raise ConfigError(
            "These are not the replay frames of the training: give those by --replay, or others "
            "with a --replay-weight of their own."
        )
    return replayed, measured


def _label(frames: Sequence[Atoms], foundation: Checkpoint) -> None:
    bare = [atoms for atoms in frames if FORCES_KEY not in atoms.arrays]
    if not bare:
        return
    forces, first = predict_frames(foundation, bare).forces, 0
    file = foundation.foundation.get("sha256") or foundation.fingerprint()
    for atoms in bare:
        atoms.info[_LABELLER] = f"{file} {foundation.config.get('head')}"
        atoms.arrays[FORCES_KEY] = forces[first : first + len(atoms)]
        first += len(atoms)
