"""Label structures with CP2K: run one input deck in a folder of its own and read the result.

Needs the program ``cp2k.popt`` (or ``--cp2k``) and its data folder, which CP2K finds itself or by
``CP2K_DATA_DIR``. One thread per process gives the most labels an hour.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from systems.dft.cp2k_deck import Job, Level, deck, provenance
from systems.dft.generate import generate, verify
from systems.dft.shards import CP2K_KEYS, script_commit

HERE = Path(__file__).resolve().parent
# Generous, because a paused process keeps the clock running.
TIMEOUT_S = 6 * 3600.0
NUMBER = r"\s+(-?\d+\.\d+(?:E[+-]\d+)?)"
VOIGT = [0, 4, 8, 5, 2, 1]


@dataclass(frozen=True)
class Label:
    """What a calculation gives.

    Attributes
    ----------
    energy : float
        eV; with smearing the free energy.
    forces : ndarray, shape (n_atoms, 3)
        eV/A.
    stress : ndarray, shape (6,)
        eV/A^3, Voigt xx yy zz yz xz xy, tension positive.
    version : str
    iterations : int
        Of the SCF.
    """

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]
    version: str
    iterations: int


def parse(output: str, n_atoms: int) -> Label:
    """Read the output of an ``ENERGY_FORCE`` run.

    Raises
    ------
    RuntimeError
        If the SCF did not converge or the output is incomplete.
    """
    converged = re.findall(r"SCF run converged in\s+(\d+) (?:steps|iterations)", output)
    if "SCF run NOT converged" in output and "outer SCF loop converged" not in output:
        raise RuntimeError("the SCF did not converge")
    energy = re.search(r"ENERGY\| Total FORCE_EVAL \( QS \) energy \[a\.u\.\]:" + NUMBER, output)
    version = re.search(r"CP2K version (\S+)", output)
    table = re.search(
        r"ATOMIC FORCES in \[a\.u\.\]\n\n # Atom.*\n((?:\s+\d+\s+\d+\s+[A-Z].*\n)+)", output
    )
    tensor = re.search(
        r"Analytical stress tensor \[GPa\].*\n.*\n((?: STRESS\|\s+[xyz] .*\n){3})", output
    )
    if not (converged and energy and version and table and tensor):
        raise RuntimeError("the output is incomplete")
    rows = [line.split() for line in table[1].splitlines()]
    forces = np.array([[float(x) for x in row[3:6]] for row in rows])
    if forces.shape != (n_atoms, 3):
        raise RuntimeError(f"forces of {len(forces)} atoms instead of {n_atoms}")
    # CP2K counts pressure positive.
    pressure = np.array([[float(x) for x in row.split()[2:]] for row in tensor[1].splitlines()])
    return Label(
        float(energy[1]) * units.Hartree,
        forces * units.Hartree / units.Bohr,
        -pressure.ravel()[VOIGT] * units.GPa,
        version[1],
        int(converged[-1]),
    )


@dataclass(frozen=True)
class Runner:
    """Runs jobs and returns labelled frames.

    Attributes
    ----------
    script : str
        The generator, for the provenance.
    commit : str
        Its commit.
    executable : str
        CP2K.
    """

    script: str
    commit: str
    executable: str = "cp2k.popt"

    def label(self, atoms: Atoms, level: Level) -> Label:
        """Compute one structure.

        Raises
        ------
        RuntimeError
            If CP2K fails or its SCF does not converge.
        """
        with tempfile.TemporaryDirectory(prefix="cp2k-") as name:
            Path(name, "label.inp").write_text(deck(atoms, level))
            try:
                done = subprocess.run(
                    [self.executable, "-i", "label.inp"],
                    cwd=name,
                    env={"OMP_NUM_THREADS": "1", **os.environ},
                    capture_output=True,
                    text=True,
                    timeout=TIMEOUT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise RuntimeError(f"CP2K took more than {TIMEOUT_S:g} s") from error
            if done.returncode != 0:
                raise RuntimeError(f"CP2K failed: {_complaint(done.stdout + done.stderr)}")
            return parse(done.stdout, len(atoms))

    def frame(self, job: Job) -> Atoms:
        """Return the job labelled, with provenance, as a shard stores it."""
        atoms = Atoms(
            job.atoms.numbers, np.round(job.atoms.positions, 8), cell=job.atoms.cell, pbc=True
        )
        start, cpu = time.monotonic(), _children_cpu()
        found = self.label(atoms, job.level)
        atoms.arrays["REF_forces"] = found.forces
        atoms.info = {
            "id": job.id,
            "config_type": job.family,
            "REF_energy": found.energy,
            # That of a free atom says something of its box only.
            **({"REF_stress": found.stress} if len(atoms) > 1 else {}),
            "code": f"CP2K {found.version}",
            **provenance(set(atoms.symbols), job.level),
            "script": self.script,
            "commit": self.commit,
            "scf_iterations": found.iterations,
            "wall_s": round(time.monotonic() - start, 1),
            "cpu_s": round(_children_cpu() - cpu, 1),
        }
        return atoms


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _complaint(output: str) -> str:
    """Return the line in CP2K's box that says what is wrong."""
    lines = re.findall(r"^ \*\s+(?:\\___/|\[ABORT\]|/   \\)?\s*(\w[^*]*\w.*?)\s*\*$", output, re.M)
    return "; ".join(lines) or (output.strip().splitlines() or ["no message"])[-1]


def net_force(forces: NDArray[np.float64]) -> float:
    """Return the largest component of the sum of all forces, eV/A; zero but for the grid."""
    return float(np.abs(forces.sum(axis=0)).max())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that all generators with CP2K have."""
    parser.add_argument("--hours", type=float, default=2.0, help="start no frame after this time")
    parser.add_argument("--convergence", action="store_true", help="frames for the table instead")
    parser.add_argument("--verify", type=int, metavar="N", help="recompute N stored frames")
    parser.add_argument("--only", nargs="+", metavar="ID", help="these jobs of the plan")
    parser.add_argument("--cp2k", default="cp2k.popt", help="the program")


def runner(script: str, executable: str) -> Runner:
    """Return a runner for a generator's command line; exits where there is no CP2K."""
    # Without this a terminated run leaves CP2K behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if shutil.which(executable) is None:
        sys.exit(f"There is no program {executable!r}; name CP2K by --cp2k.")
    return Runner(f"systems/dft/{script}", script_commit(HERE), executable)


def run_jobs(
    jobs: Iterable[Job], shard: Path, runs: Runner, hours: float, only: Sequence[str] | None
) -> None:
    """Label the jobs that a shard lacks (`systems.dft.generate.generate`), or some of them."""
    chosen = jobs if only is None else (job for job in jobs if job.id in only)
    generate(chosen, shard, runs.frame, hours, CP2K_KEYS)


def verify_frames(shard: Path, levels: Mapping[str, Level], runs: Runner, count: int) -> bool:
    """Recompute stored frames at the level of their id (`systems.dft.generate.verify`)."""

    def again(stored: Atoms) -> Atoms:
        name = stored.info["id"]
        return runs.frame(Job(name, stored.info["config_type"], stored, levels[name]))

    return verify(shard, again, count)
