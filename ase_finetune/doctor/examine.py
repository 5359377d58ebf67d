"""What is in labelled frames and what is wrong with them, before an hour is spent on training.

Every check is a function of its own that returns findings; here they are called
in an order in which one fault does not pass for another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ase_finetune.data.pairs import work_pairs
from ase_finetune.data.physics import Consistency, Slope, label_consistency
from ase_finetune.data.read import ENERGY_KEY, FORCES_KEY, is_isolated_atom
from ase_finetune.doctor.advice import check_seed, recommended
from ase_finetune.doctor.contents import contents
from ase_finetune.doctor.energies import Zero, check_zero, fit_zero
from ase_finetune.doctor.finding import LEVELS, Finding, Progress, ranked
from ase_finetune.doctor.geometry import bins_for, check_geometry, geometry
from ase_finetune.doctor.labels import check_constant, check_forces, check_labels, usable
from ase_finetune.doctor.levels import check_levels, recorded
from ase_finetune.doctor.lone import distances, lone_energies, lone_finding
from ase_finetune.doctor.outliers import check_energies, check_extremes, jumps
from ase_finetune.doctor.physics import check_forces_unit, check_free_energy, check_stress
from ase_finetune.doctor.read import DEFAULT_KEYS, Examined, read_set
from ase_finetune.doctor.sets import check_between, check_repeats
from ase_finetune.doctor.surrogate import surrogate
from ase_finetune.errors import ConfigError

_SPOILED = {"overlap", "forces_zeroed"}
# After these, work and energies cannot be compared; after the next ones, forces cannot.
_OTHER_WORK = {"energy_unit", "label_units"}
_OTHER_FORCES = {"force_sign", "force_unit", "force_energy_mismatch"}
_OTHER_LEVELS = {"levels_mixed", "energies_unrelated", "energies_constant"}


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found.

    Attributes
    ----------
    sets
        Name of the file -> what is inside (`contents`), with ``E0s``, ``consistency``,
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
        found = Examined(data, contents(data))
        _examine_set(found, foundation, progress)
        examined.append(found)
    findings = [finding for found in examined for finding in found.findings]
    findings += check_between(examined)
    if foundation is None:
        findings += check_seed(examined)
    findings = ranked(findings)
    sets = {found.data.name: found.contents for found in examined}
    return Diagnosis(sets, findings, recommended(examined, findings, foundation))


def _examine_set(found: Examined, foundation: str | None, progress: Progress | None) -> None:
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
    found.contents["E0s"] = zero.document()
    found.findings += check_zero(zero, [frames[i] for i in found.rows], found.rows, name)
    several = [i for i in found.rows if not is_isolated_atom(frames[i])]
    if several:
        over = {i: r for i, r in zip(found.rows, zero.residual, strict=True)}
        _examine_physics(found, several, np.array([over[i] for i in several]), zero, progress)
    check_repeats(found)
    found.findings += check_free_energy(data, found.rows)
    if foundation is not None:
        from ase_finetune.doctor.zero_shot import zero_shot

        chosen = several or found.rows
        results, more = zero_shot(foundation, [frames[i] for i in chosen], chosen, name, progress)
        found.contents["zero_shot"] = results
        known = _accused(found)
        found.findings += [
            f for f in more if f.code != "energy_outlier" or not set(f.frames) <= known
        ]


def _examine_physics(
    found: Examined,
    rows: list[int],
    over: np.ndarray,
    zero: Zero,
    progress: Progress | None,
) -> None:
    name, everything = found.data.name, found.data.frames
    elements = len({int(z) for i in rows for z in everything[i].numbers})
    shapes = geometry(
        [everything[i] for i in rows],
        bins_for(len(rows), elements),
        progress,
        f"distances in {name}",
    )
    more, factor = check_geometry(shapes, rows, name, len(everything))
    found.findings += more
    found.findings += check_forces(
        everything, [i for k, i in enumerate(rows) if k not in shapes.overlaps], name
    )
    found.findings += check_constant(everything, rows, name)
    if "energies_constant" in found.codes:
        _drop(found, "isolated_atoms_level")
        return
    # Frames with overlapping atoms or impossible forces would blame the others.
    spoiled = {i for f in found.findings if f.code in _SPOILED for i in f.frames}
    sane = [k for k, i in enumerate(rows) if i not in spoiled]
    if sane:
        chosen = [rows[k] for k in sane]
        found.findings += check_extremes([everything[i] for i in chosen], over[sane], chosen, name)
    for finding in found.findings:
        if finding.code.startswith("net_") and len(finding.frames) < len(rows) / 2:
            spoiled |= set(finding.frames)
    kept = [k for k, i in enumerate(rows) if i not in spoiled]
    if kept:
        chosen = [rows[k] for k in kept]
        _examine_work(found, chosen, shapes.features[kept], elements, factor, zero)


def _examine_work(
    found: Examined,
    rows: list[int],
    features: np.ndarray,
    elements: int,
    factor: float,
    zero: Zero,
) -> None:
    """Compare energies with the work between frames and with a linear model."""
    name, frames = found.data.name, [found.data.frames[i] for i in rows]
    sizes = np.array([len(f) for f in frames])
    consistency, pairs = label_consistency(frames), work_pairs(frames)
    found.contents["consistency"] = _spelled(consistency)
    if _agree(consistency.forces) and not zero.partly_foreign:
        # The scale of the energies is a hint only; work between frames is evidence.
        _drop(found, "energy_unit")
    elif not _agree(consistency.forces):
        sized = [len(f) for f in frames]
        sure = _agree(consistency.stress) or zero.all_electron or zero.to_eV != 1.0
        found.findings += check_forces_unit(consistency, sized, factor / zero.to_eV, sure, name)
    if factor != 1.0 or found.codes & _OTHER_WORK:
        return
    found.findings += check_stress(consistency, pairs, frames, name)
    if found.codes & _OTHER_FORCES:
        return
    sound = not any(f.code.startswith(("stress_", "pressure_")) for f in found.findings)
    trusted = sound and consistency.stress is not None
    energy = np.array([f.info[ENERGY_KEY] for f in frames]) / sizes
    force = np.array([np.sqrt((f.arrays[FORCES_KEY] ** 2).mean()) for f in frames])
    model = surrogate(features, energy, elements, force)
    if model is not None:
        found.contents["linear_model"] = {
            "explained": model.explained,
            "scatter_meV_per_atom": 1000 * model.scatter,
        }
    more = check_energies(jumps(pairs, sizes, trusted), model, sizes, rows, name)
    if _OTHER_LEVELS & {f.code for f in more}:
        _drop(found, "energy_outlier")
    known = _accused(found)
    found.findings += [f for f in more if f.code != "energy_outlier" or not set(f.frames) <= known]
    if not found.codes & _OTHER_LEVELS:
        size = force * np.sqrt(sizes)
        alone = lone_energies(frames, energy * sizes, distances(frames, features), size)
        wrong = {rows[k]: off for k, off in alone.items() if rows[k] not in _accused(found)}
        if wrong:
            beside = "those of all frames like it"
            found.findings.append(lone_finding(wrong, len(rows), beside, name))


def _accused(found: Examined) -> set[int]:
    return {i for f in found.findings if f.code == "energy_outlier" for i in f.frames}


def _drop(found: Examined, code: str) -> None:
    found.findings[:] = [f for f in found.findings if f.code != code]


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
