"""What the command line tells of a bundled system."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
