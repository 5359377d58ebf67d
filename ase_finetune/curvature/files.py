"""What an analysis leaves: curvature.json for numbers, curvature.h5 for spectra."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from ase_finetune.curvature.lanczos import Density, Interval
from ase_finetune.curvature.metrics import SpectrumMetrics
from ase_finetune.curvature.outcome import CurvatureResult, HessianView, OptimizerCurvature

UNITS = {
    "eigenvalues": "of J P J^T; loss per squared parameter, times P",
    "residual_shares": "of |rho|^2 along each eigenvector of J P J^T",
    "filter": "|error left| along each eigenvector after the steps at lr",
}


def read_results(folder: Path) -> list[CurvatureResult]:
    """Read what the command wrote, for drawing it again.

    Parameters
    ----------
    folder
        With curvature.json and curvature.h5.
    """
    views = json.loads((folder / "curvature.json").read_text(encoding="utf-8"))["views"]
    with h5py.File(folder / "curvature.h5") as file:
        return [_read_view(view, file[f"view_{k}"]) for k, view in enumerate(views)]


def _read_view(view: Mapping[str, Any], group: h5py.Group) -> CurvatureResult:
    return CurvatureResult(
        view=view["view"],
        loss=view["loss"],
        gradient_norm=view["gradient_norm"],
        frames=view["frames"],
        rows=view["rows"],
        size=view["parameters"],
        active=view["active_parameters"],
        invisible=view["invisible_rows"],
        steps=view["filter_steps"],
        hessian_minus_gauss_newton=_read_interval(view["hessian_minus_gauss_newton"]),
        trace_beyond_gauss_newton=_read_interval(view["trace_beyond_gauss_newton"]),
        property_values={
            name: (p["value"], p["unit"], p["share_within_data"])
            for name, p in view["properties"].items()
        },
        optimizers={
            name: _read_optimizer(name, o, group[name]) for name, o in view["optimizers"].items()
        },
        details=view["details"],
    )


def _read_optimizer(name: str, o: Mapping[str, Any], group: h5py.Group) -> OptimizerCurvature:
    return OptimizerCurvature(
        name=name,
        lr=o["lr"],
        threshold=_number(o["stability_threshold"], math.inf),
        spectrum=SpectrumMetrics(**o["gauss_newton"]),
        errors={k: _number(v, math.nan) for k, v in o["interval_half_widths"].items()},
        gains=o["gains"],
        terms={kind: SpectrumMetrics(**m) for kind, m in o["terms"].items()},
        loss_left=_number(o["loss_left"], math.inf),
        best_lr=o["best_lr"],
        loss_left_best=o["loss_left_best"],
        hessian=None if o["hessian"] is None else _read_hessian(o["hessian"], group["hessian"]),
        eigenvalues=group["eigenvalues"][:],
        residual_shares=group["residual_shares"][:],
        filter=group["filter"][:],
        properties={k: v[:] for k, v in group.get("properties", {}).items()},
    )


def _read_hessian(h: Mapping[str, Any], group: h5py.Group) -> HessianView:
    parts = {
        what: tuple(
            torch.from_numpy(group[key][:]) for key in sorted(group) if key.startswith(what)
        )
        for what in ("nodes", "weights")
    }
    intervals = {
        key: Interval(h[key]["value"], _number(h[key]["half_width"], math.nan))
        for key in ("largest", "smallest", "trace", "negative_share")
    }
    return HessianView(
        **intervals,
        sharpness=h["directional_sharpness"],
        alignment=h["cosine_with_gradient"],
        density=Density(parts["nodes"], parts["weights"], int(group.attrs["size"])),
    )


def _read_interval(found: Mapping[str, Any] | None) -> Interval | None:
    return (
        None if found is None else Interval(found["value"], _number(found["half_width"], math.nan))
    )


def _number(value: float | None, missing: float) -> float:
    """JSON has no NaN and no infinity."""
    return missing if value is None else float(value)


def document(results: Sequence[CurvatureResult]) -> dict[str, Any]:
    """Return all numbers as plain data, one entry per theta; NaN and infinities become None."""
    return {"views": [_plain(_view(result)) for result in results]}


def _view(result: CurvatureResult) -> dict[str, Any]:
    return {
        "view": result.view,
        "loss": result.loss,
        "gradient_norm": result.gradient_norm,
        "frames": result.frames,
        "rows": result.rows,
        "parameters": result.size,
        "active_parameters": result.active,
        "invisible_rows": result.invisible,
        "filter_steps": result.steps,
        "hessian_minus_gauss_newton": _interval(result.hessian_minus_gauss_newton),
        "trace_beyond_gauss_newton": _interval(result.trace_beyond_gauss_newton),
        "properties": {
            name: {"value": value, "unit": unit, "share_within_data": share}
            for name, (value, unit, share) in result.property_values.items()
        },
        "optimizers": {
            name: _optimizer(o) | {"residual": dataclasses.asdict(result.residual(name))}
            for name, o in result.optimizers.items()
        },
        "details": dict(result.details),
    }


def _optimizer(o: OptimizerCurvature) -> dict[str, Any]:
    largest = o.spectrum.largest if o.hessian is None else o.hessian.largest.value
    return {
        "lr": o.lr,
        "gauss_newton": dataclasses.asdict(o.spectrum),
        "interval_half_widths": dict(o.errors),
        "gains": dict(o.gains),
        "terms": {kind: dataclasses.asdict(m) for kind, m in o.terms.items()},
        "lr_lambda_max": o.lr * largest,
        "stability_threshold": o.threshold,
        "loss_left": o.loss_left,
        "best_lr": o.best_lr,
        "loss_left_best": o.loss_left_best,
        "hessian": None if o.hessian is None else _hessian(o.hessian),
    }


def _hessian(h: HessianView) -> dict[str, Any]:
    return {
        "largest": _interval(h.largest),
        "smallest": _interval(h.smallest),
        "trace": _interval(h.trace),
        "negative_share": _interval(h.negative_share),
        "directional_sharpness": h.sharpness,
        "cosine_with_gradient": h.alignment,
    }


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else dataclasses.asdict(interval)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_arrays(path: Path, results: Sequence[CurvatureResult]) -> None:
    """Write the spectra of all views to HDF5, a group per view and optimizer."""
    with h5py.File(path, "w") as file:
        for k, result in enumerate(results):
            view = file.create_group(f"view_{k}")
            view.attrs["view"] = result.view
            view.attrs["filter_steps"] = result.steps
            view.attrs["visible_rank"] = result.rank
            for name, o in result.optimizers.items():
                group = view.create_group(name)
                group.attrs["lr"] = o.lr
                for key, unit in UNITS.items():
                    group.create_dataset(key, data=getattr(o, key)).attrs["meaning"] = unit
                for key, shares in o.properties.items():
                    found = group.create_dataset(f"properties/{key}", data=shares)
                    found.attrs["meaning"] = "of |F^T grad|^2 along each eigenvector"
                if o.hessian is not None:
                    density = o.hessian.density
                    for what in ("nodes", "weights"):
                        for i, values in enumerate(getattr(density, what)):
                            group.create_dataset(f"hessian/{what}_{i:03d}", data=np.asarray(values))
                    group["hessian"].attrs["size"] = density.size
