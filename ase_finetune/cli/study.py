"""The command that compares optimizers."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ase_finetune.cli.arguments import Json
from ase_finetune.cli.guard import guarded
from ase_finetune.cli.options import read_config
from ase_finetune.errors import ConfigError

SEVEN = "adam,adamw,radam,sgd,lamb,ranger,schedulefree"
# One method for all: what an optimizer's rules forbid is taken back for that optimizer alone.
FAIR = {"schedule": "constant", "ema_decay": 0.0, "divergence_retries": 0}
_OWN = ("optimizer", "optimizer_options", "lr", "seed", "weight_decay")


@guarded
def study(
    systems: Annotated[
        list[str] | None, typer.Argument(metavar="SYSTEM...", help="Bundled systems.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the study.")] = Path("study"),
    optimizers: Annotated[
        str, typer.Option(help="Comma-separated, adamw among them; or all.")
    ] = SEVEN,
    seeds: Annotated[int, typer.Option(help="Evaluation seeds.")] = 5,
    refine: Annotated[str, typer.Option(help="lbfgs, lm or lbfgs,lm.")] = "",
    refine_on: Annotated[
        str,
        typer.Option(help="Optimizers or recipes to refine, or winner (by validation), or all."),
    ] = "winner",
    refine_evaluations: Annotated[
        int, typer.Option(help="Budget of a refinement in gradient equivalents.")
    ] = 50,
    controls: Annotated[
        str, typer.Option(help="Of no-decay, ema-cosine, more-steps, scratch; or all.")
    ] = "",
    fractions: Annotated[
        str, typer.Option(help="Also train on these fractions of the frames, as 0.25,0.5.")
    ] = "",
    trials: Annotated[int, typer.Option(help="Learning rates tried for every optimizer.")] = 4,
    extensions: Annotated[int, typer.Option(help="Most growths of a grid at its edge.")] = 2,
    decay: Annotated[float, typer.Option(help="Weight decay where it is decoupled.")] = 0.01,
    resplit: Annotated[
        bool,
        typer.Option("--resplit/--no-resplit", help="Seeds draw train and valid frames, too."),
    ] = True,
    epochs: Annotated[int | None, typer.Option(help="Passes (default: the system's).")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Frames per step (default: the system's).")
    ] = None,
    default_dtype: Annotated[str | None, typer.Option(help="float32 or float64.")] = None,
    foundation: Annotated[str | None, typer.Option(help="As in train.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N or auto.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML file of further settings, refine among them, and recipes: arms of your "
            "own, as {NAME: {optimizer: soap, ema_decay: 0.99, batch_size: 2}}."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes, or Slurm jobs; 0: one run after another, no Dask.")
    ] = 2,
    threads: Annotated[int, typer.Option(help="Threads of a run.")] = 1,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler.")] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE of queue, account, walltime, memory, interface, directive, prologue; "
            "repeatable. Workers are then Slurm jobs."
        ),
    ] = None,
    job_script: Annotated[
        bool, typer.Option("--job-script", help="Print the Slurm job script and stop.")
    ] = False,
    keep_checkpoints: Annotated[
        bool, typer.Option("--keep-checkpoints", help="Keep the weights of evaluation runs.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Do failed runs again.")
    ] = False,
    tabulate: Annotated[
        Path | None, typer.Option(help="Only make the tables and figures of this folder again.")
    ] = None,
    curvature: Annotated[
        list[Path] | None,
        typer.Option(
            help="curvature.json of a system, whose condition numbers are correlated with the "
            "errors; repeatable, and kept with the study."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare optimizers on bundled systems over paired seeds, with confidence intervals.

    The same command again goes on where it stopped, and repeats nothing that is finished.
    """
    kappa = _kappa(curvature or [])
    if tabulate is not None:
        if systems:
            raise ConfigError("--tabulate takes its systems from the folder; name none.")
        _report(tabulate, kappa, as_json)
        return
    from ase_finetune.study.pool import slurm_cluster, slurm_settings

    jobs = None if slurm is None and not job_script else slurm_settings(slurm or [], threads)
    if job_script:
        assert jobs is not None
        with slurm_cluster(jobs) as cluster:
            typer.echo(cluster.job_script())
        return
    if scheduler is not None and jobs is not None:
        raise ConfigError("Choose --scheduler or --slurm, not both.")
    if threads < 1 or workers < 0 or (jobs is not None and workers < 1):
        raise ConfigError("--threads must be at least 1 and --workers at least 0 (1 with --slurm).")
    given = read_config(config)
    shared = {"epochs": epochs, "batch_size": batch_size, "default_dtype": default_dtype}
    shared |= {"foundation": foundation, "device": device}
    flags = {k: v for k, v in shared.items() if v is not None}
    refinement = {"evaluations": refine_evaluations, **(given.pop("refine", None) or {})}
    recipes = given.pop("recipes", {})
    if not isinstance(recipes, Mapping):
        raise ConfigError("Recipes are given as 'name: settings' lines.")
    from ase_finetune.optimizers import list_optimizers
    from ase_finetune.study.engine import run_study
    from ase_finetune.study.plan import CONTROLS, Plan

    names = tuple(list_optimizers()) if optimizers == "all" else _names(optimizers)
    plan = Plan(
        base=_base(systems or [], {**given, **flags}),
        optimizers=names,
        seeds=seeds,
        refine=_names(refine),
        refine_on=(*names, *recipes) if refine_on == "all" else _names(refine_on),
        refine_settings=refinement,
        trials=trials,
        extensions=extensions,
        decay=decay,
        fractions=_fractions(fractions),
        controls=CONTROLS if controls == "all" else _names(controls),
        resplit=resplit,
        recipes=recipes,
        commands=(shlex.join(["ase-finetune", *sys.argv[1:]]),),
    )

    def pool(view: Any) -> Any:
        from ase_finetune.study import pool

        if jobs is not None:
            return pool.slurm_pool(out, jobs, workers, threads)
        if scheduler is not None:
            return pool.scheduler_pool(out, scheduler, threads)
        if workers == 0:
            return pool.SerialPool(out, threads, view.record)
        return pool.local_pool(out, workers, threads)

    run_study(plan, out, pool, keep_checkpoints=keep_checkpoints, retry_failed=retry_failed)
    _report(out, kappa, as_json)


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _fractions(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in _names(text))
    except ValueError as error:
        raise ConfigError(f"--fractions {text!r} are not numbers.") from error


