"""The files of a study: its plan, what its runs left, and ``study.json``, which holds both."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase_finetune.config import from_mapping
from ase_finetune.errors import ConfigError
from ase_finetune.results import write_text
from ase_finetune.study.plan import Plan
from ase_finetune.study.run import RUN_FILE, read_run
from ase_finetune.study.schedule import selections
from ase_finetune.study.tables import Study, correlations, no_decay

PLAN_FILE = "plan.json"
STUDY_FILE = "study.json"
EXTERNAL_FILE = "external.json"
_KEPT = ("outcome", "reason", "note", "valid_force_rmse_meV_per_A", "budget", "best_epoch",
         "accepted", "ended", "n_frames", "attempts", "foundation", "versions")  # fmt: skip
_DETAILS = ("errors", "errors_by_type", "curve")


def read_plan(out: Path) -> Plan:
    """Return the plan of a study's folder.

    Raises
    ------
    ConfigError
        If there is none, or a damaged one.
    """
    path = out / PLAN_FILE
    if not path.is_file():
        raise ConfigError(f"{out} holds no study (there is no {PLAN_FILE}).")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is damaged.") from error
    return plan_from(content)


def plan_from(content: Mapping[str, Any]) -> Plan:
    """Make a plan of what `dataclasses.asdict` made of one, by way of JSON."""
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    return from_mapping(Plan, {k: v for k, v in plain.items() if k != "split"})


def read_rows(out: Path) -> dict[str, dict[str, Any]]:
    """Return what the finished runs of a folder left, by path."""
    rows = {}
    for path in sorted((out / "runs").rglob(RUN_FILE)):
        row = read_run(path.parent)
        assert row is not None
        rows[path.parent.relative_to(out).as_posix()] = row
    return rows


def load(folder: Path) -> tuple[Plan, dict[str, dict[str, Any]]]:
    """Read a study: from its runs, or where they are absent from its ``study.json``.

    Raises
    ------
    ConfigError
        If there is neither, or one is damaged.
    """
    if (folder / "runs").is_dir():
        plan, rows = read_plan(folder), read_rows(folder)
    elif (folder / STUDY_FILE).is_file():
        document = _json(folder / STUDY_FILE)
        try:
            plan, rows = plan_from(document["plan"]), dict(document["rows"])
        except (KeyError, TypeError) as error:
            raise ConfigError(f"{folder / STUDY_FILE} is not of a study.") from error
    else:
        raise ConfigError(f"{folder} holds no study: neither runs nor {STUDY_FILE}.")
    return plan, rows | _external(folder / EXTERNAL_FILE)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is damaged.") from error


def _external(path: Path) -> dict[str, dict[str, Any]]:
    """Rows of other programs, such as mace_run_train, on the frames of the same seeds.

    A list of ``{"system", "arm", "seed", "errors": {SPLIT: {...}}}``, and ``errors_by_type``.
    """
    if not path.is_file():
        return {}
    found = {}
    for entry in _json(path):
        try:
            run = {k: entry[k] for k in ("system", "arm", "seed")}
            row = {"outcome": "ok", "errors": entry["errors"], **entry}
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"{path} must hold a list of entries with system, arm, seed and errors."
            ) from error
        row["run"] = {**run, "purpose": "external", "fraction": 1.0, "lr": entry.get("lr")}
        found["external/{system}/{arm}/seed{seed}".format(**run)] = row
    return found


def stored_kappa(folder: Path) -> dict[str, dict[str, float]]:
    """Return log10 of condition numbers that an earlier table of a folder was made with."""
    path = folder / STUDY_FILE
    return dict(_json(path).get("log10_kappa", {})) if path.is_file() else {}


def write_study(folder: Path, study: Study, kappa: Mapping[str, Mapping[str, float]]) -> None:
    """Write ``study.json``: plan, raw results of every run (one a line), and what they say."""
    kept = {path: _trimmed(row) for path, row in sorted(study.rows.items())}
    lines = ",\n".join(f"  {json.dumps(path)}: {json.dumps(row)}" for path, row in kept.items())
    rest = {
        "plan": dataclasses.asdict(study.plan),
        "selections": {
            system: {arm: dataclasses.asdict(choice) for arm, choice in arms.items()}
            for system, arms in selections(study.plan, study.rows).items()
        },
        "comparisons": [
            {"condition": c.condition.label, **dataclasses.asdict(c)}
            | {"condition": c.condition.label}
            for c in study.comparisons
        ],
        "controls": {s: no_decay(study, s) for s in study.plan.base},
        "log10_kappa": kappa,
        "curvature": correlations(study, kappa) if kappa else None,
    }
    text = json.dumps(rest, indent=1, allow_nan=False)
    write_text(folder / STUDY_FILE, text[:-2] + ',\n "rows": {\n' + lines + "\n }\n}\n")


def _trimmed(row: Mapping[str, Any]) -> dict[str, Any]:
    tuning = row["run"]["purpose"] == "tuning"
    run = {k: v for k, v in row["run"].items() if k not in ("settings", "resplit")}
    names = _KEPT if tuning else (*_KEPT, *_DETAILS)
    return {"run": run, **{name: row[name] for name in names if row.get(name) is not None}}
