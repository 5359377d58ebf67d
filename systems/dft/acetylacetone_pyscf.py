"""Label acetylacetone with PySCF at PBE-D3(BJ)/def2-SVP; resumable, one frame at a time.

    python -m systems.dft.acetylacetone_pyscf --stationary     # minimum, transition state, Hessian
    python -m systems.dft.acetylacetone_pyscf --hours 2        # labels, to the shard
    python -m systems.dft.acetylacetone_pyscf --verify 3       # recompute stored frames and compare

Needs ``pip install -e .[dft]``; see `systems.dft.molecule_pyscf` for the speed. Without the
stationary points the scans are left out. A frame whose SCF fails is reported and not stored; the
next run tries it again.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import numpy as np
from ase import Atoms

from systems.dft.acetylacetone_frames import SHARDS, STATIONARY, Job, label_jobs
from systems.dft.generate import generate, verify
from systems.dft.molecule_pyscf import ATOM_SPINS, label, provenance
from systems.dft.shards import MOLECULE_KEYS, read_shard, script_commit

HERE = Path(__file__).resolve().parent
LABELS = SHARDS / "acetylacetone_pyscf.extxyz"


def labelled(job: Job, commit: str) -> Atoms:
    """Return the frame with labels and provenance, as the shard stores it."""
    atoms: Atoms = job.atoms.copy()
    atoms.positions = np.round(atoms.positions, 8)  # what the shard can hold
    found = label(atoms, job.spin)
    atoms.arrays["REF_forces"] = found.forces
    atoms.info = {
        "id": job.id,
        "config_type": job.family,
        "REF_energy": found.energy,
        **provenance(),
        "script": "systems/dft/acetylacetone_pyscf.py",
        "commit": commit,
        "scf_iterations": "+".join(map(str, found.cycles)),
        "wall_s": round(found.wall_s, 1),
    }
    return atoms


def again(stored: Atoms) -> Atoms:
    """Return a stored frame labelled once more."""
    spin = ATOM_SPINS[stored.get_chemical_symbols()[0]] if len(stored) == 1 else 0
    bare = Atoms(stored.numbers, stored.positions)
    return labelled(Job(stored.info["id"], stored.info["config_type"], bare, spin), "none")


def main() -> None:
    """Parse the command line and run one mode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hours", type=float, default=2.0, help="start no frame after this time")
    parser.add_argument("--stationary", action="store_true", help="minimum, transition state")
    parser.add_argument("--verify", type=int, metavar="N", help="recompute N stored frames")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if args.verify:
        sys.exit(0 if verify(LABELS, again, args.verify) else 1)
    commit = script_commit(HERE)
    if args.stationary:
        from systems.dft.acetylacetone_stationary import find

        find(lambda job: labelled(job, commit), LABELS)
        return
    points = {
        name: atoms
        for name, atoms in read_shard(LABELS).items()
        if atoms.info["config_type"] == STATIONARY
    }
    generate(
        label_jobs(points), LABELS, lambda job: labelled(job, commit), args.hours, MOLECULE_KEYS
    )


if __name__ == "__main__":
    main()