def _base(systems: list[str], changes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of each system's runs: its recipe's loss and batches, and one method for all."""
    from systems import get_system

    if not systems:
        raise ConfigError("Name a system; `ase-finetune systems` lists them.")
    if changes.get("replay_weight"):
        raise ConfigError("A study has no replay frames; take replay_weight out of the settings.")
    for name in _OWN:
        if name in changes:
            raise ConfigError(f"A study sets {name} itself; take it out of the settings.")
    found = {}
    for name in dict.fromkeys(systems):
        left_out = (*_OWN, "refine", "replay_weight")
        recipe = {k: v for k, v in get_system(name).recipe.items() if k not in left_out}
        found[name] = {**recipe, **FAIR, **changes}
    return found


def _kappa(paths: list[Path]) -> dict[str, dict[str, float]]:
    """Log10 of the condition number by system and optimizer, all at the same weights."""
    found: dict[str, dict[str, float]] = {}
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            system, optimizers = content["system"], content["views"][0]["optimizers"]
            row = {n: float(o["gauss_newton"]["log10_kappa"]) for n, o in optimizers.items()}
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ConfigError(f"{path} is no curvature.json of a system.") from error
        if not isinstance(system, str) or system in found:
            raise ConfigError(f"{path} must be of a bundled system, and the only one of it.")
        found[system] = row
    return found


def _report(folder: Path, kappa: Mapping[str, Mapping[str, float]], as_json: bool) -> None:
    from ase_finetune.results import write_text
    from ase_finetune.study.figures import figures
    from ase_finetune.study.store import load, stored_kappa, write_study
    from ase_finetune.study.tables import make_study
    from ase_finetune.study.text import markdown

    made = make_study(*load(folder))
    if unknown := sorted(kappa.keys() - made.plan.base.keys()):
        raise ConfigError(f"A curvature.json is of {', '.join(unknown)}, which the study has not.")
    kappa = {**stored_kappa(folder), **kappa}
    write_study(folder, made, kappa)
    write_text(folder / "study.md", markdown(made, kappa))
    for name, figure in figures(made).items():
        figure.savefig(folder / f"{name}.png", dpi=200)
    if as_json:
        document = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        del document["rows"]
        typer.echo(json.dumps(document, indent=1))
        return
    typer.echo((folder / "study.md").read_text(encoding="utf-8"))
    typer.echo(f"Written: {folder / 'study.md'}, study.json and figures")
