"""The `export` command: a checkpoint as a file for other codes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from ase_finetune.cli.arguments import Checkpoint, Json
from ase_finetune.cli.guard import guarded

_NOTICEABLE = 1e-6  # eV


@guarded
def export(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    format: Annotated[
        str,
        typer.Option(help="mace (a .model file), or lammps (TorchScript, for pair_style mace)."),
    ] = "mace",
    dtype: Annotated[
        str | None,
        typer.Option(help="float32 or float64  (default: the checkpoint's)", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: Json = False,
) -> None:
    """Write a checkpoint as a file for mace-torch or LAMMPS.

    MACECalculator, mace_run_train --foundation_model and the converters of
    mace-torch (that for ML-IAP among them) read .model files. Such a file is
    a pickle, and one for LAMMPS a program: loading it executes code from it.
    Checkpoint folders are safe to exchange.
    """
    from ase_finetune.export import export as write

    done = write(checkpoint, out, format=format, dtype=dtype, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(done), "path": str(done.path)}, indent=1))
        return
    typer.echo(f"{done.path} ({done.format}, {done.dtype}, {done.size_bytes / 1e6:.1f} MB)")
    if done.E0_rounding_eV > _NOTICEABLE:
        typer.echo(
            f"Its E0s are rounded by up to {done.E0_rounding_eV:.1e} eV for each atom; "
            "--dtype float64 keeps them.",
            err=True,
        )
