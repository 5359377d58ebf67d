"""What generators share: a resumable loop over jobs, and the check of what is stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from ase import Atoms, units

from systems.dft.shards import append_frame, read_shard

MAX_ENERGY = 1.0  # meV/atom, of a recomputed frame
MAX_FORCE = 5.0  # meV/A, largest component


class Named(Protocol):
    """A job; its ``id`` names the frame."""

    @property
    def id(self) -> str:
        """Name of the frame."""


JobT = TypeVar("JobT", bound=Named)


def generate(
    jobs: Iterable[JobT],
    shard: Path,
    compute: Callable[[JobT], Atoms],
    hours: float,
    keys: Sequence[str],
) -> None:
    """Label what the shard lacks until all is done or no new frame may start after ``hours``.

    Parameters
    ----------
    jobs : iterable of jobs
        In order of importance; those whose id the shard has are left out.
    shard : Path
        Where finished frames go.
    compute : callable
        Job -> labelled frame; a RuntimeError is reported, and the next run tries the job again.
    hours : float
        Wall time.
    keys : sequence of str
        Provenance that every frame must carry.
    """
    stop = time.monotonic() + 3600.0 * hours
    known = read_shard(shard)
    failed = 0
    for job in jobs:
        if job.id in known:
            continue
        if time.monotonic() > stop:
            print("time is up", flush=True)
            break
        try:
            atoms = compute(job)
        except RuntimeError as error:
            failed += 1
            print(f"{job.id}: {error}", flush=True)
            continue
        append_frame(shard, atoms, keys)
        print(
            f"{time.strftime('%H:%M:%S')} {job.id} {len(atoms)} atoms, "
            f"SCF {atoms.info['scf_iterations']}, {atoms.info['wall_s']:.0f} s",
            flush=True,
        )
    print(f"{len(read_shard(shard))} frames in {shard.name}, {failed} failed", flush=True)


def verify(shard: Path, recompute: Callable[[Atoms], Atoms], count: int) -> bool:
    """Recompute ``count`` frames spread over the shard; true if all agree.

    Parameters
    ----------
    shard : Path
        Stored frames.
    recompute : callable
        Stored frame -> labelled frame.
    count : int
        Number of frames.
    """
    frames = list(read_shard(shard).values())
    good = True
    for i in np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int)):
        stored = frames[i]
        again = recompute(stored)
        energy = 1e3 * (again.info["REF_energy"] - stored.info["REF_energy"]) / len(stored)
        force = 1e3 * np.abs(again.arrays["REF_forces"] - stored.arrays["REF_forces"]).max()
        passed = abs(energy) <= MAX_ENERGY and force <= MAX_FORCE
        good = good and passed
        found = f"energy {energy:+.4f} meV/atom, force {force:.4f} meV/A"
        if "REF_stress" in stored.info:
            stress = np.abs(again.info["REF_stress"] - stored.info["REF_stress"]).max() / units.GPa
            found += f", stress {stress:.4f} GPa"
        verdict = "reproduced" if passed else "NOT reproduced"
        print(f"{stored.info['id']}: {found}: {verdict}", flush=True)
    return good
