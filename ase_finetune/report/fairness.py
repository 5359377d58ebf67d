"""Whether runs can be compared at all: their data, foundations, references and budgets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ase_finetune.data.splits import REPLAY
from ase_finetune.errors import UserError
from ase_finetune.report import compare_tables as comparing
from ase_finetune.report import tables
from ase_finetune.report.compare_tables import HASH, Runs

UNEQUAL = 1.05  # ratio of budgets that is worth a word
SAME = 1e-9  # relative difference of references that is rounding


def same_data(runs: Runs) -> bool:
    """Whether all runs with errors state that they used the same frames, in the same sets."""
    hashes = [_data(runs, label) for label, run in runs.items() if run.results["errors"]]
    return None not in hashes and len(set(hashes)) <= 1


def warnings(runs: Runs) -> list[str]:
    """Return why a comparison of these runs is unfair; nothing if it is fair.

    Parameters
    ----------
    runs
        Of one system, by label.

    Raises
    ------
    UserError
        If two runs give a property in different units.
    """
    found = []
    data = _known(runs, {label: _data(runs, label) for label in runs})
    if len(data) > 1:
        found.append(
            f"Different data: {_listed(data)}. Errors on different frames say nothing about which "
            "model is better, so none is marked as the best."
        )
    foundations = _known(runs, {label: _foundation(runs, label) for label in runs})
    if len(foundations) > 1:
        found.append(
            f"Different foundations: {_listed(foundations)}. What these runs differ in is not only "
            "how they were fine-tuned."
        )
    levels = _known(
        runs, {n: r.results["provenance"].get("level_of_theory") for n, r in runs.items()}
    )
    if len(levels) > 1:
        found.append(f"Different levels of theory: {_listed(levels)}.")
    return found + _reference_warnings(runs)


def notes(runs: Runs) -> list[str]:
    """Return what else a fair reader should know of these runs."""
    found = []
    spent = {label: comparing.gradient_equivalents(run) for label, run in runs.items()}
    known = [value for value in spent.values() if value]
    if known and max(known) > UNEQUAL * min(known):
        found.append(
            f"The runs spent between {round(min(known), 1):,g} and {round(max(known), 1):,g} "
            "gradient equivalents; at equal budgets their order may differ."
        )
    silent = [label for label in runs if _data(runs, label) is None]
    if silent:
        found.append(
            f"{_names(silent)} {'states' if len(silent) == 1 else 'state'} no data hash: which "
            "frames were used is unknown."
        )
    found += _replay_notes(runs)
    versions = [
        row["name"].removeprefix("version of ")
        for row in comparing.provenance_rows(runs)
        if row["name"].startswith("version of ") and len(set(row["cells"]) - {tables.DASH}) > 1
    ]
    if versions:
        found.append(f"The runs used different versions of {_names(versions)}.")
    unfinished = [label for label, run in runs.items() if run.unfinished]
    if unfinished:
        found.append(f"Not ended: {_names(unfinished)}; shown as far as known.")
    return found


def _replay_notes(runs: Runs) -> list[str]:
    hashes = comparing.replay_hashes(runs)
    if len(hashes) < 2 or comparing.same_replay(runs):
        return []
    silent = [label for label, value in hashes.items() if value is None]
    if silent:
        why = f"{_names(silent)} {'does' if len(silent) == 1 else 'do'} not state which these were"
    else:
        why = _listed(_known({label: runs[label] for label in hashes}, hashes))
    return [
        f"Errors on {REPLAY} are not ranked, as the runs need not have been measured on the same "
        f"replay frames with the same labels: {why}."
    ]


def _reference_warnings(runs: Runs) -> list[str]:
    units: dict[str, dict[str, str]] = {}
    references: dict[str, set[float]] = {}
    for label, run in runs.items():
        for rows in run.results["properties"].values():
            for name, row in rows.items():
                units.setdefault(name, {}).setdefault(row["unit"], label)
                if row["reference"] is not None:
                    references.setdefault(name, set()).add(row["reference"])
    for name, found in units.items():
        if len(found) > 1:
            told = " and ".join(f"{runs[label].folder} in {unit}" for unit, label in found.items())
            raise UserError(f"{name} is given by {told}; they cannot be compared.")
    moved = [
        tables.property_name(name).striptags()
        for name, values in references.items()
        if max(values) - min(values) > SAME * max(abs(value) for value in values)
    ]
    if not moved:
        return []
    return [
        f"Different references: {_names(moved)}. The table shows the first run's; every deviation "
        "is from the reference of its own run."
    ]


def _data(runs: Runs, label: str) -> str | None:
    found = runs[label].results["provenance"].get("data_hash")
    return None if found is None else str(found)


def _foundation(runs: Runs, label: str) -> str | None:
    found = runs[label].results["provenance"].get("foundation")
    if isinstance(found, Mapping) and found.get("sha256"):
        return f"{tables.foundation_name(found)} {str(found['sha256'])[:HASH]}"
    return None if found is None else tables.foundation_name(found)


def _known(runs: Runs, values: Mapping[str, Any]) -> dict[str, list[str]]:
    """Labels by value, without those whose value is unknown."""
    found: dict[str, list[str]] = {}
    for label in runs:
        if values[label] is not None:
            found.setdefault(str(values[label]), []).append(label)
    return found


def _listed(by_value: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{_names(labels)}: {_short(value)}" for value, labels in by_value.items())


def _short(value: str) -> str:
    return value[:HASH] if len(value) == 64 and " " not in value else value


def _names(labels: list[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"
