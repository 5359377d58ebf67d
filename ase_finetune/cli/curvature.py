"""The command that measures curvature, and which energy differences stand for physics."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_finetune.cli.arguments import (
    MACE_KEYS,
    SPLIT_BY,
    VALID_FRACTION,
    Accelerate,
    Checkpoint,
    EnergyKey,
    ForcesKey,
    Json,
    Overwrite,
    SplitBy,
    StressKey,
    SystemName,
    TrainFile,
    Weight,
)
from ase_finetune.cli.data import splits_of
from ase_finetune.cli.guard import guarded
from ase_finetune.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from ase_finetune.checkpoint import Checkpoint as Loaded
    from ase_finetune.config import TrainConfig
    from ase_finetune.curvature import CurvatureResult, CurvatureSettings, Property
    from ase_finetune.data.splits import Splits
    from systems.system import System

STRAIN = 0.01
NOTE = (
    "kappa, median: log10 of largest over smallest visible and over median eigenvalue of J P J^T; "
    "gain: what P takes off it, with a 95 % interval over the choice of frames; std of log10; "
    "rank: effective; lmax, lmin of the true Hessian under P, and the lr*lmax that is stable; "
    "left: share of the linearized loss after the filter's steps, at the default and the best lr."
)


@guarded
def curvature(
    checkpoint: Checkpoint,
    data: TrainFile = None,
    system: SystemName = None,
    optimizers: Annotated[
        str, typer.Option(help="Comma-separated names, lbfgs and lm among them; or all.")
    ] = "all",
    rows: Annotated[int, typer.Option(help="Most residuals in the spectra.")] = 300,
    steps: Annotated[int, typer.Option(help="T of the filters.")] = 200,
    gradients: Annotated[
        int, typer.Option(help="Mini-batches from which the optimizers' states are gathered.")
    ] = 200,
    batch_size: Annotated[
        int | None, typer.Option(help="Frames per mini-batch (default: as trained).")
    ] = None,
    probes: Annotated[
        int, typer.Option(help="Random probes of the true Hessian per optimizer; 0 skips it.")
    ] = 2,
    lanczos: Annotated[int, typer.Option(help="Hessian-vector products per probe.")] = 16,
    run: Annotated[
        list[Path] | None,
        typer.Option(help="Also the preconditioner in this run's state.pt, at its own weights."),
    ] = None,
    before: Annotated[
        str | None,
        typer.Option(help="Also where the residual of this checkpoint lies, as before refinement."),
    ] = None,
    memory_GB: Annotated[
        float, typer.Option("--memory-GB", help="Most memory, beside the libraries'.")
    ] = 8.0,
    energy_weight: Weight = None,
    forces_weight: Weight = None,
    stress_weight: Weight = None,
    seed: Annotated[int, typer.Option(help="Of mini-batches, probes and half samples.")] = 1,
    valid_fraction: Annotated[
        float, typer.Option(help="Share of each trajectory or type left out, in blocks.")
    ] = VALID_FRACTION,
    split_by: SplitBy = SPLIT_BY,
    energy_key: EnergyKey = MACE_KEYS[0],
    forces_key: ForcesKey = MACE_KEYS[1],
    stress_key: StressKey = MACE_KEYS[2],
    accelerate: Accelerate = True,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("curvature"),
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Measure how every optimizer's preconditioner conditions the loss at a checkpoint.

    Writes curvature.json, curvature.h5 and figures. All preconditioners are taken at the same
    weights; those of --run at the run's own, as views of their own. With --before, a figure shows
    where the residual of an earlier checkpoint lies beside this one's.
    """
    from ase_finetune.curvature import (
        BEFORE,
        Curvature,
        CurvatureSettings,
        SavedRun,
        Statistics,
        View,
    )
    from ase_finetune.curvature.figures import write_figures
    from ase_finetune.curvature.files import document, write_arrays
    from ase_finetune.results import write_json
    from ase_finetune.terminal import TerminalReporter, table_console

    if (out / "curvature.json").exists() and not overwrite:
        raise ConfigError(f"{out} already holds a curvature.json; give another --out.")
    given = {
        "energy_weight": energy_weight,
        "forces_weight": forces_weight,
        "stress_weight": stress_weight,
        "batch_size": batch_size,
    }
    loaded, config, chosen = _start_settings(checkpoint, system, given)
    earlier = None if before is None else _start_settings(before, system, given)[0]
    statistics = Statistics(
        steps=gradients,
        batch_size=config.batch_size,
        seed=seed,
        clip=config.clip,
        weight_decay=config.weight_decay,
        options={config.optimizer: config.optimizer_options},
    )
    settings = CurvatureSettings(
        optimizers=() if optimizers == "all" else [n.strip() for n in optimizers.split(",")],
        rows=rows,
        view=View(steps=steps, lanczos=lanczos, probes=probes, seed=seed),
        statistics=statistics,
        memory_GB=memory_GB,
        lr={}
        if config.lr is None or loaded.stage == "zero_shot"
        else {config.optimizer: config.lr},
    )
    saved = [SavedRun.read(folder) for folder in run or []]
    keys = (energy_key, forces_key, stress_key)
    splits, _ = splits_of(
        data, None, [], system, valid_fraction, split_by, keys, config.uses_stress
    )
    start, graphs = _started(loaded, checkpoint, splits, config)
    first = None if before is None or earlier is None else _started(earlier, before, splits, config)
    with TerminalReporter() as reporter:
        structures = _properties(chosen, start) if chosen is not None else {}
        study = Curvature(
            start,
            graphs,
            config.weights(config.epochs),
            settings,
            structures,
            accelerate=accelerate,
        )
        if config.replay_weight:
            reporter.note("The loss is that of the training frames, without the replay frames.")
        reporter.note(study.estimate().text)

        def progress(title: str, done: int, total: int) -> None:
            reporter.steps(title)(done, total)

        results = [study.run(progress)]
        results += [study.run_trajectory(one, progress) for one in saved]
        if first is not None:
            plain = dataclasses.replace(
                settings,
                optimizers=("sgd",),
                view=dataclasses.replace(settings.view, name=BEFORE, probes=0),
            )
            weights = config.weights(config.epochs)
            other = Curvature(*first, weights, plain, accelerate=accelerate)
            results.append(other.run(progress))
    out.mkdir(parents=True, exist_ok=True)
    found = {
        "checkpoint": checkpoint,
        "before": before,
        "stage": start.stage,
        "system": system,
        "settings": _told(settings),
        **document(results),
    }
    write_json(out / "curvature.json", found)
    write_arrays(out / "curvature.h5", results)
    (out / "figures").mkdir(exist_ok=True)
    write_figures(out / "figures", results)
    if as_json:
        typer.echo(json.dumps(found, indent=1, allow_nan=False))
        return
    for result in results:
        table_console().print(table(result))
    typer.echo(f"Results in {out}")


