"""Frames for the doctor: read as `read_frames` does, but what is wrong is noted, not fatal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_finetune.data.read import (
    ENERGY_KEY,
    FORCES_KEY,
    FORMATS,
    STRESS_KEY,
    label_keys,
    label_of,
    stress_voigt,
)
from ase_finetune.doctor.finding import Finding, Progress, of_frames
from ase_finetune.errors import DataError

DEFAULT_KEYS = {"energy": ENERGY_KEY, "forces": FORCES_KEY, "stress": STRESS_KEY}
# Energies that are not the total energy of the frame.
_NOT_TOTAL = re.compile(
    r"kinetic|cutoff|per_?atom|fermi|gap|homo|lumo|formation|reaction|zero_?point|zpe|var|std|err|"
    r"atomi[sz]ation|dispersion|d3|vdw|pressure|entropy|correction",
    re.IGNORECASE,
)
_PREFERRED = ("free_energy", "energy", "forces", "stress")


@dataclass(frozen=True)
class FrameSet:
    """The frames of one file.

    Attributes
    ----------
    name
        The file's name without its suffix.
    path, role
        The file, and ``data``, ``valid`` or ``test``.
    frames
        Under ``REF_*`` whatever labels could be read (units as given).
    keys
        ``energy``, ``forces``, ``stress`` -> the key that is examined, None where there is none.
    candidates
        The same kinds -> every key that looks like such a label.
    totals
        Key -> (F,) other total energies in the file, NaN where absent.
    findings
        What was wrong with the keys and shapes.
    """

    name: str
    path: Path
    role: str
    frames: list[Atoms]
    keys: dict[str, str | None]
    candidates: dict[str, list[str]]
    totals: dict[str, NDArray[np.float64]]
    findings: list[Finding] = field(default_factory=list)


@dataclass
class Examined:
    """A set on its way through the checks.

    Attributes
    ----------
    data, contents
        The frames, and what is inside (`contents`).
    rows
        Frames with finite labels and a sound cell.
    findings
        So far.
    """

    data: FrameSet
    contents: dict[str, Any]
    rows: list[int] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def codes(self) -> set[str]:
        return {finding.code for finding in self.findings}


def read_set(
    path: Path, role: str, keys: dict[str, str], progress: Progress | None = None
) -> FrameSet:
    """Read one file.

    Parameters
    ----------
    path
        Anything `ase.io.read` knows, this project's HDF5 too.
    role
        ``data``, ``valid`` or ``test``.
    keys
        ``energy``, ``forces`` and ``stress`` -> where the user says the label is. Where no frame
        has it, the likeliest other key is examined, and an error says so.
    progress
        Called with (title, done, total).

    Raises
    ------
    DataError
        If the file cannot be read or holds no frames.
    """
    raw = _frames(path, progress)
    candidates = label_keys(raw)
    findings: list[Finding] = []
    used: dict[str, str | None] = {}
    for kind, asked in keys.items():
        used[kind] = _choose(kind, asked, candidates[kind], raw, path.stem, findings)
    frames, unusable = [], []
    for index, frame in enumerate(raw):
        out, bad = _labelled(frame, used)
        frames.append(out)
        if bad:
            unusable.append((index, bad))
    if unusable:
        findings.append(
            Finding(
                "error",
                "label_shape",
                f"{of_frames(len(unusable), len(raw)).capitalize()} have a label that is not "
                f"usable ({unusable[0][1]}).",
                "Give one number as energy, (N, 3) forces and six stress components.",
                path.stem,
                tuple(index for index, _ in unusable),
            )
        )
    totals = {
        key: np.array([_number(label_of(frame, key)) for frame in raw])
        for key in candidates["energy"]
        if key != used["energy"] and not _NOT_TOTAL.search(key)
    }
    return FrameSet(path.stem, path, role, frames, used, candidates, totals, findings)


def _frames(path: Path, progress: Progress | None) -> list[Atoms]:
    if not path.exists():
        raise DataError(f"There is no file {path}: check the path.")
    frames: list[Atoms] = []
    total = _count(path) if progress is not None else 0
    try:
        for frame in ase.io.iread(
            path, ":", format=FORMATS.get(path.suffix.lower()), do_not_split_by_at_sign=True
        ):
            frames.append(frame)
            if progress is not None and len(frames) % 100 == 0:
                progress(f"reading {path.name}", len(frames), max(total, len(frames)))
    except Exception as error:  # every ASE reader has its own exceptions
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(
            f"{path.name} cannot be read as labelled frames beyond frame {len(frames)} "
            f"({reason}): give extended XYZ, this project's HDF5, or another file that ASE reads."
        ) from error
    if not frames:
        raise DataError(f"{path.name} holds no frames: give a file with labelled structures.")
    return frames


def _count(path: Path) -> int:
    """Frames of an XYZ file by their first lines, for the progress bar; 0 for other files."""
    if path.suffix.lower() not in {".xyz", ".extxyz"}:
        return 0
    count = 0
    with open(path, "rb") as file:
        for line in file:
            if not line.strip().isdigit():
                break
            count += 1
            next(islice(file, int(line), int(line) + 1), None)
    return count


def _choose(
    kind: str,
    asked: str,
    candidates: Sequence[str],
    frames: Sequence[Atoms],
    source: str,
    findings: list[Finding],
) -> str | None:
    if any(label_of(frame, asked) is not None for frame in frames):
        return asked
    virial = [name for name in candidates if "virial" in name.lower()]
    others = [n for n in candidates if n not in virial]
    if kind == "energy":
        others = [name for name in others if not _NOT_TOTAL.search(name)]
    if kind == "stress" and not others:
        if virial:
            findings.append(
                Finding(
                    "warning",
                    "stress_virial",
                    f"There is no stress under {asked!r}, but a virial: {', '.join(virial)}.",
                    "Divide it by minus the cell volume and store it as REF_stress in eV/A^3.",
                    source,
                )
            )
        return None
    if not others:
        findings.append(
            Finding(
                "error",
                f"{kind}_missing",
                f"No frame has {_article(kind)} under {asked!r}, and nothing looks like one.",
                f"Give labelled frames, or name the key with --{kind}-key.",
                source,
                tuple(range(len(frames))),
            )
        )
        return None
    counts = Counter(n for f in frames for n in others if label_of(f, n) is not None)
    best = min(others, key=lambda n: (n not in _PREFERRED, -counts[n], _rank(n)))
    findings.append(
        Finding(
            # A stress is optional, so nobody is stopped by its name.
            "warning" if kind == "stress" else "error",
            f"{kind}_key",
            f"No frame has {_article(kind)} under {asked!r}, but there is {', '.join(others)}; "
            f"this report examines {best!r}.",
            f"Pass --{kind}-key {best} if that is the label.",
            source,
        )
    )
    return best


def _rank(name: str) -> int:
    return _PREFERRED.index(name) if name in _PREFERRED else len(_PREFERRED)


def _article(kind: str) -> str:
    return {"energy": "an energy", "forces": "forces", "stress": "a stress"}[kind]


def _labelled(frame: Atoms, keys: dict[str, str | None]) -> tuple[Atoms, str]:
    values = {kind: None if key is None else label_of(frame, key) for kind, key in keys.items()}
    out: Atoms = frame.copy()
    out.calc = None
    for key in (*keys.values(), *DEFAULT_KEYS.values()):
        if key is not None:
            out.info.pop(key, None)
            out.arrays.pop(key, None)
    energy, forces, stress = values["energy"], values["forces"], values["stress"]
    if forces is None and len(frame) == 1:
        forces = np.zeros((1, 3))
    bad = ""
    try:
        if energy is not None:
            out.info[ENERGY_KEY] = float(np.asarray(energy, dtype=float).reshape(()))
    except (ValueError, TypeError):
        bad = f"the energy is {str(energy)[:40]!r}"
    try:
        if forces is not None:
            out.arrays[FORCES_KEY] = np.asarray(forces, dtype=float).reshape(len(frame), 3)
    except (ValueError, TypeError):
        bad = f"the forces have shape {np.asarray(forces).shape}"
    try:
        if stress is not None:
            out.info[STRESS_KEY] = stress_voigt(stress)
    except (ValueError, TypeError) as error:
        bad = f"the stress {error}"
    return out, bad


def _number(value: Any) -> float:
    try:
        return float(np.asarray(value, dtype=float).reshape(()))
    except (ValueError, TypeError):
        return float("nan")
