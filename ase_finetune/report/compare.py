"""One self-contained HTML page that compares the folders of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase_finetune.errors import UserError
from ase_finetune.report import compare_tables as comparing
from ase_finetune.report import curves as physics
from ase_finetune.report import fairness, figures
from ase_finetune.report.compare_tables import Runs, last_rows, last_stage
from ase_finetune.report.page import Run, read_numbers, read_run, write_page

OWN = "Own data"
DRAWN = 6  # runs that one panel of properties can show, a color for each
TEMPLATE = "compare.html"


def read_runs(run_dirs: Sequence[Path]) -> dict[str, Run]:
    """Read folders of results, by labels that tell them apart.

    Parameters
    ----------
    run_dirs : sequence of Path
        Folders that run, train, properties or evaluate wrote.

    Returns
    -------
    dict of str to Run
        In the order given. The label is the folder's name, or its path from what all share
        where names repeat.

    Raises
    ------
    UserError
        If a folder is given twice, holds no results, or a file in it is damaged.
    """
    whole = [Path(folder).resolve() for folder in run_dirs]
    for folder, path in zip(run_dirs, whole, strict=True):
        if whole.count(path) > 1:
            raise UserError(f"{folder} is given twice.")
    labels = [path.name for path in whole]
    if len(set(labels)) < len(labels):
        parts = [path.parts for path in whole]
        shared = next(i for i, names in enumerate(zip(*parts, strict=False)) if len(set(names)) > 1)
        labels = ["/".join(names[shared:]) for names in parts]
    runs = {}
    for label, folder in zip(labels, run_dirs, strict=True):
        runs[label] = read_run(Path(folder), predictions=False)
        read_numbers(runs[label])  # refuses files that do not fit together, by their folder
    return runs


def by_system(runs: Runs) -> dict[str, dict[str, Run]]:
    """Return the runs by system; those without one join a system that used the same data."""
    systems = {label: run.results["provenance"].get("system") for label, run in runs.items()}
    used = {
        run.results["provenance"].get("data_hash"): systems[label]
        for label, run in runs.items()
        if systems[label]
    }
    found: dict[str, dict[str, Run]] = {}
    for label, run in runs.items():
        data = run.results["provenance"].get("data_hash")
        system = systems[label] or (used.get(data) if data else None)
        found.setdefault(system or OWN, {})[label] = run
    return {name: found[name] for name in sorted(found, key=lambda name: name == OWN)}


def write_comparison(runs: Runs, out: Path) -> Path:
    """Write a page that compares runs, system by system.

    Parameters
    ----------
    runs : mapping of str to Run
        From :func:`read_runs`.
    out : Path
        The page.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    UserError
        If two runs give a property in different units, or the page cannot be written.
    """
    groups = [
        _group(number, system, members)
        for number, (system, members) in enumerate(by_system(runs).items(), 1)
    ]
    return write_page(out, TEMPLATE, {"groups": groups, "count": len(runs)})


def document(runs: Runs) -> dict[str, Any]:
    """Return what the page shows for programs: numbers, settings that differ, and warnings."""
    found = {}
    for system, members in by_system(runs).items():
        differing, _ = comparing.setting_rows(members)
        found[system] = {
            "warnings": fairness.warnings(members),
            "notes": fairness.notes(members),
            "settings_that_differ": {
                row["name"]: dict(
                    zip([n for n, r in members.items() if r.settings], row["cells"], strict=True)
                )
                for row in differing
            },
            "runs": {
                label: {
                    "folder": str(run.folder),
                    "unfinished": run.unfinished,
                    "settings": run.settings,
                    **run.results,
                }
                for label, run in members.items()
            },
        }
    return {"systems": found}


def _group(number: int, system: str, runs: Runs) -> dict[str, Any]:
    rank = fairness.same_data(runs)
    differing, shared = comparing.setting_rows(runs)
    return {
        "id": f"g{number}",
        "system": system,
        "labels": list(runs),
        "configured": [label for label, run in runs.items() if run.settings],
        "warnings": fairness.warnings(runs),
        "notes": fairness.notes(runs),
        "ranked": rank and len(runs) > 1,
        "verdicts": comparing.verdicts(runs, rank=rank),
        "overview": comparing.overview(runs, rank=rank),
        "errors": comparing.error_tables(runs, test=True, rank=rank),
        "seen_errors": comparing.error_tables(runs, test=False, rank=rank),
        "properties": comparing.property_tables(runs),
        "budgets": comparing.budgets(runs),
        "differing": differing,
        "shared": shared,
        "provenance": comparing.provenance_rows(runs),
        "failures": comparing.failures(runs),
        "noted": comparing.noted(runs),
        "learning": _learning(runs),
        **_physics(runs),
    }


def _learning(runs: Runs) -> list[dict[str, Any]]:
    logs = {label: run.log for label, run in runs.items() if run.log}
    if not logs:
        return []
    drawn = []
    for column, key, label, title in (
        ("valid_force_rmse_meV_per_A", "force_rmse_meV_per_A",
         "Validation force RMSE (meV/Å)", "Validation forces"),
        ("valid_energy_rmse_meV_per_atom", "energy_rmse_meV_per_atom",
         "Validation energy RMSE (meV/atom)", "Validation energies"),
    ):  # fmt: skip
        before = {
            name: runs[name].results["errors"].get("zero_shot", {}).get("valid", {}).get(key)
            for name in logs
        }
        figure = figures.learning_curves(logs, column, label, before=before)
        alt = f"{title}: error against gradient equivalents, by run"
        drawn.append(figures.entry(figure, title, alt))
    return drawn


def _physics(runs: Runs) -> dict[str, Any]:
    """Figures of properties at each run's last stage, for as many runs as there are colors."""
    properties = last_rows(runs, "properties")
    too_many = len(properties) > DRAWN
    if too_many or not properties:
        return {"elastic": [], "eos": None, "gsfe": [], "curves": [], "too_many": too_many}
    curves = {}
    for label in properties:
        run = runs[label]
        stage = last_stage(run, "properties")
        if stage in run.curves:
            curves[label] = run.curves[stage]
        for key, found in run.curves.items():
            if key.partition(":")[0] == "reference":
                curves[key] = {**found, **curves.get(key, {})}
    labels = list(properties)
    branched = {n for label in labels for n, c in curves.get(label, {}).items() if c.y.ndim > 1}
    return {
        "elastic": physics.elastic(properties, labels),
        "eos": physics.equation_of_state(curves, labels),
        "gsfe": physics.gsfe(curves, labels),
        "curves": physics.other_curves(curves, labels, branched),
        "too_many": False,
    }


__all__ = ["by_system", "document", "read_runs", "write_comparison"]
