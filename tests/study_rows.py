"""Rows of made-up studies: what runs would have left, with errors by a formula."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np

from ase_finetune.study.schedule import next_runs


def errors(force):
    return {
        "energy_rmse_meV_per_atom": force / 20, "force_rmse_meV_per_A": force,
        "stress_rmse_meV_per_A3": None, "n_frames": 8,
    }  # fmt: skip


def made_up_rows(plan, effect, *, luck=0.3, noise=0.02):
    """Finish every run of a plan.

    `effect` maps a run to the log of its error, None where it fails; all arms share the luck of a
    seed. The best learning rate is 1e-3.
    """
    rows, rng = {}, np.random.default_rng(5)
    while runs := next_runs(plan, rows):
        for run in runs:
            row = {"run": json.loads(json.dumps(dataclasses.asdict(run))), "attempts": 1}
            value = effect(run)
            if value is None:
                rows[run.path] = {**row, "outcome": "failed", "reason": "diverged"}
                continue
            shared = np.random.default_rng([run.seed, len(run.system)]).normal(0.0, luck)
            far = 0.1 * abs(math.log(run.lr / 1e-3)) if run.lr else 1.0
            force = 60.0 * math.exp(value + shared + far + rng.normal(0.0, noise))
            rows[run.path] = {
                **row, "outcome": "ok", "reason": None, "valid_force_rmse_meV_per_A": force,
                "budget": {"gradient_equivalents": run.cost, "wall_s": 0.5 * run.cost},
                "errors": {"train": errors(force), "valid": errors(force),
                           "test_id": errors(1.1 * force), "test_ood": errors(4 * force)},
                "errors_by_type": {"test_ood": {"md_600K": errors(3 * force),
                                                "torsion": errors(7 * force)}},
                "curve": [[float(k), force * (1 + 2 / k)] for k in range(1, 6)],
            }  # fmt: skip
    return rows
