"""Forces that run against those of a foundation, which shows where no two frames are near."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_finetune.data.physics import label_consistency
from ase_finetune.data.read import FORCES_KEY
from ase_finetune.data.units import FORCE_SLOPES
from ase_finetune.errors import DataError

OPPOSITE = -0.8
_LEAST_FORCE = 0.05  # eV/A, the largest component of a frame
_LEAST_COMPONENTS = 30


def opposite_forces(frames: Sequence[Atoms], predicted: NDArray[np.float64]) -> float | None:
    """Correlation of labelled forces with predicted ones where it means a flipped sign.

    Parameters
    ----------
    frames
        Frames with forces.
    predicted
        (A, 3), eV/A, of a foundation on the atoms of all frames, in their order.

    Returns
    -------
    float or None
        About zero, below -0.8 over 30 components or more of frames with forces of 0.05 eV/A; None
        above, or if the energies change between nearby frames as the forces say.
    """
    kept = [np.abs(frame.arrays[FORCES_KEY]).max() >= _LEAST_FORCE for frame in frames]
    mask = np.repeat(kept, [len(frame) for frame in frames])
    if 3 * int(mask.sum()) < _LEAST_COMPONENTS:
        return None
    labels = np.concatenate([frame.arrays[FORCES_KEY] for frame in frames])[mask].ravel()
    others = predicted[mask].ravel()
    length = float(np.linalg.norm(labels) * np.linalg.norm(others))
    correlation = float(labels @ others) / length if length > 0 else 0.0
    if not correlation < OPPOSITE:
        return None
    work = label_consistency(frames).forces
    if work is not None and work.clear and FORCE_SLOPES[0] < work.value < FORCE_SLOPES[1]:
        return None  # it is the foundation that is wrong
    return correlation


def check_force_sign(
    frames: Sequence[Atoms], predicted: NDArray[np.float64], foundation: str, name: str
) -> None:
    """Stop on forces that run against a foundation's.

    Parameters
    ----------
    frames, predicted
        As in `opposite_forces`.
    foundation, name
        What it and the frames are called in messages.

    Raises
    ------
    DataError
        If their sign is probably flipped.
    """
    correlation = opposite_forces(frames, predicted)
    if correlation is not None:
        raise DataError(
            f"The forces of the {name} set run against those of the foundation {foundation} "
            f"(correlation {correlation:.2f}), so their sign is probably flipped: give forces, "
            "which are minus the gradients of the energy."
        )
