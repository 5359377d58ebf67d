"""Registry of the systems that are studied; each is one module with a ``SYSTEM``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from systems.errors import DataFileError, SystemsError, UnknownPropertyError, UnknownSystemError

if TYPE_CHECKING:
    from systems.system import System

_MODULES = {
    "mo": "systems.mo",
    "acetylacetone": "systems.acetylacetone",
    "mos2": "systems.mos2",
    "water_graphene": "systems.water_graphene",
}

__all__ = [
    "DataFileError",
    "SystemsError",
    "UnknownPropertyError",
    "UnknownSystemError",
    "get_system",
    "list_systems",
]


def list_systems() -> list[str]:
    """Return the names of all systems."""
    return list(_MODULES)


def get_system(name: str) -> System:
    """Return a system by name.

    Raises
    ------
    UnknownSystemError
        If there is none of this name; the message lists the valid names.
    """
    if name not in _MODULES:
        raise UnknownSystemError(
            f"There is no system {name!r}; choose one of: {', '.join(_MODULES)}."
        )
    system: System = import_module(_MODULES[name]).SYSTEM
    return system
