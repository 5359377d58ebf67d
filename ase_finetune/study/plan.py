"""What a study compares, and the runs that this takes; nothing here computes."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ase_finetune.config import RefineConfig, TrainConfig, from_mapping
from ase_finetune.errors import ConfigError
from ase_finetune.optimizers import list_optimizers, optimizer_info

REFERENCE = "adamw"
TUNING_SEED = 0
CONTROLS = ("no-decay", "ema-cosine", "more-steps", "scratch")
WINNER = "winner"
# Their decay is added to the gradient, so it changes the loss instead of the optimizer.
COUPLED_DECAY = ("adam", "sgd")


@dataclass(frozen=True)
class Plan:
    """What a study compares.

    Attributes
    ----------
    base
        System -> settings of its runs, before those of optimizer, lr and seed.
    optimizers
        Names of the registry; ``adamw`` among them, as all are compared with it.
    seeds
        Evaluation seeds are 1 to this number; tuning uses seed 0.
    refine, refine_on, refine_settings
        Methods; on which optimizers, or ``winner`` for the best by validation of each system;
        settings of the refinement.
    trials, extensions
        Learning rates tried for every optimizer, and how often a grid grows by one where the best
        is at its edge: the same allowance for all.
    decay
        Weight decay of the optimizers in which it is decoupled.
    fractions
        Fractions of the training frames, below 1, at which evaluation is repeated.
    controls
        Some of `CONTROLS`.
    resplit
        Whether a seed draws training and validation frames too, or the data order only.
    grids
        Optimizer -> the learning rates it starts with; by default those of `trial_grid`.
    recipes
        Name -> settings of an arm of your own: ``optimizer`` and what wins over the settings of the
        system. It gets its optimizer's trials and is compared like an optimizer at all frames; it
        is never the winner.
    commands
        What was typed, for whoever wants to repeat it.
    """

    base: Mapping[str, Mapping[str, Any]]
    optimizers: tuple[str, ...]
    seeds: int = 5
    refine: tuple[str, ...] = ()
    refine_on: tuple[str, ...] = (WINNER,)
    refine_settings: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 4
    extensions: int = 2
    decay: float = 0.01
    fractions: tuple[float, ...] = ()
    controls: tuple[str, ...] = ()
    resplit: bool = True
    grids: Mapping[str, Sequence[float]] = field(default_factory=dict)
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    commands: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, recipe in self.recipes.items():
            _check_recipe(name, recipe)
        for name, settings in self.base.items():
            if settings.get("replay_weight"):
                raise ConfigError(
                    f"A study has no replay frames; take replay_weight out of the base of {name!r}."
                )
        if not self.base or not self.optimizers:
            raise ConfigError("Name at least one system and one optimizer.")
        if REFERENCE not in self.optimizers:
            raise ConfigError(f"All are compared with {REFERENCE}; add it to --optimizers.")
        if "adam" not in self.optimizers and {"no-decay", "ema-cosine"} & set(self.controls):
            raise ConfigError("These controls are compared with adam; add it to --optimizers.")
        for name in set(self.refine_on) - {WINNER, *self.optimizers, *self.recipes}:
            raise ConfigError(
                f"Nothing to refine: {name!r} is no optimizer or recipe of the study."
            )
        for name in set(self.controls) - set(CONTROLS):
            raise ConfigError(f"Unknown control {name!r}; choose from {', '.join(CONTROLS)}.")
        if "more-steps" in self.controls and not self.refine:
            raise ConfigError("more-steps spends the budget of a refinement; add --refine.")
        if self.seeds < 1 or self.extensions < 0:
            raise ConfigError("A study needs at least one seed and no negative extensions.")
        if self.trials < 3:
            raise ConfigError("Tuning needs at least 3 learning rates for every optimizer.")
        if not all(0.0 < f < 1.0 for f in self.fractions):
            raise ConfigError("Fractions of the training frames lie between 0 and 1.")
        tuned = {arm.optimizer for arm in tuned_arms(self)}
        grids = {name: tuple(trial_grid(name, self.trials)) for name in sorted(tuned)}
        object.__setattr__(self, "grids", {**grids, **self.grids})
        for method in self.refine:
            from_mapping(RefineConfig, {**self.refine_settings, "method": method})
        for system in self.base:
            for arm in tuned_arms(self):
                run = self.run(system, arm, 1e-3, 1)
                from_mapping(TrainConfig, {**run.settings, "lr": run.lr, "seed": run.seed})

    def run(
        self, system: str, arm: Arm, lr: float, seed: int, *, fraction: float = 1.0, **more: Any
    ) -> Run:
        """Return the run of an arm, with its settings resolved."""
        row = optimizer_info(arm.optimizer)
        settings = {**self.base[system], **arm.settings, "optimizer": arm.optimizer}
        settings["weight_decay"] = 0.0 if arm.optimizer in COUPLED_DECAY else self.decay
        if row.averages:
            settings |= {"schedule": "constant", "ema_decay": 0.0}
        settings |= arm.overrides
        purpose = "tuning" if seed == TUNING_SEED else "evaluation"
        made = Run(system, arm.name, seed, purpose, lr, settings, fraction, self.resplit)
        return dataclasses.replace(made, **more)


@dataclass(frozen=True)
class Arm:
    """What is tuned and compared: an optimizer with settings of its own.

    Attributes
    ----------
    name, optimizer
        As in tables; of the registry.
    settings, overrides
        Settings that the optimizer's own rules may change, and those that win over them.
    """

    name: str
    optimizer: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One independent piece of work, with a folder of its own.

    Attributes
    ----------
    system, arm, seed, purpose, lr, settings, fraction, resplit
        What is trained, on which part of the frames; ``settings`` lack lr and seed.
    refine
        Settings of the refinement, or None.
    parent
        Folder of the run whose weights are refined.
    """

    system: str
    arm: str
    seed: int
    purpose: str
    lr: float | None
    settings: Mapping[str, Any]
    fraction: float = 1.0
    resplit: bool = True
    refine: Mapping[str, Any] | None = None
    parent: str | None = None

    @property
    def path(self) -> str:
        """Folder, relative to that of the study."""
        if self.purpose == "zero_shot":
            return f"runs/{self.system}/zero-shot"
        part = "" if self.fraction == 1.0 else f"/fraction{self.fraction:g}"
        assert self.lr is not None
        return f"runs/{self.system}/{self.arm}{part}/lr{short(self.lr)}/seed{self.seed}"

    @property
    def cost(self) -> float:
        """Gradient equivalents that it spends at most."""
        if self.purpose == "zero_shot":
            return 0.0
        if self.refine is not None:
            return float(self.refine.get("evaluations", RefineConfig().evaluations))
        return self.fraction * float(self.settings.get("epochs", TrainConfig().epochs))

    def config(self) -> TrainConfig:
        """Return the settings of its training."""
        return from_mapping(TrainConfig, {**self.settings, "lr": self.lr, "seed": self.seed})


