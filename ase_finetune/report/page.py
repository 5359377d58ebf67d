"""One self-contained HTML page from what a run leaves in its folder.

Nothing is loaded from elsewhere: styles, a script of a few lines and figures (SVG) are inside.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from numpy.typing import NDArray

from ase_finetune.errors import UserError
from ase_finetune.report import curves as physics
from ase_finetune.report import tables, training
from properties.errors import PropertyError
from properties.quantity import Curve

MARK = "Written by ase-finetune."  # the foot of our pages, by which they are known
TABLES = ("errors", "properties", "failures")  # of results.json, by stage


@dataclass(frozen=True)
class Run:
    """Content of a folder of results.

    Attributes
    ----------
    folder : Path
    results : dict
        results.json; `TABLES`, ``budget`` and ``provenance`` are there, perhaps empty.
    log : list of dict
        Rows of log.jsonl, empty without one.
    predictions : dict of str to ndarray
        ``{stage}/{split}/energy_ref`` and so on, energies in eV (n,), forces in eV/A (M, 3).
    curves : dict of str to dict of str to Curve
        By stage and name; also ``reference``, which models are compared with, and
        ``reference:LABEL`` for further ones.
    config : str
        config.yaml as it stands, empty without one.
    settings : dict
        What it holds.
    cut : bool
        Whether the last line of log.jsonl was cut off and is left out.
    """

    folder: Path
    results: dict[str, Any]
    log: list[dict[str, Any]]
    predictions: dict[str, NDArray[Any]]
    curves: dict[str, dict[str, Curve]]
    config: str
    settings: dict[str, Any]
    cut: bool

    @property
    def stages(self) -> list[str]:
        """Stages with errors, properties or failed ones, in the order of the run."""
        return tables.stages_of(*(self.results[key] for key in TABLES))

    @property
    def trained(self) -> bool:
        """Whether it is the folder of `run` or `train`, finished or not."""
        return bool(self.config or self.log or self.results["provenance"].get("data_hash"))

    @property
    def unfinished(self) -> str | None:
        """How far a run came that has not ended; None for what is complete."""
        if not self.trained or "wall_s" in self.results["budget"]:
            return None
        return tables.reached(self.log)


def read_run(run_dir: Path, *, predictions: bool = True) -> Run:
    """Read a folder that run, train, properties or evaluate wrote; it needs results.json only.

    Parameters
    ----------
    run_dir : Path
        The folder. A run that was stopped midway is read as far as it came.
    predictions : bool
        Also read the predictions, which are large.

    Raises
    ------
    UserError
        If the folder holds no results, or a file in it is damaged.
    """
    path = run_dir / "results.json"
    if not path.is_file():
        raise UserError(_no_results(run_dir))
    results = _json(path)
    if not isinstance(results, dict):
        raise UserError(f"{path} holds no results; repeat the run that wrote it.")
    for key in (*TABLES, "budget", "provenance"):
        if not isinstance(results.setdefault(key, {}), dict):
            raise UserError(f"{path} has no table of {key}; repeat the run that wrote it.")
    if not any(results[key] for key in TABLES):
        raise UserError(f"{path} has no errors and no properties of any stage yet.")
    config = run_dir / "config.yaml"
    text = _text(config) if config.is_file() else ""
    log, cut = _read_log(run_dir / "log.jsonl")
    return Run(
        run_dir,
        results,
        log,
        _read_predictions(run_dir / "predictions.npz") if predictions else {},
        _read_curves(run_dir / "curves.json"),
        text,
        _settings(config, text),
        cut,
    )


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the report of one folder.

    Parameters
    ----------
    run_dir : Path
        Folder that run, train, properties or evaluate wrote. Files other than results.json may
        be missing; the report then says which parts it leaves out.
    out : Path, optional
        The page; by default ``report.html`` in the folder.

    Returns
    -------
    Path
        Of the report.

    Raises
    ------
    UserError
        If the folder holds no results, a file in it is damaged, or the page cannot be written.
    """
    run = read_run(Path(run_dir))
    content = read_numbers(run)
    with _naming(run):
        content |= _drawings(run)
    content["missing"] = _missing(content) if run.trained else []
    return write_page(out or run.folder / "report.html", "report.html", content)


