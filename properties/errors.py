"""Errors of the property functions."""

from __future__ import annotations


class PropertyError(ValueError):
    """Base of the errors below; its message is one sentence that says what to do."""


class NotConvergedError(PropertyError):
    """A relaxation ran out of steps, so no number is returned."""


class BlowUpError(PropertyError):
    """A simulation left physics behind and was stopped, so no number is returned."""


class CalculatorError(PropertyError):
    """A calculator lacks a quantity that is needed, or returned one that is not finite."""


class StructureError(PropertyError):
    """The structure handed in cannot be used for this property."""


class UnitMismatchError(PropertyError):
    """Two quantities of the same name are in different units."""


class MissingQuantityError(PropertyError):
    """A reference names a quantity that the result does not have."""
