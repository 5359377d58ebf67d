"""The full-batch stage: L-BFGS or Levenberg-Marquardt on a fixed objective, gated by validation.

In float64, without shuffling, clipping or averaging: any of these breaks the curvature pairs and
the strong Wolfe test on which L-BFGS rests, and the gain ratio on which Levenberg-Marquardt does.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ase_finetune.checkpoint import Checkpoint
from ase_finetune.config import WEIGHTS, RefineConfig
from ase_finetune.data.read import STRESS_KEY
from ase_finetune.data.splits import Splits
from ase_finetune.determinism import repeatable
from ase_finetune.errors import ConfigError
from ase_finetune.evaluate import chunks, force_rmse, resolve_device
from ase_finetune.graphs import Batch, collate, predict
from ase_finetune.levenberg_marquardt import LevenbergMarquardt, LMSettings
from ase_finetune.loss import Loss
from ase_finetune.residuals import Residuals
from ase_finetune.start import make_graphs, training_frames
from ase_finetune.weights import Weights, freeze, restore, snapshot

Progress = Callable[[Mapping[str, Any]], None]
Gate = Callable[[Checkpoint], str | None]


def refine(
    checkpoint: Checkpoint,
    splits: Splits,
    config: RefineConfig | None = None,
    *,
    progress: Progress | None = None,
    gate: Gate | None = None,
) -> Checkpoint:
    """Refine deployed weights by a brief full-batch L-BFGS or Levenberg-Marquardt.

    Parameters
    ----------
    checkpoint
        Where to start: the weights that would be deployed.
    splits
        The frames of the first stage; a snapshot is accepted only if the force error on
        ``valid`` falls.
    config
        Settings; loss weights that are None are those of the checkpoint's training. Parameters
        that were frozen there stay so; the loss is of squares, since Huber's has no curvature
        where it is linear.
    progress
        Called with the record of each iteration.
    gate
        Called with a refined checkpoint that passed validation; what it objects to, such as
        dynamics that blow up, is noted in ``metrics["objection"]``, and nothing is accepted.

    Returns
    -------
    Checkpoint
        Stage ``refined``; the starting weights if nothing was better, which
        ``metrics["accepted"]`` then says.

    Raises
    ------
    ConfigError
        If loss weights are neither given nor stored, or the splits have other replay frames than
        the training (`ase_finetune.replay.replay_of`).
    """
    settings = config or RefineConfig()
    refiner = _Refiner(checkpoint, splits, settings)
    origin = snapshot(refiner.module)
    with repeatable(refiner.device):
        refined = refiner.run(progress)
    objection = gate(refined) if gate is not None and refined.metrics["accepted"] else None
    return refined if objection is None else refiner.rejected(refined, origin, objection)


def loss_weights(trained: Mapping[str, Any], config: RefineConfig) -> dict[str, float]:
    """Return the given weights, and for those that are not given the last that training used.

    Parameters
    ----------
    trained
        The ``config`` of the checkpoint.
    config
        Settings of the refinement.

    Raises
    ------
    ConfigError
        If a weight is neither given nor stored, or all are zero.
    """
    second = "stage_two_" if trained.get("start_stage_two") else ""
    weights = {}
    for name in WEIGHTS:
        values = (getattr(config, name), trained.get(second + name), trained.get(name))
        value = next((v for v in values if v is not None), None)
        if value is None:
            raise ConfigError(f"The checkpoint does not state its {name}; give it.")
        weights[name] = float(value)
    if not any(weights.values()):
        raise ConfigError("All loss weights of the refinement are zero; set at least one.")
    return weights


@dataclass
class _Evaluated:
    """A point where loss and gradient are known; L-BFGS asks for some points twice."""

    flat: torch.Tensor
    loss: float
    gradients: list[torch.Tensor]


class _BudgetSpentError(Exception):
    pass


class _Refiner:
    def __init__(self, checkpoint: Checkpoint, splits: Splits, config: RefineConfig) -> None:
        self.checkpoint, self.config = checkpoint, config
        self.device = resolve_device(config.device)
        weights = loss_weights(checkpoint.config, config)
        fitted = splits.fitted(float(checkpoint.config.get("replay_weight", 0.0)))
        frames, valid = training_frames(fitted), training_frames(splits.valid)
        self.fit_hashes = splits.fit_hashes()
        # The training's has the test sets, too, which these may lack.
        known = checkpoint.metrics.get("fit_hash") == self.fit_hashes["fit_hash"]
        self.data_hash = checkpoint.data_hash if known else splits.data_hash()
        stress = weights["stress_weight"] > 0
        graphs = make_graphs(frames, checkpoint, "float64", stress=stress)
        self.graphs = graphs
        self.valid = make_graphs(valid, checkpoint, "float64", stress=False)
        self.loss = Loss.for_graphs(graphs, **weights)
        if stress and not any(STRESS_KEY in atoms.info for atoms in splits.train):
            raise ConfigError("The stress has a weight, but no training frame has a stress.")
        self.n_elements = len(checkpoint.numbers)
        self.module = checkpoint.module("float64", self.device, accelerate=config.accelerate)
        freeze(self.module, checkpoint.config.get("freeze", ()))
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.start = self._flat()
        self.batches: list[Batch] = []
        self.known: list[_Evaluated] = []
        # Budget spent, in evaluations of the loss with its gradient.
        self.evaluations = 0.0
        self.ended = "budget spent"
        self.note = ""

    def _flat(self) -> torch.Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])

    def _closure(self) -> float:
        """Loss and gradient of the whole training set at the present weights."""
        flat = self._flat()
        for point in self.known:
            if torch.equal(point.flat, flat):
                self._set_gradients(point.gradients)
                return point.loss
        if self.evaluations >= self.config.evaluations:
            raise _BudgetSpentError
        self.evaluations += 1
        for parameter in self.parameters:
            parameter.grad = None
        total = 0.0
        for batch in self.batches:
            result = predict(self.module, batch, stress=self.loss.needs_stress, training=True)
            share = self.loss(result, batch)
            share.backward()
            total += float(share.detach())
        gradients = [
            torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.parameters
        ]
        total += self._add_proximal(gradients, flat)
        self._set_gradients(gradients)
        self.known = [*self.known[-3:], _Evaluated(flat, total, gradients)]
        return total

    def _add_proximal(self, gradients: Sequence[torch.Tensor], flat: torch.Tensor) -> float:
        if self.config.proximal == 0.0:
            return 0.0
        step, first = flat - self.start, 0
        for gradient in gradients:
            part = step[first : first + gradient.numel()]
            gradient.add_(part.view_as(gradient), alpha=self.config.proximal)
            first += gradient.numel()
        return 0.5 * self.config.proximal * float(step.square().sum())

    def _set_gradients(self, gradients: Sequence[torch.Tensor]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.clone()

    def _optimizer(self) -> torch.optim.LBFGS:
        return torch.optim.LBFGS(
            self.parameters,
            lr=1.0,
            max_iter=1,
            max_eval=25,
            history_size=self.config.history,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

    def run(self, progress: Progress | None) -> Checkpoint:
        begun = time.perf_counter()
        first_force, _ = force_rmse(self.module, self.valid, self.n_elements, self.device)
        best_score, best = first_force, snapshot(self.module)
        records: list[dict[str, Any]] = []
        steps = {"lbfgs": self._lbfgs, "lm": self._levenberg_marquardt}[self.config.method]
        for loss in steps():
            force, energy = force_rmse(self.module, self.valid, self.n_elements, self.device)
            if force < best_score:
                best_score, best = force, snapshot(self.module)
            record = {
                "stage": "refined",
                "epoch": len(records) + 1,
                "evaluations": self.evaluations,
                "budget": self.config.evaluations,
                "train_loss": loss,
                "valid_force_rmse_meV_per_A": force,
                "valid_energy_rmse_meV_per_atom": energy,
                "wall_s": time.perf_counter() - begun,
                "gradient_equivalents": self.evaluations,
            }
            records.append(record)
            if progress is not None:
                progress(record)
        wall_s = time.perf_counter() - begun
        return self._result(best, best_score, first_force, records, wall_s)

    def _lbfgs(self) -> Iterator[float]:
        """Yield the loss after each iteration."""
        parts = chunks(self.graphs, self.config.batch_atoms)
        self.batches = [collate(part, self.n_elements, self.device) for part in parts]
        optimizer, restarted, first = self._optimizer(), False, True
        while self.evaluations < self.config.evaluations:
            before, good = self.evaluations, snapshot(self.module)
            try:
                optimizer.step(self._closure)
                loss = self._closure()
            except _BudgetSpentError:
                loss = self._lowest_known()
            if not math.isfinite(loss) or not bool(torch.isfinite(self._flat()).all()):
                if restarted:
                    self.ended = "loss not finite twice"
                    break
                self._restart(good)
                optimizer, restarted = self._optimizer(), True
                continue
            if self.evaluations == before and not first:
                self.ended = "no further decrease along the search direction"
                break
            first = False
            yield loss

    def _levenberg_marquardt(self) -> Iterator[float]:
        """Yield the loss after each accepted step."""
        config = self.config
        problem = Residuals(
            self.module, self.graphs, self.loss, self.n_elements, self.device, config.batch_atoms
        )
        optimizer = LevenbergMarquardt(
            problem,
            LMSettings(
                budget=config.evaluations,
                damping=config.damping,
                proximal=config.proximal,
                scaling=config.scaling,
                jacobian_bytes=1e9 * config.jacobian_GB,
                products=config.products,
            ),
        )
        self.note = optimizer.note
        for loss in optimizer.steps():
            self.evaluations = optimizer.spent
            yield loss
        self.evaluations, self.ended = optimizer.spent, optimizer.ended

    def _lowest_known(self) -> float:
        """End an interrupted line search at the best point that it evaluated."""
        finite = [point for point in self.known if math.isfinite(point.loss)]
        if not finite:
            return math.nan
        lowest = min(finite, key=lambda point: point.loss)
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(lowest.flat, self.parameters)
        return lowest.loss

    def _restart(self, good: Weights) -> None:
        restore(self.module, good)
        self.known = []

    def _result(
        self,
        best: Weights,
        score: float,
        first: float,
        records: list[dict[str, Any]],
        wall_s: float,
    ) -> Checkpoint:
        restore(self.module, best)
        metrics = {
            "accepted": score < first,
            "valid_force_rmse_meV_per_A": score,
            "valid_force_rmse_before_meV_per_A": first,
            "ended": self.ended,
            **({"note": self.note} if self.note else {}),
            "gradient_equivalents": self.evaluations,
            "wall_s": wall_s,
            "history": records,
            **self.fit_hashes,
            "before": dict(self.checkpoint.metrics),
        }
        config = {**self.checkpoint.config, "refine": dataclasses.asdict(self.config)}
        return Checkpoint.from_module(
            self.module,
            self.checkpoint.E0s,
            stage="refined",
            foundation=self.checkpoint.foundation,
            config=config,
            metrics=metrics,
            data_hash=self.data_hash,
            dispersion=self.checkpoint.dispersion,
        )

    def rejected(self, refined: Checkpoint, origin: Weights, objection: str) -> Checkpoint:
        """Return the starting weights with the story of why the refined ones were not taken."""
        metrics = {
            **refined.metrics,
            "accepted": False,
            "objection": objection,
            "valid_force_rmse_refused_meV_per_A": refined.metrics["valid_force_rmse_meV_per_A"],
            "valid_force_rmse_meV_per_A": refined.metrics["valid_force_rmse_before_meV_per_A"],
        }
        restore(self.module, origin)
        return Checkpoint.from_module(
            self.module,
            refined.E0s,
            stage="refined",
            foundation=refined.foundation,
            config=refined.config,
            metrics=metrics,
            data_hash=refined.data_hash,
            dispersion=refined.dispersion,
        )
