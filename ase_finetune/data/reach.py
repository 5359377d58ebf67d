"""Validation frames beyond the training frames, whose errors decide which weights are kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from ase_finetune.data.read import FORCES_KEY, first_of, is_isolated_atom

# In the study of Mo SOAP and Muon lose to AdamW by far on just the draws whose validation frames
# reach 1.8 and 2.1 (examples/results/study/mo); other draws and systems reach 1.1 at most.
_FAR = 1.5
_LEAST = 0.1  # eV/A


def reach_note(train: Sequence[Atoms], valid: Sequence[Atoms]) -> str | None:
    """Say which validation frames have larger forces than all training frames.

    Parameters
    ----------
    train, valid
        Frames with forces; isolated atoms do not count.

    Returns
    -------
    str or None
        A sentence, if the RMS force of one is more than 1.5 times the largest among them, and more
        than 0.1 eV/A.
    """
    largest = max((_rms(frame) for frame in train if not is_isolated_atom(frame)), default=0.0)
    sizes = [0.0 if is_isolated_atom(frame) else _rms(frame) for frame in valid]
    far = [row for row, size in enumerate(sizes) if size > max(_FAR * largest, _LEAST)]
    if not far:
        return None
    return (
        f"{len(far)} of {len(valid)} validation frames (first: {first_of(valid, far)}) "
        f"{'has' if len(far) == 1 else 'have'} forces of up to {max(sizes):.3g} eV/A (RMS), frames "
        f"to train on {largest:.3g} at most: errors there are extrapolations and decide which "
        "weights are kept. Train on such frames too, or hold out others."
    )


def _rms(frame: Atoms) -> float:
    return float(np.sqrt(np.mean(np.square(frame.arrays[FORCES_KEY]))))
