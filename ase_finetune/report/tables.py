"""Tables, key numbers and sentences of the report, from the content of results.json."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

STAGES = ("zero_shot", "finetuned", "refined")
STAGE_LABELS = {"zero_shot": "zero-shot", "finetuned": "fine-tuned", "refined": "refined"}
NEAR = 0.03  # relative error that counts as agreement in the summary
TINY = 1e-3  # in the units of MEASURES; less is rounding, as forces on symmetric frames are
MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
GAP = "\N{NO-BREAK SPACE}"
MEASURES = (
    ("force_rmse_meV_per_A", "Forces", "meV/Å"),
    ("energy_rmse_meV_per_atom", "Energy", "meV/atom"),
    ("stress_rmse_meV_per_A3", "Stress", "meV/Å³"),
)
DECIMALS = {"A": 4, "GPa": 1, "N/m": 1, "J/m^2": 3, "1": 3, "eV/atom": 4, "THz": 2, "deg": 1,
            "meV": 1, "cm^-1": 1, "1/b": 0, "eV": 3}  # fmt: skip
NAMES = {
    "a0": Markup("Lattice constant <i>a</i><sub>0</sub>"),
    "a0_eos": Markup("Lattice constant <i>a</i><sub>0</sub> (EOS)"),
    "bulk_modulus_eos": Markup("Bulk modulus <i>B</i> (EOS)"),
    "bulk_modulus_vrh": Markup("Bulk modulus <i>B</i> (VRH)"),
    "shear_modulus_vrh": Markup("Shear modulus <i>G</i> (VRH)"),
    "youngs_modulus_vrh": Markup("Young's modulus <i>E</i> (VRH)"),
    "poisson_ratio_vrh": Markup("Poisson ratio <i>&nu;</i> (VRH)"),
    "poisson_ratio_100": Markup("Poisson ratio <i>&nu;</i><sub>100</sub>"),
    "energy_per_atom": Markup("Energy per atom"),
    "zero_point_energy": Markup("Zero-point energy"),
    "frequencies": Markup("Harmonic frequencies"),
    "vacancy_formation_energy": Markup("Vacancy formation energy"),
    "vacancy_formation_energy_unrelaxed": Markup("Vacancy formation energy, unrelaxed"),
    "screw_polarity": Markup("Screw dislocation: polarity"),
    "screw_glide": Markup("Screw dislocation: glide"),
    "screw_core_atoms": Markup("Screw dislocation: core atoms"),
    "distance_SS": Markup("Distance S&ndash;S"),
    "youngs_modulus_2d": Markup("Young's modulus, in plane"),
    "poisson_ratio_2d": Markup("Poisson ratio, in plane"),
    "phonon_bands_rmse": Markup("Phonon bands, RMSE"),
    "phonon_mae": Markup("Phonon bands, MAE, sorted"),
    "phonon_mae_matched": Markup("Phonon bands, MAE, matched by eigenvector"),
    "phonon_mean_error": Markup("Phonon bands, mean error"),
    "phonon_maximum": Markup("Phonon bands, largest error"),
    "lowest_frequency": Markup("Lowest phonon frequency"),
    "transfer_barrier": Markup("Hydrogen-transfer barrier"),
    "transfer_distance": Markup("Distance of the sites at the transition state"),
}


def stages_of(*tables: Mapping[str, Any]) -> list[str]:
    """Return the stages that occur in any of the tables, in the order of the run."""
    present = [stage for table in tables for stage in table]
    return [s for s in STAGES if s in present] + sorted(set(present) - set(STAGES) - {"reference"})


def stage_label(stage: str) -> str:
    """Return a stage's name for readers."""
    return STAGE_LABELS.get(stage, stage)


def significant(value: float | None, digits: int = 3) -> str:
    """Return a number rounded to significant digits, without an exponent where it is readable."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0.0:
        return "0"
    # From the rounded number, so that 99.96 becomes 100 and not 100.0.
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    if decimals > digits + 4:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    return f"{value:.{max(decimals, 0)}f}".replace("-", MINUS)


def in_unit(value: float | None, unit: str) -> str:
    """Return a property's value with the decimals that its unit deserves."""
    if value is None or not math.isfinite(value):
        return DASH
    if unit in DECIMALS:
        return f"{value:.{DECIMALS[unit]}f}".replace("-", MINUS)
    return significant(value, 4)


