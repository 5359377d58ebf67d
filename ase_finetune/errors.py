"""Errors that a user can mend; the command line prints them as one sentence and exits with 2."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input. The message is one sentence that says what is wrong and what to do."""


class DataError(UserError):
    """Labelled frames that must not be trained on."""


class ConfigError(UserError):
    """An unknown or impossible setting."""


class FoundationError(UserError):
    """A pretrained model that cannot be found, read or used."""


class CheckpointError(UserError):
    """A checkpoint folder that is damaged, foreign or incomplete."""
