"""Force sets of MoS2 supercells, and what follows from them: force constants, bands, Hessians.

    python -m systems.dft.mos2_phonons            # the 3x3 sets, from the shard into the file
    python -m systems.dft.mos2_phonons --take FORCE_SETS.yaml UNDISPLACED.npy

File ``data/mos2_phonons.h5``: a group for each supercell (``4x4``, ``3x3``, ...) with datasets
``cell`` (3, 3), ``positions`` (3, 3) of the primitive cell in A, ``numbers`` (3,),
``supercell_matrix`` (3, 3), ``displacements`` (n, N, 3) in A, ``forces`` (n, N, 3) and
``undisplaced_forces`` (N, 3) in eV/A, in the order of atoms that phonopy gives the supercell, and
the provenance of the labels as attributes.

Forces of the undisplaced supercell, which symmetry makes zero but for the grid of CP2K, are
subtracted. Force constants are those of symfc, which obey all symmetries and the sum rule.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from systems.dft.cp2k_deck import Job, Level, provenance
from systems.dft.mos2_frames import PHONON_SHARD, primitive
from systems.dft.shards import CP2K_KEYS, read_shard
from systems.system import DATA

FORCE_SETS = DATA / "mos2_phonons.h5"
DISPLACEMENT = 0.015  # A
LEVEL = Level(kpts=(3, 3, 1), mixing=0.3, kerker=0.1, eps_scf=1e-7)
COARSE = replace(LEVEL, cutoff_Ry=400.0, rel_cutoff_Ry=50.0)
# Fractional coordinates for vectors at 120 degrees.
HIGH_SYMMETRY = {"G": (0.0, 0.0, 0.0), "M": (0.5, 0.0, 0.0), "K": (1 / 3, 1 / 3, 0.0)}
PATH = ("G", "M", "K", "G")
POINTS = 51  # of each segment
# Operations in the frame of the cell: identity, reflection in the plane, rotation by 120 degrees.
IDENTITY = (1, 0, 0, 0, 1, 0, 0, 0, 1)
PLANE = (1, 0, 0, 0, 1, 0, 0, 0, -1)
TURN = (0, -1, 0, 1, -1, 0, 0, 0, 1)
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ForceSet:
    """Forces of displaced supercells; see the module docstring for shapes and units."""

    primitive: Atoms
    supercell_matrix: NDArray[np.int64]
    displacements: Array
    forces: Array
    undisplaced_forces: Array
    provenance: Mapping[str, Any] = field(default_factory=dict)


def read_force_sets(path: Path = FORCE_SETS) -> dict[str, ForceSet]:
    """Return the stored force sets by supercell."""
    import h5py

    found = {}
    with h5py.File(path, "r") as file:
        for name, group in file.items():
            cell = Atoms(
                group["numbers"][:], group["positions"][:], cell=group["cell"][:], pbc=True
            )
            found[name] = ForceSet(
                cell,
                group["supercell_matrix"][:],
                group["displacements"][:],
                group["forces"][:],
                group["undisplaced_forces"][:],
                {key: value.item() if hasattr(value, "item") else value
                 for key, value in group.attrs.items()},
            )  # fmt: skip
    return found


def write_force_set(name: str, forces: ForceSet, path: Path = FORCE_SETS) -> None:
    """Add or replace one supercell."""
    import h5py

    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        group = file.create_group(name)
        group.attrs.update(forces.provenance)
        for key, values in {
            "cell": forces.primitive.cell.array,
            "positions": forces.primitive.positions,
            "numbers": forces.primitive.numbers,
            "supercell_matrix": forces.supercell_matrix,
            "displacements": forces.displacements,
            "forces": forces.forces,
            "undisplaced_forces": forces.undisplaced_forces,
        }.items():
            group.create_dataset(key, data=values)


def phonopy_object(cell: Atoms, supercell_matrix: Any) -> Any:
    """Return a ``Phonopy`` of a primitive cell, without displacements."""
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    unit = PhonopyAtoms(
        symbols=cell.get_chemical_symbols(),
        cell=cell.cell.array,
        positions=cell.positions,
    )
    return Phonopy(
        unit, supercell_matrix=supercell_matrix, primitive_matrix="P", log_level=0
    )  # fmt: skip


def phonons(forces: ForceSet, *, subtract: bool = True, symmetrized: bool = True) -> Any:
    """Return a ``Phonopy`` with force constants.

    Parameters
    ----------
    forces : ForceSet
    subtract : bool
        Whether the forces of the undisplaced supercell are subtracted.
    symmetrized : bool
        Force constants by symfc, which obey the sum rule; otherwise by phonopy's finite
        differences, which do not.
    """
    phonon = phonopy_object(forces.primitive, forces.supercell_matrix)
    change = forces.forces - forces.undisplaced_forces if subtract else forces.forces
    first = []
    for moved, answer in zip(forces.displacements, change, strict=True):
        (atom,) = np.flatnonzero(np.abs(moved).max(axis=1) > 1e-6)
        first.append({"number": int(atom), "displacement": moved[atom], "forces": answer})
    phonon.dataset = {"natom": len(phonon.supercell), "first_atoms": first}
    phonon.produce_force_constants(
        fc_calculator="symfc" if symmetrized else "traditional",
        calculate_full_force_constants=True,
        show_drift=False,
    )
    return phonon


def frequencies(phonon: Any, q: tuple[float, float, float]) -> Array:
    """Return the frequencies (THz, imaginary ones negative) at a fractional q, ascending."""
    found: Array = bands(phonon, np.array([q]))[0]
    return found


def path_points(cell: Atoms) -> tuple[Array, Array]:
    """Return q-points (fractional) along `PATH` and their place on it, from 0 to 1.

    The place is the distance over the length of the path, which does not change with the lattice
    constant. The points where two segments meet are there once.
    """
    corners = [np.array(HIGH_SYMMETRY[name]) for name in PATH]
    steps = np.linspace(0.0, 1.0, POINTS)[1:, None]
    q = np.concatenate([corners[:1], *(a + steps * (b - a) for a, b in pairwise(corners))])
    moves = np.linalg.norm(np.diff(q, axis=0) @ cell.cell.reciprocal().array, axis=1)
    distance = np.concatenate([[0.0], np.cumsum(moves)])
    return q, distance / distance[-1]


def irreps(phonon: Any, q: tuple[float, float, float]) -> list[tuple[str, float]]:
    """Return label and frequency (THz) of the modes at q, degenerate ones once, ascending.

    Mulliken's symbols of D3h at Gamma, from phonopy. At M those of C2v about the axis in the
    plane, B1 even and B2 odd under the reflection in the plane; at K those of C3h about Mo, whose
    E modes are complex and single: E1 turns with ``exp(2 pi i / 3)``, E2 the other way. Empty
    elsewhere.
    """
    found = phonon.run_irreps(q, symmetry_adapted=True)
    # phonopy prints these, but has no public name for them.
    labels = found._ir_labels
    if labels is None:
        operations = [tuple(np.asarray(r).ravel().tolist()) for r in found._rotations_at_q]
        labels = [
            _label(dict(zip(operations, row, strict=True))) for row in np.asarray(found.characters)
        ]
    return [
        (label or "", float(np.mean(found.frequencies[list(branches)])))
        for label, branches in zip(labels, found.band_indices, strict=True)
    ]


def _label(characters: Mapping[tuple[int, ...], complex]) -> str:
    """Return the symbol of a single mode from its characters, for C3h and C2v."""
    if PLANE not in characters or len(characters) not in (4, 6):
        return ""
    even = characters[PLANE].real > 0.0
    if TURN in characters:
        turn = characters[TURN]
        kind = "A" if turn.real > 0.0 else "E1" if turn.imag > 0.0 else "E2"
        return kind + ("'" if even else "''")
    axis = next(c for r, c in characters.items() if _proper(r) and r != IDENTITY)
    if axis.real > 0.0:
        return "A1" if even else "A2"
    return "B1" if even else "B2"


def _proper(rotation: tuple[int, ...]) -> bool:
    return bool(np.linalg.det(np.reshape(rotation, (3, 3))) > 0.0)


def bands(phonon: Any, q_points: Array) -> Array:
    """Return the frequencies (n, 9) in THz at the q-points, ascending at each."""
    phonon.run_qpoints(q_points)
    return np.sort(np.asarray(phonon.qpoints.frequencies, dtype=np.float64), axis=1)


def supercell_hessian(phonon: Any, repeat: int) -> tuple[Atoms, Array]:
    """Return a supercell (Mo first, repeated as ASE does) and its Hessian, eV/A^2.

    Built from the dynamical matrices at the wave vectors that the supercell allows, so that it may
    be smaller than the one that the force constants are from.
    """
    cell = Atoms(
        phonon.primitive.numbers,
        phonon.primitive.positions,
        cell=phonon.primitive.cell,
        pbc=True,
    )
    big = cell * (repeat, repeat, 1)
    masses = np.asarray(phonon.primitive.masses)
    index = np.arange(len(big)) % len(cell)
    grid = [(i / repeat, j / repeat, 0.0) for i in range(repeat) for j in range(repeat)]
    phonon.run_qpoints(grid, with_dynamical_matrices=True)
    total = np.zeros((len(big), 3, len(big), 3), dtype=complex)
    fractional = big.positions @ np.linalg.inv(cell.cell.array)
    for q, matrix in zip(grid, phonon.qpoints.dynamical_matrices, strict=True):
        wave = np.exp(2j * np.pi * fractional @ np.array(q))
        blocks = np.asarray(matrix).reshape(len(cell), 3, len(cell), 3)
        blocks = blocks[index][:, :, index]
        total += wave[:, None, None, None] * blocks * wave.conj()[None, None, :, None]
    scale = np.sqrt(masses[index])
    hessian = (total.real / len(grid)) * scale[:, None, None, None] * scale[None, None, :, None]
    flat = hessian.reshape(3 * len(big), -1)
    return big, 0.5 * (flat + flat.T)


def phonon_jobs(repeat: int, level: Level = LEVEL) -> list[Job]:
    """Return the undisplaced supercell and the displaced ones that symmetry asks for."""
    phonon = phonopy_object(primitive(), np.diag([repeat, repeat, 1]))
    phonon.generate_displacements(distance=DISPLACEMENT)
    cells = [phonon.supercell, *phonon.supercells_with_displacements]
    name = f"phonon_{repeat}x{repeat}"
    if level.cutoff_Ry != LEVEL.cutoff_Ry:
        name += f"_{level.cutoff_Ry:.0f}Ry"
    return [
        Job(
            f"{name}_{i:02d}",
            name,
            Atoms(c.numbers, c.positions, cell=c.cell, pbc=True),
            level,
        )
        for i, c in enumerate(cells)
    ]


def all_phonon_jobs() -> list[Job]:
    """Return the 3x3 sets, two of 4x4 to check the stored ones, and 4x4 at the labels' cutoff."""
    return [*phonon_jobs(3), *phonon_jobs(4, COARSE)[:2], *phonon_jobs(4)]


