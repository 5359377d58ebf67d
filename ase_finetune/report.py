"""One self-contained HTML page from what a run leaves in its folder.

Nothing is loaded from elsewhere: styles, a script of a few lines and figures (SVG) are inside.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from numpy.typing import NDArray

from ase_finetune import report_figures as figures
from ase_finetune import report_tables as tables
from ase_finetune.errors import UserError
from ase_finetune.report_curves import other_curves, pictures
from properties import plot
from properties.errors import PropertyError
from properties.quantity import Comparison, Curve

ELASTIC_NAMES = re.compile(r"C\d\d|.*_modulus_.*|poisson_ratio_.*")


@dataclass(frozen=True)
class Run:
    """Content of a run's folder.

    Attributes
    ----------
    folder : Path
    results : dict
        results.json.
    log : list of dict
        Rows of log.jsonl, empty without one.
    predictions : dict of str to ndarray
        ``{stage}/{split}/energy_ref`` and so on, energies in eV (n,), forces in eV/A (M, 3).
    curves : dict of str to dict of str to Curve
        By stage and name; also ``reference``, which models are compared with, and
        ``reference:LABEL`` for further ones.
    config : str
        config.yaml as it stands.
    """

    folder: Path
    results: dict[str, Any]
    log: list[dict[str, Any]]
    predictions: dict[str, NDArray[Any]]
    curves: dict[str, dict[str, Curve]]
    config: str


def read_run(run_dir: Path) -> Run:
    """Read a run's folder; only results.json must be there.

    Raises
    ------
    UserError
        If the folder holds no run, or a file in it is damaged.
    """
    path = run_dir / "results.json"
    if not path.is_file():
        raise UserError(
            f"{run_dir} holds no results.json; give the folder of a finished run "
            "(the --out of ase-finetune run or train)."
        )
    results = _json(path)
    if not isinstance(results, dict) or not all(
        isinstance(results.get(key), dict) for key in ("errors", "provenance")
    ):
        raise UserError(f"{path} has no errors and provenance; repeat the run that wrote it.")
    if not results["errors"]:
        raise UserError(f"{path} has no errors of any stage yet; let the run finish first.")
    config = run_dir / "config.yaml"
    return Run(
        run_dir,
        results,
        _read_log(run_dir / "log.jsonl"),
        _read_predictions(run_dir / "predictions.npz"),
        _read_curves(run_dir / "curves.json"),
        config.read_text(encoding="utf-8") if config.is_file() else "",
    )


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into the folder of a run.

    Parameters
    ----------
    run_dir : Path
        Folder that `ase-finetune run` or `train` wrote. Files other than results.json may be
        missing; the report then says which parts it leaves out.

    Returns
    -------
    Path
        Of the report.

    Raises
    ------
    UserError
        If the folder holds no run, or a file in it is damaged.
    """
    run = read_run(Path(run_dir))
    try:
        content = _context(run)
    except (KeyError, TypeError, AttributeError, PropertyError) as error:
        raise UserError(
            f"The files in {run_dir} do not belong together or were written by another version "
            f"({type(error).__name__}: {error}); repeat the run."
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ase_finetune"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(**content)
    path = run.folder / "report.html"
    temporary = path.with_name(".report.html.tmp")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)
    return path


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); repeat the run.") from error


def _read_log(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise UserError(
                f"Line {number} of {path} is not valid JSON; remove that line and try again."
            ) from error
    return rows


def _read_predictions(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}); repeat the run.") from error


def _read_curves(path: Path) -> dict[str, dict[str, Curve]]:
    if not path.is_file():
        return {}
    try:
        return {
            stage: {name: Curve(**data) for name, data in found.items()}
            for stage, found in _json(path).items()
        }
    except (TypeError, AttributeError, PropertyError) as error:
        raise UserError(f"{path} is not a file of curves ({error}); repeat the run.") from error


def _context(run: Run) -> dict[str, Any]:
    results = run.results
    provenance, errors = results["provenance"], results["errors"]
    properties = results.get("properties") or {}
    stages = tables.stages_of(errors)
    settings = _settings(run)
    types = tables.type_groups(results.get("errors_by_type") or {}, stages)
    folders = [run.folder / "checkpoints" / stage for stage in reversed(stages)]
    checkpoint = next((folder for folder in folders if folder.is_dir()), None)
    content = {
        "title": provenance.get("system") or run.folder.resolve().name,
        "facts": tables.facts(provenance, settings, results.get("budget") or {}),
        "notes": [
            *(provenance.get("notes") or []),
            *tables.failure_notes(results.get("failures") or {}),
        ],
        "verdicts": tables.verdicts(results, stages),
        "stages": [tables.stage_label(stage) for stage in stages],
        "errors": tables.error_groups(errors, stages),
        "types": [group for group in types if group["test"]],
        "other_types": [group for group in types if not group["test"]],
        "properties": tables.property_table(properties, stages) if properties else None,
        "learning": _learning(run),
        "parity": _parity(run, stages),
        "gsfe": _gsfe(run, stages),
        "eos": _equation_of_state(run, stages),
        "elastic": _elastic(properties, stages),
        "pictures": pictures(run, stages),
        "curves": other_curves(run, stages),
        "checkpoint": None if checkpoint is None else checkpoint.as_posix(),
        "provenance": _flatten(provenance),
        "config": run.config,
    }
    return {**content, "missing": _missing(content)}