def percent(ratio: float | None) -> str:
    """Return a signed percentage with one decimal, or two below one percent."""
    if ratio is None or not math.isfinite(ratio):
        return DASH
    decimals = 2 if abs(ratio) < 0.01 else 1
    return f"{100.0 * ratio:+.{decimals}f}{GAP}%".replace("-", MINUS)


def unit_text(unit: str) -> str:
    """Return a unit for readers: Å, superscripts, nothing for a plain number."""
    if unit == "1":
        return ""
    text = re.sub(r"\bA\b", "Å", unit)
    text = text.replace("^2", "²").replace("^3", "³").replace("^-1", "⁻¹")
    return "°" if text == "deg" else text


def duration(seconds: float) -> str:
    """Return a time span in the two largest units that matter."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def property_name(name: str) -> Markup:
    """Return a property's name in readable form; what is unknown is escaped."""
    if name in NAMES:
        return NAMES[name]
    if match := re.fullmatch(r"C(\d\d)", name):
        return Markup("<i>C</i><sub>{}</sub>").format(match[1])
    if match := re.fullmatch(r"gsfe_(.+)_rmse(?:_(.+))?", name):
        against = f" against {match[2]}" if match[2] else ""
        return Markup("GSFE {}, RMSE of the curve{}").format(plane_title(match[1]), against)
    if match := re.fullmatch(r"(?!gsfe_)(.+)_rmse(?:_(.+))?", name):
        against = f" against {match[2]}" if match[2] else ""
        return Markup("{}, RMSE of the curve{}").format(property_name(match[1]), against)
    if match := re.fullmatch(r"(distance|angle)_(.+)", name):
        return Markup("{} {}").format(match[1].capitalize(), match[2])
    if match := re.fullmatch(r"torsion_(.+)", name):
        return Markup("Torsion, {}").format(match[1])
    if match := re.fullmatch(r"gamma_usf_(.+)", name):
        return Markup("<i>&gamma;</i><sub>usf</sub> {}").format(plane_title(match[1]))
    return Markup("{}").format(name.replace("_", " "))


def plane_title(label: str) -> str:
    """Return ``{110} rigid`` for ``110_rigid``."""
    plane, _, mode = label.partition("_")
    return f"{{{plane}}} {mode.replace('_', ' ')}".strip()


