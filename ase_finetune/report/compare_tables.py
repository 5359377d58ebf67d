"""Tables and sentences of a comparison of runs, from the content of their folders."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ase_finetune.data.splits import REPLAY
from ase_finetune.report import tables
from ase_finetune.report.tables import DASH, GAP, MEASURES, NEAR

if TYPE_CHECKING:
    from ase_finetune.report.page import Run

Runs = Mapping[str, "Run"]  # by label
HASH = 12  # digits that are shown of a hash
SETTINGS = ("optimizer", "seed")  # of the overview


def last_stage(run: Run, table: str) -> str | None:
    """Return the last stage that a table of results.json has; None if it is empty."""
    stages = tables.stages_of(run.results[table])
    return stages[-1] if stages else None


def last_rows(runs: Runs, table: str) -> dict[str, dict[str, Any]]:
    """Return the table of each run's last stage, for the runs that have one."""
    found = {label: last_stage(run, table) for label, run in runs.items()}
    return {label: runs[label].results[table][s] for label, s in found.items() if s is not None}


def tests_of(errors: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the splits that training has not seen."""
    return [split for split in tables.splits_of(errors) if split not in ("train", "valid")]


def replay_hashes(runs: Runs) -> dict[str, str | None]:
    """Return the hash of the replay frames that a run was measured on, for runs that were."""
    return {
        label: runs[label].results["provenance"].get("measured_replay_hash")
        for label, errors in last_rows(runs, "errors").items()
        if REPLAY in errors
    }


def same_replay(runs: Runs) -> bool:
    """Whether all runs with errors on replay frames state that these were the same."""
    hashes = set(replay_hashes(runs).values())
    return None not in hashes and len(hashes) <= 1


def _ranks(runs: Runs, split: str, rank: bool) -> bool:
    """Whether errors on a split are ranked; replay frames are not among the data of a run."""
    return rank and (split != REPLAY or same_replay(runs))


def overview(runs: Runs, *, rank: bool) -> dict[str, Any]:
    """Return one row per run: what it was, its errors and deviations at the end, its cost.

    Parameters
    ----------
    runs
        By label.
    rank
        Whether the lowest errors are marked; only fair if all runs were tested on the same data.
    """
    errors, properties = last_rows(runs, "errors"), last_rows(runs, "properties")
    groups, columns = [_group("Stage")], [[_text(_stages_text(run)) for run in runs.values()]]
    for key in SETTINGS:
        if any(key in run.settings for run in runs.values()):
            groups.append(_group(key.capitalize()))
            columns.append([_text(run.settings.get(key)) for run in runs.values()])
    for measure, title, unit in MEASURES[:2]:
        shown = []
        for split in tests_of(errors):
            values = [errors.get(label, {}).get(split, {}).get(measure) for label in runs]
            if any(value is not None for value in values):
                shown.append(split)
                columns.append(_errors(values, _ranks(runs, split, rank)))
        if shown:
            groups.append(_group(f"{title} ({unit})", shown))
    if deviations := shared_deviations(properties):
        count = len(next(iter(deviations.values())))
        groups.append(
            _group(
                f"{count} properties against DFT",
                [f"≤{GAP}{100 * NEAR:g}{GAP}%", "median", "largest"],
            )
        )
        columns += _deviation_columns([deviations.get(label) for label in runs])
    return _table(runs, groups, columns)


def error_tables(runs: Runs, *, test: bool, rank: bool) -> list[dict[str, Any]]:
    """Return a table per measure: a row per run with errors, columns by split and stage.

    Parameters
    ----------
    runs
        By label.
    test
        Whether the splits are the test sets, or those that training saw.
    rank
        As for :func:`overview`.
    """
    runs = {label: run for label, run in runs.items() if run.results["errors"]}
    every = {(label, s): t for label, run in runs.items() for s, t in run.results["errors"].items()}
    stages = tables.stages_of(*(run.results["errors"] for run in runs.values()))
    by_name = {f"{label}/{stage}": table for (label, stage), table in every.items()}
    tests = tests_of(by_name)
    found = []
    for measure, title, unit in MEASURES:
        groups, columns = [], []
        for split in (s for s in tables.splits_of(by_name) if (s in tests) == test):
            shown = []
            for stage in stages:
                values = [
                    every.get((label, stage), {}).get(split, {}).get(measure) for label in runs
                ]
                if any(value is not None for value in values):
                    shown.append(tables.stage_label(stage))
                    columns.append(_errors(values, _ranks(runs, split, rank)))
            if shown:
                counts = {t[split].get("n_frames") for t in every.values() if split in t}
                frames = (
                    f" ({counts.pop()} frames)" if len(counts) == 1 and counts != {None} else ""
                )
                groups.append(_group(f"{split}{frames}", shown))
        if groups:
            found.append({"title": title, "unit": unit, "table": _table(runs, groups, columns)})
    return found


def property_tables(runs: Runs) -> list[dict[str, Any]]:
    """Return the properties at each run's last stage, then those at earlier stages."""
    last = last_rows(runs, "properties")
    if not last:
        return []
    ends = {label: last_stage(runs[label], "properties") for label in last}
    found = [{"title": None, "table": tables.property_table(last, list(last))}]
    for stage in tables.stages_of(*(run.results["properties"] for run in runs.values())):
        rows = {
            label: run.results["properties"][stage]
            for label, run in runs.items()
            if stage in run.results["properties"] and ends[label] != stage
        }
        if rows:
            title = f"Properties of the {tables.stage_label(stage)} models"
            found.append({"title": title, "table": tables.property_table(rows, list(rows))})
    return found


def budgets(runs: Runs) -> dict[str, Any]:
    """Return what each run spent, and how far it came."""
    spent: list[tuple[str, Callable[[Run], float | None], Callable[[float], str]]] = [
        ("Epochs", lambda run: _count(run, "finetuned"), "{:g}".format),
        ("Refinement iterations", lambda run: _count(run, "refined"), "{:g}".format),
        ("Gradient equivalents", gradient_equivalents, "{:g}".format),
        ("Time of training", lambda run: _wall(run, "finetuned"), tables.duration),
        ("Time of refinement", lambda run: _wall(run, "refined"), tables.duration),
        ("Time in all", lambda run: run.results["budget"].get("wall_s"), tables.duration),
    ]
    groups, columns = [], []
    for title, value, text in spent:
        values = [value(run) for run in runs.values()]
        if any(v is not None for v in values):
            groups.append(_group(title))
            columns.append([_number(v, DASH if v is None else text(v)) for v in values])
    return _table(runs, groups, columns)


def gradient_equivalents(run: Run) -> float | None:
    """Return what a run spent, also one that has not ended; None without a log."""
    if (spent := run.results["budget"].get("gradient_equivalents")) is not None:
        return float(spent)
    ends = {row["stage"]: float(row["gradient_equivalents"]) for row in run.log}
    return sum(ends.values()) if ends else None


def setting_rows(runs: Runs) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the settings that differ, and those that all runs share."""
    rows = differences({label: _flat(run.settings) for label, run in runs.items() if run.settings})
    return [row for row in rows if not row["same"]], [row for row in rows if row["same"]]


def provenance_rows(runs: Runs) -> list[dict[str, Any]]:
    """Return foundation, data, versions and the rest of each run's provenance."""
    return differences({label: _origin(run) for label, run in runs.items()})


def differences(columns: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return a row per name with the text of every column, and whether all agree."""
    rows = []
    for name in dict.fromkeys(name for column in columns.values() for name in column):
        texts = [column.get(name, DASH) for column in columns.values()]
        rows.append({"name": name, "cells": texts, "same": len(set(texts)) == 1})
    return rows


def shared_deviations(
    properties: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, float]]:
    """Return relative errors by run and name, for the names that every run has."""
    found = {
        label: {n: row["relative_error"] for n, row in rows.items()
                if row["relative_error"] is not None}
        for label, rows in properties.items()
    }  # fmt: skip
    found = {label: errors for label, errors in found.items() if errors}
    if not found:
        return {}
    shared = [n for n in next(iter(found.values())) if all(n in e for e in found.values())]
    return (
        {label: {n: errors[n] for n in shared} for label, errors in found.items()} if shared else {}
    )


def verdicts(runs: Runs, *, rank: bool) -> list[str]:
    """Return the sentences that sum a comparison up; none that would be unfair."""
    sentences = []
    errors = last_rows(runs, "errors")
    for split in (s for s in tests_of(errors) if _ranks(runs, s, rank)):
        for measure, title, unit in MEASURES[:2]:
            known = {
                _staged(runs, label, "errors"): rows[split][measure]
                for label, rows in errors.items()
                if rows.get(split, {}).get(measure) is not None
            }
            if pair := _best_two(known):
                first, second = pair
                sentences.append(
                    f"The lowest {title.lower().removesuffix('s')} error on {split} is that of "
                    f"{first}, {tables.significant(known[first])}{GAP}{unit}; {second} follows "
                    f"with {tables.significant(known[second])}."
                )
    deviations = shared_deviations(last_rows(runs, "properties"))
    medians = {_staged(runs, n, "properties"): _median(e) for n, e in deviations.items()}
    if pair := _best_two(medians):
        first, second = pair
        sentences.append(
            f"Over the {len(next(iter(deviations.values())))} quantities with a reference that all "
            f"have, the median deviation from DFT is lowest for {first}, "
            f"{_plain_percent(medians[first])}; {second} follows with "
            f"{_plain_percent(medians[second])}."
        )
    return sentences


def _best_two(values: Mapping[str, float]) -> tuple[str, str] | None:
    """Return the labels of the two lowest values; None where there is no lowest one."""
    ordered = sorted(values, key=lambda label: values[label])[:2]
    if len(ordered) < 2 or values[ordered[0]] == values[ordered[1]]:
        return None
    return ordered[0], ordered[1]


def _staged(runs: Runs, label: str, table: str) -> str:
    """Return the label, with the stage where runs end at different ones."""
    ends = {name: last_stage(run, table) for name, run in runs.items()}
    if len({end for end in ends.values() if end is not None}) < 2:
        return label
    return f"{label} ({tables.stage_label(str(ends[label]))})"


def failures(runs: Runs) -> list[tuple[str, list[str]]]:
    """Return what failed and what has not ended, for the runs where that is so."""
    said = {
        label: [
            *([run.unfinished] if run.unfinished else []),
            *(["The last line of log.jsonl was cut off and is left out."] if run.cut else []),
            *tables.failure_notes(run.results["failures"]),
        ]
        for label, run in runs.items()
    }
    return [(label, sentences) for label, sentences in said.items() if sentences]


def noted(runs: Runs) -> list[tuple[str, list[str]]]:
    """Return what each run noted of its data and stages."""
    said = {label: run.results["provenance"].get("notes") or [] for label, run in runs.items()}
    return [(label, sentences) for label, sentences in said.items() if sentences]


def _stages_text(run: Run) -> str:
    return tables.stage_label(run.stages[-1])


def _count(run: Run, stage: str) -> int | None:
    rows = [row for row in run.log if row["stage"] == stage]
    return len(rows) or None


def _wall(run: Run, stage: str) -> float | None:
    rows = [row for row in run.log if row["stage"] == stage]
    return float(rows[-1]["wall_s"]) if rows else None


def _median(errors: Mapping[str, float]) -> float:
    return statistics.median(abs(error) for error in errors.values())


def _plain_percent(ratio: float) -> str:
    return tables.percent(ratio).removeprefix("+")


def _deviation_columns(found: Sequence[Mapping[str, float] | None]) -> list[list[dict[str, Any]]]:
    near: list[dict[str, Any]] = []
    median: list[dict[str, Any]] = []
    largest: list[dict[str, Any]] = []
    for errors in found:
        if errors is None:
            for column in (near, median, largest):
                column.append(_number(None, DASH))
            continue
        count = sum(abs(error) <= NEAR for error in errors.values())
        near.append(_number(count, str(count)))
        median.append(_number(_median(errors), _plain_percent(_median(errors))))
        worst = max(errors, key=lambda name: abs(errors[name]))
        text = f"{tables.property_name(worst).striptags()} {tables.percent(errors[worst])}"
        largest.append(_number(abs(errors[worst]), text))
    return [near, median, largest]


def _errors(values: Sequence[float | None], rank: bool) -> list[dict[str, Any]]:
    known = {value for value in values if value is not None}
    return [
        {**_number(value, cell["text"]), "best": rank and cell["best"] and len(known) > 1}
        for value, cell in zip(values, tables.cells(values), strict=True)
    ]


def _number(value: float | None, text: str) -> dict[str, Any]:
    return {"text": text, "value": "" if value is None else value, "best": False}


def _text(value: Any) -> dict[str, Any]:
    text = DASH if value is None else str(value)
    return {"text": text, "value": "" if value is None else text, "best": False}


def _group(title: str, columns: Sequence[str] | None = None) -> dict[str, Any]:
    return {"title": title, "columns": columns}


def _table(
    runs: Runs, groups: list[dict[str, Any]], columns: list[list[dict[str, Any]]]
) -> dict[str, Any]:
    rows = [
        {"name": label, "cells": [column[i] for column in columns]} for i, label in enumerate(runs)
    ]
    return {"groups": groups, "rows": rows}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = _setting(value)
    return found


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == [] or value == {}:
        return "unset"
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _origin(run: Run) -> dict[str, str]:
    """Return the provenance as text, what decides whether runs can be compared first."""
    stored = dict(run.results["provenance"])
    stored.pop("notes", None)
    found = {"folder": run.folder.as_posix()}
    foundation = stored.pop("foundation", None)
    if foundation is not None:
        found["foundation"] = tables.foundation_name(foundation)
    if isinstance(foundation, Mapping):
        found["foundation hash"] = str(foundation.get("sha256", DASH))[:HASH]
    if "data_hash" in stored:
        found["data hash"] = str(stored.pop("data_hash"))[:HASH]
    if (replayed := stored.pop("measured_replay_hash", None)) is not None:
        found["measured replay hash"] = str(replayed)[:HASH]
    if "n_frames" in stored:
        counts = stored.pop("n_frames").items()
        found["frames"] = ", ".join(f"{split} {count}" for split, count in counts)
    versions = stored.pop("versions", {})
    for key, value in stored.items():
        text = str(value)
        found[key.replace("_", " ")] = text.replace("T", " ") if key == "date" else text
    return found | {f"version of {part}": str(number) for part, number in versions.items()}
