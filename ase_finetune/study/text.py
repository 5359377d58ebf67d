"""A study in words and tables: ``study.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ase_finetune.study.data import split_note
from ase_finetune.study.plan import COUPLED_DECAY, REFERENCE, short, tuned_arms
from ase_finetune.study.schedule import selections
from ase_finetune.study.statistics import BETTER, SAME, WORSE, PairedRatio
from ase_finetune.study.tables import (
    Condition,
    Study,
    correlations,
    geometric_mean,
    no_decay,
    reach,
)

_ENERGY = "energy_rmse_meV_per_atom"
_MARKS = {BETTER: "**", WORSE: "*"}


def markdown(study: Study, kappa: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """Return the tables of a study with what a reader must know of how they were made."""
    plan = study.plan
    parts = ["# Optimizer study", _method(study)]
    parts += ["## Force errors relative to AdamW", _summary(study)]
    for system in plan.base:
        parts.append(f"## {system}")
        parts.append(_budget(study, system))
        for condition in study.conditions(system):
            parts.append(f"### {condition.label}")
            parts.append(_condition(study, condition))
        parts += _control(study, system)
    if kappa:
        parts += ["## Conditioning and error", _correlation(study, kappa)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _method(study: Study) -> str:
    plan = study.plan
    failed = [p for p, row in study.rows.items() if row["outcome"] != "ok"]
    trained = sum(row["run"]["purpose"] != "zero_shot" for row in study.rows.values())
    epochs, frames = (
        ", ".join(f"{s} {settings.get(key)}" for s, settings in plan.base.items())
        for key in ("epochs", "batch_size")
    )
    lines = [
        f"{trained} runs; passes over the training frames: {epochs}; frames per step: {frames}. "
        "One pass is one gradient equivalent, the unit of every budget.",
        f"Every optimizer tried {plan.trials} learning rates on seed 0; a best one at the edge of "
        f"its grid grew the grid, at most {plan.extensions} times. The validation force error "
        "chose; test frames never did.",
        f"Evaluation: seeds 1 to {plan.seeds}. {split_note(plan.resplit)}",
        f"Weight decay is {plan.decay:g} where it is decoupled and 0 for "
        f"{' and '.join(COUPLED_DECAY)}, where it would change the loss.",
        "Ratios are geometric means over seeds, each seed paired with the same seed of the other "
        "arm, with the 95 % interval of the paired t; below 1 is better. p is corrected by Holm "
        "over the arms of the table; above 0.05 the verdict is 'not distinguished'.",
    ]
    if failed:
        lines.append(
            f"Failed: {len(failed)} runs, of which "
            f"{sum(study.rows[p]['run']['purpose'] == 'tuning' for p in failed)} in tuning."
        )
    for name, recipe in plan.recipes.items():
        changes = [f"{key} {value}" for key, value in recipe.items() if key != "optimizer"]
        lines.append(f"Recipe `{name}`: {', '.join([recipe['optimizer'], *changes])}.")
    lines += [f"Made by `{command}`." for command in plan.commands]
    return "\n".join(f"- {line}" for line in lines)


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _ratio(paired: PairedRatio | None) -> str:
    if paired is None or paired.ratio is None:
        return "-"
    mark = _MARKS.get(paired.verdict, "")
    text = f"{mark}{paired.ratio:.3f}{mark}"
    return text if paired.low is None else f"{text} [{paired.low:.3f}, {paired.high:.3f}]"


def _p(paired: PairedRatio | None) -> str:
    if paired is None or paired.p_holm is None:
        return "-"
    return "<0.001" if paired.p_holm < 0.001 else f"{paired.p_holm:.3f}"


def _summary(study: Study) -> str:
    conditions = [c for system in study.plan.base for c in study.conditions(system)]
    family = f"against {REFERENCE}"
    names = [arm.name for arm in tuned_arms(study.plan) if arm.name != REFERENCE]
    rows = []
    for name in names:
        found = [study.ratio(condition, name, REFERENCE, family) for condition in conditions]
        rows.append([name, *(_ratio(one) + _why_none(one) for one in found)])
    legend = "**Bold**: better, *italic*: worse, plain: not distinguished."
    return f"{legend}\n\n{_table(['arm', *(c.label for c in conditions)], rows)}"


def _why_none(paired: PairedRatio | None) -> str:
    if paired is None or paired.verdict in (BETTER, WORSE, SAME):
        return ""
    return f" ({paired.verdict})"


def _budget(study: Study, system: str) -> str:
    chosen = selections(study.plan, study.rows).get(system, {})
    rows = []
    for name in study.arms(system):
        found = study.of(system, name)
        good = [row for row in found.values() if row["outcome"] == "ok" and "budget" in row]
        choice = chosen.get(name)
        rates = {row["run"]["lr"] for row in found.values() if row["run"]["lr"] is not None}
        grid = "-"
        if choice is not None:
            grid = " ".join(short(lr) + ("" if s is not None else "!") for lr, s in choice.trials)
        edge = " (edge)" if choice is not None and choice.at_edge else ""
        total = [_total(study, row) for row in good]
        wall = [seconds / gradients for gradients, seconds in total if gradients > 0]
        rows.append(
            [
                name,
                ", ".join(map(short, sorted(rates))) + edge,
                grid,
                f"{len(good)}/{len(found)}",
                _number(_mean([gradients for gradients, _ in total]), 0),
                _number(_mean([seconds for _, seconds in total]), 0),
                _number(_mean(wall), 2),
                _reach(study, system, name),
            ]
        )
    for name, choice in chosen.items():
        if choice.lr is None:
            tried = " ".join(f"{short(lr)}!" for lr, _ in choice.trials)
            rows.append([name, "none", tried, "-", "-", "-", "-", "-"])
    head = ["arm", "lr", "tried (! failed)", "seeds", "gradient equivalents", "wall s", "s each"]
    note = (
        "Budgets of refined arms hold those of the arm they started from. Last column: share of "
        f"{REFERENCE}'s budget after which the validation error was down to {REFERENCE}'s lowest, "
        "median over seeds, and on how many of them it ever was. Wall times are of the machines "
        "that the runs were on, which need not be one."
    )
    return f"{_table([*head, f'to {REFERENCE}'], rows)}\n\n{note}"


def _reach(study: Study, system: str, arm: str) -> str:
    found = reach(study, system, arm)
    return "-" if found is None else f"{_number(found.share, 2)} ({found.reached}/{found.seeds})"


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _total(study: Study, row: Mapping[str, Any]) -> tuple[float, float]:
    """Gradient equivalents and seconds, with those of the run that it started from."""
    gradients, seconds = (float(row["budget"][k]) for k in ("gradient_equivalents", "wall_s"))
    parent = study.rows.get(row["run"].get("parent") or "")
    if parent is not None:
        gradients += float(parent["budget"]["gradient_equivalents"])
        seconds += float(parent["budget"]["wall_s"])
    return gradients, seconds


def _condition(study: Study, condition: Condition) -> str:
    zero = study.rows.get(f"runs/{condition.system}/zero-shot")
    rows = []
    if zero is not None and zero["outcome"] == "ok":
        force, energy = condition.error(zero), condition.error(zero, _ENERGY)
        rows.append(["zero-shot", "-", _number(force), _number(energy, 2), "-", "-", "-", "-"])
    for name in study.arms(condition.system):
        evaluated = [r for r in study.of(condition.system, name).values() if condition.holds(r)]
        forces = [condition.error(row) for row in evaluated]
        energies = [condition.error(row, _ENERGY) for row in evaluated]
        start = [
            str(sum(f is not None for f in forces)),
            _number(geometric_mean(forces)),
            _number(geometric_mean(energies), 2),
        ]
        lines = [c for c in study.comparisons if c.condition == condition and c.arm == name]
        lines = [c for c in lines if c.family in _FAMILIES]
        if not lines:
            rows.append([name, *start, "-", "-", "-", "-"])
        for k, line in enumerate(lines):
            cells = [line.against, _ratio(line.paired), _p(line.paired), line.paired.verdict]
            rows.append([*([name, *start] if k == 0 else ["", "", "", ""]), *cells])
    table = _table(
        ["arm", "n", "F meV/A", "E meV/atom", "against", "ratio [95 %]", "p", "verdict"], rows
    )
    return "\n\n".join(part for part in (table, _fractions(study, condition)) if part)


_FAMILIES = (f"against {REFERENCE}", "refinement", "same budget", "other programs")


def _fractions(study: Study, condition: Condition) -> str:
    rows = []
    for name in study.plan.optimizers:
        for fraction in sorted(study.plan.fractions):
            found = study.of(condition.system, name, fraction).values()
            if not found:
                continue
            paired = study.ratio(condition, name, REFERENCE, f"{fraction:g} of the frames")
            force = _number(geometric_mean(condition.error(row) for row in found))
            verdict = "-" if paired is None else paired.verdict
            rows.append([name, f"{fraction:g}", force, _ratio(paired), _p(paired), verdict])
    return _table(["arm", "fraction", "F meV/A", f"against {REFERENCE}", "p", "verdict"], rows)


def _control(study: Study, system: str) -> list[str]:
    found = no_decay(study, system)
    if found is None:
        return []
    word = "equals" if found["adamw_without_decay_equals_adam"] else "DIFFERS from"
    seeds = ", ".join(map(str, found["seeds"]))
    return [
        f"Control: AdamW without decay {word} Adam to every stored digit of its errors and "
        f"learning curve (seed {seeds})."
    ]


def _correlation(study: Study, kappa: Mapping[str, Mapping[str, float]]) -> str:
    rows = [
        [c["condition"], str(c["n"]), f"{c['rho']:.2f} [{c['low']:.2f}, {c['high']:.2f}]"]
        for c in correlations(study, kappa)
    ]
    note = (
        "Spearman's rank correlation over optimizers of log kappa, all preconditioners at the same "
        "weights, with the final force error; 95 % bootstrap interval over optimizers."
    )
    systems = [s for s in study.plan.base if s in kappa]
    values = [
        [name, *(_number(kappa[s].get(name), 2) for s in systems)] for name in study.plan.optimizers
    ]
    column = _table(["optimizer", *(f"log10 kappa, {s}" for s in systems)], values)
    return f"{column}\n\n{note}\n\n{_table(['condition', 'optimizers', 'rho'], rows)}"