def _start_settings(
    path: str, system: str | None, given: Mapping[str, float | None]
) -> tuple[Loaded, TrainConfig, System | None]:
    """Return checkpoint, settings of training and system.

    What a fine-tuned checkpoint was trained with holds; for a foundation the system's recipe does,
    or the defaults; flags go over both.
    """
    from ase_finetune.checkpoint import Checkpoint as Folder
    from ase_finetune.config import TrainConfig, from_mapping
    from systems import get_system

    loaded = Folder.load(path)
    chosen = get_system(system) if system is not None else None
    own = dict(loaded.config) if loaded.stage != "zero_shot" else {}
    if own:
        own.pop("refine", None)
    elif chosen is not None:
        own = {k: v for k, v in chosen.recipe.items() if k not in ("refine", "replay_weight")}
    own |= {name: value for name, value in given.items() if value is not None}
    return loaded, from_mapping(TrainConfig, own), chosen


def _started(
    loaded: Loaded, path: str, splits: Splits, config: TrainConfig
) -> tuple[Loaded, list[Any]]:
    """The checkpoint and its graphs; a foundation is pruned and gets the E0s of the data first."""
    from ase_finetune.data.checks import check_frames
    from ase_finetune.start import make_graphs, prepare, training_frames

    stress = config.uses_stress
    if loaded.stage == "zero_shot":
        asked = dataclasses.replace(config, foundation=path, architecture={}, E0s="estimated",
                                    default_dtype="float64")  # fmt: skip
        loaded = prepare(splits, asked).checkpoint
    else:
        check_frames(splits.train, stress=stress, elements=loaded.numbers, name="train")
    frames = training_frames(splits.train)
    return loaded, list(make_graphs(frames, loaded, "float64", stress=stress))


def _properties(system: System, checkpoint: Loaded) -> dict[str, Property]:
    """Energy differences of a system's own structures, relaxed with the checkpoint.

    At a relaxed structure the energy does not change to first order with the positions, so the
    gradient by the parameters at fixed positions is that of the relaxed difference.
    """
    import torch

    from ase_finetune.calculator import FineTunedCalculator
    from ase_finetune.curvature import Property
    from ase_finetune.graphs import build_graph

    makers = {"mo": _cubic_metal, "acetylacetone": _acetylacetone}
    if system.name not in makers:
        return {}
    wanted = makers[system.name](system, FineTunedCalculator(checkpoint))
    return {
        name: Property(
            [
                (c, build_graph(a, checkpoint.numbers, checkpoint.r_max, dtype=torch.float64))
                for c, a in terms
            ],
            unit,
        )
        for name, (terms, unit) in wanted.items()
    }


Structures = dict[str, tuple[list[tuple[float, Any]], str]]


