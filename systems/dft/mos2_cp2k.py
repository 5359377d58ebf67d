"""Label monolayer MoS2 with CP2K at PBE; resumable, one frame at a time.

    python -m systems.dft.mos2_cp2k --hours 2          # labels, to the shard
    python -m systems.dft.mos2_cp2k --phonons          # force sets of 3x3 and 4x4 supercells
    python -m systems.dft.mos2_cp2k --convergence      # frames for the convergence table
    python -m systems.dft.mos2_cp2k --verify 2         # recompute stored frames and compare

The label energy is the total energy; MoS2 is a semiconductor, so occupations are integers. A frame
whose SCF fails is reported and not stored; the next run tries it again.
"""

from __future__ import annotations

import argparse
import sys

from systems.dft.cp2k import add_arguments, run_jobs, runner, verify_frames
from systems.dft.mos2_convergence import convergence_jobs
from systems.dft.mos2_frames import (
    CONVERGENCE,
    LABELS,
    PHONON_SHARD,
    label_jobs,
    plan_levels,
)
from systems.dft.mos2_phonons import all_phonon_jobs


def main() -> None:
    """Parse the command line and run one mode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_arguments(parser)
    parser.add_argument("--phonons", action="store_true", help="force sets instead of frames")
    args = parser.parse_args()
    runs = runner("mos2_cp2k.py", args.cp2k)
    if args.verify:
        sys.exit(0 if verify_frames(LABELS, plan_levels(), runs, args.verify) else 1)
    if args.convergence:
        run_jobs(convergence_jobs(), CONVERGENCE, runs, args.hours, args.only)
    elif args.phonons:
        run_jobs(all_phonon_jobs(), PHONON_SHARD, runs, args.hours, args.only)
    else:
        run_jobs(label_jobs(), LABELS, runs, args.hours, args.only)


if __name__ == "__main__":
    main()
