"""Label water on graphene with CP2K at PBE-D3(BJ); resumable, one frame at a time.

    python -m systems.dft.water_graphene_cp2k --hours 2      # labels, to the shard
    python -m systems.dft.water_graphene_cp2k --convergence  # three frames at other cutoffs
    python -m systems.dft.water_graphene_cp2k --verify 2     # recompute stored frames and compare

The label energy is the free energy at the electronic temperature of the smearing, and it includes
dispersion. A frame whose SCF fails is reported and not stored; the next run tries it again.
"""

from __future__ import annotations

import argparse
import sys

from systems.dft.cp2k import add_arguments, run_jobs, runner, verify_frames
from systems.dft.water_graphene_frames import (
    CONVERGENCE,
    LABELS,
    convergence_jobs,
    label_jobs,
    plan_levels,
)


def main() -> None:
    """Parse the command line and run one mode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_arguments(parser)
    args = parser.parse_args()
    runs = runner("water_graphene_cp2k.py", args.cp2k)
    if args.verify:
        sys.exit(0 if verify_frames(LABELS, plan_levels(), runs, args.verify) else 1)
    if args.convergence:
        run_jobs(convergence_jobs(), CONVERGENCE, runs, args.hours, args.only)
    else:
        run_jobs(label_jobs(), LABELS, runs, args.hours, args.only)


if __name__ == "__main__":
    main()
