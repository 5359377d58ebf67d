"""What a run leaves in its folder: results.json, curves, predictions and pictures."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_finetune.checkpoint_files import write_synced
from properties.errors import PropertyError
from properties.quantity import Comparison, Curve, Quantity, compare

if TYPE_CHECKING:
    from ase_finetune.evaluate import Predictions
    from systems.system import System


FIGURES = "figures"  # folder of the pictures


def write_text(path: Path, text: str) -> None:
    """Write a file as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, payload: bytes) -> None:
    """Write a file atomically; the old one stays until the new one is on disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    write_synced(temporary, payload)
    os.replace(temporary, path)


def write_json(path: Path, document: Any) -> None:
    """Write strict JSON atomically."""
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


class ResultFolder:
    """The files of one run, rewritten after every stage so that a stop loses little."""

    def __init__(self, out: Path, provenance: Mapping[str, Any]) -> None:
        self.out = out
        self.results: dict[str, Any] = {
            "errors": {},
            "errors_by_type": {},
            "properties": {},
            "failures": {},
            "budget": {},
            "provenance": dict(provenance),
        }
        self.curves: dict[str, Any] = {}
        self.arrays: dict[str, np.ndarray] = {}

    def add_predictions(self, stage: str, split: str, predictions: Predictions) -> None:
        errors = self.results["errors"].setdefault(stage, {})
        errors[split] = dataclasses.asdict(predictions.errors())
        by_type = self.results["errors_by_type"].setdefault(stage, {})
        by_type[split] = {
            name: dataclasses.asdict(e) for name, e in predictions.errors_by_type().items()
        }
        self.arrays |= {
            f"{stage}/{split}/energy_ref": predictions.energy_ref,
            f"{stage}/{split}/energy_pred": predictions.energy,
            f"{stage}/{split}/n_atoms": predictions.n_atoms,
            f"{stage}/{split}/forces_ref": predictions.forces_ref,
            f"{stage}/{split}/forces_pred": predictions.forces,
        }

    def add_quantities(
        self, stage: str, found: Mapping[str, Quantity | Curve], system: System
    ) -> None:
        self.results["properties"].setdefault(stage, {}).update(property_rows(found, system))
        for name, value in found.items():
            if isinstance(value, Curve):
                self.curves.setdefault(stage, {})[name] = _curve(value)
        for reference in system.all_references():
            if isinstance(reference.value, Curve):
                key = "reference" if reference.default else f"reference:{reference.label}"
                self.curves.setdefault(key, {})[reference.name] = _curve(reference.value)

    def keep(
        self,
        result: Any,
        stage: str,
        system: System,
        note: Callable[[str], None],
        into: str = FIGURES,
    ) -> None:
        """Add one result, write all results, and draw it into a folder of this folder."""
        self.add_quantities(stage, result.quantities(stage), system)
        self.write()
        try:
            self._draw(result, stage, system, into)
        except (PropertyError, ValueError, OSError) as error:
            note(f"{stage}: no picture of a {type(result).__name__}: {error}")

    def _draw(self, result: Any, label: str, system: System, into: str) -> None:
        from ase_finetune.report.figures import PICTURE_DPI
        from properties.figures import figures

        for name, figure in figures(result, label, system.references()).items():
            path = self.out / into / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=PICTURE_DPI)

    def write(self) -> None:
        write_json(self.out / "results.json", self.results)
        if self.curves:
            write_json(self.out / "curves.json", self.curves)
        if self.arrays:
            packed = io.BytesIO()
            np.savez_compressed(packed, **self.arrays)  # type: ignore[arg-type]
            write_bytes(self.out / "predictions.npz", packed.getvalue())


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "x": curve.x.tolist(),
        "y": curve.y.tolist(),
        "x_unit": curve.x_unit,
        "y_unit": curve.y_unit,
        "source": curve.source,
    }


def property_rows(found: Mapping[str, Quantity | Curve], system: System) -> dict[str, Any]:
    """Return the ``properties`` rows of results.json: every scalar, and curves by their RMSE.

    A quantity without a reference has null in its place. A curve has one row per reference:
    ``NAME_rmse`` against the one that models are compared with, ``NAME_rmse_LABEL`` for others.
    """
    default = {r.name: r.value for r in system.all_references() if r.default}
    shared = {name: value for name, value in default.items() if name in found}
    comparisons = compare(found, shared)
    rows: dict[str, Any] = {}
    for name, value in found.items():
        comparison = comparisons.get(name)
        if isinstance(value, Curve):
            if comparison is not None:
                rows[f"{name}_rmse"] = _rmse_row(comparison)
            for reference in system.all_references():
                if reference.name == name and not reference.default:
                    other = compare(found, {name: reference.value})[name]
                    rows[f"{name}_rmse_{reference.label}"] = _rmse_row(other)
        else:
            rows[name] = {
                "value": value.value,
                "unit": value.unit,
                "reference": None if comparison is None else comparison.reference,
                "reference_source": None if comparison is None else comparison.reference_source,
                "relative_error": None if comparison is None else comparison.relative_error,
            }
    return rows


def _rmse_row(comparison: Comparison) -> dict[str, Any]:
    return {
        "value": comparison.rmse,
        "unit": comparison.unit,
        "reference": 0.0,
        "reference_source": comparison.reference_source,
        "relative_error": None,
    }
