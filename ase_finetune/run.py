"""The main job: fine-tune, refine, evaluate, compute properties, and keep it all in a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from ase_finetune.checkpoint import Checkpoint, versions
from ase_finetune.config import RefineConfig, TrainConfig
from ase_finetune.data import Splits, label_notes
from ase_finetune.distributed import is_first
from ase_finetune.errors import ConfigError
from ase_finetune.evaluate import predict_frames
from ase_finetune.lock import check_unlocked, locked
from ase_finetune.nvt_gate import gate_for
from ase_finetune.refinement import refine
from ase_finetune.replay import REPLAY, replay_frames
from ase_finetune.results import ResultFolder, write_text
from ase_finetune.start import Start, prepare
from ase_finetune.tracking import FOLDER as EVENTS
from ase_finetune.tracking import Events
from ase_finetune.trainer import check_state, finetune
from properties.quantity import Curve, Quantity

if TYPE_CHECKING:
    from ase import Atoms

    from systems.system import System

FILES = (
    "results.json",
    "config.yaml",
    "log.jsonl",
    "predictions.npz",
    "curves.json",
    "report.html",
    "state.pt",
)


class Reporter(Protocol):
    """What a run tells the terminal."""

    def note(self, text: str) -> None:
        """Say one line."""

    def record(self, record: Mapping[str, Any]) -> None:
        """Take an epoch's or iteration's record."""

    def steps(self, title: str) -> Callable[[int, int], None]:
        """Return a (done, total) callback for a part of known length."""


def check_folder(out: Path, *, overwrite: bool, resume: bool) -> None:
    """Never mix two runs in one folder.

    Raises
    ------
    ConfigError
        If it holds a run and neither ``overwrite`` nor ``resume`` is asked for, or is a file.
    LockedError
        If another process is writing a run there.
    """
    if overwrite and resume:
        raise ConfigError("Choose --overwrite or --resume, not both.")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; choose another --out.")
    check_unlocked(out)
    present = [name for name in (*FILES, "checkpoints", EVENTS) if (out / name).exists()]
    if present and not (overwrite or resume):
        raise ConfigError(
            f"{out} already holds a run; continue it with --resume, replace it with --overwrite, "
            "or choose another --out."
        )


def make_folder(out: Path, *, keep: bool) -> None:
    """Make the folder, and empty it of an earlier run unless that is continued."""
    out.mkdir(parents=True, exist_ok=True)
    if not keep:
        for name in FILES:
            (out / name).unlink(missing_ok=True)
        for stage in ("finetuned", "refined"):
            shutil.rmtree(out / "checkpoints" / stage, ignore_errors=True)
        shutil.rmtree(out / EVENTS, ignore_errors=True)
    for unfinished in (out / "checkpoints").glob(".*.tmp"):  # by a process that was killed
        shutil.rmtree(unfinished, ignore_errors=True)


def _written(out: Path) -> dict[str, int]:
    """Return when the files of a run were written."""
    return {n: (out / n).stat().st_mtime_ns for n in FILES if (out / n).exists()}


@contextlib.contextmanager
def own_folder(out: Path, before: Mapping[str, int], *, keep: bool) -> Iterator[None]:
    """Make the folder and keep other runs out of it for the body.

    Parameters
    ----------
    out
        Folder of the run.
    before
        Its files when it was checked, as from `_written`.
    keep
        As for :func:`make_folder`.

    Raises
    ------
    LockedError
        If another process is writing a run there.
    ConfigError
        If one has done so since the folder was checked.
    """
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        if _written(out) != before:
            raise ConfigError(f"Another run has been written to {out} meanwhile; choose another.")
        make_folder(out, keep=keep)
        yield


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def compute_properties(
    system: System,
    calculator: Any,
    names: Sequence[str],
    reporter: Reporter,
    source: str,
    keep: Callable[[Any], None] | None = None,
) -> tuple[dict[str, Quantity | Curve], dict[str, str]]:
    """Compute properties of a system with any ASE calculator.

    Parameters
    ----------
    system, calculator, names
        What is computed with what.
    reporter, source
        Where progress goes, and the name of the calculator there and in the results.
    keep
        Called with each result, before the next property is begun.

    Returns
    -------
    found
        All quantities and curves by name.
    failures
        Property -> why it has no value, for a model too poor to converge.
    """
    found: dict[str, Quantity | Curve] = {}
    failures: dict[str, str] = {}
    for name in names:
        try:
            result = system.compute(name, calculator, reporter.steps(f"{source}: {name}"))
        except Exception as error:
            # A poor model may break any solver, and anybody's calculator may raise anything; the
            # run goes on and the reason stays in sight.
            failures[name] = f"{type(error).__name__}: {error}"
            reporter.note(f"{source}: no {name}: {error}")
            continue
        found.update(result.quantities(source))
        if keep is not None:
            keep(result)
    return found, failures


def data_notes(splits: Splits, config: TrainConfig) -> list[str]:
    """Return what the user should know of the labels before an hour is spent on them."""
    notes = list(label_notes([*splits.train, *splits.valid]))
    if not config.uses_stress and any("REF_stress" in a.info for a in splits.train):
        notes.append("The frames have stress labels; --stress-weight is 0, so they are not used.")
    return notes


def run_job(
    splits: Splits,
    config: TrainConfig,
    refine_config: RefineConfig | None,
    out: Path,
    reporter: Reporter,
    *,
    system: System | None = None,
    properties: Sequence[str] = (),
    resume: bool = False,
    replay: Path | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Fine-tune, refine, evaluate and compute properties, writing everything to a folder.

    Of several processes started by ``torchrun``, the first does all this and the others share its
    mini-batch stage only.

    Parameters
    ----------
    splits, config, refine_config
        Data and settings; None refines nothing.
    out
        Folder of the run, see :func:`check_folder`; made once the data have passed their checks.
    reporter
        Where progress goes.
    system, properties
        The system and the names of its properties to compute at every stage.
    resume
        Continue the mini-batch stage from its ``state.pt``.
    replay
        Frames of the foundation's own domain, whose force errors become the set ``replay``.
    provenance
        Added to ``results["provenance"]``.

    Returns
    -------
    dict
        The content of results.json; empty in a process that only shares the training.
    """
    begun, before = time.perf_counter(), _written(out)
    start = prepare(splits, config)
    if not is_first():
        finetune(splits, config, start=start, out=out, resume=resume)
        return {}
    if resume:
        check_state(splits, config, start, out)
    replayed = replay_frames(replay, start.checkpoint)
    with own_folder(out, before, keep=resume):
        return _stages(
            splits, config, refine_config, start, out, reporter, begun, system, properties,
            resume, replayed, provenance or {},
        )  # fmt: skip


