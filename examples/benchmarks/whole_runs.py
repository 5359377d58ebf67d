"""Whole training runs in processes of their own, for the benchmarks that compare them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase_finetune.checkpoint import Checkpoint
from ase_finetune.foundations import load_foundation


@dataclass(frozen=True)
class Run:
    """What a process took: wall time from start to exit, and its peak resident memory."""

    seconds: float
    memory_MB: float


def timed(command: Sequence[str], folder: Path, threads: int = 1) -> Run:
    """Run a command in a folder, its output in ``output.txt`` there, and time it."""
    count = str(threads)
    # As the command line of this project sets it; it helps both sides where cores are shared.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), count)
    log = folder / "output.txt"
    with open(log, "w") as output:
        begun = time.perf_counter()
        process = subprocess.Popen(
            list(command), cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        last = "\n".join(log.read_text().splitlines()[-15:])
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{last}")
    return Run(seconds, usage.ru_maxrss / 1024)


def mace_run_train(options: Mapping[str, Any], folder: Path, threads: int = 1) -> Run:
    """Run mace-torch's trainer; True is a bare flag. Its model is ``peer.model`` in the folder."""
    flags = [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()
    ]
    command = [sys.executable, "-m", "mace.cli.run_train", "--name=peer", "--device=cpu", *flags]
    return timed(command, folder, threads)


def read_model(path: Path) -> Checkpoint:
    """Read a ``.model`` file that was made here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a pickle; we know where it is from
        found = load_foundation(path)
    return Checkpoint.from_module(found.module, found.E0s, stage="finetuned", foundation={})
