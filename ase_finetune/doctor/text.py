"""The doctor's report as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ase_finetune.doctor.examine import Diagnosis
from ase_finetune.doctor.finding import Finding, listed

_LONGEST = 40  # characters of a name in a list
_NAMED = {"energy_key", "forces_key"}  # the command recommended mends these errors
_TITLES = {"error": "ERROR", "warning": "WARNING", "note": "note"}


def report(diagnosis: Diagnosis) -> str:
    """Spell a diagnosis: contents of each set, verdicts, and what to run next."""
    parts = [_contents(name, inside) for name, inside in diagnosis.sets.items()]
    parts.append(verdicts(diagnosis))
    return "\n\n".join(parts)


def verdicts(diagnosis: Diagnosis) -> str:
    """Spell the findings, errors first, and the command to run."""
    counts = diagnosis.counts
    lines = [
        "Verdicts: "
        + ", ".join(f"{counts[level]} {level}{'s' * (counts[level] != 1)}" for level in counts)
    ]
    lines += [_finding(finding) for finding in diagnosis.findings]
    lines.append(f"{_before(diagnosis.findings)}: {diagnosis.recommended}")
    return "\n".join(lines)


def _before(findings: Sequence[Finding]) -> str:
    errors = [f.code for f in findings if f.level == "error"]
    if not errors:
        return "Next"
    if all(code in _NAMED for code in errors):
        return "Next, naming the keys, if those are the labels"
    return "Mend the errors first, then run"


def _finding(finding: Finding) -> str:
    where = f"\n    frames: {listed(finding.frames, 12)}" if finding.frames else ""
    return (
        f"  {_TITLES[finding.level]} [{finding.code}] {finding.source}: {finding.message}\n"
        f"    -> {finding.action}{where}"
    )


def _contents(name: str, inside: Mapping[str, Any]) -> str:
    rows: list[tuple[str, str]] = []
    frames = f"{inside['n_frames']}"
    if inside["n_isolated_atoms"]:
        frames += f", {inside['n_isolated_atoms']} of them isolated atoms"
    rows.append(("frames", frames))
    rows.append(("elements", _counts(inside["frames_with_element"])))
    rows.append(("formulas", _counts(inside["formulas"])))
    rows.append(("atoms", _span(inside["n_atoms"], "", 0)))
    rows.append(("periodic along", _counts(inside["periodic"])))
    rows.append(("volume", _span(inside["volume_A3_per_atom"], "A^3/atom", 2)))
    rows.append(("cell lengths", _span(inside["cell_lengths_A"], "A", 2)))
    for key in ("config_types", "trajectories", "splits"):
        rows.append((key.replace("_", " "), _counts(inside[key])))
    keys = ", ".join(f"{kind} {key or '(none)'}" for kind, key in inside["keys"].items())
    rows.append(("label keys", keys))
    others = sorted(
        {n for names in inside["label_like_keys"].values() for n in names}
        - set(inside["keys"].values())
    )
    rows.append(("look like labels", ", ".join(others)))
    rows.append(("other keys", ", ".join(k for k in inside["other_keys"] if k not in others)))
    labelled = inside["n_labelled"]
    rows.append(("labelled", ", ".join(f"{kind} {count}" for kind, count in labelled.items())))
    rows.append(("energy", _span(inside["energy_eV_per_atom"], "eV/atom", 4)))
    force = inside["force_eV_per_A"]
    if force is not None:
        rows.append(
            (
                "forces",
                f"component RMS {force['rms_component']:.3f}, largest of a frame "
                f"{force['median_of_largest']:.3f} (median), {force['max']:.3f} (maximum) eV/A",
            )
        )
    stress = inside["stress_GPa"]
    if stress is not None:
        rows.append(
            (
                "stress",
                f"pressure {_span(stress['pressure'], 'GPa', 2)}; largest shear "
                f"{stress['largest_shear']:.2f} GPa",
            )
        )
    rows += _judged(inside)
    width = max(len(title) for title, _ in rows)
    lines = [f"{title:<{width}}  {text}" for title, text in rows if text]
    return "\n".join([f"{name} ({inside['file']}, {inside['role']})", *lines])


def _judged(inside: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    zero = inside.get("E0s")
    if zero is not None:
        values = ", ".join(f"{symbol} {value:.3f}" for symbol, value in zero["E0s"].items())
        rows.append(("E0s", f"{values} eV (fit of rank {zero['rank']} of {zero['elements']})"))
        free = ", ".join(f"{symbol} {value:.3f}" for symbol, value in zero["isolated"].items())
        rows.append(("isolated atoms", f"{free} eV" if free else ""))
        rows.append(("energy scale", zero["scale"]))
    for kind, title in (
        ("theory", "theory"),
        ("dispersion", "dispersion"),
        ("settings", "settings"),
    ):
        texts = [f"{key}: {_counts(values, 3)}" for key, values in inside["recorded"][kind].items()]
        rows.append((title, "; ".join(texts)))
    found = inside.get("consistency")
    if found is not None:
        for kind in ("forces", "stress"):
            if kind == "forces" or inside["n_labelled"]["stress"]:
                rows.append((f"energy vs {kind}", _slope(found[kind])))
        offset = found["pressure_offset_GPa"]
        if offset is not None:
            rows.append(("pressure offset", f"{offset:+.2f} GPa against -dE/dV"))
    model = inside.get("linear_model")
    if model is not None:
        rows.append(
            (
                "linear model",
                f"explains {model['explained']:.1%} of the energy, scatter "
                f"{model['scatter_meV_per_atom']:.1f} meV/atom",
            )
        )
    rows.append(("zero-shot", _zero_shot(inside.get("zero_shot"))))
    return rows


def _slope(slope: Mapping[str, Any] | None) -> str:
    if slope is None:
        return "no pairs of nearby frames to judge by"
    sure = "" if slope["clear"] else ", too little to judge by"
    return (
        f"changes by {slope['value']:.3f} times the work ({slope['pairs']} pairs, correlation "
        f"{slope['cosine']:.3f}{sure}); 1 is right"
    )


def _zero_shot(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    errors = found["errors"]
    texts = [f"{found['foundation']}, {found['n_frames']} frames:"]
    for key, unit in (
        ("energy_rmse_meV_per_atom", "meV/atom"),
        ("force_rmse_meV_per_A", "meV/A"),
        ("stress_rmse_meV_per_A3", "meV/A^3"),
    ):
        if errors[key] is not None:
            texts.append(f"{key.split('_')[0]} RMSE {errors[key]:.1f} {unit}")
    return ", ".join(texts).replace(":,", ":")


def _counts(counts: Mapping[str, int], most: int = 8) -> str:
    parts = [f"{_short(key)} {count}" for key, count in list(counts.items())[:most]]
    rest = len(counts) - most
    return ", ".join(parts) + (f", {rest} more" if rest > 0 else "")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _span(values: Mapping[str, float] | None, unit: str, digits: int) -> str:
    if values is None:
        return ""
    low, middle, high = (f"{values[k]:.{digits}f}" for k in ("min", "median", "max"))
    text = low if low == high else f"{low} to {high} (median {middle})"
    return f"{text} {unit}".strip()
