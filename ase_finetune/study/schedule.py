"""Which runs of a study can be started: a pure function of the plan and of what is finished.

A study that was stopped anywhere goes on by asking `next_runs` again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ase_finetune.config import RefineConfig, TrainConfig
from ase_finetune.optimizers import optimizer_info
from ase_finetune.study.plan import (
    REFERENCE,
    TUNING_SEED,
    WINNER,
    Arm,
    Plan,
    Run,
    beyond,
    tuned_arms,
)

PURPOSES = ("zero_shot", "tuning", "evaluation", "refinement")
Rows = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Selection:
    """How a learning rate was chosen, by the validation force error of the tuning seed.

    Attributes
    ----------
    lr
        The best one, None if every trial failed.
    trials
        (lr, validation force RMSE in meV/A or None where it failed), in order.
    extended
        Learning rates that were added at an edge.
    at_edge
        Whether the best is still at an edge.
    """

    lr: float | None
    trials: tuple[tuple[float, float | None], ...]
    extended: tuple[float, ...]
    at_edge: bool


def score(row: Mapping[str, Any] | None) -> float:
    """Return the validation force RMSE in meV/A of a finished run, inf where it failed."""
    if row is None or row["outcome"] != "ok":
        return math.inf
    return float(row["valid_force_rmse_meV_per_A"])


def tuning(plan: Plan, system: str, arm: Arm, rows: Rows) -> tuple[list[Run], Selection | None]:
    """Return the trials of an arm so far, and the choice once all of them are finished."""
    grid = list(plan.grids[arm.optimizer])
    extended: list[float] = []
    while True:
        runs = [plan.run(system, arm, lr, TUNING_SEED) for lr in grid]
        if any(run.path not in rows for run in runs):
            return runs, None
        scores = [score(rows[run.path]) for run in runs]
        best = min(range(len(grid)), key=scores.__getitem__)
        at_edge = best in (0, len(grid) - 1) and math.isfinite(scores[best])
        if not at_edge or len(extended) >= plan.extensions:
            break
        extended.append(beyond(grid, up=best > 0))
        grid = sorted([*grid, extended[-1]])
    trials = tuple(
        (lr, s if math.isfinite(s) else None) for lr, s in zip(grid, scores, strict=True)
    )
    chosen = grid[best] if math.isfinite(scores[best]) else None
    return runs, Selection(chosen, trials, tuple(extended), at_edge)


def selections(plan: Plan, rows: Rows) -> dict[str, dict[str, Selection]]:
    """Return system -> arm -> choice, of those that are tuned."""
    found: dict[str, dict[str, Selection]] = {}
    for system in plan.base:
        for arm in tuned_arms(plan):
            choice = tuning(plan, system, arm, rows)[1]
            if choice is not None:
                found.setdefault(system, {})[arm.name] = choice
    return found


def winner(plan: Plan, system: str, runs: Mapping[str, Sequence[Run]], rows: Rows) -> str | None:
    """Return the optimizer with the lowest mean log validation force error over all seeds.

    Never by a test set. None while evaluations are missing, or if none finished every seed.
    """
    every = [run for name in plan.optimizers for run in runs.get(name, ())]
    if not every or any(run.path not in rows for run in every):
        return None
    means = {}
    for name in plan.optimizers:
        scores = [score(rows[run.path]) for run in runs.get(name, ())]
        if scores and all(map(math.isfinite, scores)):
            means[name] = sum(map(math.log, scores)) / len(scores)
    return min(means, key=means.__getitem__) if means else None


def _of_system(plan: Plan, system: str, rows: Rows) -> Iterable[Run]:
    arms = {arm.name: arm for arm in tuned_arms(plan)}
    yield Run(system, "zero-shot", TUNING_SEED, "zero_shot", None, dict(plan.base[system]))
    chosen: dict[str, float] = {}
    evaluated: dict[str, list[Run]] = {}
    waiting = False
    for arm in arms.values():
        runs, choice = tuning(plan, system, arm, rows)
        yield from runs
        waiting = waiting or (choice is None and arm.name in plan.optimizers)
        if choice is not None and choice.lr is not None:
            chosen[arm.name] = choice.lr
    seeds = range(1, plan.seeds + 1)
    for name, lr in chosen.items():
        evaluated[name] = [plan.run(system, arms[name], lr, seed) for seed in seeds]
        yield from evaluated[name]
        if name in plan.optimizers:
            for fraction in plan.fractions:
                for seed in seeds:
                    yield plan.run(system, arms[name], lr, seed, fraction=fraction)
    if "no-decay" in plan.controls and "adam" in chosen:
        arm = Arm(f"{REFERENCE}-no-decay", REFERENCE, overrides={"weight_decay": 0.0})
        yield plan.run(system, arm, chosen["adam"], 1)
    if not plan.refine:
        return
    ready = WINNER in plan.refine_on and not waiting
    best = winner(plan, system, evaluated, rows) if ready else None
    wanted = dict.fromkeys([*([best] if best else []), *plan.refine_on])
    for name in [name for name in wanted if name in chosen]:
        yield from _refined(plan, arms[name], evaluated[name], rows)


def _refined(plan: Plan, arm: Arm, parents: Sequence[Run], rows: Rows) -> Iterable[Run]:
    for parent in parents:
        if parent.path not in rows or rows[parent.path]["outcome"] != "ok":
            continue
        for method in plan.refine:
            settings = {**plan.refine_settings, "method": method}
            yield dataclasses.replace(
                parent,
                arm=f"{arm.name}+{method}",
                purpose="refinement",
                refine=settings,
                parent=parent.path,
            )
        if "more-steps" in plan.controls:
            more = int(plan.refine_settings.get("evaluations", RefineConfig().evaluations))
            epochs = int(parent.settings.get("epochs", TrainConfig().epochs)) + more
            yield dataclasses.replace(
                parent, arm=f"{arm.name}+more", settings={**parent.settings, "epochs": epochs}
            )


def known_runs(plan: Plan, rows: Rows) -> list[Run]:
    """Return all runs that the finished ones call for, tuning first, then seed by seed."""
    runs = [run for system in plan.base for run in _of_system(plan, system, rows)]
    return sorted(runs, key=lambda run: (PURPOSES.index(run.purpose), run.seed))


def next_runs(plan: Plan, rows: Rows) -> list[Run]:
    """Return the runs that can be started now and are not finished."""
    return [run for run in known_runs(plan, rows) if run.path not in rows]


def forecast(plan: Plan, rows: Rows) -> list[Run]:
    """Return all runs still to come, supposing that no grid has to be extended."""
    pretended: dict[str, Mapping[str, Any]] = dict(rows)
    coming: list[Run] = []
    while runs := next_runs(plan, pretended):
        coming += runs
        for run in runs:
            lr = run.lr or 1.0
            default = optimizer_info(run.settings.get("optimizer", REFERENCE)).lr
            guess = math.exp(abs(math.log(lr / default)))
            pretended[run.path] = {"outcome": "ok", "valid_force_rmse_meV_per_A": guess}
    return coming
