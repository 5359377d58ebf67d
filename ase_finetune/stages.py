"""The stages of a run, one after the other, in its folder."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from ase_finetune.calculator import FineTunedCalculator
from ase_finetune.checkpoint import Checkpoint, versions
from ase_finetune.config import RefineConfig, TrainConfig
from ase_finetune.data.reach import reach_note
from ase_finetune.data.read import WEIGHT_KEY
from ase_finetune.data.splits import REPLAY, Splits
from ase_finetune.data.units import label_notes
from ase_finetune.e0s import counted
from ase_finetune.evaluate import predict_frames
from ase_finetune.nvt_gate import gate_for
from ase_finetune.refinement import refine
from ase_finetune.replay import Replay
from ase_finetune.results import FIGURES, ResultFolder, write_text
from ase_finetune.start import Start
from ase_finetune.tracking import Events, StepLog, Tracking
from ase_finetune.trainer import finetune
from properties.quantity import Curve, Quantity

if TYPE_CHECKING:
    from systems.system import System


# Weights of single labels, which mace-torch reads from frames.
OTHER_WEIGHT = re.compile(r"config_\w+_weight")


class Reporter(Protocol):
    """What a run tells the terminal."""

    def note(self, text: str) -> None:
        """Say one line."""

    def record(self, record: Mapping[str, Any]) -> None:
        """Take an epoch's or iteration's record."""

    def steps(self, title: str) -> Callable[[int, int], None]:
        """Return a (done, total) callback for a part of known length."""


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
    notes = [*splits.notes, *label_notes([*splits.train, *splits.valid])]
    reach = reach_note(counted(splits.train), splits.valid)
    if reach is not None:
        notes.append(reach)
    if not config.uses_stress and any("REF_stress" in a.info for a in splits.train):
        notes.append("The frames have stress labels; --stress-weight is 0, so they are not used.")
    known = {symbol for a in splits.train for symbol in a.symbols}
    for name, frames in splits.tests.items():
        foreign = sorted({symbol for a in frames for symbol in a.symbols} - known)
        if foreign:
            notes.append(
                f"{name} has {', '.join(foreign)}, of which no training frame has any: its "
                "energies rest on E0s that these data leave open."
            )
    weighed = sum(WEIGHT_KEY in a.info for a in splits.train)
    if weighed:
        notes.append(f"{weighed} training frames have a weight of their own ({WEIGHT_KEY}).")
    others = sorted({key for a in splits.train for key in a.info if OTHER_WEIGHT.fullmatch(key)})
    if others:
        notes.append(f"{', '.join(others)} of the frames: not used, only {WEIGHT_KEY} is.")
    return notes


@dataclass(frozen=True)
class Job:
    """Fine-tune, refine, evaluate and compute properties.

    Attributes
    ----------
    splits, config, refine_config, start
        Data, settings and what they begin with.
    out, reporter, tracking
        Where results go, and what is written beside the log.
    system, properties
        The system and the names of its properties to compute at every stage.
    replay
        Frames to measure forgetting on.
    provenance
        Added to ``results["provenance"]``.
    """

    splits: Splits
    config: TrainConfig
    refine_config: RefineConfig | None
    start: Start
    out: Path
    reporter: Reporter
    tracking: Tracking
    system: System | None
    properties: Sequence[str]
    replay: Replay
    provenance: Mapping[str, Any]

    def run(self, resume: bool) -> dict[str, Any]:
        """Do all stages and return the content of results.json."""
        begun, out = time.perf_counter(), self.out
        notes = [
            self.start.E0s.note + ".",
            *data_notes(self.splits, self.config),
            *self.replay.notes,
        ]
        for note in notes:
            self.reporter.note(note)
        folder = self._begin(notes)
        self._assess(self.start.checkpoint, folder)
        log = Log(out / "log.jsonl", self.reporter, self.tracking)
        tuned = finetune(
            self.splits,
            self.config,
            start=self.start,
            out=out,
            progress=log.add,
            steps=log.add_step,
            resume=resume,
        )
        log.rewrite(tuned.metrics["history"])
        tuned.save(out / "checkpoints" / "finetuned")
        self._assess(tuned, folder)
        spent = float(tuned.metrics["gradient_equivalents"])
        if self.refine_config is not None:
            spent += self._refine(tuned, self.refine_config, folder, log, notes)
        log.events.close()
        folder.results["budget"] = {
            "gradient_equivalents": spent,
            "wall_s": time.perf_counter() - begun,
        }
        folder.write()
        return folder.results

    def _begin(self, notes: Sequence[str]) -> ResultFolder:
        refine_config = self.refine_config
        settings = _plain(self.config.resolved())
        settings["refine"] = None if refine_config is None else dataclasses.asdict(refine_config)
        write_text(self.out / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
        return ResultFolder(
            self.out,
            {
                "command": shlex.join(["ase-finetune", *sys.argv[1:]]),
                "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "foundation": dict(self.start.checkpoint.foundation),
                "data_hash": self.splits.data_hash(),
                "measured_replay_hash": self.replay.measured_hash(),
                "n_frames": {name: len(frames) for name, frames in self.splits.items()},
                "E0s": self.start.E0s.note,
                "notes": notes,
                "versions": versions(),
                **self.provenance,
            },
        )

    def _refine(
        self,
        tuned: Checkpoint,
        config: RefineConfig,
        folder: ResultFolder,
        log: Log,
        notes: list[str],
    ) -> float:
        """Refine and assess; return the budget spent."""
        gate = gate_for(self.splits, config, self.out / "checkpoints" / "refused")
        refined = refine(tuned, self.splits, config, progress=log.add, gate=gate)
        refined.save(self.out / "checkpoints" / "refined")
        if "note" in refined.metrics:
            notes.append(refined.metrics["note"])
            self.reporter.note(notes[-1])
        if not refined.metrics["accepted"]:
            why = refined.metrics.get("objection", "did not lower the validation force error")
            notes.append(
                f"Refinement was not accepted ({why}); the refined checkpoint holds the fine-tuned "
                "weights."
            )
            self.reporter.note(notes[-1])
        self._assess(refined, folder)
        return float(refined.metrics["gradient_equivalents"])

    def _assess(self, checkpoint: Checkpoint, folder: ResultFolder) -> None:
        """Evaluate a stage on all sets and compute its properties."""
        stage, config, system, reporter = checkpoint.stage, self.config, self.system, self.reporter
        steps = reporter.steps(f"{stage}: errors")
        sets = [
            *self.splits.items(),
            *([(REPLAY, self.replay.frames)] if self.replay.frames else []),
        ]
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
        if system is not None and self.properties:
            calculator = FineTunedCalculator(
                checkpoint, device=config.device, accelerate=config.accelerate
            )
            _, failures = compute_properties(
                system,
                calculator,
                self.properties,
                reporter,
                stage,
                lambda result: folder.keep(
                    result, stage, system, reporter.note, f"{FIGURES}/{stage}"
                ),
            )
            folder.results["failures"][stage] = failures
        folder.write()


class Log:
    """One JSON line per epoch and iteration, and TensorBoard events if they are asked for."""

    def __init__(self, path: Path, reporter: Reporter, tracking: Tracking) -> None:
        self.path, self.reporter, self.tracking = path, reporter, tracking
        self.events = Events(path.parent, tracking.tensorboard)
        self.steps = StepLog(path.with_name("steps.jsonl"))
        if path.exists() and not (text := path.read_text(encoding="utf-8")).endswith("\n"):
            # Half a line, left by a kill, would spoil the next one.
            write_text(path, text[: text.rfind("\n") + 1])

    def add(self, row: Mapping[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.events.add(row)
        self.reporter.record(row)

    @property
    def add_step(self) -> Callable[[Mapping[str, Any]], None] | None:
        """Take a step's record; None unless steps are asked for."""
        return self._add_step if self.tracking.steps else None

    def _add_step(self, row: Mapping[str, Any]) -> None:
        self.steps.add(row)
        self.events.add(row)

    def rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace what a stopped and continued run left with the one true history."""
        write_text(self.path, "".join(json.dumps(r) + "\n" for r in rows))
