"""What the command line tells of a bundled system."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_finetune.cli.arguments import Json
from ase_finetune.cli.guard import guarded
from ase_finetune.errors import ConfigError

if TYPE_CHECKING:
    from systems.system import System


def described(system: System) -> dict[str, Any]:
    """Return counts, references and provenance, for JSON."""
    return {
        "description": system.description,
        "level_of_theory": system.level_of_theory,
        "license": system.license,
        "elements": list(system.elements),
        "frames": system.counts(),
        "properties": list(system.properties),
        "references": [
            {
                "name": reference.name,
                "label": reference.label,
                **_numbers(reference.value),
                "source": reference.value.source,
                "compared_by_default": reference.default,
            }
            for reference in system.all_references()
        ],
        "provenance": system.provenance(),
    }


def _numbers(value: Any) -> dict[str, Any]:
    """The numbers of a quantity or curve for JSON."""
    if hasattr(value, "y"):
        return {"x": value.x.tolist(), "y": value.y.tolist(), "unit": value.y_unit}
    return {"value": value.value, "unit": value.unit}


def export_frames(system: System, path: Path) -> int:
    """Write the frames of all splits as extended XYZ and return their number.

    Raises
    ------
    ConfigError
        If the file exists.
    """
    from ase.io import write

    if path.exists():
        raise ConfigError(f"{path} exists; choose another name.")
    frames = [frame for split in system.frames().values() for frame in split]
    write(path, frames, format="extxyz")
    return len(frames)


@guarded
def systems(
    name: Annotated[str | None, typer.Argument(help="Only this system.")] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write its frames as extended XYZ, split by `split`.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the bundled systems with their data and provenance, or export one's frames."""
    from systems import get_system, list_systems

    chosen = {key: get_system(key) for key in ([name] if name else list_systems())}
    if export is not None:
        if name is None:
            raise ConfigError("Name the system to export, as in `systems mo --export mo.xyz`.")
        count = export_frames(chosen[name], export)
        left = chosen[name].counts().get("reference", 0)
        rest = f"; the {left} reference structures are not among them" if left else ""
        typer.echo(f"{count} frames in {export}{rest}")
        return
    if as_json:
        typer.echo(json.dumps({key: described(system) for key, system in chosen.items()}, indent=1))
        return
    for key, system in chosen.items():
        counts = ", ".join(f"{n} {split}" for split, n in system.counts().items())
        typer.echo(
            f"{key}: {system.description}\n  {system.level_of_theory}\n  frames: {counts}\n"
            f"  properties: {', '.join(system.properties)}\n  license: {system.license}"
        )
