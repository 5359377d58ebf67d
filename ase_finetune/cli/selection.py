"""``ase-finetune select``: which frames of a pool to label next."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_finetune.cli.arguments import Accelerate, Device, Json
from ase_finetune.cli.guard import guarded
from ase_finetune.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

    from ase_finetune.committee import Selection

_QUANTILES = {"median": 0.5, "90 %": 0.9, "99 %": 0.99, "largest": 1.0}
_KEPT_INFO = ("config_type", "charge", "spin", "total_charge", "total_spin")
_KEPT_ARRAYS = ("initial_magmoms", "initial_charges", "tags")
_SUFFIXES = (".xyz", ".extxyz")


@guarded
def select(
    checkpoints: Annotated[
        list[str],
        typer.Argument(metavar="CKPT...", help="Checkpoint folders of two potentials or more."),
    ],
    pool: Annotated[
        list[Path],
        typer.Option(help="A trajectory, or any file that ASE reads; repeat for each file."),
    ],
    out: Annotated[Path, typer.Option(help="The extended XYZ file to write.")],
    count: Annotated[int, typer.Option(help="Most frames to choose.")] = 20,
    every: Annotated[
        int, typer.Option(help="Look at every so many frames of each file of the pool.")
    ] = 1,
    known: Annotated[
        list[Path] | None,
        typer.Option(help="Frames with labels: equal ones are left out; repeatable."),
    ] = None,
    at_least: Annotated[
        float, typer.Option(help="Least disagreement of a frame, eV/A; below, it is left out.")
    ] = 1e-4,
    at_most: Annotated[
        float | None,
        typer.Option(
            help="Most disagreement of a frame, eV/A; above, it is left out  (default: any)",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float64")] = "float32",
    device: Device = "cpu",
    accelerate: Accelerate = True,
    as_json: Json = False,
) -> None:
    """Choose frames to label next: unlike each other, and those where potentials disagree.

    Active learning by a committee: potentials fine-tuned on the same data,
    best by different optimizers. A frame's disagreement is the largest on
    its atoms of the root mean square distance of their forces from the mean.
    The file has structures without labels or constraints, the most wanted
    first; magnetic moments, charges, tags and config_type are kept.
    """
    from ase_finetune.calculator import FineTunedCalculator
    from ase_finetune.committee import check_numbers, select_frames
    from ase_finetune.data.read import read_frames
    from ase_finetune.errors import DataError
    from ase_finetune.terminal import TerminalReporter

    most = float("inf") if at_most is None else at_most
    check_numbers(count, at_least, most)
    if every < 1:
        raise ConfigError(f"--every is {every}; give 1 to look at all frames, or more.")
    _check_out(out)
    for name in checkpoints:
        if Path(name).is_file():
            raise ConfigError(
                f"{name} is a file, not a checkpoint folder; give --pool again for each file."
            )
    committee = FineTunedCalculator(checkpoints, device=device, dtype=dtype, accelerate=accelerate)
    frames = [frame for path in pool for frame in read_frames(path, labelled=False)[::every]]
    labelled = [frame for path in known or [] for frame in read_frames(path, labelled=False)]
    with TerminalReporter() as reporter:
        found = select_frames(
            frames,
            committee,
            count,
            known=labelled,
            at_least=at_least,
            at_most=most,
            progress=reporter.steps("committee"),
        )
    document = described(frames, found)
    if not found.indices:
        raise DataError(f"There is no frame to choose of {len(frames)}: {_reasons(document)}.")
    save(frames, found, out)
    if len({checkpoint.data_hash for checkpoint in committee.checkpoints}) > 1:
        typer.echo("Note: the potentials were trained on different frames.", err=True)
    if as_json:
        typer.echo(json.dumps({**document, "file": str(out)}, indent=1, allow_nan=False))
        return
    _show(document)
    asked = "" if len(found.indices) == count else f" of {count} asked for"
    typer.echo(f"{len(found.indices)} frames{asked} in {out}, to be labelled")


def described(frames: Sequence[Atoms], found: Selection) -> dict[str, Any]:
    """Return what was found, for JSON."""
    import numpy as np

    known = found.disagreement[np.isfinite(found.disagreement)]
    return {
        "pool": len(frames),
        "unit": "eV/A",
        "quantiles": {
            name: float(np.quantile(known, q)) for name, q in _QUANTILES.items() if len(known)
        },
        "left_out": {reason: list(indices) for reason, indices in found.left_out.items()},
        "disagreement": [float(d) if np.isfinite(d) else None for d in found.disagreement],
        "chosen": [
            {
                "frame": _source(frames, i),
                "disagreement": float(found.disagreement[i]),
                "remaining": remaining,
                "atom": int(found.atoms[i]),
                "element": frames[i].symbols[int(found.atoms[i])],
            }
            for i, remaining in zip(found.indices, found.remaining, strict=True)
        ],
    }


def save(frames: Sequence[Atoms], found: Selection, out: Path) -> None:
    """Write the chosen structures; nothing that could be taken for a label goes along."""
    import io

    from ase import Atoms
    from ase.io import write

    from ase_finetune.results import write_text

    bare = []
    for i in found.indices:
        frame = frames[i]
        structure = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
        structure.info = {key: frame.info[key] for key in _KEPT_INFO if key in frame.info}
        structure.info["source"] = _source(frames, i)
        structure.info["disagreement_eV_per_A"] = round(float(found.disagreement[i]), 4)
        for key in _KEPT_ARRAYS:
            if frame.has(key):
                structure.set_array(key, frame.get_array(key))
        bare.append(structure)
    text = io.StringIO()
    write(text, bare, format="extxyz")
    write_text(out, text.getvalue())


def _check_out(out: Path) -> None:
    if out.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"{out} gets extended XYZ; give it a name that ends in .xyz.")
    if out.exists():
        raise ConfigError(f"{out} exists; choose another name.")
    if not out.parent.is_dir():
        raise ConfigError(f"There is no folder {out.parent}; make it first.")


def _source(frames: Sequence[Atoms], index: int) -> str:
    from ase_finetune.data.read import source_of

    return source_of(frames[index]) or str(index)


def _reasons(document: dict[str, Any]) -> str:
    reasons = [f"{len(indices)} with {reason}" for reason, indices in document["left_out"].items()]
    largest = document["quantiles"].get("largest")
    seen = "" if largest is None else f" (the largest disagreement is {largest:.3g} eV/A)"
    return ", ".join(reasons) + seen


def _show(document: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ase_finetune.terminal import table_console

    spread = ", ".join(f"{name} {value:.3g}" for name, value in document["quantiles"].items())
    typer.echo(f"Pool: {document['pool']} frames; disagreement in eV/A: {spread}")
    if document["left_out"]:
        typer.echo(f"Left out: {_reasons(document)}")
    table = Table()
    table.add_column("frame")
    table.add_column("disagreement, eV/A", justify="right")
    table.add_column("beside those above", justify="right")
    table.add_column("atom")
    for row in document["chosen"]:
        numbers = (f"{row['disagreement']:.3g}", f"{row['remaining']:.3g}")
        table.add_row(Text(row["frame"]), *numbers, f"{row['element']} {row['atom']}")
    table_console().print(table)