def _cubic_metal(system: System, calculator: Any) -> Structures:
    """Elastic constants from energies of strained cells, and the barrier of a rigid slip.

    With E(+e) + E(-e) - 2 E(0) = V e^2 times C44 for the shear e = 2 eps_xy, times 4 C' for
    eps_xx = -eps_yy = e, and times 9 B for eps_xx = eps_yy = eps_zz = e.
    """
    import numpy as np
    from ase.build import bulk
    from ase.units import GPa

    from properties import relax

    symbol = system.elements[0]
    cell = relax(bulk(symbol, cubic=True), calculator, cell=True).atoms
    volume, a0 = cell.get_volume(), cell.cell.lengths()[0]
    shapes = {
        "C44": (1.0, [[0.0, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]),
        "C'": (4.0, np.diag([1.0, -1.0, 0.0])),
        "B": (9.0, np.eye(3)),
    }
    found: Structures = {}
    for name, (factor, shape) in shapes.items():
        terms = [(-2.0, cell)]
        for sign in (1.0, -1.0):
            strained = cell.copy()
            deformation = np.eye(3) + sign * STRAIN * np.asarray(shape)
            strained.set_cell(cell.cell.array @ deformation, scale_atoms=True)
            terms.append((1.0, strained))
        scale = 1.0 / (factor * volume * STRAIN**2 * GPa)
        found[name] = ([(scale * c, a) for c, a in terms], "GPa")
    found["slip barrier {110}"] = _slip(symbol, a0)
    return found


def _slip(symbol: str, a0: float) -> tuple[list[tuple[float, Any]], str]:
    """Energy per area of half a Burgers vector of rigid slip on a {110} plane of a bcc crystal."""
    from ase.lattice.cubic import BodyCenteredCubic
    from ase.units import J, m

    planes = 12
    # Rows: 1/2 [111] is the slip, along x; z is the normal.
    perfect = BodyCenteredCubic(
        symbol=symbol,
        latticeconstant=a0,
        directions=[[1, 1, 1], [1, 1, -2], [-1, 1, 0]],
        size=(1, 1, planes // 2),
    )
    area = float(perfect.get_volume() / perfect.cell[2, 2])
    slipped = perfect.copy()
    slipped.set_cell(perfect.cell.array, scale_atoms=False)
    burgers = 0.5 * math.sqrt(3.0) * a0
    # The fault lies in the periodic boundary: the next image upward is shifted.
    cell = perfect.cell.array.copy()
    cell[2, 0] += 0.5 * burgers
    slipped.set_cell(cell)
    scale = 1.0 / area / (J / m**2)
    return [(scale, slipped), (-scale, perfect)], "J/m^2"


def _acetylacetone(system: System, calculator: Any) -> Structures:
    """The barrier of the hydrogen transfer, and of turning the hydroxyl group out of its bond."""
    from properties.molecule import rotated
    from systems.acetylacetone import TORSIONS

    transfer: Any = system.compute("transfer", calculator)
    bond, moving, _ = TORSIONS["hydroxyl"]
    opened = rotated(transfer.minimum, bond, moving, 180.0)
    return {
        "H transfer": ([(1e3, transfer.transition), (-1e3, transfer.minimum)], "meV"),
        "hydrogen bond": ([(1e3, opened), (-1e3, transfer.minimum)], "meV"),
    }


def _told(settings: CurvatureSettings) -> dict[str, Any]:
    return {"optimizers": list(settings.optimizers), "rows": settings.rows,
            "memory_GB": settings.memory_GB}  # fmt: skip


def _gain(value: float, half_width: float) -> str:
    """Spell a gain and its interval, which one frame does not give."""
    return f"{value:+.2f} ± {'-' if math.isnan(half_width) else f'{half_width:.2f}'}"


def table(result: CurvatureResult) -> Table:
    """Make the table of a view: a row per optimizer."""
    from rich.table import Table

    from ase_finetune.curvature.selection import counted

    title = (
        f"{result.view}: {result.rows} residuals of {counted(result.frames)}, "
        f"{result.invisible} of them without visible curvature, {result.active} active parameters"
    )
    made = Table(title=title, title_justify="left", caption=NOTE, caption_justify="left")
    labels = ("optimizer", "kappa", "gain", "median", "gain", "std", "rank", "lr*lmax", "stable",
              "lmin/lmax", "left", "at best lr")  # fmt: skip
    for k, label in enumerate(labels):
        made.add_column(label, justify="left" if k == 0 else "right", no_wrap=True)
    for name, o in result.optimizers.items():
        h, e, m = o.hessian, o.errors, o.spectrum
        largest = m.largest if h is None else h.largest.value
        lowest = "-" if h is None else f"{h.smallest.value / h.largest.value:.2g}"
        made.add_row(
            name,
            f"{m.log10_kappa:.2f}",
            _gain(o.gains["log10_kappa"], e["gain_log10_kappa"]),
            f"{m.log10_median_ratio:.2f}",
            _gain(o.gains["log10_median_ratio"], e["gain_log10_median_ratio"]),
            f"{m.std_log10:.2f}",
            f"{m.effective_rank:.1f}",
            f"{o.lr * largest:.2g}",
            f"{o.threshold:.3g}",
            lowest,
            f"{o.loss_left:.2g}",
            f"{o.loss_left_best:.2g}",
        )
    return made
