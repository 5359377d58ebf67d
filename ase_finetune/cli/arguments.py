"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the stopped run in --out.")]
EnergyKey = Annotated[str, typer.Option(help="Key of the energy labels.")]
ForcesKey = Annotated[str, typer.Option(help="Key of the force labels.")]
StressKey = Annotated[str, typer.Option(help="Key of the stress labels.")]
Keys = tuple[str, str, str]
MACE_KEYS: Keys = ("REF_energy", "REF_forces", "REF_stress")
VALID_FRACTION, SPLIT_BY = 0.1, "trajectory"
OutFolder = Annotated[Path | None, typer.Option(help="Folder of the run.")]
ResultsFolder = Annotated[Path | None, typer.Option(help="A new folder for the results.")]
Weight = Annotated[float | None, typer.Option(help="Loss weight (default: as trained).")]
Checkpoint = Annotated[str, typer.Argument(metavar="CKPT", help="A checkpoint folder, or seed.")]
Data = Annotated[
    list[Path] | None,
    typer.Option(help="Labelled frames: extended XYZ, our HDF5, or any file that ASE reads."),
]
SystemName = Annotated[
    str | None,
    typer.Option("--system", help="Use the frames of a bundled system."),
]
TrainFile = Annotated[
    list[Path] | None, typer.Option("--data", help="Training frames; repeatable.")
]
ValidFile = Annotated[
    list[Path] | None, typer.Option("--valid", help="Validation frames; repeatable.")
]
ValidFraction = Annotated[
    float,
    typer.Option(help="Share of each trajectory or type held out, in blocks, if none is named."),
]
SplitBy = Annotated[
    str, typer.Option(help="trajectory, config_type, or another info key of every frame.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")]
Accelerate = Annotated[
    bool,
    typer.Option(
        "--accelerate/--no-accelerate", help="Faster exact evaluation, or that of mace-torch."
    ),
]
Replay = Annotated[
    Path | None,
    typer.Option(
        "--replay",
        help="Frames of the foundation's own domain, to measure what is forgotten of it or train on"
        " (default: those that come with the seed).",
    ),
]
