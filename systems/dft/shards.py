"""Shards: extended-XYZ files to which generators add finished frames.

A frame carries the labels (``REF_energy`` eV, ``REF_forces`` eV/A, ``REF_stress`` eV/A^3 Voigt),
``config_type``, a unique ``id`` and the provenance of its label: `PROVENANCE_KEYS` for GPAW,
`CP2K_KEYS` for CP2K, `MOLECULE_KEYS` for molecules, which have no stress.
"""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import ase.io
from ase import Atoms

PROVENANCE_KEYS = (
    "code",
    "functional",
    "dispersion",
    "cutoff_eV",
    "kpts",
    "smearing",
    "scf",
    "setups",
    "script",
    "commit",
)
CP2K_KEYS = (
    "code",
    "functional",
    "dispersion",
    "basis",
    "cutoff_Ry",
    "rel_cutoff_Ry",
    "kpts",
    "smearing",
    "scf",
    "pseudopotentials",
    "script",
    "commit",
)
MOLECULE_KEYS = (
    "code",
    "functional",
    "dispersion",
    "basis",
    "density_fitting",
    "grid",
    "scf",
    "script",
    "commit",
)


def read_shard(path: Path) -> dict[str, Atoms]:
    """Return the frames of a shard by id, in file order; empty where there is no file.

    Raises
    ------
    ValueError
        If an id occurs twice.
    """
    if not path.exists():
        return {}
    frames: dict[str, Atoms] = {}
    for atoms in ase.io.read(path, ":", format="extxyz"):
        name = str(atoms.info["id"])
        if name in frames:
            raise ValueError(f"{path} holds the frame {name!r} twice; remove one of them.")
        frames[name] = atoms
    return frames


def append_frame(path: Path, atoms: Atoms, keys: Sequence[str] = PROVENANCE_KEYS) -> None:
    """Add one frame; a kill at any moment leaves the file as it was or with the whole frame."""
    missing = [key for key in ("id", "config_type", *keys) if key not in atoms.info]
    if missing:
        raise ValueError(f"The frame lacks {', '.join(missing)}; give it before it is stored.")
    buffer = io.StringIO()
    ase.io.write(buffer, atoms, format="extxyz")
    old = path.read_bytes() if path.exists() else b""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with open(part, "wb") as stream:
        stream.write(old + buffer.getvalue().encode())
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, path)


def script_commit(folder: Path) -> str:
    """Return ``git:<hash>`` of the last commit that touched ``folder``, ``+edited`` if changed.

    Only Python files count as an edit: the shards themselves change while a generator runs.
    """

    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", *args], cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    commit = git("log", "-1", "--format=%H", "--", "*.py")
    edited = git("status", "--porcelain", "--", "*.py")
    return f"git:{commit or 'uncommitted'}{'+edited' if edited else ''}"
