"""Where the commands get labelled frames from: files, or a bundled system."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ase_finetune.cli.arguments import Keys
from ase_finetune.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

    from ase_finetune.data.splits import Splits


def splits_of(
    data: Path | None,
    valid: Path | None,
    tests: list[Path],
    system: str | None,
    valid_fraction: float,
    split_by: str,
    keys: Keys,
    stress: bool,
) -> tuple[Splits, str]:
    """Return splits of a bundled system or of files, and a name for them.

    Raises
    ------
    ConfigError
        If neither or both are given.
    """
    from ase_finetune.data.splits import Splits
    from systems import get_system

    if (data is None) == (system is None):
        raise ConfigError("Give either --data with your frames or --system with a bundled one.")
    if system is not None:
        return Splits.from_named(get_system(system).frames()), system
    assert data is not None
    energy, forces, stress_key = keys
    splits = Splits.from_files(
        data,
        valid=valid,
        tests=tests,
        valid_fraction=valid_fraction,
        by=split_by,
        energy_key=energy,
        forces_key=forces,
        stress_key=stress_key,
        stress=stress,
    )
    return splits, data.stem


def frames_of(data: list[Path] | None, system: str | None, keys: Keys) -> dict[str, list[Atoms]]:
    """Return labelled frames by split of a system, or by name of file.

    Raises
    ------
    ConfigError
        If neither or both are given, or two files share a name.
    """
    from ase_finetune.data.read import read_frames
    from systems import get_system

    if (not data) == (system is None):
        raise ConfigError("Give either --data with labelled frames or --system with a bundled one.")
    if system is not None:
        return get_system(system).frames()
    energy, forces, stress = keys
    found: dict[str, list[Atoms]] = {}
    for path in data or []:
        if path.stem in found:
            raise ConfigError(f"Two files are called {path.stem}; rename one.")
        found[path.stem] = read_frames(
            path, energy_key=energy, forces_key=forces, stress_key=stress
        )
    return found