def _stages(
    splits: Splits,
    config: TrainConfig,
    refine_config: RefineConfig | None,
    start: Start,
    out: Path,
    reporter: Reporter,
    begun: float,
    system: System | None,
    properties: Sequence[str],
    resume: bool,
    replayed: Sequence[Atoms],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Do the work of `run_job` in its folder."""
    notes = [start.E0s.note + ".", *data_notes(splits, config)]
    for note in notes:
        reporter.note(note)
    settings = _plain(config.resolved())
    settings["refine"] = None if refine_config is None else dataclasses.asdict(refine_config)
    write_text(out / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
    folder = ResultFolder(
        out,
        {
            "command": shlex.join(["ase-finetune", *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "foundation": dict(start.checkpoint.foundation),
            "data_hash": splits.data_hash(),
            "n_frames": {name: len(frames) for name, frames in splits.items()},
            "E0s": start.E0s.note,
            "n_replay": len(replayed),
            "notes": notes,
            "versions": versions(),
            **provenance,
        },
    )

    def assess(checkpoint: Checkpoint) -> None:
        stage = checkpoint.stage
        steps = reporter.steps(f"{stage}: errors")
        sets = [*splits.items(), *([(REPLAY, replayed)] if replayed else [])]
        for i, (name, frames) in enumerate(sets):
            folder.add_predictions(
                stage,
                name,
                predict_frames(
                    checkpoint,
                    frames,
                    dtype=config.default_dtype,
                    device=config.device,
                    accelerate=config.accelerate,
                ),
            )
            steps(i + 1, len(sets))
        if system is not None and properties:
            from ase_finetune.calculator import FineTunedCalculator

            calculator = FineTunedCalculator(
                checkpoint, device=config.device, accelerate=config.accelerate
            )
            _, failures = compute_properties(
                system,
                calculator,
                properties,
                reporter,
                stage,
                lambda result: folder.keep(
                    result, stage, system, reporter.note, f"figures/{stage}"
                ),
            )
            folder.results["failures"][stage] = failures
        folder.write()

    assess(start.checkpoint)
    log = _Log(out / "log.jsonl", reporter)
    tuned = finetune(splits, config, start=start, out=out, progress=log.add, resume=resume)
    log.rewrite(tuned.metrics["history"])
    tuned.save(out / "checkpoints" / "finetuned")
    assess(tuned)
    spent = float(tuned.metrics["gradient_equivalents"])
    if refine_config is not None:
        gate = gate_for(splits, refine_config)
        refined = refine(tuned, splits, refine_config, progress=log.add, gate=gate)
        refined.save(out / "checkpoints" / "refined")
        if "note" in refined.metrics:
            notes.append(refined.metrics["note"])
            reporter.note(notes[-1])
        if not refined.metrics["accepted"]:
            why = refined.metrics.get("objection", "did not lower the validation force error")
            notes.append(
                f"Refinement was not accepted ({why}); the refined checkpoint holds the fine-tuned "
                "weights."
            )
            reporter.note(notes[-1])
        assess(refined)
        spent += float(refined.metrics["gradient_equivalents"])
    log.events.close()
    folder.results["budget"] = {
        "gradient_equivalents": spent,
        "wall_s": time.perf_counter() - begun,
    }
    folder.write()
    return folder.results


class _Log:
    """One JSON line per epoch and iteration, and TensorBoard events if they are asked for."""

    def __init__(self, path: Path, reporter: Reporter) -> None:
        self.path, self.reporter, self.events = path, reporter, Events(path.parent)
        if path.exists() and not (text := path.read_text(encoding="utf-8")).endswith("\n"):
            # Half a line, left by a kill, would spoil the next one.
            write_text(path, text[: text.rfind("\n") + 1])

    def add(self, row: Mapping[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.events.add(row)
        self.reporter.record(row)

    def rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace what a stopped and continued run left with the one true history."""
        write_text(self.path, "".join(json.dumps(r) + "\n" for r in rows))
