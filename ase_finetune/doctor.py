"""What is in labelled frames and what is wrong with them, before an hour is spent on training.

Every check is a function of its own (`doctor_*.py`) that returns findings; here they are called
in an order in which one fault does not pass for another.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ase_finetune.data_pairs import work_pairs
from ase_finetune.data_physics import Consistency, Slope, label_consistency
from ase_finetune.data_read import is_isolated_atom
from ase_finetune.doctor_contents import contents
from ase_finetune.doctor_duplicates import check_equivalent, check_pair, check_twins, twins
from ase_finetune.doctor_energies import check_zero, fit_zero
from ase_finetune.doctor_finding import LEVELS, Finding, Progress, ranked
from ase_finetune.doctor_geometry import check_geometry, geometry
from ase_finetune.doctor_labels import check_constant, check_forces, check_labels, usable
from ase_finetune.doctor_levels import check_levels, recorded
from ase_finetune.doctor_outliers import check_energies, check_extremes, jumps
from ase_finetune.doctor_physics import check_forces_unit, check_free_energy, check_stress
from ase_finetune.doctor_read import DEFAULT_KEYS, FrameSet, read_set
from ase_finetune.doctor_surrogate import surrogate
from ase_finetune.errors import ConfigError

_SEED = Path(__file__).parent / "foundations" / "seed" / "checkpoint.json"
_BINS = (10, 6, 4)


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found.

    Attributes
    ----------
    sets
        Name of the file -> what is inside (`doctor_contents`), with ``E0s``, ``consistency``,
        ``recorded`` and, where asked for, ``zero_shot``.
    findings
        Errors first.
    recommended
        The command to run next.
    """

    sets: dict[str, dict[str, Any]]
    findings: list[Finding]
    recommended: str

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings by level."""
        levels = Counter(finding.level for finding in self.findings)
        return {level: levels[level] for level in LEVELS}

    def document(self) -> dict[str, Any]:
        """Return what doctor.json holds."""
        return {
            "format": "ase-finetune doctor",
            "format_version": 1,
            "counts": self.counts,
            "findings": [asdict(finding) for finding in self.findings],
            "recommended": self.recommended,
            "sets": self.sets,
        }


@dataclass
class _Examined:
    """One set on its way through the checks."""

    data: FrameSet
    contents: dict[str, Any]
    rows: list[int] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def codes(self) -> set[str]:
        return {finding.code for finding in self.findings}


def examine(
    files: Sequence[Path],
    *,
    valid: Sequence[Path] = (),
    tests: Sequence[Path] = (),
    keys: Mapping[str, str] = DEFAULT_KEYS,
    foundation: str | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Examine labelled frames.

    Parameters
    ----------
    files
        Frames to train on, and nothing else if there is one file.
    valid, tests
        Files held out.
    keys
        ``energy``, ``forces``, ``stress`` -> key of the labels.
    foundation
        Evaluate this one on the frames too; None evaluates none.
    progress
        Called with (title, done, total) where something takes long.

    Raises
    ------
    DataError, ConfigError, FoundationError
        If a file cannot be read, two have one name, or there is no such foundation.
    """
    roles = [("data", p) for p in files] + [("valid", p) for p in valid]
    roles += [("test", p) for p in tests]
    names = Counter(path.stem for _, path in roles)
    double = [name for name, count in names.items() if count > 1]
    if double:
        raise ConfigError(f"Two files are called {double[0]}; rename one.")
    examined = []
    for role, path in roles:
        data = read_set(path, role, dict(keys), progress)
        found = _Examined(data, contents(data))
        _examine_set(found, foundation, progress)
        examined.append(found)
    findings = [finding for found in examined for finding in found.findings]
    findings += _between(examined)
    findings = ranked(findings)
    sets = {found.data.name: found.contents for found in examined}
    return Diagnosis(sets, findings, _recommended(examined, findings, foundation))


def _examine_set(found: _Examined, foundation: str | None, progress: Progress | None) -> None:
    data, name = found.data, found.data.name
    frames = data.frames
    found.findings += data.findings + check_labels(data)
    levels = recorded(frames)
    found.contents["recorded"] = asdict(levels)
    found.findings += check_levels(levels, frames, name)
    found.rows = usable(frames)
    if not found.rows:
        return
    zero = fit_zero([frames[i] for i in found.rows])
    found.contents["E0s"] = {k: v for k, v in asdict(zero).items() if k != "residual"}
    found.findings += check_zero(zero, [frames[i] for i in found.rows], found.rows, name)
    several = [i for i in found.rows if not is_isolated_atom(frames[i])]
    if several:
        over = {i: r for i, r in zip(found.rows, zero.residual, strict=True)}
        _examine_physics(found, several, np.array([over[i] for i in several]), progress)
    _examine_repeats(found)
    found.findings += check_free_energy(data, found.rows)
    if foundation is not None:
        from ase_finetune.doctor_zero_shot import zero_shot

        chosen = several or found.rows
        results, more = zero_shot(foundation, [frames[i] for i in chosen], chosen, name, progress)
        found.contents["zero_shot"] = results
        found.findings += more


