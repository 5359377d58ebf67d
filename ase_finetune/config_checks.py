"""Checks of single settings; each raises ConfigError with one sentence."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ase_finetune.errors import ConfigError

T = TypeVar("T")


def choose(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a value that is not among the choices."""
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(choices)}.")


def flag(name: str, value: object) -> None:
    """Refuse what is not true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; it must be true or false.")


def number(name: str, value: object, low: float, high: float = math.inf) -> None:
    """Refuse what is not a finite number in the range."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or not low <= value <= high
    ):
        bound = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ConfigError(f"{name} is {value!r}; it must be a number {bound}.")


def whole(name: str, value: object, low: int) -> None:
    """Refuse what is not a whole number of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least {low}.")


def text(name: str, value: object) -> None:
    """Refuse what is not text."""
    if not isinstance(value, str):
        raise ConfigError(f"{name} is {value!r}; it must be text.")


def mapping(name: str, value: object) -> None:
    """Refuse what is not a mapping."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} is {value!r}; it must hold 'name: value' entries.")


def patterns(name: str, value: object) -> None:
    """Refuse what is not a list of texts."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{name} is {value!r}; it must be a list of patterns.")
    for entry in value:
        text(name, entry)


def from_mapping(cls: type[T], values: Mapping[str, Any]) -> T:
    """Make a config from a mapping, refusing keys that it does not have.

    Raises
    ------
    ConfigError
        On an unknown key (with the nearest valid ones) or an invalid value.
    """
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"valid keys are {', '.join(known)}."
            raise ConfigError(f"Unknown setting {key!r}; {hint}")
    return cls(**values)
