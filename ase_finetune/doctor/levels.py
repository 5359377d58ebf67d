"""What frames record of the calculations behind them, and whether it is one kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from ase_finetune.data.read import is_isolated_atom
from ase_finetune.doctor.finding import Finding

_DISPERSION = re.compile(r"dispersion|vdw|(^|_)d[34]($|_|\W)|dftd|ivdw|mbd", re.IGNORECASE)
_THEORY = re.compile(
    r"functional|(^|_)xc($|_)|^gga$|metagga|level_of_theory|(^|_)theory|^method$|lot$",
    re.IGNORECASE,
)
_SETTINGS = re.compile(
    r"^code$|calculator|program|^basis|setups|pseudo|potcar|cutoff|encut|ecut|kpts|kpoint|kspacing|"
    r"smearing|sigma|ldau|hubbard|^spin|multiplicity|charge|^scf|grid",
    re.IGNORECASE,
)
_IN_TEXT = re.compile(
    r"\bD[234](\(BJ\)|BJ\b|\b)|-D[234]\b|vdW-?DF|rVV10|\bMBD\b|Tkatchenko|dispersion|Grimme",
    re.IGNORECASE,
)
_FUNCTIONAL_IN_TEXT = re.compile(
    r"\b(rev|rP|R)?PBE(sol|0)?\b|\br?2?SCAN\b|\bB3LYP\b|\bBLYP\b|wB97\S*|\bHSE06\b|\bLDA\b|CCSD\S*|\bMP2\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Recorded:
    """What the frames state of themselves.

    Attributes
    ----------
    theory, dispersion, settings
        Key -> {value: number of frames}; ``(none)`` counts the frames without the key.
    words
        Words of functionals and dispersion found in other texts -> number of frames.
    """

    theory: dict[str, dict[str, int]]
    dispersion: dict[str, dict[str, int]]
    settings: dict[str, dict[str, int]]
    words: dict[str, int]


def recorded(frames: Sequence[Atoms]) -> Recorded:
    """Collect the keys about the level of theory."""
    meant = [f for f in frames if not is_isolated_atom(f)] or list(frames)
    keys = sorted({str(key) for f in meant for key in f.info})
    kinds: dict[str, dict[str, dict[str, int]]] = {"theory": {}, "dispersion": {}, "settings": {}}
    words: Counter[str] = Counter()
    for key in keys:
        values = [f.info.get(key) for f in meant]
        kind = _kind(key)
        if kind is not None and not _is_label(key, values):
            counts = Counter(_text(value) for value in values)
            kinds[kind][key] = dict(counts.most_common())
        else:
            for value in values:
                if isinstance(value, str):
                    for pattern in (_IN_TEXT, _FUNCTIONAL_IN_TEXT):
                        words.update({match.group(0) for match in pattern.finditer(value)})
    return Recorded(kinds["theory"], kinds["dispersion"], kinds["settings"], dict(words))


def _kind(key: str) -> str | None:
    for kind, pattern in (
        ("dispersion", _DISPERSION),
        ("theory", _THEORY),
        ("settings", _SETTINGS),
    ):
        if pattern.search(key):
            return kind
    return None


def _is_label(key: str, values: Sequence[Any]) -> bool:
    """Numbers that vary from frame to frame are results, not settings."""
    if re.search(r"energy|force|stress", key, re.IGNORECASE):
        numbers = [v for v in values if isinstance(v, (float, np.floating, np.ndarray))]
        return len(numbers) > 0
    return False


def _text(value: Any) -> str:
    return "(none)" if value is None else str(value).strip()


def check_levels(found: Recorded, frames: Sequence[Atoms], name: str) -> list[Finding]:
    """Find mixed functionals, mixed or unrecorded dispersion and differing settings."""
    findings = []
    for key, counts in found.theory.items():
        if len(counts) > 1:
            findings.append(
                Finding(
                    "warning",
                    "theory_mixed",
                    f"{key!r} is not the same in all frames: {_spelled(counts)}.",
                    "Train on one level of theory, or say that these are equal.",
                    name,
                    _minority(frames, key, counts),
                )
            )
    for key, counts in found.dispersion.items():
        if len(counts) > 1:
            findings.append(
                Finding(
                    "warning",
                    "dispersion_mixed",
                    f"Dispersion ({key!r}) is recorded differently: {_spelled(counts)}.",
                    "Labels must all have it or all lack it: find out, and record it in every "
                    "frame.",
                    name,
                    _minority(frames, key, counts),
                )
            )
    differing = {key: c for key, c in found.settings.items() if len(c) > 1}
    if differing:
        findings.append(
            Finding(
                "note",
                "settings_differ",
                f"Settings that differ between frames: {', '.join(sorted(differing))}.",
                "Fine where a setting follows the cell (k-points); otherwise look whether the "
                "energies are comparable.",
                name,
            )
        )
    if not found.theory and not found.words:
        findings.append(
            Finding(
                "note",
                "theory_unknown",
                "No key states the functional or level of theory.",
                "Record it, such as functional=PBE, before the frames are mixed with others.",
                name,
            )
        )
    if not found.dispersion and not any(_IN_TEXT.search(word) for word in found.words):
        findings.append(
            Finding(
                "note",
                "dispersion_unknown",
                "No key states whether the labels include a dispersion correction.",
                "Record it, such as dispersion=none: a model of labels with D3 must not get D3 "
                "on top.",
                name,
            )
        )
    return findings


def _spelled(counts: dict[str, int]) -> str:
    parts = [f"{value} in {count}" for value, count in counts.items()]
    return listed_words(parts)


def listed_words(parts: Sequence[str], most: int = 5) -> str:
    """Join words, shortened after ``most``."""
    rest = f", and {len(parts) - most} more" if len(parts) > most else ""
    return ", ".join(parts[:most]) + rest


def _minority(frames: Sequence[Atoms], key: str, counts: dict[str, int]) -> tuple[int, ...]:
    common = max(counts, key=lambda value: counts[value])
    return tuple(
        i
        for i, f in enumerate(frames)
        if not is_isolated_atom(f) and _text(f.info.get(key)) != common
    )
