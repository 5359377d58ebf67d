"""The ``ase-finetune`` command."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_finetune.cli.arguments import (
    MACE_KEYS,
    SPLIT_BY,
    VALID_FRACTION,
    Accelerate,
    Checkpoint,
    Data,
    Device,
    EnergyKey,
    ForcesKey,
    Json,
    OutFolder,
    Overwrite,
    Replay,
    ResultsFolder,
    Resume,
    SplitBy,
    StressKey,
    SystemName,
    TrainFile,
    ValidFile,
    ValidFraction,
)
from ase_finetune.cli.curvature import curvature
from ase_finetune.cli.data import frames_of, load_checkpoint, splits_of
from ase_finetune.cli.doctor import doctor
from ase_finetune.cli.export import export
from ase_finetune.cli.guard import guarded
from ase_finetune.cli.options import resolve, train_options
from ase_finetune.cli.properties import FORMS, check_new
from ase_finetune.cli.refine import refine
from ase_finetune.cli.report import report
from ase_finetune.cli.results import show
from ase_finetune.cli.selection import select
from ase_finetune.cli.study import study
from ase_finetune.cli.systems import systems
from ase_finetune.errors import ConfigError, UserError
from ase_finetune.stop import catch_signals
from ase_finetune.tracking import Tracking

if TYPE_CHECKING:
    from ase_finetune.data.splits import Splits
    from systems.system import System


app = typer.Typer(
    help="Fine-tune MACE potentials for ASE and score their physics against DFT.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # MACE spells its flags with underscores.
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
)


@app.command()
@guarded
@train_options
def run(
    settings: dict[str, Any],
    refine_evaluations: int | None,
    tracking: Tracking,
    system: Annotated[str, typer.Argument(help="A bundled system; see `ase-finetune systems`.")],
    replay: Replay = None,
    out: OutFolder = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Fine-tune on a system's DFT data, refine, compute its properties and write a report."""
    from ase_finetune.data.splits import Splits
    from systems import get_system

    chosen = get_system(system)
    config, refine_config = resolve(settings, refine_evaluations, chosen.recipe)
    splits = Splits.from_named(chosen.frames())
    _job(
        splits,
        config,
        refine_config,
        out or Path("runs") / system,
        overwrite,
        resume,
        as_json,
        replay,
        tracking,
        system=chosen,
    )


@app.command()
@guarded
@train_options
def train(
    settings: dict[str, Any],
    refine_evaluations: int | None,
    tracking: Tracking,
    data: TrainFile = None,
    valid: ValidFile = None,
    test: Annotated[list[Path] | None, typer.Option(help="Test frames; repeatable.")] = None,
    system: SystemName = None,
    valid_fraction: ValidFraction = VALID_FRACTION,
    split_by: SplitBy = SPLIT_BY,
    energy_key: EnergyKey = MACE_KEYS[0],
    forces_key: ForcesKey = MACE_KEYS[1],
    stress_key: StressKey = MACE_KEYS[2],
    replay: Replay = None,
    out: OutFolder = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Fine-tune on your own labelled frames, refine, and print errors per configuration type."""
    config, refine_config = resolve(settings, refine_evaluations)
    splits, name = splits_of(
        data,
        valid,
        test or [],
        system,
        valid_fraction,
        split_by,
        (energy_key, forces_key, stress_key),
        config.uses_stress,
    )
    folder = out or Path("runs") / name
    _job(splits, config, refine_config, folder, overwrite, resume, as_json, replay, tracking)


def _job(
    splits: Splits,
    config: Any,
    refine_config: Any,
    out: Path,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    replay: Path | None,
    tracking: Tracking,
    system: System | None = None,
) -> None:
    from ase_finetune.distributed import is_first
    from ase_finetune.report.page import write_report
    from ase_finetune.run import check_folder, run_job
    from ase_finetune.terminal import TerminalReporter

    provenance: dict[str, Any] = {}
    if system is not None:
        provenance = {"system": system.name, "level_of_theory": system.level_of_theory}
    if is_first():
        check_folder(out, overwrite=overwrite, resume=resume)
    with TerminalReporter() as reporter:
        results = run_job(
            splits,
            config,
            refine_config,
            out,
            reporter,
            system=system,
            properties=() if system is None else system.properties,
            resume=resume,
            replay=replay,
            tracking=tracking,
            provenance=provenance,
        )
    if not is_first():
        return
    report = write_report(out)
    show(results, as_json)
    if not as_json:
        last = "finetuned" if refine_config is None else "refined"
        typer.echo(f"Checkpoint: {out / 'checkpoints' / last}\nReport: {report}")


@app.command()
@guarded
def evaluate(
    checkpoint: Checkpoint,
    data: Data = None,
    system: SystemName = None,
    energy_key: EnergyKey = MACE_KEYS[0],
    forces_key: ForcesKey = MACE_KEYS[1],
    stress_key: StressKey = MACE_KEYS[2],
    dtype: Annotated[str, typer.Option(help="float32 or float64")] = "float64",
    device: Device = "cpu",
    accelerate: Accelerate = True,
    out: ResultsFolder = None,
    as_json: Json = False,
) -> None:
    """Print a checkpoint's errors on labelled frames, per configuration type."""
    from ase_finetune.config import DTYPE_NAMES
    from ase_finetune.data.checks import check_frames
    from ase_finetune.evaluate import predict_frames
    from ase_finetune.results import write_json

    if dtype not in DTYPE_NAMES:
        raise ConfigError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPE_NAMES)}.")
    check_new(out)
    loaded = load_checkpoint(checkpoint)
    results: dict[str, Any] = {"errors": {}, "errors_by_type": {}}
    notes = []
    for name, frames in frames_of(data, system, (energy_key, forces_key, stress_key)).items():
        check_frames(frames, stress=False, elements=loaded.numbers, name=name)
        predictions = predict_frames(
            loaded, frames, dtype=dtype, device=device, accelerate=accelerate
        )
        results["errors"].setdefault(loaded.stage, {})[name] = dataclasses.asdict(
            predictions.errors()
        )
        results["errors_by_type"].setdefault(loaded.stage, {})[name] = {
            kind: dataclasses.asdict(e) for kind, e in predictions.errors_by_type().items()
        }
        notes += _offset_note(name, *predictions.energy_offset())
    if notes:
        results["notes"] = notes
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "results.json", results)
    show(results, as_json)
    for note in notes if not as_json else ():
        typer.echo(note)


