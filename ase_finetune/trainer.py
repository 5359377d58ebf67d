"""The mini-batch stage."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ase_finetune.checkpoint import Checkpoint
from ase_finetune.config import TrainConfig
from ase_finetune.cuda_graphs import replayed
from ase_finetune.data.splits import Splits
from ase_finetune.determinism import repeatable
from ase_finetune.distributed import Processes, joined
from ase_finetune.errors import CheckpointError, UserError
from ase_finetune.evaluate import force_rmse, resolve_device
from ase_finetune.gradients import Gradients
from ase_finetune.graphs import Graph
from ase_finetune.loss import Loss
from ase_finetune.optimizers import build_optimizer, optimizer_info
from ase_finetune.optimizers.groups import parameter_groups
from ase_finetune.optimizers.moments import second_moments
from ase_finetune.schedule import epoch_order, plateau, warmup_and_decay
from ase_finetune.start import Start, make_graphs, prepare, training_frames, validation_frames
from ase_finetune.training_state import TrainingState, pack, read_state, unpack, write_state
from ase_finetune.weights import (
    MovingAverage,
    Weights,
    evaluation_weights,
    freeze,
    restore,
    use_weights,
)

Progress = Callable[[Mapping[str, Any]], None]
_STATE_SHARE = 0.05  # of the wall time, at most, goes into saving the state


class TrainingDivergedError(UserError):
    """Loss, gradient or validation forces stopped being numbers."""


def finetune(
    splits: Splits,
    config: TrainConfig,
    *,
    start: Start | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    steps: Progress | None = None,
    resume: bool = False,
) -> Checkpoint:
    """Fine-tune a foundation and return the weights with the best validation force error.

    Parameters
    ----------
    splits, config
        Labelled frames, of which ``valid`` chooses the weights, and settings.
    start
        What :func:`ase_finetune.start.prepare` returned for them.
    out
        Folder for ``state.pt``, from which a stopped run can go on.
    progress
        Called with the record of each epoch, as in the log.
    steps
        Called with the record of each optimizer step: loss, gradient norm before clipping and
        learning rate; again for a step that is done again, after a divergence.
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

    Notes
    -----
    Processes of ``torchrun`` share the frames of every step; all return, the first alone writes.
    """
    begin = start or prepare(splits, config)
    folder = None if out is None else Path(out)
    device = resolve_device(config.device)
    with joined(device) as processes, repeatable(device):
        trainer = _Trainer(splits, config, begin, folder, processes)
        if resume:
            trainer.load_state()
        if processes.rank == 0:
            trainer.report_step = steps
        trainer.run(progress if processes.rank == 0 else None)
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
    def __init__(
        self,
        splits: Splits,
        config: TrainConfig,
        start: Start,
        out: Path | None,
        processes: Processes | None = None,
    ) -> None:
        self.config = config
        self.start = start
        self.out = out
        self.processes = processes or Processes()
        self.device = resolve_device(config.device)
        checkpoint, dtype = start.checkpoint, config.default_dtype
        self.train = make_graphs(
            training_frames(splits.fitted(config.replay_weight)),
            checkpoint,
            dtype,
            stress=config.uses_stress,
        )
        self.valid = make_graphs(validation_frames(splits), checkpoint, dtype, stress=False)
        self.epoch_frames = config.epoch_frames or len(self.train)
        self.data_hash, self.fit_hashes = splits.data_hash(), splits.fit_hashes()
        self.n_elements = len(checkpoint.numbers)
        self.module = checkpoint.module(dtype, self.device, accelerate=config.accelerate)
        freeze(self.module, config.freeze)
        self.processes.equalize(list(self.module.parameters()))
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.gradients = Gradients(self.module, self.parameters, self.n_elements, self.device)
        self.evaluator, self.place = replayed(self.module, self.device)
        self.foundation = [p.detach().clone() for p in self.parameters] if config.l2_sp else []
        self.loss = self._loss(0)
        self.optimizer = build_optimizer(
            config.optimizer,
            parameter_groups(
                self.module, config.weight_decay, blocks=optimizer_info(config.optimizer).blocks
            ),
            lr=config.lr,
            options=config.optimizer_options,
        )
        self.base_lr = [float(g["lr"]) for g in self.optimizer.param_groups]
        self.average = MovingAverage(self.module, config.averaging) if config.averaging else None
        self.state = TrainingState()
        self._good = self._packed()  # the last whole epoch
        self.report_step: Progress | None = None

    def _loss(self, epoch: int) -> Loss:
        config = self.config
        delta = config.huber_delta if config.loss == "huber" else math.inf
        return Loss.for_graphs(self.train, **config.weights(epoch), huber_delta=delta)

    @property
    def gradient_equivalents(self) -> float:
        return self.state.epoch * self.epoch_frames / len(self.train)

    def run(self, progress: Progress | None) -> None:
        # At once, so that a run that is killed in its first epoch can be resumed too.
        saved, cost = self._timed_save()
        try:
            while self.state.epoch < self.config.epochs and not self._out_of_patience():
                record = self._guarded_epoch()
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
        return 0 < self.config.patience <= waited and self.state.epoch > self.config.start_stage_two

    def _guarded_epoch(self) -> dict[str, Any]:
        """Train for an epoch; begin it again with a lower learning rate if it diverges."""
        while True:
            try:
                return self._epoch()
            except TrainingDivergedError:
                if self.state.failures >= self.config.divergence_retries:
                    raise
                self._go_back_to(self._good)
                self.state.failures += 1
                self._good = self._packed()

    def _epoch(self) -> dict[str, Any]:
        begun, config, state = time.perf_counter(), self.config, self.state
        self.loss = self._loss(state.epoch)
        loss = self._pass()
        deployed = self._deployed()
        with use_weights(self.module, deployed):
            errors = force_rmse(self.evaluator, self.valid, self.n_elements, self.place)
        # The same numbers in every process, since what happens next depends on them.
        force, energy = self.processes.of_first(errors)
        if not math.isfinite(force):
            raise self._diverged("validation forces are")
        # The second stage competes with itself only: its errors differ by the other weights.
        if state.epoch == config.start_stage_two or force < state.best_score:
            state.best_score, state.best_epoch, state.best = force, state.epoch, deployed
        state.epoch += 1
        state.wall_s += time.perf_counter() - begun
        record: dict[str, Any] = {
            "stage": "finetuned",
            "epoch": state.epoch,
            "epochs": config.epochs,
            "train_loss": loss,
            "valid_force_rmse_meV_per_A": force,
            "valid_energy_rmse_meV_per_atom": energy,
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            **second_moments(self.optimizer),
            "wall_s": state.wall_s,
            "gradient_equivalents": self.gradient_equivalents,
        }
        if state.failures > state.noted:
            record["note"] = (
                f"Epoch {state.epoch} was not finite: begun again {state.failures - state.noted} "
                f"times, each with half the learning rate, now {record['lr']:.3g}."
            )
            state.noted = state.failures
        state.records.append(record)
        self._good = self._packed()
        return record

    def _packed(self) -> dict[str, Any]:
        return pack(self.state, self.module, self.optimizer, self.average)

    def _go_back_to(self, packed: Mapping[str, Any]) -> None:
        self.state = unpack(packed, self.module, self.optimizer, self.average)

    def _diverged(self, what: str) -> TrainingDivergedError:
        return TrainingDivergedError(
            f"Training diverged in epoch {self.state.epoch + 1}: the {what} not finite; lower --lr."
        )

    def _deployed(self) -> Weights:
        return evaluation_weights(self.module, self.average, self.optimizer)

    def _pass(self) -> float:
        """Take the steps of an epoch; returns the mean loss along it."""
        order = epoch_order(self.config.seed, self.state.epoch, len(self.train), self.epoch_frames)
        total = 0.0
        for first in range(0, len(order), self.config.batch_size):
            chosen = [self.train[i] for i in order[first : first + self.config.batch_size]]
            total += self._step(chosen) * len(chosen) / len(order)
        return total

    def _step(self, graphs: Sequence[Graph]) -> float:
        self._set_lr()
        self.optimizer.zero_grad(set_to_none=True)
        value = self._gradients(graphs)
        limit = self.config.clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(
            [p for p in self.parameters if p.grad is not None], limit
        )
        if not math.isfinite(value) or not math.isfinite(float(norm)):
            raise self._diverged("loss is")
        self.optimizer.step()
        self.state.step += 1
        if self.report_step is not None:
            self.report_step(
                {
                    "stage": "finetuned",
                    "epoch": self.state.epoch + 1,
                    "step": self.state.step,
                    "train_loss": value,
                    "gradient_norm": float(norm),
                    "lr": float(self.optimizer.param_groups[0]["lr"]),
                }
            )
        if self.average is not None:
            self.average.update(self.module)
        return value

    def _gradients(self, graphs: Sequence[Graph]) -> float:
        """Set the gradients of a step over these graphs and return its loss."""
        mine = self.processes.share(graphs)
        size = self.config.micro_batch_size or len(graphs)
        value = 0.0
        for first in range(0, len(mine), size):
            # Scaled so that the expectation over batches is the loss of the whole training set.
            scale = len(self.train) / len(graphs)
            value += self.gradients.add(mine[first : first + size], self.loss, scale)
        self.processes.add_gradients(self.parameters)
        (value,) = self.processes.total([value])
        return value + self._pull_to_foundation()

    def _pull_to_foundation(self) -> float:
        """Add the L2-SP penalty (Li et al., arXiv 1802.01483, eq. 2) and return its value."""
        if self.config.l2_sp == 0.0:
            return 0.0
        value = 0.0
        for parameter, origin in zip(self.parameters, self.foundation, strict=True):
            away = parameter.detach() - origin
            if parameter.grad is not None:
                parameter.grad.add_(away, alpha=self.config.l2_sp)
            value += 0.5 * self.config.l2_sp * float(away.square().sum())
        return value

    def _set_lr(self) -> None:
        config, state = self.config, self.state
        total = config.epochs * math.ceil(self.epoch_frames / config.batch_size)
        factor = warmup_and_decay(config, state.step, total)
        second = 0 < config.start_stage_two <= state.epoch
        records = state.records[config.start_stage_two :] if second else state.records
        factor *= plateau(config, (r["valid_force_rmse_meV_per_A"] for r in records))
        factor *= 0.5**state.failures
        rates = self.base_lr
        if config.stage_two_lr is not None and second:
            rates = [config.stage_two_lr] * len(rates)
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr * factor

    def result(self) -> Checkpoint:
        """Return the best weights as a checkpoint."""
        restore(self.module, self.state.best)
        metrics = {
            "best_epoch": self.state.best_epoch + 1,
            "valid_force_rmse_meV_per_A": self.state.best_score,
            "gradient_equivalents": self.gradient_equivalents,
            "wall_s": self.state.wall_s,
            "E0s": self.start.E0s.note,
            "history": self.state.records,
            **self.fit_hashes,
        }
        return Checkpoint.from_module(
            self.module,
            self.start.checkpoint.E0s,
            stage="finetuned",
            foundation=self.start.checkpoint.foundation,
            config=self.config.resolved(),
            metrics=metrics,
            data_hash=self.data_hash,
            dispersion=self.start.checkpoint.dispersion,
        )

    def _identity(self) -> str:
        """What a state must share with the run that continues it."""
        config = self.config.resolved()
        # Learning rates that depend on the number of steps fix the number of epochs.
        fixed = self.config.schedule == "cosine" or self.config.warmup > 0
        changeable = ("patience", "device", "divergence_retries", *(() if fixed else ("epochs",)))
        for name in changeable:
            config.pop(name)
        return json.dumps(
            {
                "config": config,
                "data": self.data_hash,
                "replay": self.fit_hashes.get("replay_hash"),
                "foundation": dict(self.start.checkpoint.foundation),
            },
            sort_keys=True,
            default=str,
        )

    def save_state(self) -> None:
        """Write the last whole epoch to ``state.pt`` atomically, if there is a folder for it.

        An epoch is all or nothing, so that a run that was stopped at any instruction goes on to the
        same bits.
        """
        if self.out is None or self.processes.rank > 0:
            return
        write_state(self.out, {"identity": self._identity(), **self._good})

    def load_state(self) -> None:
        """Continue from ``state.pt``.

        Raises
        ------
        CheckpointError
            If it is absent, damaged or of another run.
        """
        saved = read_state(self.out, self._identity(), self.device)
        self._go_back_to(saved)
        if self.state.epoch > self.config.epochs:
            raise CheckpointError(
                f"The run in {self.out} has {self.state.epoch} epochs already; ask for as many."
            )
        self._good = self._packed()
