"""The part of a report on properties that have no section of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ase_finetune import report_figures as figures
from ase_finetune import report_tables as tables

if TYPE_CHECKING:
    from ase_finetune.report import Run

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


def pictures(run: Run, stages: list[str]) -> list[dict[str, Any]]:
    """What a result draws of itself, before and after: cores, bands, liquids."""
    drawn = []
    for name, title in PICTURES.items():
        for stage in dict.fromkeys((stages[0], stages[-1])):
            path = run.folder / "figures" / stage / f"{name}.png"
            if path.is_file():
                heading = f"{title}, {tables.stage_label(stage)}"
                drawn.append({**figures.picture(path), "title": heading, "alt": heading})
    return drawn


def other_curves(run: Run, stages: list[str]) -> list[dict[str, Any]]:
    """One panel per curve that has no section of its own."""
    drawn = []
    shown = [stage for stage in stages if stage in run.curves]
    references = run.curves.get("reference", {})
    names = dict.fromkeys(name for stage in shown for name in run.curves[stage])
    pictured = run.folder / "figures" / stages[-1]
    for name in (n for n in names if n != "eos" and not n.startswith("gsfe_")):
        if name in CURVES_OF and (pictured / f"{CURVES_OF[name]}.png").is_file():
            continue
        found = {stage: run.curves[stage][name] for stage in shown if name in run.curves[stage]}
        reference = references.get(name)
        title = tables.property_name(name).striptags()
        entry = figures.entry(figures.curves(found, reference), title, f"{title}, by stage")
        entry["source"] = reference.source if reference is not None else None
        drawn.append(entry)
    return drawn
