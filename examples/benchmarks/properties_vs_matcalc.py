"""Elastic constants and phonons against matcalc with MACECalculator, on the same MACE model.

    python properties_vs_matcalc.py --peer-python PYTHON  # one with matcalc and mace-torch
    python shape_model.py mo mo_shape
    python properties_vs_matcalc.py --peer-python PYTHON --checkpoint mo_shape --dtype float32

Both get the bundled seed, or a checkpoint such as one in the shape of MACE-MP-0 small, the same
relaxed crystals, strain and displacement amplitudes and convergence of forces; each runs in a
process of its own with one thread.
Ours makes 29 strained cells for the elastic tensor (twice fitted, with and without symmetry),
matcalc 25. The phonons hold a mesh and thermal properties in both, and in ours alone bands, density
of states, symfc's force constants and irreducible representations. matcalc relaxes the vacuum of
the layer as well. Prints one JSON line for each property; a ratio above 1 means that ours is
faster. ``parts`` are seconds of the run in the potential, and of phonopy in the search for symmetry
and in force constants (of which symfc makes ours). Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from property_worker import PROPERTIES

HERE = Path(__file__).resolve().parent


def save_peer(checkpoint: str, path: Path, dtype: str) -> Path:
    """Write the checkpoint as a mace-torch ``.model`` file."""
    import torch

    from ase_finetune.checkpoint import Checkpoint

    torch.save(Checkpoint.load(checkpoint).module(dtype), path)
    return path


def work(python: str, role: str, name: str, model: str, dtype: str) -> dict[str, Any]:
    """Run one property in a fresh process and return what it measured."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, str(HERE / "property_worker.py"), role, name, model, dtype],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SystemExit(f"{role} failed at {name}: {last}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Parse the command line and compare property by property."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", required=True, help="a Python that has matcalc")
    parser.add_argument("--only", choices=PROPERTIES, nargs="+", default=PROPERTIES)
    parser.add_argument("--checkpoint", default="seed", help="a folder")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        theirs = str(save_peer(args.checkpoint, Path(folder) / "peer.model", args.dtype))
        for name in args.only:
            ours = work(sys.executable, "ours", name, args.checkpoint, args.dtype)
            peer = work(args.peer_python, "peer", name, theirs, args.dtype)
            line = {
                "name": f"{name} (s)",
                "model": Path(args.checkpoint).name,
                "dtype": args.dtype,
                "ours": round(ours["seconds"], 3),
                "peer": round(peer["seconds"], 3),
                "ratio": round(peer["seconds"] / ours["seconds"], 2),
                "ours_parts": ours["parts"],
                "peer_parts": peer["parts"],
                "ours_values": ours["values"],
                "peer_values": peer["values"],
                "ours_MB": round(ours["memory_MB"]),
                "peer_MB": round(peer["memory_MB"]),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
