"""From a checkpoint and frames to the curvature under every optimizer."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ase_finetune.checkpoint import Checkpoint
from ase_finetune.curvature.analysis import BASELINE, Candidate, Progress, Property, View, look
from ase_finetune.curvature.gather import Statistics, lbfgs_at_rest, lm_at_rest, state_at_rest
from ase_finetune.curvature.hessian import HUTCHINSON
from ase_finetune.curvature.outcome import CurvatureResult
from ase_finetune.curvature.preconditioners import Blockwise
from ase_finetune.curvature.products import frame_gradients
from ase_finetune.curvature.saved import SavedRun
from ase_finetune.curvature.selection import COPIES, Estimate, estimate, memory_GB, spread
from ase_finetune.curvature.states import from_optimizer
from ase_finetune.errors import ConfigError
from ase_finetune.graphs import Graph
from ase_finetune.levenberg_marquardt import LMSettings
from ase_finetune.loss import Loss
from ase_finetune.optimizers import list_optimizers, optimizer_info
from ase_finetune.residuals import Residuals
from ase_finetune.weights import freeze, restore

SECOND_ORDER = ("lbfgs", "lm")
BATCH_ATOMS = 32
DEFAULT_ROWS = 300


@dataclass(frozen=True)
class CurvatureSettings:
    """Settings of `Curvature`.

    Attributes
    ----------
    optimizers
        Names of the registry, ``lbfgs`` and ``lm``; the unpreconditioned ``sgd`` is added.
    rows
        Most residuals in the spectra.
    view
        Numbers of products and steps.
    statistics
        How the states of the optimizers are gathered.
    memory_GB
        Most memory, beside the libraries'.
    lbfgs_iterations
        From which L-BFGS's pairs come, all of them kept.
    lm
        Settings of Levenberg-Marquardt.
    lr
        Learning rates by optimizer, over the registry's.
    """

    optimizers: Sequence[str] = ()
    rows: int = DEFAULT_ROWS
    view: View = field(default_factory=View)
    statistics: Statistics = field(default_factory=Statistics)
    memory_GB: float = 8.0
    lbfgs_iterations: int = 30
    lm: LMSettings = field(default_factory=lambda: LMSettings(budget=1.0))
    lr: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = list(self.optimizers) or all_names()
        for name in names:
            if name not in all_names():
                raise ConfigError(
                    f"Unknown optimizer {name!r}; choose of {', '.join(all_names())}."
                )
        if BASELINE not in names:
            names = [BASELINE, *names]
        object.__setattr__(self, "optimizers", tuple(dict.fromkeys(names)))
        for what, value, low in (
            ("rows", self.rows, 2),
            ("steps", self.view.steps, 1),
            ("Lanczos steps", self.view.lanczos, 2),
            ("probes", self.view.probes, 0),
            ("statistics steps", self.statistics.steps, 2),
            ("batch size", self.statistics.batch_size, 1),
            ("L-BFGS iterations", self.lbfgs_iterations, 2),
        ):
            if value < low:
                raise ConfigError(f"The number of {what} is {value}; it must be at least {low}.")


def all_names() -> list[str]:
    """Return the optimizers that can be analysed."""
    return [*list_optimizers(), *SECOND_ORDER]


class Curvature:
    """The curvature of a checkpoint's loss on labelled frames.

    Parameters
    ----------
    checkpoint
        Whose weights are theta.
    graphs
        Training frames in float64, as from `start.make_graphs`.
    weights
        Loss weights by name.
    settings
        Numbers.
    properties
        Energy differences by name.
    accelerate
        Use the faster exact evaluation.

    Raises
    ------
    ConfigError
        If the memory does not suffice for a single frame.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        graphs: Sequence[Graph],
        weights: Mapping[str, float],
        settings: CurvatureSettings,
        properties: Mapping[str, Property] | None = None,
        accelerate: bool = True,
    ) -> None:
        self.settings, self.properties = settings, properties or {}
        self.graphs = list(graphs)
        self.n_elements = len(checkpoint.numbers)
        self.module = checkpoint.module("float64", accelerate=accelerate)
        self.freeze = tuple(checkpoint.config.get("freeze", ()))
        freeze(self.module, self.freeze)
        self.weights = dict(weights)
        self.whole = Loss.for_graphs(self.graphs, **self.weights)
        size = sum(p.numel() for p in self.module.parameters() if p.requires_grad)
        view = settings.view
        self.krylov = len(settings.optimizers) * view.probes * (view.lanczos + 1)
        fixed = memory_GB(0, size, len(self.graphs), self.krylov, 0.0)
        most = int((settings.memory_GB - fixed) / (8e-9 * size * COPIES))
        if most < 2:
            raise ConfigError(
                f"{settings.memory_GB:g} GB are too little: gradients and Krylov vectors of {size} "
                f"parameters alone take {fixed:.1f} GB; raise the memory or ask for fewer "
                "optimizers, probes or Lanczos steps."
            )
        self.limited = most < settings.rows
        self.chosen = spread(self.graphs, self.whole, min(settings.rows, most))
        frames = [self.graphs[i] for i in self.chosen]
        self.residuals = Residuals(
            self.module,
            frames,
            Loss.for_graphs(frames, **self.weights),
            self.n_elements,
            batch_atoms=BATCH_ATOMS,
        )

    def estimate(self) -> Estimate:
        """Return what `run` will take, from a measurement of one batch."""
        view, count = self.settings.view, len(self.settings.optimizers)
        processes = count * view.probes
        found = estimate(
            self.residuals,
            [self.graphs[i] for i in self.chosen],
            len(self.graphs),
            count,
            processes,
            view.lanczos,
            (count + HUTCHINSON) if view.probes else 0,
        )
        note = (
            f" Memory, not --rows, limits the residuals to {self.residuals.rows}."
            if self.limited
            else ""
        )
        return dataclasses.replace(found, text=found.text + note)

    def run(self, progress: Progress = lambda title, done, total: None) -> CurvatureResult:
        """Look at every optimizer at the checkpoint's theta."""
        begun = time.perf_counter()
        rho, J = self.residuals.jacobian()
        candidates = list(self.candidates(J, rho, progress).values())
        view = self.settings.view
        found = look(self.residuals, J, rho, candidates, view, self.properties, progress)
        return dataclasses.replace(found, details=self._details(begun))

    def candidates(
        self,
        J: torch.Tensor,
        rho: torch.Tensor,
        progress: Progress = lambda title, done, total: None,
    ) -> dict[str, Candidate]:
        """Return the preconditioner of every optimizer at the present theta, by name.

        Parameters
        ----------
        J, rho
            Jacobian and residuals there, of which the second-order ones are made.
        progress
            Called with a title and (done, total).
        """
        whole = Residuals(
            self.module, self.graphs, self.whole, self.n_elements, batch_atoms=BATCH_ATOMS
        )
        frames = frame_gradients(whole, self.graphs)
        names, found = self.settings.optimizers, {}
        for k, name in enumerate(names):
            found[name] = self._candidate(name, frames, J, rho)
            progress("states", k + 1, len(names))
        return found

    def run_trajectory(
        self, saved: SavedRun, progress: Progress = lambda title, done, total: None
    ) -> CurvatureResult:
        """Look at the P in a saved run's state, at that run's own theta."""
        if tuple(saved.freeze) != self.freeze:
            raise ConfigError(f"The run {saved.name} froze other parameters than the checkpoint.")
        begun = time.perf_counter()
        before = {name: p.detach().clone() for name, p in self.module.named_parameters()}
        try:
            optimizer = saved.install(self.module)
            rho, J = self.residuals.jacobian()
            P, decay = from_optimizer(saved.optimizer, optimizer, self.residuals.parameters)
            own = Candidate(
                saved.optimizer,
                P,
                optimizer_info(saved.optimizer).lr if saved.lr is None else saved.lr,
                decay,
                saved.options,
                saved.steps,
            )
            if saved.optimizer == BASELINE:
                candidates = [own]
            else:
                identity = Blockwise(J.new_ones(J.shape[1]))
                candidates = [Candidate(BASELINE, identity, self._rate(BASELINE)), own]
            view = dataclasses.replace(self.settings.view, name="trajectory")
            found = look(self.residuals, J, rho, candidates, view, self.properties, progress)
        finally:
            restore(self.module, before)
        return dataclasses.replace(
            found, details={**self._details(begun), "run": saved.name, "steps": saved.steps}
        )

    def _rate(self, name: str) -> float:
        if name in self.settings.lr:
            return float(self.settings.lr[name])
        return 1.0 if name in SECOND_ORDER else optimizer_info(name).lr

    def _candidate(
        self, name: str, frames: torch.Tensor, J: torch.Tensor, rho: torch.Tensor
    ) -> Candidate:
        settings, rate = self.settings, self._rate(name)
        if name == "lbfgs":
            n = settings.lbfgs_iterations
            return Candidate(name, lbfgs_at_rest(J, rho, n, n), rate)
        if name == "lm":
            return Candidate(name, lm_at_rest(J, settings.lm)[0], rate)
        optimizer = state_at_rest(name, self.module, frames, settings.statistics)
        P, decay = from_optimizer(name, optimizer, self.residuals.parameters)
        options = settings.statistics.options.get(name, {})
        return Candidate(name, P, rate, decay, options, settings.statistics.steps)

    def _details(self, begun: float) -> dict[str, Any]:
        return {
            "loss_weights": self.weights,
            "frames_of_rows": self.chosen,
            "frames_of_statistics": len(self.graphs),
            "statistics": dataclasses.asdict(self.settings.statistics),
            "view": dataclasses.asdict(self.settings.view),
            "lbfgs_iterations": self.settings.lbfgs_iterations,
            "lm_damping": self.settings.lm.damping,
            "lm_scaling": self.settings.lm.scaling,
            "wall_s": time.perf_counter() - begun,
        }
