"""Checks that stop a wrong run early, each with one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ase import Atoms


def check_frames(
    frames: Sequence[Atoms],
    *,
    stress: bool,
    elements: Sequence[int] | None = None,
    name: str = "data",
) -> None:
    """Stop on frames that must not be trained on."""


def check_leakage(named: Mapping[str, Sequence[Atoms]]) -> None:
    """Stop if a frame is in two sets."""