def short(lr: float) -> str:
    """Return a learning rate as in a folder's name: 1e-3, 2.5e-3."""
    mantissa, exponent = f"{lr:.6e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def beyond(grid: Sequence[float], *, up: bool) -> float:
    """Return the next value of a grid of three or more, repeating the last ratio but one.

    1e-4, 3e-4, 1e-3, 3e-3 goes on with 1e-2, and decades with the next decade.
    """
    if up:
        return float(f"{grid[-1] * grid[-2] / grid[-3]:.6g}")
    return float(f"{grid[0] * grid[1] / grid[2]:.6g}")


def trial_grid(optimizer: str, trials: int) -> list[float]:
    """Return as many learning rates for every optimizer: its own grid, cut or grown.

    The end that is farther from the optimizer's default (in log) is cut; the nearer one grows.
    """
    row = optimizer_info(optimizer)
    grid = list(row.lr_grid)
    while len(grid) != trials:
        below, above = math.log(row.lr / grid[0]), math.log(grid[-1] / row.lr)
        if len(grid) > trials:
            grid.pop(0 if below > above else -1)
        elif above <= below:
            grid.append(beyond(grid, up=True))
        else:
            grid.insert(0, beyond(grid, up=False))
    return grid


def _check_recipe(name: Any, recipe: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ConfigError(f"The recipe {name!r} needs a name of letters, digits and -_. signs.")
    taken = name in (WINNER, "all", *list_optimizers())
    if taken or name.startswith((f"{REFERENCE}-", "adam-", "zero-shot", "mace_run_train")):
        raise ConfigError(f"The recipe {name!r} has the name of another arm; choose another.")
    if not isinstance(recipe, Mapping) or not isinstance(recipe.get("optimizer"), str):
        raise ConfigError(f"The recipe {name!r} names no optimizer.")
    # Also what would change the budget.
    for key in sorted({"lr", "seed", "epochs", "epoch_frames", "patience"} & recipe.keys()):
        raise ConfigError(f"A study sets {key} itself; take it out of the recipe {name!r}.")
    if recipe.get("replay_weight"):
        raise ConfigError(
            f"A study has no replay frames; take replay_weight out of the recipe {name!r}."
        )


def tuned_arms(plan: Plan) -> list[Arm]:
    """Return the arms that get a search of their own."""
    arms = [Arm(name, name) for name in plan.optimizers]
    for name, recipe in plan.recipes.items():
        changes = {key: value for key, value in recipe.items() if key != "optimizer"}
        arms.append(Arm(name, recipe["optimizer"], overrides=changes))
    if "ema-cosine" in plan.controls:
        arms.append(Arm("adam-ema-cosine", "adam", {"schedule": "cosine", "ema_decay": 0.99}))
    if "scratch" in plan.controls:
        arms.append(Arm(f"{REFERENCE}-scratch", REFERENCE, {"foundation": "scratch"}))
    return arms
