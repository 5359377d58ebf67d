"""Label bcc Mo with GPAW PBE; resumable, one frame at a time.

    python -m systems.dft.mo_gpaw --hours 2            # labels, to the shard
    python -m systems.dft.mo_gpaw --convergence        # strained cells for the convergence table
    python -m systems.dft.mo_gpaw --verify 2           # recompute stored frames and compare
    python -m systems.dft.mo_gpaw --take FILE          # take in frames computed earlier

GPAW runs in a worker process under ``--gpaw-python``, which need not be the Python of this
program. The label energy is the force-consistent free energy. A frame whose SCF fails is
reported and not stored; the next run tries it again.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

from systems.dft.generate import generate, verify
from systems.dft.mo_frames import CUTOFF_EV, KMESH, Job, convergence_jobs, label_jobs
from systems.dft.shards import PROVENANCE_KEYS, append_frame, read_shard, script_commit

HERE = Path(__file__).resolve().parent
SHARDS = HERE.parent / "data" / "shards"
LABELS = SHARDS / "mo_gpaw.extxyz"
CONVERGENCE = SHARDS / "mo_gpaw_convergence.extxyz"
CRITERIA = {"energy": 1e-5, "density": 1e-5, "eigenstates": 4e-8}
SMEARING_EV = 0.2
FRAME_TIMEOUT_S = 5400.0


def compute(job: Job, gpaw_python: str) -> dict[str, Any]:
    """Run the worker on one job and return its result.

    Raises
    ------
    RuntimeError
        If the worker fails, with the last line of what it wrote.
    """
    settings = {
        "xc": "PBE",
        "cutoff_eV": job.cutoff_eV,
        "kpts": {"size": list(job.kpts), "gamma": True},
        "smearing_eV": SMEARING_EV,
        "convergence": CRITERIA,
        "maxiter": 120,
    }
    message = {
        "numbers": job.atoms.numbers.tolist(),
        "cell": job.atoms.cell.array.tolist(),
        "positions": job.atoms.positions.tolist(),
        "settings": settings,
        "log": None,
    }
    done = subprocess.run(
        [gpaw_python, str(HERE / "gpaw_worker.py")],
        input=json.dumps(message),
        capture_output=True,
        text=True,
        timeout=FRAME_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(f"GPAW failed: {lines[-1]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def settings_info(job: Job) -> dict[str, Any]:
    """Return the provenance that does not depend on the run."""
    return {
        "functional": "PBE",
        "dispersion": "none",
        "cutoff_eV": job.cutoff_eV,
        "kpts": "x".join(map(str, job.kpts)) + " gamma",
        "smearing": f"Fermi-Dirac {SMEARING_EV} eV",
    }


def labelled(job: Job, result: dict[str, Any], commit: str) -> Atoms:
    """Return the frame with labels and provenance, as the shard stores it."""
    versions = result["versions"]
    atoms: Atoms = job.atoms.copy()
    atoms.arrays["REF_forces"] = np.array(result["forces"])
    atoms.info = {
        "id": job.id,
        "config_type": job.family,
        "REF_energy": result["free_energy"],
        "REF_stress": np.array(result["stress"]),
        "code": f"GPAW {versions['gpaw']} (ASE {versions['ase']})",
        **settings_info(job),
        "scf": ", ".join(f"{key} {value:g}" for key, value in CRITERIA.items()),
        "setups": "; ".join(result["setups"]),
        "script": "systems/dft/mo_gpaw.py",
        "commit": commit,
        "scf_iterations": result["iterations"],
        "wall_s": round(result["wall_s"], 1),
    }
    return atoms


def rounded(job: Job) -> Job:
    """Return the job at the positions (1e-8 A) that the shard can hold."""
    atoms: Atoms = job.atoms.copy()
    atoms.positions = np.round(atoms.positions, 8)
    return Job(job.id, job.family, atoms, job.kpts, job.cutoff_eV)


def stored_job(atoms: Atoms) -> Job:
    """Return the job that a stored frame answers."""
    a, b, c = (int(n) for n in atoms.info["kpts"].split()[0].split("x"))
    return Job(
        atoms.info["id"], atoms.info["config_type"], atoms, (a, b, c), atoms.info["cutoff_eV"]
    )


def take(path: Path, shard: Path) -> None:
    """Take in 2-atom frames of an earlier run at the same settings, named by their order."""
    counts: Counter[str] = Counter()
    known = read_shard(shard)
    for atoms in ase.io.read(path, ":", format="extxyz"):
        family = atoms.info["config_type"]
        name = f"{family}_{counts[family]:02d}"
        counts[family] += 1
        if name in known:
            continue
        # The earlier script is not kept; --verify shows that this one gives its labels.
        atoms.info = {
            "id": name,
            "config_type": family,
            "REF_energy": atoms.info["REF_energy"],
            "REF_stress": atoms.info["REF_stress"],
            "code": "GPAW 22.8.0 (ASE 3.22.1)",
            **settings_info(Job(name, family, atoms, KMESH[1], CUTOFF_EV)),
            "scf": "GPAW 22.8 defaults: energy 0.0005, density 0.0001, eigenstates 4e-08",
            "setups": "Mo:paw Mo.PBE.gz (gpaw-setups 0.9.20000)",
            "script": "earlier run, reproduced by systems/dft/mo_gpaw.py --verify",
            "commit": "none",
        }
        append_frame(shard, atoms)


def main() -> None:
    """Parse the command line and run one mode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hours", type=float, default=2.0, help="start no frame after this time")
    parser.add_argument("--gpaw-python", default="python3", help="a Python that has GPAW")
    parser.add_argument("--convergence", action="store_true", help="cells for the table instead")
    parser.add_argument("--verify", type=int, metavar="N", help="recompute N stored frames")
    parser.add_argument("--take", type=Path, metavar="FILE", help="frames of an earlier run")
    args = parser.parse_args()
    # Without this a terminated run leaves its worker behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if args.take:
        take(args.take, LABELS)
        return
    probe = subprocess.run([args.gpaw_python, "-c", "import gpaw"], capture_output=True)
    if probe.returncode != 0:
        sys.exit(f"{args.gpaw_python} has no GPAW; name a Python that has it by --gpaw-python.")
    shard = CONVERGENCE if args.convergence else LABELS
    commit = script_commit(HERE)

    def computed(job: Job) -> Atoms:
        return labelled(job, compute(job, args.gpaw_python), commit)

    if args.verify:
        sys.exit(0 if verify(shard, lambda a: computed(stored_job(a)), args.verify) else 1)
    jobs = convergence_jobs() if args.convergence else label_jobs()
    generate(map(rounded, jobs), shard, computed, args.hours, PROVENANCE_KEYS)


if __name__ == "__main__":
    main()
