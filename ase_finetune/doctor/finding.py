"""What the doctor says: findings, from errors to notes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

LEVELS = ("error", "warning", "note")
Progress = Callable[[str, int, int], None]  # title, done, total


@dataclass(frozen=True)
class Finding:
    """One verdict.

    Attributes
    ----------
    level
        ``error``: do not train on this; ``warning``: look before training; ``note``: good to know.
    code
        Stable name of the fault, such as ``force_sign``.
    message
        One sentence in plain words that says what is there.
    action
        What to do about it.
    source
        The set it is about, or two joined by `` and ``.
    frames
        Zero-based frames of the set (of the second where there are two); empty where all or none.
    """

    level: str
    code: str
    message: str
    action: str
    source: str
    frames: tuple[int, ...] = ()


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Sort by level, errors first, otherwise in the order found."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def listed(frames: Sequence[int], most: int = 8) -> str:
    """Spell frame numbers: ``3, 5, 9``, shortened after ``most``."""
    shown = ", ".join(str(int(i)) for i in frames[:most])
    return shown if len(frames) <= most else f"{shown}, ... ({len(frames)} in all)"


def of_frames(count: int, total: int) -> str:
    """Spell a share: ``all 60 frames`` or ``3 of 60 frames``."""
    if count == total:
        return f"all {total} frames" if total > 1 else "the only frame"
    return f"{count} of {total} frames"
