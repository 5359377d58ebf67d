"""``ase-finetune doctor``: what is in labelled frames, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ase_finetune.cli.arguments import MACE_KEYS, EnergyKey, ForcesKey, Json, StressKey
from ase_finetune.cli.guard import guarded


@guarded
def doctor(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Frames to train on: any file that ASE reads, or our HDF5."
        ),
    ],
    valid: Annotated[list[Path] | None, typer.Option(help="Validation frames; repeatable.")] = None,
    test: Annotated[list[Path] | None, typer.Option(help="Test frames; repeatable.")] = None,
    foundation: Annotated[
        str | None,
        typer.Option(help="Evaluate this one on the frames: seed, a checkpoint, a name, a file."),
    ] = None,
    energy_key: EnergyKey = MACE_KEYS[0],
    forces_key: ForcesKey = MACE_KEYS[1],
    stress_key: StressKey = MACE_KEYS[2],
    out: Annotated[
        Path | None, typer.Option(help="Write doctor.json and doctor.txt into this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what is in labelled frames and what is wrong with them, before training.

    Exits with 1 if an error was found, with 0 otherwise.
    """
    from ase_finetune.doctor.examine import examine
    from ase_finetune.doctor.text import report
    from ase_finetune.results import write_json, write_text
    from ase_finetune.terminal import TerminalReporter

    with TerminalReporter() as reporter:
        diagnosis = examine(
            files,
            valid=valid or [],
            tests=test or [],
            keys={"energy": energy_key, "forces": forces_key, "stress": stress_key},
            foundation=foundation,
            progress=lambda title, done, total: reporter.steps(title)(done, total),
        )
    text = report(diagnosis)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "doctor.json", diagnosis.document())
        write_text(out / "doctor.txt", text + "\n")
    if as_json:
        typer.echo(json.dumps(diagnosis.document(), indent=1, allow_nan=False))
    else:
        typer.echo(text)
    if diagnosis.counts["error"]:
        raise typer.Exit(1)
