"""How an MD step grows with the number of atoms, beside ``MACECalculator``.

    python atoms.py --dtype float32 --memory-GB 12
    python atoms.py --device cuda

bcc Mo, from 16 atoms to 5,488, the MACE-MP-0 small shape with random weights; energy, forces and
stress of atoms that move a little; MACECalculator searches neighbors in every step, ours where that
is due. Every number comes from a process of its own. A
side that runs out of memory says so and is not asked for more atoms. Prints one JSON line a size;
run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch
from ase.build import bulk
from cases import CASES
from evaluation import measure

REPEATS = (2, 3, 4, 5, 6, 8, 10, 14)
SIDES = ("ours", "mace-torch")
OUT_OF_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "MemoryError",
    "bad_alloc",
    "ended with -9",
)


def cells(repeat: int) -> list[Any]:
    """One rattled cubic supercell."""
    atoms = bulk("Mo", a=3.16, cubic=True) * ((repeat,) * 3)
    atoms.rattle(0.08, seed=1)
    return [atoms]


def alone(side: str, repeat: int, args: argparse.Namespace) -> dict[str, float]:
    """Seconds and MB of a step in a process of its own, on a CPU with bounded memory."""
    command = [sys.executable, __file__, "--measure", side, str(repeat), "--dtype", args.dtype]
    command += ["--device", args.device, "--threads", str(args.threads)]
    command += ["--memory-GB", str(args.memory_GB)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{done.stderr}\nended with {done.returncode}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def step_time(side: str, repeat: int, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and MB of a step, or what stopped it."""
    try:
        found = alone(side, repeat, args)
    except RuntimeError as error:
        if any(words in str(error) for words in OUT_OF_MEMORY):
            return {"stopped": "out of memory"}
        raise
    return {"seconds": round(found["seconds"], 4), "MB": round(found["memory_MB"])}


def limit_memory(gigabytes: float) -> None:
    """Fail where the machine would start to swap; a GPU has its own limit."""
    size = int(gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare both sides over the sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-GB", type=float, default=16.0, help="address space of a CPU side")
    parser.add_argument("--repeats", type=int, nargs="+", default=REPEATS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.measure:
        side, repeat = args.measure[0], int(args.measure[1])
        if args.device == "cpu":
            limit_memory(args.memory_GB)
        CASES["cells"] = lambda: cells(repeat)
        print(json.dumps(measure(side, "md", "cells", args.dtype, args.device, args.threads)))
        return
    place = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.threads} threads"
    stopped: dict[str, dict[str, Any]] = {}
    for repeat in args.repeats:
        line: dict[str, Any] = {"atoms": 2 * repeat**3, "dtype": args.dtype, "place": place}
        for side in SIDES:
            found = stopped.get(side) or step_time(side, repeat, args)
            if "stopped" in found:
                stopped[side] = found
            line[side] = found
        if not stopped:
            line["ratio"] = round(line["mace-torch"]["seconds"] / line["ours"]["seconds"], 2)
        print(json.dumps(line), flush=True)
        if len(stopped) == len(SIDES):
            return


if __name__ == "__main__":
    main()