def _settings(run: Run) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(run.config) if run.config else {}
    except yaml.YAMLError as error:
        raise UserError(f"{run.folder}/config.yaml is not valid YAML; repeat the run.") from error
    if not isinstance(settings, dict):
        raise UserError(f"{run.folder}/config.yaml holds no settings; repeat the run.")
    return settings


def _missing(content: Mapping[str, Any]) -> list[str]:
    sentences = {
        "types": "The frames carry no configuration types, so there is no table by type.",
        "properties": "This run computed no properties.",
        "learning": "There is no log of the training, so there are no learning curves.",
        "parity": "There are no stored predictions, so there are no parity plots.",
        "checkpoint": "The folder holds no checkpoint to attach.",
        "config": "The folder holds no config.yaml.",
    }
    present = {**content, "types": content["types"] or content["other_types"]}
    return [sentence for key, sentence in sentences.items() if not present[key]]


def _learning(run: Run) -> list[dict[str, Any]]:
    if not run.log:
        return []
    before = run.results["errors"].get("zero_shot", {}).get("valid", {})
    return [
        figures.entry(
            figures.learning_curve(
                run.log, "valid_force_rmse_meV_per_A", "Validation force RMSE (meV/Å)",
                before=before.get("force_rmse_meV_per_A"),
            ),
            "Validation forces",
            "Validation force error against gradient equivalents, by stage",
        ),
        figures.entry(
            figures.learning_curve(run.log, "train_loss", "Training loss"),
            "Training loss",
            "Training loss against gradient equivalents, by stage",
        ),
    ]  # fmt: skip


def _parity(run: Run, stages: list[str]) -> list[dict[str, Any]]:
    # Zero-shot and the last stage; a third one would hide what lies beneath it.
    chosen = list(dict.fromkeys((stages[0], stages[-1])))
    splits = tables.splits_of(run.results["errors"])
    tests = [split for split in splits if split not in ("train", "valid")] or splits[:1]
    drawn = []
    for split in tests:
        energies, forces = {}, {}
        for stage in chosen:
            key = f"{stage}/{split}/"
            if f"{key}energy_ref" not in run.predictions:
                continue
            n_atoms = run.predictions[f"{key}n_atoms"]
            reference = run.predictions[f"{key}energy_ref"] / n_atoms
            if np.isfinite(reference).any():
                mean = np.nanmean(reference)
                predicted = run.predictions[f"{key}energy_pred"] / n_atoms
                energies[stage] = (1e3 * (reference - mean), 1e3 * (predicted - mean))
            forces[stage] = (
                run.predictions[f"{key}forces_ref"], run.predictions[f"{key}forces_pred"]
            )  # fmt: skip
        for pairs, label, unit in (
            (energies, "energy", "meV/atom"), (forces, "force", "eV/Å")
        ):  # fmt: skip
            if pairs:
                figure = figures.parity(pairs, label, unit)
                alt = f"Predicted against DFT {label} on {split}"
                drawn.append(figures.entry(figure, f"{split}: {label}", alt))
    return drawn


def _gsfe(run: Run, stages: list[str]) -> list[dict[str, Any]]:
    """One panel per curve with a reference; relatives of the same plane go into it, thin."""
    references = {n: c for n, c in run.curves.get("reference", {}).items() if n.startswith("gsfe_")}
    by_name: dict[str, dict[str, Curve]] = {}
    for stage in (stage for stage in stages if stage in run.curves):
        for name, curve in run.curves[stage].items():
            if name.startswith("gsfe_"):
                by_name.setdefault(name, {})[stage] = curve
    guests = {
        name: next((r for r in references if r in by_name and _plane(r) == _plane(name)), None)
        for name in by_name
        if name not in references
    }
    drawn = []
    for name, curves in by_name.items():
        if guests.get(name) is not None:
            continue
        title = tables.plane_title(name.removeprefix("gsfe_"))
        points = {"DFT": references[name]} if name in references else {}
        for key, others in run.curves.items():
            if key.startswith("reference:") and name in others:
                points[key.removeprefix("reference:")] = others[name]
        mine = {title: points} if points else {}
        figure = figures.fit_page(plot.gsfe_curves({title: curves}, mine))
        thin = [guest for guest, host in guests.items() if host == name]
        for guest in thin:
            figures.add_unreferenced(figure, by_name[guest])
        alt = f"Stacking fault energy on {title} against displacement"
        entry = figures.entry(figure, title, alt)
        entry["source"] = references[name].source if name in references else None
        entry["thin"] = [tables.plane_title(guest.removeprefix("gsfe_")) for guest in thin]
        drawn.append(entry)
    return drawn


def _plane(name: str) -> str:
    return name.removeprefix("gsfe_").partition("_")[0]


def _equation_of_state(run: Run, stages: list[str]) -> dict[str, Any] | None:
    curves = {s: run.curves[s]["eos"] for s in stages if "eos" in run.curves.get(s, {})}
    if not curves:
        return None
    if "eos" in run.curves.get("reference", {}):
        curves["DFT"] = run.curves["reference"]["eos"]
    figure = figures.fit_page(plot.equation_of_state(curves))
    return figures.entry(figure, "Equation of state", "Energy per atom against volume, by stage")


def _elastic(properties: Mapping[str, Any], stages: list[str]) -> list[dict[str, Any]]:
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


def _flatten(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            text = ", ".join(f"{name} {part}" for name, part in value.items())
        elif isinstance(value, list):
            text = "; ".join(str(part) for part in value)
        else:
            text = str(value)
        rows.append((key.replace("_", " "), text))
    return rows


__all__ = ["Run", "read_run", "write_report"]
