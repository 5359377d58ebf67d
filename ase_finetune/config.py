"""Settings of training and refinement, checked when they are made."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ase_finetune.errors import ConfigError

E0_MODES = ("estimated", "foundation", "average", "isolated")
SCHEDULES = ("constant", "cosine")
DTYPE_NAMES = ("float32", "float64")
REFINE_METHODS = ("lbfgs", "lm")
EMA_DECAY = 0.99
T = TypeVar("T")


def _choose(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(choices)}.")


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; it must be true or false.")


def _number(name: str, value: object, low: float, high: float = math.inf) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or not low <= value <= high
    ):
        bound = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ConfigError(f"{name} is {value!r}; it must be a number {bound}.")


def _whole(name: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least {low}.")


def _text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"{name} is {value!r}; it must be text.")


def _mapping(name: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} is {value!r}; it must hold 'name: value' entries.")


def from_mapping(cls: type[T], values: Mapping[str, Any]) -> T:
    """Make a config from a mapping, refusing keys that it does not have.

    Raises
    ------
    ConfigError
        On an unknown key (with the nearest valid ones) or an invalid value.
    """
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"valid keys are {', '.join(known)}."
            raise ConfigError(f"Unknown setting {key!r}; {hint}")
    return cls(**values)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the mini-batch stage.

    Attributes
    ----------
    foundation
        ``seed``, a checkpoint folder, a ``.model`` file, a name known to mace-torch, or
        ``scratch`` for random weights of the given ``architecture``.
    head
        Head of a multi-head foundation.
    architecture
        Changes to the seed's architecture, for ``scratch`` only.
    optimizer, optimizer_options
        A registry name, and keywords for it.
    lr, weight_decay
        Learning rate (None: the optimizer's default for fine-tuning); decay.
    schedule, warmup_fraction
        ``constant`` or ``cosine`` to zero; share of the steps spent warming up (None: what the
        optimizer wants, 0 for most).
    epochs, batch_size, patience
        Passes over the data; frames per step; epochs without a better validation force error
        before stopping (0: never).
    energy_weight, forces_weight, stress_weight
        Weights of the mean squared errors, in eV/atom, eV/A and eV/A^3.
    E0s
        ``estimated``, ``foundation``, ``average``, ``isolated`` or ``{symbol: eV}``.
    ema_decay
        Decay of the averaged weights that are validated and deployed (0: none; None: 0.99, or
        none if the optimizer averages by itself).
    clip
        Largest gradient norm (0: none).
    default_dtype, device, seed
        ``float32`` or ``float64``; ``cpu``, ``cuda`` or ``auto``; of data order and weights.
    accelerate
        Use the faster exact evaluation (`fast_mace`) instead of mace-torch's.
    """

    foundation: str = "seed"
    head: str | None = None
    architecture: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str = "adamw"
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    lr: float | None = None
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup_fraction: float | None = None
    epochs: int = 100
    batch_size: int = 4
    patience: int = 0
    energy_weight: float = 1.0
    forces_weight: float = 10.0
    stress_weight: float = 0.0
    E0s: str | Mapping[str, float] = "estimated"
    ema_decay: float | None = None
    clip: float = 1.0
    default_dtype: str = "float64"
    device: str = "cpu"
    seed: int = 1
    accelerate: bool = True

    def __post_init__(self) -> None:
        from ase_finetune.optimizers import check_optimizer, optimizer_info

        for name in ("foundation", "optimizer", "device", *(["head"] if self.head else [])):
            _text(name, getattr(self, name))
        for name in ("architecture", "optimizer_options"):
            _mapping(name, getattr(self, name))
        check_optimizer(self.optimizer, self.optimizer_options)
        row = optimizer_info(self.optimizer)
        for wrong, change in (
            (self.ema_decay, "ema_decay to 0"),
            (self.schedule != "constant", "schedule to constant"),
        ):
            if row.averages and wrong:
                raise ConfigError(
                    f"{self.optimizer} averages its weights and needs no schedule; set {change}."
                )
        if self.lr is not None:
            _number("lr", self.lr, 1e-12)
        if self.architecture and self.foundation != "scratch":
            raise ConfigError("architecture applies to foundation 'scratch' only.")
        _number("weight_decay", self.weight_decay, 0.0)
        _choose("schedule", self.schedule, SCHEDULES)
        _number("warmup_fraction", self.warmup, 0.0, 1.0)
        for name in ("epochs", "batch_size"):
            _whole(name, getattr(self, name), 1)
        for name in ("patience", "seed"):
            _whole(name, getattr(self, name), 0)
        if self.seed >= 2**32:
            raise ConfigError(f"seed is {self.seed}; it must be below {2**32}.")
        weights = ("energy_weight", "forces_weight", "stress_weight")
        for name in weights:
            _number(name, getattr(self, name), 0.0)
        if not any(getattr(self, name) > 0 for name in weights):
            raise ConfigError("All loss weights are zero; set at least one.")
        if isinstance(self.E0s, str):
            _choose("E0s", self.E0s, E0_MODES)
        else:
            _mapping("E0s", self.E0s)
        _number("ema_decay", self.averaging, 0.0, 0.999999)
        _number("clip", self.clip, 0.0)
        _choose("default_dtype", self.default_dtype, DTYPE_NAMES)
        _flag("accelerate", self.accelerate)
        if self.device.split(":")[0] not in ("cpu", "cuda", "auto"):
            raise ConfigError(f"device is {self.device!r}; choose cpu, cuda, cuda:N or auto.")

    def resolved(self) -> dict[str, Any]:
        """Return all settings as they are used, with what the optimizer decides filled in."""
        return {
            **dataclasses.asdict(self),
            "warmup_fraction": self.warmup,
            "ema_decay": self.averaging,
        }

    @property
    def warmup(self) -> float:
        """Share of the steps spent warming up."""
        from ase_finetune.optimizers import optimizer_info

        own = optimizer_info(self.optimizer).warmup_fraction
        return own if self.warmup_fraction is None else self.warmup_fraction

    @property
    def averaging(self) -> float:
        """Decay of the moving average, 0 for none."""
        from ase_finetune.optimizers import optimizer_info

        own = 0.0 if optimizer_info(self.optimizer).averages else EMA_DECAY
        return own if self.ema_decay is None else self.ema_decay


