"""Repeated frames within a file, between its splits, and between files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from ase import Atoms

from ase_finetune.data.read import ENERGY_KEY, is_isolated_atom
from ase_finetune.doctor.duplicates import check_equivalent, check_pair, check_twins, twins
from ase_finetune.doctor.finding import Finding
from ase_finetune.doctor.geometry import bins_for, geometry
from ase_finetune.doctor.read import Examined
from ase_finetune.doctor.surrogate import step_between

_LEAST_FRAMES = 10
_MOST_FRAMES = 700  # of each set
_LEAST_STEP = 5.0  # times what the linear model leaves; 300 and 600 K of one molecule differ by 1


def _parts(found: Examined) -> dict[str, list[int]]:
    """Rows of each named split of a file, or all of them under its name."""
    frames = found.data.frames
    parts: dict[str, list[int]] = {}
    for i in found.rows:
        parts.setdefault(str(frames[i].info.get("split", "")), []).append(i)
    if len(parts) > 1 and "train" in parts and "" not in parts and found.data.role == "data":
        return parts
    return {"": found.rows}


def check_repeats(found: Examined) -> None:
    """Add what is found of repeated frames in a set and between its named splits."""
    frames, name = found.data.frames, found.data.name
    parts = _parts(found)
    for part, rows in parts.items():
        several = [i for i in rows if not is_isolated_atom(frames[i])]
        source = f"{name}:{part}" if part else name
        fitted = found.data.role == "data" and part in ("", "train", "valid")
        chosen = [frames[i] for i in several]
        pairs = twins(chosen)
        found.findings += check_twins(pairs, chosen, several, source, fitted)
        known = {(several[a], several[b]) for a, b in pairs.same + pairs.near}
        found.findings += check_equivalent(chosen, several, source, known)
    for first, second in combinations(_ordered(parts), 2):
        # Sets of other names are references beside the held-out ones.
        counted = all(p in ("train", "valid") or p.startswith("test") for p in (first, second))
        level = "error" if counted else "note"
        found.findings += _renumbered(
            check_pair(
                [frames[i] for i in parts[first]],
                [frames[i] for i in parts[second]],
                (f"{name}:{first}", f"{name}:{second}"),
                level,
            ),
            parts[second],
        )


def _ordered(parts: Mapping[str, list[int]]) -> list[str]:
    return sorted(parts, key=lambda part: (part != "train", part != "valid"))


def _renumbered(findings: Sequence[Finding], rows: Sequence[int]) -> list[Finding]:
    """Turn the frames of findings from places in a list into numbers in the file."""
    return [
        Finding(f.level, f.code, f.message, f.action, f.source, tuple(rows[i] for i in f.frames))
        for f in findings
    ]


def check_between(examined: Sequence[Examined]) -> list[Finding]:
    """Find frames, trajectories and levels of theory that two files share or should share."""
    findings: list[Finding] = []
    for first, second in combinations(examined, 2):
        left, right = ([found.data.frames[i] for i in found.rows] for found in (first, second))
        findings += _renumbered(
            check_pair(left, right, (first.data.name, second.data.name), "error"), second.rows
        )
        findings += _levels_between(first, second)
        if not any(f.level == "error" for found in (first, second) for f in found.findings):
            findings += _step_between(first, second)
    return findings


def _step_between(first: Examined, second: Examined) -> list[Finding]:
    """Find a constant difference per atom between the energies of two sets."""
    chosen = [_spread_out(found) for found in (first, second)]
    compositions = [{f.get_chemical_formula(empirical=True) for f in frames} for frames in chosen]
    if not compositions[0] & compositions[1] or min(map(len, chosen)) < _LEAST_FRAMES:
        return []
    both = [*chosen[0], *chosen[1]]
    elements = len({int(z) for f in both for z in f.numbers})
    energy = np.array([f.info[ENERGY_KEY] / len(f) for f in both])
    mark = np.arange(len(both)) >= len(chosen[0])
    shapes = geometry(both, bins_for(len(both), elements))
    found = step_between(shapes.features, energy, elements, mark)
    if found is None or abs(found[0]) < _LEAST_STEP * found[1]:
        return []
    return [
        Finding(
            "error",
            "levels_between",
            f"The energies of {second.data.name} lie {1000 * found[0]:+.3g} meV/atom from those of "
            f"{first.data.name} for like structures.",
            "Find out whether both are of one code, functional, setup and reference.",
            f"{first.data.name} and {second.data.name}",
        )
    ]


def _spread_out(found: Examined) -> list[Atoms]:
    rows = [i for i in found.rows if not is_isolated_atom(found.data.frames[i])]
    stride = max(1, len(rows) // _MOST_FRAMES)
    return [found.data.frames[i] for i in rows[::stride]]


def _levels_between(first: Examined, second: Examined) -> list[Finding]:
    """Compare what two files record of their theory."""
    findings = []
    for kind, code in (("theory", "theory_mixed"), ("dispersion", "dispersion_mixed")):
        one, other = (found.contents["recorded"][kind] for found in (first, second))
        for key in sorted(set(one) & set(other)):
            if set(one[key]) != set(other[key]):
                findings.append(
                    Finding(
                        "warning",
                        code,
                        f"{key!r} is {', '.join(one[key])} in {first.data.name} and "
                        f"{', '.join(other[key])} in {second.data.name}.",
                        "Train and test on one level of theory.",
                        f"{first.data.name} and {second.data.name}",
                    )
                )
    return findings