def from_frames(frames: list[Atoms]) -> ForceSet:
    """Return the force set of labelled `phonon_jobs`, the undisplaced supercell first."""
    repeat = round(float(np.sqrt(len(frames[0]) / len(primitive()))))
    matrix = np.diag([repeat, repeat, 1])
    keep = {key: frames[0].info[key] for key in CP2K_KEYS}
    return ForceSet(
        primitive(),
        matrix,
        np.array([a.positions - frames[0].positions for a in frames[1:]]),
        np.array([a.arrays["REF_forces"] for a in frames[1:]]),
        frames[0].arrays["REF_forces"],
        keep,
    )


def take(yaml: Path, undisplaced: Path) -> ForceSet:
    """Take in force sets that phonopy stored in an earlier run at `COARSE`."""
    from phonopy import load

    stored: Any = load(yaml, produce_fc=False, log_level=0)
    entries = stored.dataset["first_atoms"]
    displacements = np.zeros((len(entries), len(stored.supercell), 3))
    for row, entry in zip(displacements, entries, strict=True):
        row[entry["number"]] = entry["displacement"]
    unit = stored.unitcell
    return ForceSet(
        Atoms(unit.numbers, unit.positions, cell=unit.cell, pbc=True),
        np.array(stored.supercell_matrix),
        displacements,
        np.array([entry["forces"] for entry in entries]),
        np.load(undisplaced),
        {
            "code": "CP2K 2023.1",
            **provenance({"Mo", "S"}, COARSE),
            "scf": f"EPS_SCF {COARSE.eps_scf:g}, diagonalization, Broyden mixing 0.3 to 0.4",
            "script": "earlier run, reproduced by systems/dft/mos2_cp2k.py --phonons",
            "commit": "none",
        },
    )


def main() -> None:
    """Fill the file of force sets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--take", nargs=2, type=Path, metavar="FILE", help="of an earlier run")
    args = parser.parse_args()
    if args.take:
        write_force_set("4x4", take(*args.take))
        return
    frames = read_shard(PHONON_SHARD)
    for repeat in (3, 4):
        names = [job.id for job in phonon_jobs(repeat)]
        if all(name in frames for name in names):
            key = f"{repeat}x{repeat}"
            write_force_set(
                key if repeat == 3 else f"{key}_600Ry", from_frames([frames[n] for n in names])
            )


if __name__ == "__main__":
    main()
