"""Figures of a report that are about properties: curves, equations of state, bars, pictures."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ase_finetune.report import figures, tables
from properties import plot
from properties.quantity import Comparison, Curve

# What results draw of themselves (`properties.figures`), and which picture shows which curve.
PICTURES = {
    "phonons": "Phonon bands",
    "water": "Liquid",
    "screw": "Screw dislocation along its line",
}
CURVES_OF = {
    "phonon_bands": "phonons",
    **dict.fromkeys(
        ("temperature", "g_OO", "msd", "msd_parallel", "HOH_angle", "density_profile"), "water"
    ),
}
ELASTIC_NAMES = re.compile(r"C\d\d|.*_modulus_.*|poisson_ratio_.*")
Curves = Mapping[str, Mapping[str, Curve]]  # by stage or run, and name; also references


def pictures(folder: Path, stages: Sequence[str]) -> list[dict[str, Any]]:
    """What a result draws of itself, before and after: cores, bands, liquids."""
    drawn = []
    for name, title in PICTURES.items():
        for stage in dict.fromkeys((stages[0], stages[-1])):
            path = _picture(folder, stage, name)
            if path is not None:
                heading = f"{title}, {tables.stage_label(stage)}"
                drawn.append({**figures.picture(path), "title": heading, "alt": heading})
    return drawn


def pictured(folder: Path, stage: str) -> set[str]:
    """Names of the curves that a picture of the folder shows."""
    return {n for n, picture in CURVES_OF.items() if _picture(folder, stage, picture) is not None}


def _picture(folder: Path, stage: str, name: str) -> Path | None:
    # A run has a folder of figures per stage, the command `properties` has one stage and folder.
    for path in (
        folder / "figures" / stage / f"{name}.png",
        folder / "figures" / f"{name}.png",
    ):
        if path.is_file():
            return path
    return None


def other_curves(
    curves: Curves, stages: Sequence[str], leave_out: Collection[str] = ()
) -> list[dict[str, Any]]:
    """One panel per curve that has no section of its own."""
    drawn = []
    shown = [stage for stage in stages if stage in curves]
    references = curves.get("reference", {})
    names = dict.fromkeys(name for stage in shown for name in curves[stage])
    for name in (n for n in names if n != "eos" and not n.startswith("gsfe_")):
        if name in leave_out:
            continue
        found = {stage: curves[stage][name] for stage in shown if name in curves[stage]}
        reference = references.get(name)
        title = tables.property_name(name).striptags()
        entry = figures.entry(figures.curves(found, reference), title, f"{title}, by stage")
        entry["source"] = reference.source if reference is not None else None
        drawn.append(entry)
    return drawn


def gsfe(curves: Curves, stages: Sequence[str]) -> list[dict[str, Any]]:
    """One panel per curve with a reference; relatives of the same plane go into it, thin."""
    references = {n: c for n, c in curves.get("reference", {}).items() if n.startswith("gsfe_")}
    by_name: dict[str, dict[str, Curve]] = {}
    for stage in (stage for stage in stages if stage in curves):
        for name, curve in curves[stage].items():
            if name.startswith("gsfe_"):
                by_name.setdefault(name, {})[stage] = curve
    guests = {
        name: next((r for r in references if r in by_name and _plane(r) == _plane(name)), None)
        for name in by_name
        if name not in references
    }
    drawn = []
    for name, found in by_name.items():
        if guests.get(name) is not None:
            continue
        title = tables.plane_title(name.removeprefix("gsfe_"))
        points = {"DFT": references[name]} if name in references else {}
        for key, others in curves.items():
            if key.startswith("reference:") and name in others:
                points[key.removeprefix("reference:")] = others[name]
        mine = {title: points} if points else {}
        figure = figures.fit_page(plot.gsfe_curves({title: found}, mine))
        thin = [guest for guest, host in guests.items() if host == name]
        for guest in thin:
            figures.add_unreferenced(figure, by_name[guest], list(found))
        alt = f"Stacking fault energy on {title} against displacement"
        entry = figures.entry(figure, title, alt)
        entry["source"] = references[name].source if name in references else None
        entry["thin"] = [tables.plane_title(guest.removeprefix("gsfe_")) for guest in thin]
        drawn.append(entry)
    return drawn


def _plane(name: str) -> str:
    return name.removeprefix("gsfe_").partition("_")[0]


def equation_of_state(curves: Curves, stages: Sequence[str]) -> dict[str, Any] | None:
    """Energies against volume, and those of DFT if there are any."""
    found = {s: curves[s]["eos"] for s in stages if "eos" in curves.get(s, {})}
    if not found:
        return None
    if "eos" in curves.get("reference", {}):
        found["DFT"] = curves["reference"]["eos"]
    figure = figures.fit_page(plot.equation_of_state(found))
    return figures.entry(figure, "Equation of state", "Energy per atom against volume, by stage")


def elastic(
    properties: Mapping[str, Mapping[str, Any]], stages: Sequence[str]
) -> list[dict[str, Any]]:
    """Bars of relative errors: elastic constants, and moduli with Poisson ratios."""
    found: dict[str, dict[str, Comparison]] = {}
    for stage in (stage for stage in stages if stage in properties):
        found[stage] = {
            name: Comparison(name, row["value"], row["unit"], row["reference"],
                             row["reference_source"], row["relative_error"])
            for name, row in properties[stage].items()
            if row["relative_error"] is not None and ELASTIC_NAMES.fullmatch(name)
        }  # fmt: skip
    found = {stage: numbers for stage, numbers in found.items() if numbers}
    if not found:
        return []
    shared = [name for name in next(iter(found.values())) if all(name in f for f in found.values())]
    constants = [name for name in shared if re.fullmatch(r"C\d\d", name)]
    averages = [name for name in shared if name not in constants]
    return [
        figures.entry(plot.elastic_errors(found, names=names, target=tables.NEAR), title,
                f"Relative errors of {title.lower()}, by stage")
        for names, title in ((constants, "Elastic constants"), (averages, "Moduli and ratios"))
        if names
    ]  # fmt: skip