def write_page(path: Path, template: str, content: Mapping[str, Any]) -> Path:
    """Render a template and write the page atomically.

    Raises
    ------
    UserError
        If it cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ase_finetune"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(mark=MARK, **content)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        if temporary.is_file():
            temporary.unlink()
        raise UserError(f"Cannot write {path}: {error.strerror}.") from error
    return path


def read_numbers(run: Run) -> dict[str, Any]:
    """Return what a page says of one folder in sentences and tables; cheap.

    Raises
    ------
    UserError
        If the files of the folder do not fit together.
    """
    with _naming(run):
        return _numbers(run)


@contextmanager
def _naming(run: Run) -> Iterator[None]:
    """Turn what goes wrong with the content of a folder into a sentence that names it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, PropertyError) as error:
        raise UserError(
            f"The files in {run.folder} do not belong together or were written by another version "
            f"({type(error).__name__}: {error}); repeat the run."
        ) from error


def _no_results(folder: Path) -> str:
    if not folder.is_dir():
        return f"There is no folder {folder}."
    if (folder / "config.yaml").is_file():
        return (
            f"{folder} holds no results.json yet: its run stopped before the errors of the "
            "foundation were known; continue it with --resume."
        )
    inside = sorted(path.parent.name for path in folder.glob("*/results.json"))
    hint = f" It has {', '.join(inside)} inside; give those." if inside else ""
    return (
        f"{folder} holds no results.json; give the --out of run, train, properties or "
        f"evaluate.{hint}"
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file; repeat the run that wrote it.") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}); repeat the run.") from error


def _read_log(path: Path) -> tuple[list[dict[str, Any]], bool]:
    if not path.is_file():
        return [], False
    rows = []
    text = _text(path)
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            # A run that is killed while it writes leaves half a line at the end.
            if number == len(lines) and not text.endswith("\n"):
                return rows, True
            raise UserError(
                f"Line {number} of {path} is not valid JSON; remove that line and try again."
            ) from error
    return rows, False


def _read_predictions(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
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


def _settings(path: Path, text: str) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(text) if text else {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML; repeat the run.") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds no settings; repeat the run.")
    return settings


def _numbers(run: Run) -> dict[str, Any]:
    results, stages = run.results, run.stages
    provenance, errors = results["provenance"], results["errors"]
    tested = [stage for stage in stages if stage in errors]
    types = tables.type_groups(results.get("errors_by_type") or {}, tested)
    folders = [run.folder / "checkpoints" / stage for stage in reversed(stages)]
    checkpoint = next((folder for folder in folders if folder.is_dir()), None)
    return {
        "title": provenance.get("system") or run.folder.resolve().name,
        "lead": _lead(run),
        "facts": tables.facts(provenance, run.settings, results["budget"]),
        "unfinished": run.unfinished,
        "notes": [
            *(provenance.get("notes") or []),
            *tables.failure_notes(results["failures"]),
            *(["The last line of log.jsonl was cut off and is left out."] if run.cut else []),
        ],
        "verdicts": tables.verdicts(results, tested),
        "stages": [tables.stage_label(stage) for stage in tested],
        "errors": tables.error_groups(errors, tested),
        "types": [group for group in types if group["test"]],
        "other_types": [group for group in types if not group["test"]],
        "properties": (
            tables.property_table(results["properties"], stages) if results["properties"] else None
        ),
        "checkpoint": None if checkpoint is None else checkpoint.as_posix(),
        "provenance": _flatten(provenance),
        "config": run.config,
    }


def _drawings(run: Run) -> dict[str, Any]:
    stages = run.stages
    return {
        "learning": training.learning(run.log, run.results["errors"]),
        "parity": training.parity(run.predictions, run.results["errors"], stages),
        "gsfe": physics.gsfe(run.curves, stages),
        "eos": physics.equation_of_state(run.curves, stages),
        "elastic": physics.elastic(run.results["properties"], stages),
        "pictures": physics.pictures(run.folder, stages),
        "curves": physics.other_curves(
            run.curves, stages, physics.pictured(run.folder, stages[-1])
        ),
    }


def _lead(run: Run) -> str:
    if run.trained:
        return "Fine-tuning report"
    return "Errors on labeled frames" if run.results["errors"] else "Properties"


def _missing(content: Mapping[str, Any]) -> list[str]:
    sentences = {
        "errors": "The folder holds no errors on labeled frames.",
        "types": "The frames carry no configuration types, so there is no table by type.",
        "properties": "This run computed no properties.",
        "learning": "There is no log of the training, so there are no learning curves.",
        "parity": "There are no stored predictions, so there are no parity plots.",
        "checkpoint": "The folder holds no checkpoint to attach.",
        "config": "The folder holds no config.yaml.",
    }
    present = {**content, "types": content["types"] or content["other_types"]}
    return [sentence for key, sentence in sentences.items() if not present[key]]


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


__all__ = ["Run", "read_numbers", "read_run", "write_page", "write_report"]
