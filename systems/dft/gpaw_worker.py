"""Label one structure with GPAW: a JSON job on stdin, a JSON result on stdout.

Runs under whichever Python has GPAW (the distribution's own, for example), so it uses only what
both an old and a new ASE offer and imports nothing of this project.

Job: ``numbers``, ``cell`` (A), ``positions`` (A), ``settings`` with ``xc``, ``cutoff_eV``,
``kpts`` (GPAW's own form), ``smearing_eV``, ``convergence``, ``maxiter``;
``log`` is a file name or null.
Result: ``free_energy`` (eV), ``forces`` (eV/A), ``stress`` (eV/A^3, Voigt xx yy zz yz xz xy,
ASE sign), ``versions``, ``setups``, ``iterations``, ``wall_s``. An SCF that does not converge
raises, so that the exit status is not zero and nothing is returned.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def label(job: dict[str, Any]) -> dict[str, Any]:
    """Return the result of one job; see the module docstring for the keys and units."""
    import ase
    import gpaw
    from ase import Atoms
    from gpaw import GPAW, PW, FermiDirac

    settings = job["settings"]
    atoms = Atoms(numbers=job["numbers"], cell=job["cell"], positions=job["positions"], pbc=True)
    calc = GPAW(
        mode=PW(settings["cutoff_eV"]),
        xc=settings["xc"],
        kpts=settings["kpts"],
        occupations=FermiDirac(settings["smearing_eV"]),
        convergence=settings["convergence"],
        maxiter=settings["maxiter"],
        txt=job["log"],
    )
    start = time.monotonic()
    atoms.calc = calc
    forces = atoms.get_forces()
    stress = atoms.get_stress()
    energy = calc.get_property("free_energy", atoms)
    setups = sorted({f"{s.symbol}:{s.type} {s.filename} md5 {s.fingerprint}" for s in calc.setups})
    return {
        "free_energy": float(energy),
        "forces": forces.tolist(),
        "stress": stress.tolist(),
        "versions": {"gpaw": gpaw.__version__, "ase": ase.__version__},
        "setups": setups,
        "iterations": int(calc.get_number_of_iterations()),
        "wall_s": time.monotonic() - start,
    }


def main() -> None:
    """Read the job, label, write the result."""
    job = json.load(sys.stdin)
    # GPAW prints to stdout in places; the result must be the only thing there.
    out, sys.stdout = sys.stdout, sys.stderr
    json.dump(label(job), out)


if __name__ == "__main__":
    main()
