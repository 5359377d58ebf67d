"""How much of what the foundation knew is forgotten: frames of its own domain, seen again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms

from ase_finetune.checkpoint import SEED, Checkpoint
from ase_finetune.data.read import is_isolated_atom, read_frames
from ase_finetune.errors import DataError
from ase_finetune.evaluate import predict_frames

REPLAY = "replay"  # name of the set in errors
_BUNDLED = SEED / "replay.h5"


@dataclass(frozen=True)
class Replay:
    """Frames with forces as their only labels, and what the user should know of them."""

    frames: Sequence[Atoms] = ()
    notes: tuple[str, ...] = ()


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
        for name in ("REF_energy", "REF_stress"):
            atoms.info.pop(name, None)
    _label(frames, foundation)
    note = (
        f"Forgetting ({REPLAY}) is measured on {len(frames)} of {len(every)} frames of "
        f"{path.name}: those of the elements of the training data."
    )
    return Replay(frames, (note,))


def _label(frames: Sequence[Atoms], foundation: Checkpoint) -> None:
    bare = [atoms for atoms in frames if "REF_forces" not in atoms.arrays]
    if not bare:
        return
    forces, first = predict_frames(foundation, bare).forces, 0
    for atoms in bare:
        atoms.arrays["REF_forces"] = forces[first : first + len(atoms)]
        first += len(atoms)
