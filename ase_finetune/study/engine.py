"""A study: many optimizers, systems and seeds, run once each and compared.

The folder of a study holds ``plan.json``, one folder per run under ``runs``, and what is made of
them: ``study.json``, ``study.md`` and figures. Doing the same study again repeats nothing; doing a
larger one in the same folder adds what is new.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ase_finetune.errors import ConfigError
from ase_finetune.results import write_json
from ase_finetune.study.data import folder_of, split_note
from ase_finetune.study.plan import Plan, Run
from ase_finetune.study.pool import Pool
from ase_finetune.study.run import RUN_FILE, drop_checkpoint
from ase_finetune.study.schedule import forecast, known_runs, next_runs
from ase_finetune.study.store import PLAN_FILE, plan_from, read_plan, read_rows
from ase_finetune.study.view import StudyView

_FIXED = ("trials", "extensions", "decay", "resplit")
_GROWING = ("optimizers", "refine", "refine_on", "fractions", "controls", "commands")
_TICK_S = 1.0


def merged_plan(plan: Plan, out: Path) -> Plan:
    """Join a plan with the one that the folder holds.

    Raises
    ------
    ConfigError
        If they do not go together: settings of runs that are there already never change.
    """
    if not (out / PLAN_FILE).is_file():
        if (out / "runs").exists():
            raise ConfigError(f"{out} holds runs but no {PLAN_FILE}; choose another --out.")
        return plan
    old = read_plan(out)
    new = plan_from(json.loads(json.dumps(dataclasses.asdict(plan))))
    changed = [name for name in _FIXED if getattr(old, name) != getattr(new, name)]
    for system in old.base.keys() & new.base.keys():
        ours, theirs = new.base[system], old.base[system]
        changed += [k for k in {**ours, **theirs} if ours.get(k) != theirs.get(k)]
    changed += [
        f"the recipe {name}"
        for name in old.recipes.keys() & new.recipes.keys()
        if old.recipes[name] != new.recipes[name]
    ]
    if old.refine and new.refine and old.refine_settings != new.refine_settings:
        changed.append("refinement settings")
    if changed:
        raise ConfigError(
            f"{out} holds a study with other settings ({', '.join(dict.fromkeys(changed))}); "
            "repeat those or choose another --out."
        )
    joined: dict[str, Any] = {
        name: tuple(dict.fromkeys([*getattr(old, name), *getattr(new, name)])) for name in _GROWING
    }
    return dataclasses.replace(
        new,
        base={**old.base, **new.base},
        grids={**new.grids, **old.grids},
        recipes={**old.recipes, **new.recipes},
        seeds=max(old.seeds, new.seeds),
        refine_settings=new.refine_settings if new.refine else old.refine_settings,
        **joined,
    )


def run_study(
    plan: Plan,
    out: Path,
    pool: Callable[[StudyView], Pool],
    *,
    keep_checkpoints: bool = False,
    retry_failed: bool = False,
) -> dict[str, dict[str, Any]]:
    """Do all runs of a plan that are not finished.

    Parameters
    ----------
    plan
        What to do; joined with what the folder was made for.
    out
        Folder of the study.
    pool
        Makes the pool of workers; not called if there is nothing to do.
    keep_checkpoints
        Keep the weights of evaluation and refinement runs when all is done.
    retry_failed
        Do failed runs again.

    Returns
    -------
    dict
        Path -> content of ``run.json``.
    """
    plan = merged_plan(plan, out)
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        write_json(out / PLAN_FILE, {**dataclasses.asdict(plan), "split": split_note(plan.resplit)})
        rows = read_rows(out)
        if retry_failed:
            for path in [p for p, row in rows.items() if row["outcome"] != "ok"]:
                (out / path / RUN_FILE).unlink()
                del rows[path]
        if next_runs(plan, rows):
            with StudyView() as view:
                workers = pool(view)
                try:
                    _work(plan, rows, workers, view)
                except BaseException:
                    # Workers that Ctrl-C has ended, too, must not be what is complained of.
                    with suppress(Exception):
                        workers.close()
                    raise
                workers.close()
        if not keep_checkpoints:
            for run in known_runs(plan, rows):
                drop_checkpoint(folder_of(out, run))
    return rows


def _work(plan: Plan, rows: dict[str, dict[str, Any]], pool: Pool, view: StudyView) -> None:
    going: dict[str, Run] = {}
    while True:
        for run in next_runs(plan, rows):
            if run.path not in going:
                going[run.path] = run
                pool.submit(run)
        if not going:
            view.update(rows, (), pool.workers)
            return
        coming = forecast(plan, rows)
        view.update(rows, coming, pool.workers)
        found = pool.finished(_TICK_S)
        for run, row in found:
            del going[run.path]
            rows[run.path] = row
            view.finished(run, row, rows, len(rows) + len(coming) - 1)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder's lock, which goes with the process however that ends."""
    with open(out / ".lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"Another study is at work in {out}.") from error
        yield
