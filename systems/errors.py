"""Errors of the systems; each message is one sentence that says what to do."""

from __future__ import annotations


class SystemsError(ValueError):
    """Base of the errors below."""


class UnknownSystemError(SystemsError):
    """No system has this name."""


class UnknownPropertyError(SystemsError):
    """The system does not list this property."""


class DataFileError(SystemsError):
    """A data file is no file of ours, or frames cannot be stored in one."""
