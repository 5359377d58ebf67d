"""Where the commands get labelled frames from: files, or a bundled system."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ase_finetune.cli.arguments import MACE_KEYS, SPLIT_BY, VALID_FRACTION, Keys
from ase_finetune.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

    from ase_finetune.checkpoint import Checkpoint
    from ase_finetune.data.splits import Splits


def load_checkpoint(path: str) -> Checkpoint:
    """Read a checkpoint; torch is imported now, which the help of commands does without."""
    from ase_finetune.checkpoint import Checkpoint

    return Checkpoint.load(path)


def splits_of(
    data: list[Path] | None,
    valid: list[Path] | None,
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
        If neither or both are given, or options for files with a system.
    """
    from ase_finetune.data.splits import Splits
    from systems import get_system

    if (not data) == (system is None):
        raise ConfigError("Give either --data with your frames or --system with a bundled one.")
    if system is not None:
        _refuse_for_systems(
            valid=valid,
            test=tests,
            valid_fraction=valid_fraction != VALID_FRACTION,
            split_by=split_by != SPLIT_BY,
            **_keys(keys),
        )
        return Splits.from_named(get_system(system).frames()), system
    assert data
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
    return splits, "+".join(path.stem for path in data)


def frames_of(data: list[Path] | None, system: str | None, keys: Keys) -> dict[str, list[Atoms]]:
    """Return labelled frames by split of a system, or by name of file.

    Raises
    ------
    ConfigError
        If neither or both are given, keys with a system, or two files share a name.
    """
    from ase_finetune.data.read import read_frames
    from systems import get_system

    if (not data) == (system is None):
        raise ConfigError("Give either --data with labelled frames or --system with a bundled one.")
    if system is not None:
        _refuse_for_systems(**_keys(keys))
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


def _keys(keys: Keys) -> dict[str, bool]:
    names = ("energy_key", "forces_key", "stress_key")
    return {n: key != usual for n, key, usual in zip(names, keys, MACE_KEYS, strict=True)}


def _refuse_for_systems(**given: object) -> None:
    flags = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if flags:
        raise ConfigError(
            f"A bundled system has its own frames and sets: leave out {', '.join(flags)}."
        )
