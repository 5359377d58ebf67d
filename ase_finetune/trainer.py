"""The mini-batch stage."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ase_finetune.checkpoint import Checkpoint, write_synced
from ase_finetune.config import TrainConfig
from ase_finetune.data import Splits
from ase_finetune.errors import CheckpointError, DataError, UserError
from ase_finetune.evaluate import force_rmse, resolve_device
from ase_finetune.graphs import Graph, collate, predict
from ase_finetune.loss import Loss
from ase_finetune.optimizers import build_optimizer, optimizer_info
from ase_finetune.optimizers.groups import parameter_groups
from ase_finetune.start import Start, make_graphs, prepare, training_frames
from ase_finetune.weights import (
    MovingAverage,
    Weights,
    evaluation_weights,
    restore,
    use_weights,
)

Progress = Callable[[Mapping[str, Any]], None]
_STATE_SHARE = 0.05  # of the wall time, at most, goes into saving the state


class TrainingDivergedError(UserError):
    """The loss stopped being a number."""


@dataclass
class _State:
    """Everything that a continued run needs; saved as tensors and plain data only."""

    epoch: int = 0
    step: int = 0
    best_score: float = math.inf
    best_epoch: int = -1
    best: Weights = field(default_factory=dict)
    wall_s: float = 0.0
    records: list[dict[str, Any]] = field(default_factory=list)


def finetune(
    splits: Splits,
    config: TrainConfig,
    *,
    start: Start | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    resume: bool = False,
) -> Checkpoint:
    """Fine-tune a foundation and return the weights with the best validation force error.

    Parameters
    ----------
    splits
        Labelled frames; ``valid`` chooses the weights.
    config
        Settings.
    start
        What :func:`ase_finetune.start.prepare` returned for these splits and settings.
    out
        Folder for ``state.pt``, written while training so that a stopped run can go on.
    progress
        Called with the record of each epoch, as in the log.
    resume
        Continue from ``state.pt`` in ``out``, to the same bits as a run that was not stopped.

    Returns
    -------
    Checkpoint
        Stage ``finetuned``; ``metrics["history"]`` holds the records.

    Raises
    ------
    UserError
        On bad data or settings, a diverged loss, or a state of another run.
    """
    begin = start or prepare(splits, config)
    trainer = _Trainer(splits, config, begin, Path(out) if out is not None else None)
    if resume:
        trainer.load_state()
    trainer.run(progress)
    return trainer.result()


def check_state(splits: Splits, config: TrainConfig, start: Start, out: Path) -> None:
    """Refuse to resume before anything is written.

    Raises
    ------
    CheckpointError
        If ``out`` holds no ``state.pt``, a damaged one, or that of another run.
    """
    _Trainer(splits, config, start, out).load_state()


class _Trainer:
    def __init__(self, splits: Splits, config: TrainConfig, start: Start, out: Path | None) -> None:
        self.config = config
        self.start = start
        self.out = out
        self.device = resolve_device(config.device)
        checkpoint, stress = start.checkpoint, config.stress_weight > 0
        dtype = config.default_dtype
        self.train = make_graphs(training_frames(splits.train), checkpoint, dtype, stress=stress)
        self.valid = make_graphs(training_frames(splits.valid), checkpoint, dtype, stress=False)
        if not self.valid:
            raise DataError("There are no validation frames; give some, or a validation fraction.")
        self.data_hash = splits.data_hash()
        self.loss = Loss.for_graphs(
            self.train, config.energy_weight, config.forces_weight, config.stress_weight
        )
        self.n_elements = len(checkpoint.numbers)
        self.module = checkpoint.module(dtype, self.device, accelerate=config.accelerate)
        blocks = optimizer_info(config.optimizer).blocks
        self.optimizer = build_optimizer(
            config.optimizer,
            parameter_groups(self.module, config.weight_decay, blocks=blocks),
            lr=config.lr,
            options=config.optimizer_options,
        )
        self.base_lr = [float(g["lr"]) for g in self.optimizer.param_groups]
        self.average = MovingAverage(self.module, config.averaging) if config.averaging else None
        self.state = _State()

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.train) / self.config.batch_size)

    def run(self, progress: Progress | None) -> None:
        # At once, so that a run that is killed in its first epoch can be resumed too.
        saved, cost = self._timed_save()
        try:
            while self.state.epoch < self.config.epochs and not self._out_of_patience():
                record = self._epoch()
                if progress is not None:
                    progress(record)
                if time.monotonic() - saved > cost / _STATE_SHARE:
                    saved, cost = self._timed_save()
        finally:
            # Also on Ctrl-C and divergence: whatever was reached can be continued or inspected.
            self.save_state()

    def _timed_save(self) -> tuple[float, float]:
        """Save the state; return when that was done and how long it took."""
        begun = time.monotonic()
        self.save_state()
        return time.monotonic(), time.monotonic() - begun

    def _out_of_patience(self) -> bool:
        waited = self.state.epoch - 1 - self.state.best_epoch
        return 0 < self.config.patience <= waited

    def _epoch(self) -> dict[str, Any]:
        begun, config, state = time.perf_counter(), self.config, self.state
        backup = self._state_dict()
        try:
            loss = self._pass()
            with use_weights(self.module, self._deployed()):
                force, energy = force_rmse(self.module, self.valid, self.n_elements, self.device)
            if not math.isfinite(force):
                raise TrainingDivergedError(
                    f"Training diverged in epoch {state.epoch + 1}: the validation forces are "
                    "not finite; lower --lr."
                )
        except BaseException:
            # An epoch is all or nothing, validation too, so that a resumed run repeats it exactly.
            self._load_state_dict(backup)
            raise
        if force < state.best_score:
            state.best_score, state.best_epoch = force, state.epoch
            state.best = self._deployed()
        state.epoch += 1
        state.wall_s += time.perf_counter() - begun
        record = {
            "stage": "finetuned",
            "epoch": state.epoch,
            "epochs": config.epochs,
            "train_loss": loss,
            "valid_force_rmse_meV_per_A": force,
            "valid_energy_rmse_meV_per_atom": energy,
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "wall_s": state.wall_s,
            "gradient_equivalents": float(state.epoch),
        }
        state.records.append(record)
        return record

    def _deployed(self) -> Weights:
        return evaluation_weights(self.module, self.average, self.optimizer)

    def _pass(self) -> float:
        """One pass over the shuffled training frames; returns the mean loss along it."""
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.state.epoch)
        order = torch.randperm(len(self.train), generator=generator).tolist()
        total = 0.0
        for first in range(0, len(order), self.config.batch_size):
            chosen = [self.train[i] for i in order[first : first + self.config.batch_size]]
            total += self._step(chosen) * len(chosen) / len(self.train)
        return total

    def _step(self, graphs: Sequence[Graph]) -> float:
        self._set_lr()
        batch = collate(graphs, self.n_elements, self.device)
        self.optimizer.zero_grad(set_to_none=True)
        prediction = predict(self.module, batch, stress=self.loss.needs_stress, training=True)
        # Scaled so that the expectation over batches is the loss of the whole training set.
        loss = self.loss(prediction, batch) * (len(self.train) / len(graphs))
        value = float(loss.detach())
        loss.backward()
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        limit = self.config.clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        if not math.isfinite(value) or not math.isfinite(float(norm)):
            raise TrainingDivergedError(
                f"Training diverged in epoch {self.state.epoch + 1}: the loss is not finite; "
                "lower --lr."
            )
        self.optimizer.step()
        self.state.step += 1
        if self.average is not None:
            self.average.update(self.module)
        return value

    def _set_lr(self) -> None:
        config, step = self.config, self.state.step
        total = config.epochs * self.steps_per_epoch
        warmup = config.warmup * total
        if step < warmup:
            factor = (step + 1) / (warmup + 1)
        elif config.schedule == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
        else:
            factor = 1.0
        for group, lr in zip(self.optimizer.param_groups, self.base_lr, strict=True):
            group["lr"] = lr * factor

    def result(self) -> Checkpoint:
        """Return the best weights as a checkpoint."""
        restore(self.module, self.state.best)
        metrics = {
            "best_epoch": self.state.best_epoch + 1,
            "valid_force_rmse_meV_per_A": self.state.best_score,
            "gradient_equivalents": float(self.state.epoch),
            "wall_s": self.state.wall_s,
            "E0s": self.start.E0s.note,
            "history": self.state.records,
        }
        return Checkpoint.from_module(
            self.module,
            self.start.checkpoint.E0s,
            stage="finetuned",
            foundation=self.start.checkpoint.foundation,
            config=self.config.resolved(),
            metrics=metrics,
            data_hash=self.data_hash,
        )

    def _identity(self) -> str:
        """What a state must share with the run that continues it."""
        config = self.config.resolved()
        # Learning rates that depend on the number of steps fix the number of epochs.
        fixed = self.config.schedule != "constant" or self.config.warmup > 0
        for changeable in ("patience", "device", *(() if fixed else ("epochs",))):
            config.pop(changeable)
        return json.dumps(
            {
                "config": config,
                "data": self.data_hash,
                "foundation": dict(self.start.checkpoint.foundation),
            },
            sort_keys=True,
            default=str,
        )

    def _state_dict(self) -> dict[str, Any]:
        average = self.average
        return {
            "identity": self._identity(),
            "state": {
                **{
                    f.name: getattr(self.state, f.name)
                    for f in dataclasses.fields(self.state)
                    if f.name not in ("records", "best")
                },
                "records": json.dumps(self.state.records),
            },
            "best": self.state.best,
            "parameters": {n: p.detach().clone() for n, p in self.module.named_parameters()},
            "optimizer": _copied(self.optimizer.state_dict()),
            "average": None
            if average is None
            else {
                "updates": average.updates,
                "values": {k: v.clone() for k, v in average.values.items()},
            },
        }

    def _load_state_dict(self, saved: Mapping[str, Any]) -> None:
        plain = dict(saved["state"])
        records = json.loads(plain.pop("records"))
        self.state = _State(**plain, best=dict(saved["best"]), records=records)
        restore(self.module, saved["parameters"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.average is not None:
            self.average.updates = saved["average"]["updates"]
            self.average.values = dict(saved["average"]["values"])

    def save_state(self) -> None:
        """Write ``state.pt`` atomically, if there is a folder for it."""
        if self.out is None:
            return
        buffer = io.BytesIO()
        torch.save(self._state_dict(), buffer)
        target = self.out / "state.pt"
        temporary = self.out / ".state.pt.tmp"
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            write_synced(temporary, buffer.getvalue())
            os.replace(temporary, target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise CheckpointError(f"Cannot write {target}: {error.strerror}.") from error

    def load_state(self) -> None:
        """Continue from ``state.pt``.

        Raises
        ------
        CheckpointError
            If it is absent, damaged or of another run.
        """
        if self.out is None or not (self.out / "state.pt").is_file():
            raise CheckpointError("There is no state.pt to resume from in the output folder.")
        path = self.out / "state.pt"
        try:
            saved = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:
            raise CheckpointError(f"{path} is damaged ({type(error).__name__}).") from error
        if saved.get("identity") != self._identity():
            raise CheckpointError(
                f"{path} belongs to a run with other settings, data or foundation; "
                "resume with the same ones or choose another output folder."
            )
        self._load_state_dict(saved)


def _copied(value: Any) -> Any:
    """Copy a nested optimizer state: torch's state_dict shares its tensors with the optimizer."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(v) for v in value)
    return value