def _examine_physics(
    found: _Examined, rows: list[int], over: np.ndarray, progress: Progress | None
) -> None:
    name, everything = found.data.name, found.data.frames
    elements = len({int(z) for i in rows for z in everything[i].numbers})
    shapes = geometry(
        [everything[i] for i in rows], _bins(len(rows), elements), progress, f"distances in {name}"
    )
    more, factor = check_geometry(shapes, rows, name, len(everything))
    found.findings += more
    found.findings += check_forces(everything, rows, name)
    found.findings += check_constant(everything, rows, name)
    # Frames in which atoms overlap or forces were zeroed would blame the others.
    bad = {i for f in found.findings if f.code in ("overlap", "forces_zeroed") for i in f.frames}
    kept = [k for k, i in enumerate(rows) if i not in bad]
    if not kept or "energies_constant" in found.codes:
        return
    rows = [rows[k] for k in kept]
    frames = [everything[i] for i in rows]
    sizes = np.array([len(f) for f in frames])
    consistency, pairs = label_consistency(frames), work_pairs(frames)
    found.contents["consistency"] = _spelled(consistency)
    if _agree(consistency.forces):
        # The scale of the energies is a hint only; work between frames is evidence.
        found.findings[:] = [f for f in found.findings if f.code != "energy_unit"]
    elif "energy_unit" not in found.codes:
        found.findings += check_forces_unit(consistency, [len(f) for f in frames], factor, name)
    found.findings += check_stress(consistency, pairs, frames, name)
    wrong = {"force_sign", "force_unit", "energy_unit", "label_units", "force_energy_mismatch"}
    if factor != 1.0 or found.codes & wrong:
        return
    sound = not any(f.code.startswith(("stress_", "pressure_")) for f in found.findings)
    trusted = sound and consistency.stress is not None
    energy = np.array([f.info["REF_energy"] for f in frames]) / sizes
    model = surrogate(shapes.features[kept], energy, elements)
    if model is not None:
        found.contents["linear_model"] = {
            "explained": model.explained,
            "scatter_meV_per_atom": 1000 * model.scatter,
        }
    more = check_energies(jumps(pairs, sizes, trusted), model, sizes, rows, name)
    found.findings += more
    if not {"levels_mixed", "energies_unrelated"} & {f.code for f in more}:
        known = {i for f in more for i in f.frames}
        found.findings += [
            f
            for f in check_extremes(frames, over[kept], rows, name)
            if f.code != "energy_outlier" or not set(f.frames) <= known
        ]


def _bins(count: int, elements: int) -> int:
    kinds = elements * (elements + 1) // 2
    for bins in _BINS:
        if count >= 3 * (kinds * bins + 3 * elements):
            return bins
    return _BINS[-1]


def _agree(slope: Slope | None) -> bool:
    return slope is not None and slope.clear and 0.6 < slope.value < 1.6


def _spelled(found: Consistency) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for what in ("forces", "stress"):
        slope = getattr(found, what)
        out[what] = None if slope is None else {**asdict(slope), "clear": bool(slope.clear)}
    out["pressure_offset_GPa"] = found.pressure_offset_gpa
    out["shear_order"] = found.shear_order
    return out


def _parts(found: _Examined) -> dict[str, list[int]]:
    """Rows of each named split of a file, or all of them under its name."""
    frames = found.data.frames
    parts: dict[str, list[int]] = {}
    for i in found.rows:
        parts.setdefault(str(frames[i].info.get("split", "")), []).append(i)
    if len(parts) > 1 and "train" in parts and "" not in parts and found.data.role == "data":
        return parts
    return {"": found.rows}


def _examine_repeats(found: _Examined) -> None:
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
        level = "error" if counted and (first == "train" or second == "train") else "note"
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


def _between(examined: Sequence[_Examined]) -> list[Finding]:
    findings: list[Finding] = []
    for first, second in combinations(examined, 2):
        left, right = ([found.data.frames[i] for i in found.rows] for found in (first, second))
        findings += _renumbered(
            check_pair(left, right, (first.data.name, second.data.name), "error"), second.rows
        )
        findings += _levels_between(first, second)
    return findings


def _levels_between(first: _Examined, second: _Examined) -> list[Finding]:
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


def _recommended(
    examined: Sequence[_Examined], findings: Sequence[Finding], foundation: str | None
) -> str:
    elements = {s for found in examined for s in found.contents["frames_with_element"]}
    known = set(json.loads(_SEED.read_text(encoding="utf-8"))["elements"])
    if foundation is None:
        foundation = "seed" if elements <= known else "FOUNDATION"
    paths: dict[str, list[str]] = {"data": [], "valid": [], "test": []}
    for found in examined:
        paths[found.data.role].append(str(found.data.path))
    parts = ["ase-finetune train"]
    for role, given in paths.items():
        # Training takes one file of each kind but of test frames.
        joined = given if role == "test" or len(given) < 2 else ["JOINED.xyz"]
        parts += [f"--{role} {path}" for path in joined]
    parts.append(f"--foundation {foundation}")
    for kind, default in DEFAULT_KEYS.items():
        key = examined[0].data.keys[kind]
        if key is not None and key != default:
            parts.append(f"--{kind}-key {key}")
    stress = [
        f for f in findings if f.code.startswith(("stress_", "pressure_")) and f.level != "note"
    ]
    periodic = all(
        found.contents["n_labelled"]["stress"]
        >= found.contents["n_frames"] - found.contents["n_isolated_atoms"]
        for found in examined
        if found.data.role != "test"
    )
    if periodic and not stress:
        parts.append("--stress-weight 10")
    return " ".join(parts)
