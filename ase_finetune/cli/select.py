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

_SHOWN = (0.5, 0.9, 0.99)  # quantiles


@guarded
def select(
    checkpoints: Annotated[
        list[str],
        typer.Argument(metavar="CKPT...", help="Checkpoint folders of two potentials or more."),
    ],
    pool: Annotated[
        list[Path],
        typer.Option(
            help="Frames to choose from: a trajectory, or any file that ASE reads; repeatable."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The extended XYZ file to write.")],
    count: Annotated[int, typer.Option(help="Most frames to choose.")] = 20,
    known: Annotated[
        list[Path] | None,
        typer.Option(help="Frames with labels, not to be chosen again; repeatable."),
    ] = None,
    at_least: Annotated[float, typer.Option(help="Least disagreement of a frame, eV/A.")] = 0.0,
    at_most: Annotated[
        float | None,
        typer.Option(help="Most disagreement of a frame, eV/A  (default: any)", show_default=False),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float64")] = "float32",
    device: Device = "cpu",
    accelerate: Accelerate = True,
    as_json: Json = False,
) -> None:
    """Choose frames to label next: unlike each other, and those where potentials disagree.

    The potentials are a committee: best of different optimizers, on the same data. The file has
    the structures alone, without labels, the most wanted first.
    """
    from ase_finetune.calculator import FineTunedCalculator
    from ase_finetune.committee import select_frames
    from ase_finetune.data.read import read_frames
    from ase_finetune.errors import DataError
    from ase_finetune.terminal import TerminalReporter

    if out.exists():
        raise ConfigError(f"{out} exists; choose another name.")
    frames = [frame for path in pool for frame in read_frames(path, labelled=False)]
    labelled = [frame for path in known or [] for frame in read_frames(path, labelled=False)]
    committee = FineTunedCalculator(checkpoints, device=device, dtype=dtype, accelerate=accelerate)
    with TerminalReporter() as reporter:
        found = select_frames(
            frames,
            committee,
            count,
            known=labelled,
            at_least=at_least,
            at_most=float("inf") if at_most is None else at_most,
            progress=reporter.steps("committee"),
        )
    document = described(frames, found)
    if not found.indices:
        raise DataError(f"There is no frame to choose: of {len(frames)}, {_reasons(document)}.")
    save(frames, found, out)
    if as_json:
        typer.echo(json.dumps({**document, "file": str(out)}, indent=1, allow_nan=False))
        return
    _show(document)
    typer.echo(f"{len(found.indices)} frames in {out}, to be labelled")


def described(frames: Sequence[Atoms], found: Selection) -> dict[str, Any]:
    """Return what was found, for JSON."""
    import numpy as np

    known = found.disagreement[np.isfinite(found.disagreement)]
    return {
        "pool": len(frames),
        "unit": "eV/A",
        "quantiles": {f"{q:g}": float(np.quantile(known, q)) for q in _SHOWN} if len(known) else {},
        "left_out": {reason: len(indices) for reason, indices in found.left_out.items()},
        "chosen": [
            {
                "frame": _source(frames, i),
                "disagreement": float(found.disagreement[i]),
                "atom": int(found.atoms[i]),
                "element": frames[i].symbols[int(found.atoms[i])],
            }
            for i in found.indices
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
        kept = {"config_type": frame.info["config_type"]} if "config_type" in frame.info else {}
        structure.info = {
            **kept,
            "source": _source(frames, i),
            "disagreement_eV_per_A": round(float(found.disagreement[i]), 4),
        }
        bare.append(structure)
    text = io.StringIO()
    write(text, bare, format="extxyz")
    write_text(out, text.getvalue())


def _source(frames: Sequence[Atoms], index: int) -> str:
    from ase_finetune.data.read import source_of

    return source_of(frames[index]) or str(index)


def _reasons(document: dict[str, Any]) -> str:
    reasons = [f"{n} with {reason}" for reason, n in document["left_out"].items()]
    return ", ".join(reasons) or "the members agree on all"


def _show(document: dict[str, Any]) -> None:
    from rich.table import Table

    from ase_finetune.terminal import table_console

    spread = ", ".join(f"{q} of them {v:.3g}" for q, v in document["quantiles"].items())
    typer.echo(
        f"Pool: {document['pool']} frames; largest disagreement on an atom below, eV/A: {spread}"
    )
    if document["left_out"]:
        typer.echo(f"Left out: {_reasons(document)}")
    table = Table()
    for title in ("frame", "disagreement eV/A", "atom"):
        table.add_column(title, justify="right" if title.startswith("dis") else "left")
    for row in document["chosen"]:
        table.add_row(row["frame"], f"{row['disagreement']:.3f}", f"{row['element']} {row['atom']}")
    table_console().print(table)
