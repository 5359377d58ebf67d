"""From the finished runs of a study to its comparisons; without torch."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ase_finetune.study.plan import REFERENCE, Plan, tuned_arms
from ase_finetune.study.schedule import Rows, known_runs
from ase_finetune.study.statistics import PairedRatio, judged, paired_ratio, rank_correlation

FORCE = "force_rmse_meV_per_A"
# The test condition that stands for a system in the figure, where it is a part of a test set:
# acetylacetone at 600 K, apart from its torsions and hydrogen transfers.
FIGURE_TYPE = {"acetylacetone": ("test_ood", "md_600K")}
_FIGURE_SPLIT = "test_ood"
_EVALUATED = ("evaluation", "refinement", "external")


@dataclass(frozen=True)
class Condition:
    """Frames on which errors are compared: a test set, or one configuration type of it."""

    system: str
    split: str
    kind: str | None = None

    @property
    def label(self) -> str:
        """Name in tables."""
        return f"{self.system}, {self.split}" + (f" ({self.kind})" if self.kind else "")

    def error(self, row: Mapping[str, Any], key: str = FORCE) -> float | None:
        """Return an error of a run here, None if it failed."""
        if row["outcome"] != "ok":
            return None
        value = self._errors(row)[self.kind or self.split].get(key)
        return None if value is None else float(value)

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Return whether a run says anything of this condition; rows of others may not."""
        return row["outcome"] != "ok" or (self.kind or self.split) in self._errors(row)

    def _errors(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        found = (
            row["errors"] if self.kind is None else row.get("errors_by_type", {}).get(self.split)
        )
        return found or {}


@dataclass(frozen=True)
class Comparison:
    """One line of a table: an arm against another in a condition."""

    condition: Condition
    family: str
    arm: str
    against: str
    paired: PairedRatio


@dataclass(frozen=True)
class Study:
    """All that tables and figures are made of.

    Attributes
    ----------
    plan, rows
        What was asked for, and path -> what a finished run left.
    comparisons
        In the order of the tables.
    """

    plan: Plan
    rows: Rows
    comparisons: tuple[Comparison, ...]

    def of(self, system: str, arm: str, fraction: float = 1.0) -> dict[int, Mapping[str, Any]]:
        """Return seed -> row of the evaluations of an arm."""
        return self._evaluated.get((system, arm, fraction), {})

    @cached_property
    def _evaluated(self) -> dict[tuple[str, str, float], dict[int, Mapping[str, Any]]]:
        found: dict[tuple[str, str, float], dict[int, Mapping[str, Any]]] = {}
        for row in self.rows.values():
            run = row["run"]
            if run["purpose"] in _EVALUATED:
                key = (run["system"], run["arm"], run["fraction"])
                found.setdefault(key, {})[int(run["seed"])] = row
        return found

    def arms(self, system: str) -> list[str]:
        """Return the arms that were evaluated: tuned ones first, then refined, then others."""
        present = dict.fromkeys(arm for where, arm, _ in self._evaluated if where == system)
        tuned = [arm.name for arm in tuned_arms(self.plan) if arm.name in present]
        refined = sorted(name for name in present if "+" in name)
        return list(dict.fromkeys([*tuned, *refined, *present]))

    def conditions(self, system: str) -> list[Condition]:
        """Return the test sets of a system, and the condition of the figure."""
        splits = dict.fromkeys(
            split
            for row in self.rows.values()
            if row["run"]["system"] == system and "errors" in row
            for split in row["errors"]
            if split not in ("train", "valid")
        )
        found = [Condition(system, split) for split in splits]
        shown = figure_condition(system)
        return found if shown in found or shown.split not in splits else [*found, shown]

    def ratio(
        self, condition: Condition, arm: str, against: str, family: str
    ) -> PairedRatio | None:
        """Return a comparison that was made, or None."""
        return self._compared.get((condition, arm, against, family))

    @cached_property
    def _compared(self) -> dict[tuple[Condition, str, str, str], PairedRatio]:
        return {(c.condition, c.arm, c.against, c.family): c.paired for c in self.comparisons}


def figure_condition(system: str) -> Condition:
    """Return the condition that stands for a system in the figure relative to Adam."""
    split, kind = FIGURE_TYPE.get(system, (_FIGURE_SPLIT, None))
    return Condition(system, split, kind)


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """Return the geometric mean of what is there, None of nothing."""
    present = [v for v in values if v is not None]
    return math.exp(sum(map(math.log, present)) / len(present)) if present else None


def make_study(plan: Plan, rows: Rows) -> Study:
    """Compare the arms of a study in every condition.

    Families, each with a Holm correction of its own in each condition: the tuned arms against
    AdamW (and, for the figure, against Adam), at all frames and at each fraction; refined arms and
    those that spent the same budget on more steps against the arm they started from; refined arms
    against more steps; and other programs against AdamW.
    """
    # What an earlier, smaller plan chose otherwise stays in the folder and out of the tables.
    called = {run.path for run in known_runs(plan, rows)}
    rows = {
        path: row
        for path, row in rows.items()
        if path in called or row["run"]["purpose"] == "external"
    }
    bare = Study(plan, rows, ())
    names = [arm.name for arm in tuned_arms(plan)]
    found: list[Comparison] = []
    for system in plan.base:
        arms = bare.arms(system)
        tuned = [name for name in names if name in arms]
        refined = [name for name in arms if "+" in name]
        outside = [n for n in arms if any(r["run"]["purpose"] == "external" for r in
                                          bare.of(system, n).values())]  # fmt: skip
        families: list[tuple[str, float, list[tuple[str, str]]]] = [
            (f"against {base}", 1.0, [(name, base) for name in tuned if name != base])
            for base in (REFERENCE, "adam")
            if base in tuned
        ]
        families.append(("refinement", 1.0, [(n, n.split("+")[0]) for n in refined]))
        more = [(n, f"{n.split('+')[0]}+more") for n in refined if not n.endswith("+more")]
        families.append(("same budget", 1.0, [(a, b) for a, b in more if b in refined]))
        families.append(("other programs", 1.0, [(n, REFERENCE) for n in outside]))
        for f in plan.fractions:
            pairs = [(n, REFERENCE) for n in plan.optimizers if n in tuned and n != REFERENCE]
            families.append((f"{f:g} of the frames", f, pairs))
        for condition in bare.conditions(system):
            for family, fraction, pairs in families:
                found += _compared(bare, condition, family, fraction, pairs)
    return Study(plan, rows, tuple(found))


def _compared(
    study: Study,
    condition: Condition,
    family: str,
    fraction: float,
    pairs: Sequence[tuple[str, str]],
) -> list[Comparison]:
    raw: dict[str, PairedRatio] = {}
    for arm, against in pairs:
        ours, theirs = (
            {
                seed: condition.error(row)
                for seed, row in study.of(condition.system, name, fraction).items()
                if condition.holds(row)
            }
            for name in (arm, against)
        )
        if ours.keys() & theirs.keys():
            raw[f"{arm}|{against}"] = paired_ratio(ours, theirs)
    found = []
    for key, paired in judged(raw).items():
        arm, against = key.split("|")
        found.append(Comparison(condition, family, arm, against, paired))
    return found


@dataclass(frozen=True)
class Reach:
    """When an arm came to the lowest validation error of AdamW's learning curve.

    Attributes
    ----------
    share
        Of the gradient equivalents of AdamW's run, median over seeds; None if half of them or more
        never came there.
    reached, seeds
        How many of how many.
    """

    share: float | None
    reached: int
    seeds: int


def reach(study: Study, system: str, arm: str) -> Reach | None:
    """Compare the learning curves of an arm and of AdamW, seed by seed; None without curves."""
    shares = []
    theirs = study.of(system, REFERENCE)
    for seed, row in study.of(system, arm).items():
        ours, target = _whole_curve(study, row), _whole_curve(study, theirs.get(seed, {}))
        if target and (ours or row["outcome"] != "ok"):
            lowest = min(error for _, error in target)
            came = [spent for spent, error in ours if error <= lowest]
            shares.append(min(came, default=math.inf) / max(spent for spent, _ in target))
    if not shares:
        return None
    middle = statistics.median(shares)
    reached = sum(math.isfinite(share) for share in shares)
    return Reach(middle if math.isfinite(middle) else None, reached, len(shares))


def _whole_curve(study: Study, row: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Gradient equivalents and validation errors, with those of the run that it started from.

    Stored curves are thinned, and the best epoch, which is one gradient equivalent, is beside them.
    """
    found = [(float(spent), float(error)) for spent, error in row.get("curve") or ()]
    if found and "best_epoch" in row:
        found.append((float(row["best_epoch"]), float(row["valid_force_rmse_meV_per_A"])))
    parent = study.rows.get(row.get("run", {}).get("parent") or "")
    if parent is None or not found:
        return found
    before = float(parent["budget"]["gradient_equivalents"])
    later = [(before + spent, error) for spent, error in found]
    return _whole_curve(study, parent) + later


def no_decay(study: Study, system: str) -> dict[str, Any] | None:
    """Return whether AdamW without decay gave exactly what Adam gave, None if not tried."""
    ours = study.of(system, f"{REFERENCE}-no-decay")
    theirs = study.of(system, "adam")
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return None
    same = all(
        ours[s].get("errors") == theirs[s].get("errors")
        and ours[s].get("curve") == theirs[s].get("curve")
        for s in shared
    )
    return {"seeds": shared, "adamw_without_decay_equals_adam": same}


def correlations(study: Study, kappa: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Correlate log kappa with the final force error over the optimizers of each condition."""
    found = []
    for system in study.plan.base:
        for condition in study.conditions(system):
            errors = {
                name: geometric_mean(condition.error(r) for r in study.of(system, name).values())
                for name in study.plan.optimizers
            }
            names = [n for n, e in errors.items() if e is not None and n in kappa.get(system, {})]
            result = rank_correlation(
                [kappa[system][n] for n in names], [errors[n] or 0.0 for n in names]
            )
            if result is not None:
                found.append({"condition": condition.label, **dataclasses.asdict(result)})
    return found
