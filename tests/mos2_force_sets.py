"""DFT forces of displaced MoS2 supercells, for the tests that replay them."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms

STORED = Path(__file__).parents[1] / "systems" / "data" / "mos2_phonons.h5"
SHARED = Path(__file__).parents[2] / "shared" / "data"


def best_name():
    """Name of the stored set that the references are from: the one with the finer grid."""
    import h5py

    with h5py.File(STORED, "r") as file:
        return "4x4_600Ry" if "4x4_600Ry" in file else "4x4"


@functools.cache
def force_set(name="4x4"):
    """Primitive cell, supercell matrix, displaced and undisplaced supercells, their forces.

    Skips where there are none: those that ship with the package, or else the files that they
    were taken from.
    """
    if STORED.is_file():
        return _stored(name)
    folder = Path(os.environ.get("ASEFT_TEST_DATA", SHARED)).parent / "dft"
    if not (folder / "mos2_phonopy_4x4.yaml").is_file():
        pytest.skip(f"no DFT forces of MoS2 in {STORED} or {folder}")
    return _shared(folder)


def _stored(name):
    import h5py

    with h5py.File(STORED, "r") as file:
        group = file[name]
        cell = Atoms(group["numbers"][:], group["positions"][:], cell=group["cell"][:], pbc=True)
        matrix = group["supercell_matrix"][:]
        moved, forces = group["displacements"][:], group["forces"][:]
        undisplaced = group["undisplaced_forces"][:]
    return _collect(cell, matrix, moved, forces, undisplaced)


def _shared(folder):
    import phonopy

    found = phonopy.load(folder / "mos2_phonopy_4x4.yaml", produce_fc=False, log_level=0)
    unit = found.unitcell
    cell = Atoms(unit.numbers, cell=unit.cell, scaled_positions=unit.scaled_positions, pbc=True)
    moved = np.zeros(np.shape(found.forces))
    for row, entry in zip(moved, found.dataset["first_atoms"], strict=True):
        row[entry["number"]] = entry["displacement"]
    undisplaced = np.load(folder / "mos2_perfect_forces.npy")
    return _collect(cell, found.supercell_matrix, moved, np.array(found.forces), undisplaced)


def _collect(cell, matrix, moved, forces, undisplaced):
    """Build the supercells by hand: phonopy orders them atom by atom, the first axis fastest."""
    n = np.diag(matrix)
    shifts = [(i, j, k) for k in range(n[2]) for j in range(n[1]) for i in range(n[0])]
    places = (cell.positions[:, None] + np.array(shifts) @ cell.cell.array).reshape(-1, 3)
    numbers = np.repeat(cell.numbers, len(shifts))
    perfect = Atoms(numbers, places, cell=matrix @ cell.cell.array, pbc=True)
    displaced = []
    for row in moved:
        frame = perfect.copy()
        frame.positions += row
        displaced.append(frame)
    distance = float(np.linalg.norm(moved, axis=2).max())
    return SimpleNamespace(
        cell=cell, matrix=matrix, perfect=perfect, displaced=displaced, moved=moved,
        forces=forces, undisplaced=undisplaced, distance=distance,
    )  # fmt: skip
