"""What keeping freed memory in the process is worth: the seed on bcc Mo of growing size.

    python memory.py

Each side runs in a process of its own, in float64 on one thread: with glibc's default, which an
empty ``GLIBC_TUNABLES`` in the environment leaves alone (`ase_finetune.memory`), and without it.
Prints one JSON line for each size, in CPU time, so that a busy machine matters less; a ratio above
1 means that keeping is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

REPEATS = (3, 6, 9)  # of the cube of two atoms
RUNS = 3


def measure() -> dict[int, float]:
    """CPU time in ms per atom of energy, forces and stress, by number of atoms."""
    from ase.build import bulk

    from ase_finetune import FineTunedCalculator

    calculator = FineTunedCalculator("seed")
    found = {}
    for n in REPEATS:
        atoms = bulk("Mo", "bcc", a=3.168, cubic=True) * (n, n, n)
        atoms.rattle(0.001)
        calculator.evaluate_batch([atoms])
        begun = time.process_time()
        for _ in range(RUNS):
            calculator.evaluate_batch([atoms])
        found[len(atoms)] = 1e3 * (time.process_time() - begun) / RUNS / len(atoms)
    return found


def in_fresh_process(**settings: str) -> dict[str, float]:
    """Run `measure` with settings added to the environment."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **settings},
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Compare both sides."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().measure:
        print(json.dumps(measure()))
        return
    kept, returned = in_fresh_process(), in_fresh_process(GLIBC_TUNABLES="")
    for size, ours in kept.items():
        line = {
            "name": f"{size} atoms (ms/atom)",
            "ours": round(ours, 3),
            "peer": round(returned[size], 3),
            "ratio": round(returned[size] / ours, 2),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
