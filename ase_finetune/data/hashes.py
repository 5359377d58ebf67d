"""Hashes by which sets of labelled frames are known again, the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike

from ase_finetune.data.read import ENERGY_KEY, FORCES_KEY, STRESS_KEY, WEIGHT_KEY


def hash_of_sets(sets: Iterable[tuple[str, Sequence[Atoms]]]) -> str:
    """SHA-256 over names, species, cells, positions, labels and weights of sets, in order."""
    digest = hashlib.sha256()
    for name, frames in sets:
        digest.update(f"{name}:{len(frames)};".encode())
        for frame in frames:
            _update(digest, frame)
    return digest.hexdigest()


def hash_of_structures(frames: Iterable[Atoms]) -> str:
    """SHA-256 over species, cells and positions, in order."""
    digest = hashlib.sha256()
    for frame in frames:
        _update_structure(digest, frame)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, frame: Atoms) -> None:
    _update_structure(digest, frame)
    labels = (
        frame.info.get(ENERGY_KEY),
        frame.arrays.get(FORCES_KEY),
        frame.info.get(STRESS_KEY),
        *([frame.info[WEIGHT_KEY]] if WEIGHT_KEY in frame.info else []),
    )
    for values in labels:
        digest.update(b"\x00" if values is None else b"\x01")
        if values is not None:
            _update_values(digest, values)


def _update_structure(digest: hashlib._Hash, frame: Atoms) -> None:
    # Fixed byte order and width, so that the hash is the same on every machine.
    numbers = np.asarray(frame.numbers, dtype="<i8")
    digest.update(np.int64(len(numbers)).astype("<i8").tobytes() + numbers.tobytes())
    digest.update(np.asarray(frame.pbc, dtype="u1").tobytes())
    for values in (frame.cell.array, frame.positions):
        digest.update(b"\x01")
        _update_values(digest, values)


def _update_values(digest: hashlib._Hash, values: ArrayLike) -> None:
    digest.update(np.ascontiguousarray(values, dtype="<f8").tobytes())