@dataclass(frozen=True)
class RefineConfig:
    """Settings of the full-batch stage, always in float64.

    Attributes
    ----------
    method
        ``lbfgs`` or ``lm`` (Levenberg-Marquardt).
    evaluations
        Budget in evaluations of the whole training set's loss and gradient, to which all else is
        converted.
    history
        Pairs that L-BFGS keeps.
    proximal
        Weight of the squared distance to the start, relative to the loss (0: none).
    damping
        First damping of ``lm``, relative to the largest eigenvalue of the Gauss-Newton matrix.
    scaling
        Power of the diagonal of the Gauss-Newton matrix in that damping, 0 (Levenberg) to 1
        (Marquardt); none with a proximal term or by conjugate gradients.
    jacobian_GB
        Largest Jacobian of the residuals that ``lm`` stores, 8 bytes x residuals x parameters;
        beyond it, it takes conjugate gradients.
    products
        Most products with the Gauss-Newton matrix in a step by conjugate gradients.
    batch_atoms
        Atoms evaluated at once; bounds memory, does not change the loss.
    energy_weight, forces_weight, stress_weight
        None: as in training.
    device
        ``cpu``, ``cuda`` or ``auto``.
    accelerate
        Use the faster exact evaluation (`fast_mace`) instead of mace-torch's.
    """

    method: str = "lbfgs"
    evaluations: int = 80
    history: int = 20
    proximal: float = 0.0
    damping: float = 1e-3
    scaling: float = 0.5
    jacobian_GB: float = 4.0
    products: int = 30
    batch_atoms: int = 256
    energy_weight: float | None = None
    forces_weight: float | None = None
    stress_weight: float | None = None
    device: str = "cpu"
    accelerate: bool = True

    def __post_init__(self) -> None:
        _flag("accelerate", self.accelerate)
        _choose("method", self.method, REFINE_METHODS)
        _text("device", self.device)
        for name in ("evaluations", "history", "products", "batch_atoms"):
            _whole(name, getattr(self, name), 1)
        for name in ("proximal", "jacobian_GB"):
            _number(name, getattr(self, name), 0.0)
        _number("damping", self.damping, 1e-15)
        _number("scaling", self.scaling, 0.0, 1.0)
        for name in ("energy_weight", "forces_weight", "stress_weight"):
            if getattr(self, name) is not None:
                _number(name, getattr(self, name), 0.0)
