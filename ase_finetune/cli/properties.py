"""The `properties` command: which calculator, which properties, and the files it leaves."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_finetune.errors import ConfigError

if TYPE_CHECKING:
    from systems.system import System

FORMS = "a name that ASE knows (emt, lj), mace:PATH for a .model file, or module:Class"


def chosen_properties(system: System, only: str | None) -> list[str]:
    """Return names of properties; a word stands for all that begin with it.

    Parameters
    ----------
    system
        The system whose properties are meant.
    only
        Comma-separated names, or first words of names (``gsfe`` for ``gsfe_110_rigid`` and its
        relatives); None for all.

    Raises
    ------
    ConfigError
        For a word that fits no property.
    """
    if only is None:
        return list(system.properties)
    names: list[str] = []
    for word in (w.strip() for w in only.split(",")):
        fitting = [n for n in system.properties if n == word or n.startswith(f"{word}_")]
        if not fitting:
            raise ConfigError(
                f"System {system.name} has no property {word}; it has "
                f"{', '.join(system.properties)}."
            )
        names += [name for name in fitting if name not in names]
    return names


def any_calculator(spec: str, arguments: str | None, device: str) -> Any:
    """Return an ASE calculator that is none of ours.

    Parameters
    ----------
    spec
        ``emt``, ``lj`` or another name known to ASE; ``mace:PATH``, evaluated by mace-torch in
        double precision; or ``module:Class``, imported and called.
    arguments
        JSON object of keyword arguments for it, or None.
    device
        For ``mace:PATH``.

    Raises
    ------
    ConfigError
        If there is no such calculator or it cannot be made.
    """
    keywords = _keywords(arguments)
    kind, _, rest = spec.partition(":")
    if device != "cpu" and kind != "mace":
        raise ConfigError("--device applies to checkpoints and mace:PATH; use --calculator-args.")
    if kind == "mace" and rest:
        return _mace(Path(rest), {"default_dtype": "float64", **_device(device), **keywords})
    factory = _imported(kind, rest) if rest else _of_ase(spec)
    try:
        return factory(**keywords)
    except Exception as error:
        raise ConfigError(
            f"The calculator {spec} could not be made: {type(error).__name__}: {error}"
        ) from error


def check_new(out: Path | None) -> None:
    """Keep results that a folder already holds.

    Raises
    ------
    ConfigError
        If there are such, of a run or of anything else.
    """
    if out is not None and any((out / name).exists() for name in ("results.json", "figures")):
        raise ConfigError(f"{out} already holds results; choose another --out.")


def compute(
    system: System,
    names: Sequence[str],
    calculator: Any,
    stage: str,
    origin: str,
    out: Path | None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Compute properties one by one; with a folder, write results and figures after each.

    Returns
    -------
    results
        What results.json holds.
    failures
        Property -> why it has no value.
    """
    from ase_finetune.results import ResultFolder
    from ase_finetune.stages import compute_properties
    from ase_finetune.terminal import TerminalReporter

    folder = ResultFolder(out or Path(), {"system": system.name, "calculator": origin})
    check_new(out)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)

    with TerminalReporter() as reporter:

        def keep(result: Any) -> None:
            if out is not None:
                folder.keep(result, stage, system, reporter.note)
            else:
                folder.add_quantities(stage, result.quantities(stage), system)

        _, failures = compute_properties(system, calculator, names, reporter, stage, keep)
    folder.results["failures"][stage] = failures
    if out is not None:
        folder.write()
    return {key: value for key, value in folder.results.items() if value}, failures


def _device(name: str) -> dict[str, str]:
    from ase_finetune.evaluate import resolve_device

    return {"device": str(resolve_device(name))}


def _keywords(arguments: str | None) -> dict[str, Any]:
    import json

    if arguments is None:
        return {}
    try:
        found = json.loads(arguments)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--calculator-args is no JSON: {error}.") from error
    if not isinstance(found, dict):
        raise ConfigError("--calculator-args needs a JSON object of keyword arguments.")
    return found


def _mace(path: Path, keywords: Mapping[str, Any]) -> Any:
    if not path.is_file():
        raise ConfigError(f"There is no model file {path}.")
    from ase_finetune._mace import mace_calculator

    try:
        return mace_calculator(model_paths=str(path), **keywords)
    except Exception as error:
        raise ConfigError(f"mace-torch could not load {path}: {error}") from error


def _of_ase(name: str) -> Any:
    from ase.calculators.calculator import get_calculator_class

    try:
        return get_calculator_class(name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"There is no calculator {name!r}; give {FORMS}.") from error


def _imported(module: str, name: str) -> Any:
    if "" not in sys.path:  # a module in the working directory, which the console script leaves out
        sys.path.append("")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"There is no {name} in the module {module}: {error}.") from error
