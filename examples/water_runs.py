"""What page 6 does with its potentials: dynamics, a picosecond at a time, and a committee."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gallery
import numpy as np
import potentials
from ase.io.trajectory import Trajectory

from ase_finetune.committee import atom_disagreement
from ase_finetune.data.read import is_isolated_atom
from properties import Quantity, StructureError, nvt_trajectory, water_observables
from systems.hdf5 import iterate_frames
from systems.water_graphene import DATA_FILE, NORMAL, film, sheet

EQUILIBRATION, PLANNED, STEP, INTERVAL = 0.5, 100.0, 0.5, 10.0  # ps, ps, fs, fs
LEFT_OUT, MOST_LEFT_OUT = 0.1, 10.0  # of a run's length, and ps: further equilibration
SAMPLES = 500  # of a stored trace of the temperature


class _Reached(Exception):
    """Leaves a run that is to go on later."""


def advance(checkpoint: Path, until: float) -> tuple[Path, Any]:
    """Take the run of a potential to a time in ps; return its blow-up, if there is one."""
    file = checkpoint.with_name(f"nvt_{checkpoint.name}") / "water.traj"
    frames = 0
    if file.exists() and file.stat().st_size > 0:
        with Trajectory(file) as trajectory:
            frames = len(trajectory)
    goal = round(1e3 * (EQUILIBRATION + until) / STEP)
    if until < PLANNED and frames > 1e3 * until / INTERVAL + 1:
        return file, None

    def watch(step: int, _: int) -> None:
        if step > goal:  # the state at the goal is saved by now
            raise _Reached

    calculator = potentials.FineTunedCalculator(checkpoint, dtype="float32")
    try:
        run = nvt_trajectory(
            film(),
            calculator,
            file=file,
            temperature_K=300.0,
            equilibration_ps=EQUILIBRATION,
            production_ps=PLANNED,
            timestep_fs=STEP,
            interval_fs=INTERVAL,
            progress=watch,
        )
    except _Reached:
        return file, None
    return file, run.blow_up


def observe(file: Path, begin: float, until: float) -> dict[str, Any]:
    """Return what a trajectory says between two times in ps, in numbers and curves."""
    with Trajectory(file) as trajectory:
        frames = [a for a in trajectory if begin - 1e-6 <= a.info["time_ps"] <= until + 1e-6]
    carbon = list(range(len(sheet())))
    found = water_observables(frames, normal=NORMAL, surface=carbon, target_K=300.0)
    numbers, curves = {}, {}
    for name, one in found.quantities("model").items():
        if isinstance(one, Quantity):
            numbers[name] = {"value": one.value, "unit": one.unit}
            continue
        stride = max(1, len(one.x) // SAMPLES) if name == "temperature" else 1
        curves[name] = {
            "x": np.round(one.x[::stride], 6),
            "y": np.array([float(f"{y:.6g}") for y in one.y[::stride]]),
            "x_unit": one.x_unit,
            "y_unit": one.y_unit,
        }
    errors = {
        "temperature_mean_error": (found.temperature.mean_error, "K"),
        "g_OO_peak_position_error": (found.radial.peak_position_error, "A"),
        "g_OO_peak_height_error": (found.radial.peak_height_error, "1"),
        "HOH_angle_mean_error": (found.molecules.mean_error, "deg"),
    }
    numbers |= {name: {"value": value, "unit": unit} for name, (value, unit) in errors.items()}
    fit = {"window_ps": found.diffusion.window_ps, "intercept_A2": found.diffusion.intercept}
    reacted = np.flatnonzero(found.molecules.reacted)
    return {
        "n_frames": len(frames),
        "numbers": numbers,
        "curves": curves,
        "fit": fit,
        "first_reaction_ps": float(frames[reacted[0]].info["time_ps"]) if len(reacted) else None,
    }


def follow(
    page: gallery.Page,
    tuned: Mapping[str, Path],
    files: Mapping[str, str],
    made: Mapping[str, dict[str, Any]],
    target: float,
) -> None:
    """Advance runs together, and store them after every round."""
    ended = {}
    for until in (0.5, *np.arange(1.0, target + 0.5)):
        for name, file in files.items():
            if name in ended:
                continue
            trajectory, blow_up = advance(tuned[name], float(until))
            reached = float(until)
            if blow_up is not None:
                ended[name] = blow_up
                reached = max(0.0, blow_up.time_ps - EQUILIBRATION)
            begin = min(LEFT_OUT * reached, MOST_LEFT_OUT)
            record = {
                **made[name],
                "planned_ps": target,
                "reached_ps": reached,
                "equilibration_ps": EQUILIBRATION,
                "observed_from_ps": begin,
                "blow_up": None if blow_up is None else vars(blow_up),
            }
            try:
                record |= observe(trajectory, begin, reached)
            except StructureError as error:  # it ended before there was enough to see
                record["not_observed"] = str(error)
            page.save(file, record)
            print(f"{file}: {reached:g} ps", flush=True)


def committee(members: Iterable[Path]) -> dict[str, Any]:
    """Return, of every labelled frame, how far potentials are apart and how wrong their mean is."""
    calculator = potentials.FineTunedCalculator([str(member) for member in members])
    found = []
    for split in ("train", "valid", "test_id", "test_ood", "reference"):
        for frame in iterate_frames(DATA_FILE, split):
            if is_isolated_atom(frame) or "O" not in frame.symbols or "C" not in frame.symbols:
                continue
            (result,) = calculator.evaluate_batch([frame])
            wrong = np.linalg.norm(result["forces"] - frame.arrays["REF_forces"], axis=1)
            found.append(
                {
                    "id": frame.info["id"],
                    "split": split,
                    "config_type": frame.info["config_type"],
                    "disagreement": round(float(atom_disagreement(result["forces_var"]).max()), 4),
                    "error": round(float(wrong.max()), 4),
                }
            )
    return {"unit": "eV/A", "frames": found}