def splits_of(errors: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the split names: test sets first, then validation and training."""
    found = list(dict.fromkeys(split for table in errors.values() for split in table))
    return [s for s in found if s not in ("train", "valid")] + [
        s for s in ("valid", "train") if s in found
    ]


def error_groups(errors: Mapping[str, Mapping[str, Any]], stages: Sequence[str]) -> list[Any]:
    """Return one group per measure with a row per split; a measure without labels is left out."""
    groups = []
    for key, title, unit in MEASURES:
        rows = []
        for split in splits_of(errors):
            values = [errors.get(stage, {}).get(split, {}).get(key) for stage in stages]
            if any(value is not None for value in values):
                rows.append(
                    {"name": split, "n": _frames(errors, split), "cells": cells(values),
                     "change": _change(values)}
                )  # fmt: skip
        if rows:
            groups.append({"title": title, "unit": unit, "rows": rows})
    return groups


def type_groups(by_type: Mapping[str, Mapping[str, Any]], stages: Sequence[str]) -> list[Any]:
    """Return one group per split with a row per configuration type; empty if no frame has one."""
    groups = []
    for split in splits_of(by_type):
        tables = [by_type.get(stage, {}).get(split, {}) for stage in stages]
        types = list(dict.fromkeys(name for table in tables for name in table))
        if types == ["default"]:
            continue
        rows = []
        for name in types:
            entries = [table.get(name, {}) for table in tables]
            rows.append({
                "name": name,
                "n": next((e["n_frames"] for e in entries if "n_frames" in e), None),
                "measures": [cells([e.get(key) for e in entries]) for key, _, _ in MEASURES[:2]],
            })  # fmt: skip
        if rows:
            groups.append({"title": split, "rows": rows, "test": split not in ("train", "valid")})
    return groups


def property_table(properties: Mapping[str, Mapping[str, Any]], stages: Sequence[str]) -> Any:
    """Return rows (name, unit, reference, value and relative error per stage) and the sources."""
    stages = [stage for stage in stages if stage in properties]
    names = list(dict.fromkeys(name for stage in stages for name in properties[stage]))
    sources: list[str] = []
    rows = []
    for name in names:
        entries = [properties[stage].get(name) for stage in stages]
        known = [entry for entry in entries if entry is not None]
        first = next((entry for entry in known if entry["reference"] is not None), known[0])
        unit, reference = first["unit"], first["reference"]
        source = first.get("reference_source")
        if source and source not in sources:
            sources.append(source)
        is_rmse = "_rmse" in name
        rows.append({
            "label": property_name(name),
            "sort": name,
            "unit": unit_text(unit),
            "reference": DASH if is_rmse or reference is None else in_unit(reference, unit),
            "reference_value": None if is_rmse else reference,
            "mark": sources.index(source) + 1 if source else None,
            "cells": [_property_cell(entry, unit) for entry in entries],
        })  # fmt: skip
    return {"rows": rows, "sources": sources, "stages": [stage_label(s) for s in stages]}


def facts(
    provenance: Mapping[str, Any], config: Mapping[str, Any], budget: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Return what the head of the report says of the run, as (name, text)."""
    found = []
    if provenance.get("calculator"):
        found.append(("Calculator", str(provenance["calculator"])))
    if provenance.get("foundation"):
        found.append(("Foundation", foundation_name(provenance["foundation"])))
    if provenance.get("level_of_theory"):
        found.append(("Labels", str(provenance["level_of_theory"])))
    if counts := provenance.get("n_frames"):
        text = ", ".join(f"{name} {count}" for name, count in counts.items())
        found.append(("Frames", text))
    training = [
        f"{config[key]} {word}".strip() if word in ("epochs", "") else f"{word} {config[key]}"
        for key, word in (("optimizer", ""), ("lr", "learning rate"), ("epochs", "epochs"),
                          ("batch_size", "batch size"), ("seed", "seed"))
        if config.get(key) is not None
    ]  # fmt: skip
    if training:
        found.append(("Training", ", ".join(training)))
    refinement = config.get("refine")
    if refinement:
        text = f"{refinement['method']}, at most {refinement['evaluations']} full-set evaluations"
        found.append(("Refinement", text))
    spent = []
    if budget.get("gradient_equivalents") is not None:
        spent.append(f"{round(budget['gradient_equivalents'], 1):,g} gradient equivalents")
    if budget.get("wall_s") is not None:
        spent.append(duration(budget["wall_s"]))
    if spent:
        found.append(("Budget", ", ".join(spent)))
    if provenance.get("date"):
        found.append(("Date", str(provenance["date"]).replace("T", " ")))
    return found


def foundation_name(foundation: Any) -> str:
    """Return the name of the foundation, which is stored alone or with its hash."""
    if isinstance(foundation, Mapping):
        return str(foundation.get("name", foundation))
    return str(foundation)


def reached(log: Sequence[Mapping[str, Any]]) -> str:
    """Return how far a run came that has not ended, from the last row of its log."""
    if not log:
        return "This run has not ended: it stopped, or is, before the first epoch's end."
    last = log[-1]
    if last["stage"] == "refined":
        at = f"evaluation {last['evaluations']:g} of {last['budget']:g} of the refinement"
    else:
        at = f"epoch {last['epoch']} of {last['epochs']}"
    return f"This run has not ended: its last record is {at}."


def verdicts(results: Mapping[str, Any], stages: Sequence[str]) -> list[str]:
    """Return the sentences that sum the run up."""
    sentences = []
    errors = results["errors"]
    tests = [s for s in splits_of(errors) if s not in ("train", "valid")] or ["valid"]
    for split in tests if stages else ():
        forces, energies = (
            [errors[stage].get(split, {}).get(key) for stage in (stages[0], stages[-1])]
            for key, _, _ in MEASURES[:2]
        )
        if None not in forces:
            sentences.append(_force_verdict(split, *forces, one_stage=len(stages) == 1))
        if None not in energies and energies[1] > energies[0]:
            sentences.append(
                f"The energy error on {split} rose from {significant(energies[0])} to "
                f"{significant(energies[1])}{GAP}meV/atom."
            )
    return sentences + _property_verdicts(results.get("properties") or {})


def _force_verdict(split: str, before: float, after: float, *, one_stage: bool) -> str:
    if one_stage or before < TINY or after < TINY:
        return f"The force error on {split} is {significant(after)}{GAP}meV/Å."
    fell = after < before
    ratio = before / after if fell else after / before
    change = f"{significant(ratio, 2)} times {'lower' if fell else 'higher'}"
    if ratio < 1.5:
        change = f"by {percent(abs(after / before - 1.0)).lstrip('+')}"
    return (
        f"The force error on {split} {'fell' if fell else 'rose'} from {significant(before)} to "
        f"{significant(after)}{GAP}meV/Å ({change})."
    )


def failure_notes(failures: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a sentence for each property that could not be computed."""
    return [
        f"The property {name} failed for the {stage_label(stage)} model: {reason}"
        for stage, found in failures.items()
        for name, reason in found.items()
    ]


def _property_verdicts(properties: Mapping[str, Mapping[str, Any]]) -> list[str]:
    order = stages_of(properties)
    if not order:
        return []
    found = {
        stage: {n: row["relative_error"] for n, row in properties[stage].items()
                if row["relative_error"] is not None}
        for stage in order
    }  # fmt: skip
    sentences = []
    if last := found[order[-1]]:
        near = {stage: sum(abs(e) <= NEAR for e in found[stage].values()) for stage in order}
        worst = max(last, key=lambda name: abs(last[name]))
        before = "" if len(order) == 1 else f" ({near[order[0]]} {stage_label(order[0])})"
        sentences.append(
            f"{near[order[-1]]} of {len(last)} quantities with a reference lie within "
            f"{100 * NEAR:g}{GAP}% of it{before}; the largest deviation is that of "
            f"{property_name(worst).striptags()}, {percent(last[worst])}."
        )
    curves = [
        f"{in_unit(row['value'], row['unit'])}{GAP}{unit_text(row['unit'])} "
        f"({plane_title(match[1])})"
        for name, row in properties[order[-1]].items()
        if (match := re.fullmatch(r"gsfe_(.+)_rmse", name))
    ]
    if curves:
        sentences.append(f"The GSFE curves differ from DFT by an RMSE of {', '.join(curves)}.")
    return sentences


def _frames(errors: Mapping[str, Any], split: str) -> int | None:
    counts = [table[split].get("n_frames") for table in errors.values() if split in table]
    return next((count for count in counts if count is not None), None)


def cells(values: Sequence[float | None]) -> list[dict[str, Any]]:
    """Return errors as text, the lowest of several marked as the best."""
    known = [value for value in values if value is not None]
    best = min(known) if len(known) > 1 and max(known) >= TINY else None
    return [
        {
            "text": f"< {TINY:g}" if value is not None and value < TINY else significant(value),
            "best": value is not None and value == best,
        }
        for value in values
    ]


def _change(values: Sequence[float | None]) -> str:
    if len(values) < 2 or values[0] is None or values[-1] is None or values[0] < TINY:
        return DASH
    return f"{100.0 * (values[-1] / values[0] - 1.0):+.0f}{GAP}%".replace("-", MINUS)


def _property_cell(entry: Mapping[str, Any] | None, unit: str) -> dict[str, Any]:
    if entry is None:
        return {"text": DASH, "value": None, "error": DASH, "size": None, "near": False}
    error = entry["relative_error"]
    return {
        "text": in_unit(entry["value"], unit),
        "value": entry["value"],
        "error": percent(error),
        "size": None if error is None else abs(error),
        "near": error is not None and abs(error) <= NEAR,
    }
