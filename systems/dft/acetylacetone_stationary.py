"""Stationary points and Hessian of acetylacetone at the level of the labels.

The Hessian of PBE is PySCF's analytic one, on a finer grid because it leaves out how the grid moves
with the atoms; D3's is a central difference of its analytic gradient.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from properties import relax
from properties.molecule import MirrorSymmetry
from systems.dft.acetylacetone_frames import (
    MINIMUM,
    STATIONARY,
    SWAP,
    TRANSITION,
    Job,
    enol,
)
from systems.dft.molecule_pyscf import PBED3, Level, converge, dispersion
from systems.dft.shards import MOLECULE_KEYS, append_frame, read_shard

HESSIAN = Path(__file__).resolve().parent.parent / "data" / "acetylacetone_hessian.json"
HESSIAN_GRIDS = (0, 3)
FMAX = 2e-3  # eV/A
D3_STEP = 0.002  # A
COMMAND = "python -m systems.dft.acetylacetone_pyscf --stationary"


def relaxed_minimum() -> Atoms:
    """Return the relaxed enol."""
    return relax(enol(), PBED3(), fmax=FMAX).atoms


def relaxed_transition() -> Atoms:
    """Return the transition state of the hydrogen transfer, symmetric about x = 0."""
    start = enol(symmetric=True)
    start.set_constraint(MirrorSymmetry(SWAP))
    found = relax(start, PBED3(), fmax=FMAX).atoms
    found.set_constraint()
    return found


def hessian(atoms: Atoms) -> NDArray[np.float64]:
    """Return the Hessian (3 n_atoms, 3 n_atoms) in eV/A^2."""
    field = converge(atoms, level=Level(grids=HESSIAN_GRIDS))
    blocks = np.array(field.Hessian().kernel())
    size = 3 * len(atoms)
    scf = blocks.transpose(0, 2, 1, 3).reshape(size, size) * units.Hartree / units.Bohr**2
    rows = []
    for i in range(size):
        slopes = []
        for sign in (1.0, -1.0):
            moved = atoms.copy()
            moved.positions.ravel()[i] += sign * D3_STEP
            slopes.append(dispersion(moved, "bj")[1].ravel())
        rows.append((slopes[0] - slopes[1]) / (2.0 * D3_STEP))
    total: NDArray[np.float64] = scf + np.array(rows)
    return 0.5 * (total + total.T)


def read_hessian() -> NDArray[np.float64]:
    """Return the stored Hessian of the minimum in eV/A^2."""
    stored: dict[str, Any] = json.loads(HESSIAN.read_text())
    return np.array(stored["hessian_eV_per_A2"])


def find(labelled: Callable[[Job], Atoms], shard: Path) -> None:
    """Find what is missing of the stationary points and the Hessian, and store it."""
    for name, search in ((MINIMUM, relaxed_minimum), (TRANSITION, relaxed_transition)):
        if name not in read_shard(shard):
            append_frame(shard, labelled(Job(name, STATIONARY, search())), MOLECULE_KEYS)
            print(f"{name} stored", flush=True)
    if HESSIAN.exists():
        return
    matrix = hessian(Atoms(read_shard(shard)[MINIMUM]))
    document = {
        "command": COMMAND,
        "frame": MINIMUM,
        "grid": f"PySCF level {HESSIAN_GRIDS[-1]}",
        "hessian_eV_per_A2": [[round(v, 6) for v in row] for row in matrix.tolist()],
    }
    HESSIAN.write_text(json.dumps(document) + "\n")
    print(f"{HESSIAN.name} stored", flush=True)