def _offset_note(name: str, offset: float, spread: float) -> list[str]:
    """Say so where the energy errors are an offset more than anything else."""
    if not abs(offset) > max(0.01, 3.0 * spread):
        return []
    return [
        f"{name}: the energies lie {1e3 * offset:+.4g} meV/atom from the labels, with a spread of "
        f"{1e3 * spread:.3g}: the checkpoint's E0s, or its level of theory, are not those of these "
        "frames. `train` fits E0s first."
    ]


@app.command()
@guarded
def properties(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CKPT] SYSTEM", help="A checkpoint folder or seed; a system."),
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Comma-separated names, or their first words.")
    ] = None,
    calculator: Annotated[str | None, typer.Option(help=f"Instead of CKPT: {FORMS}.")] = None,
    calculator_args: Annotated[
        str | None, typer.Option(help="JSON object of keyword arguments for --calculator.")
    ] = None,
    device: Device = "cpu",
    accelerate: Accelerate = True,
    out: ResultsFolder = None,
    as_json: Json = False,
) -> None:
    """Compute a system's properties with a checkpoint, or any ASE calculator, beside DFT.

    With --out, results.json, curves.json and a PNG of every figure are written there.
    """
    from ase_finetune.cli.properties import any_calculator, chosen_properties, compute
    from systems import get_system

    wanted = 2 if calculator is None else 1
    if len(names or []) != wanted:
        raise ConfigError(
            "Give a checkpoint (or seed) and a system."
            if calculator is None
            else "Give a system alone with --calculator, without a checkpoint."
        )
    *given, system = names or []
    chosen = get_system(system)
    wished = chosen_properties(chosen, only)
    if calculator is not None:
        if not accelerate:
            raise ConfigError("--no-accelerate applies to checkpoints, not to --calculator.")
        attached, stage = any_calculator(calculator, calculator_args, device), calculator
    else:
        from ase_finetune.calculator import FineTunedCalculator

        loaded = load_checkpoint(given[0])
        attached = FineTunedCalculator(loaded, device=device, accelerate=accelerate)
        stage = loaded.stage
    results, failures = compute(chosen, wished, attached, stage, calculator or given[0], out)
    show(results, as_json)
    if failures:
        raise UserError(f"No value for {', '.join(failures)}: {next(iter(failures.values()))}")


app.command()(refine)
app.command()(select)
app.command()(systems)
app.command()(study)
app.command()(curvature)


app.command()(doctor)
app.command()(report)
app.command()(export)


def main() -> None:
    """Entry point of the console script."""
    # Before torch loads OpenMP: threads that spin while they wait make small models many
    # times slower as soon as another process shares the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    catch_signals()
    app()
