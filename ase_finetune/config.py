"""Settings of training and refinement, checked when they are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ase_finetune.config_checks import (
    choose,
    flag,
    from_mapping,
    mapping,
    number,
    patterns,
    text,
    whole,
)
from ase_finetune.errors import ConfigError

__all__ = ["RefineConfig", "TrainConfig", "from_mapping"]

E0_MODES = ("estimated", "foundation", "average", "isolated")
SCHEDULES = ("constant", "cosine", "plateau")
LOSSES = ("mse", "huber")
DTYPE_NAMES = ("float32", "float64")
REFINE_METHODS = ("lbfgs", "lm")
EMA_DECAY = 0.99
WEIGHTS = ("energy_weight", "forces_weight", "stress_weight")


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
        ``constant``, ``cosine`` to zero, or ``plateau``; share of the steps spent warming up
        (None: what the optimizer wants, 0 for most).
    lr_factor, scheduler_patience
        Of ``plateau``: the learning rate is multiplied by the one each time that so many epochs
        pass without a better validation force error.
    epochs, epoch_frames
        Number of epochs, after each of which the weights are validated; frames in an epoch (0:
        all), for data so large that this must happen more often.
    batch_size, micro_batch_size
        Frames per step; frames evaluated at once (0: all of a step), which bounds memory and
        changes the gradient by rounding only.
    patience
        Epochs without a better validation force error before stopping (0: never); with a second
        stage it counts there only.
    loss, huber_delta
        ``mse``, or ``huber``, which is linear beyond ``huber_delta`` (in eV/atom, eV/A and
        eV/A^3 alike, as in mace-torch) and equals ``mse`` below.
    energy_weight, forces_weight, stress_weight
        Weights of the mean squared errors, in eV/atom, eV/A and eV/A^3.
    start_stage_two
        Epochs after which the weights of the second stage hold (0: never); the weights that are
        kept come from that stage.
    stage_two_energy_weight, stage_two_forces_weight, stage_two_stress_weight, stage_two_lr
        Of the second stage (None: as in the first); warm-up and cosine go over both stages, a
        plateau is looked for in each.
    freeze
        Patterns such as ``interactions.0.*``: parameters of these names keep the foundation's
        values.
    l2_sp
        Weight of half the squared distance to the foundation's parameters in the loss.
    replay_weight
        Weight in the loss of each replay frame, labelled by the foundation, beside the 1 of a
        training frame (0: replay frames are not trained on).
    E0s
        ``estimated``, ``foundation``, ``average``, ``isolated`` or ``{symbol: eV}``.
    ema_decay
        Decay of the averaged weights that are validated and deployed (0: none; None: 0.99, or
        none if the optimizer averages by itself).
    clip
        Largest gradient norm (0: none).
    divergence_retries
        How often, in all, an epoch with a non-finite loss is begun again from its start with half
        the learning rate, before training ends with an error. The budget counts finished epochs.
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
    lr_factor: float = 0.8
    scheduler_patience: int = 10
    warmup_fraction: float | None = None
    epochs: int = 100
    epoch_frames: int = 0
    batch_size: int = 4
    micro_batch_size: int = 0
    patience: int = 0
    loss: str = "mse"
    huber_delta: float = 0.01
    energy_weight: float = 1.0
    forces_weight: float = 10.0
    stress_weight: float = 0.0
    start_stage_two: int = 0
    stage_two_energy_weight: float | None = None
    stage_two_forces_weight: float | None = None
    stage_two_stress_weight: float | None = None
    stage_two_lr: float | None = None
    freeze: Sequence[str] = ()
    l2_sp: float = 0.0
    replay_weight: float = 0.0
    E0s: str | Mapping[str, float] = "estimated"
    ema_decay: float | None = None
    clip: float = 1.0
    divergence_retries: int = 3
    default_dtype: str = "float64"
    device: str = "cpu"
    seed: int = 1
    accelerate: bool = True

    def __post_init__(self) -> None:
        from ase_finetune.optimizers import check_optimizer, optimizer_info

        for name in ("foundation", "optimizer", "device", *(["head"] if self.head else [])):
            text(name, getattr(self, name))
        for name in ("architecture", "optimizer_options"):
            mapping(name, getattr(self, name))
        check_optimizer(self.optimizer, self.optimizer_options)
        row = optimizer_info(self.optimizer)
        for wrong, change in (
            (self.ema_decay, "ema_decay to 0"),
            (self.stage_two_lr is not None, "no stage_two_lr"),
            (self.schedule != "constant", "schedule to constant"),
        ):
            if row.averages and wrong:
                raise ConfigError(
                    f"{self.optimizer} averages its weights and needs no schedule; set {change}."
                )
        if self.lr is not None:
            number("lr", self.lr, 1e-12)
        if self.architecture and self.foundation != "scratch":
            raise ConfigError("architecture applies to foundation 'scratch' only.")
        number("weight_decay", self.weight_decay, 0.0)
        choose("schedule", self.schedule, SCHEDULES)
        number("warmup_fraction", self.warmup, 0.0, 1.0)
        number("lr_factor", self.lr_factor, 1e-6, 1.0)
        for name in ("epochs", "batch_size", "scheduler_patience"):
            whole(name, getattr(self, name), 1)
        for name in ("patience", "seed", "epoch_frames", "micro_batch_size", "divergence_retries"):
            whole(name, getattr(self, name), 0)
        choose("loss", self.loss, LOSSES)
        for name, needed, used in (
            ("huber_delta", "loss huber", self.loss == "huber"),
            ("lr_factor", "schedule plateau", self.schedule == "plateau"),
            ("scheduler_patience", "schedule plateau", self.schedule == "plateau"),
        ):
            if not used and getattr(self, name) != getattr(TrainConfig, name):
                raise ConfigError(f"{name} is given, but it applies to {needed} only.")
        number("huber_delta", self.huber_delta, 1e-12)
        patterns("freeze", self.freeze)
        object.__setattr__(self, "freeze", tuple(self.freeze))
        number("l2_sp", self.l2_sp, 0.0)
        number("replay_weight", self.replay_weight, 0.0)
        if self.replay_weight and self.foundation == "scratch":
            raise ConfigError("replay_weight needs a foundation to label the replay frames.")
        if self.seed >= 2**32:
            raise ConfigError(f"seed is {self.seed}; it must be below {2**32}.")
        for name in WEIGHTS:
            number(name, getattr(self, name), 0.0)
        self._check_stage_two()
        for weights in (self.weights(0), self.weights(self.epochs)):
            if not any(weights.values()):
                raise ConfigError("All loss weights are zero; set at least one.")
        if isinstance(self.E0s, str):
            choose("E0s", self.E0s, E0_MODES)
        else:
            mapping("E0s", self.E0s)
        number("ema_decay", self.averaging, 0.0, 0.999999)
        number("clip", self.clip, 0.0)
        choose("default_dtype", self.default_dtype, DTYPE_NAMES)
        flag("accelerate", self.accelerate)
        if self.device.split(":")[0] not in ("cpu", "cuda", "auto"):
            raise ConfigError(f"device is {self.device!r}; choose cpu, cuda, cuda:N or auto.")

    def _check_stage_two(self) -> None:
        whole("start_stage_two", self.start_stage_two, 0)
        names = [*(f"stage_two_{name}" for name in WEIGHTS), "stage_two_lr"]
        given = [name for name in names if getattr(self, name) is not None]
        for name in given:
            number(name, getattr(self, name), 1e-12 if name == "stage_two_lr" else 0.0)
        if self.start_stage_two >= self.epochs:
            raise ConfigError(
                f"start_stage_two is {self.start_stage_two} but there are {self.epochs} epochs; "
                "start the second stage earlier."
            )
        if (self.start_stage_two > 0) != bool(given):
            raise ConfigError(
                f"A second stage needs start_stage_two and at least one of {', '.join(names)}."
            )

    def weights(self, epoch: int) -> dict[str, float]:
        """Return the loss weights of an epoch, counted from 0, by name of their setting."""
        second = 0 < self.start_stage_two <= epoch
        changed = {name: getattr(self, f"stage_two_{name}") for name in WEIGHTS if second}
        return {
            name: float(getattr(self, name) if changed.get(name) is None else changed[name])
            for name in WEIGHTS
        }

    @property
    def uses_stress(self) -> bool:
        """Whether stress labels enter the loss."""
        return any(self.weights(epoch)["stress_weight"] > 0 for epoch in (0, self.epochs))

    def resolved(self) -> dict[str, Any]:
        """Return all settings as they are used, with what the optimizer decides filled in."""
        from ase_finetune.optimizers import optimizer_info

        return {
            **dataclasses.asdict(self),
            "lr": optimizer_info(self.optimizer).lr if self.lr is None else self.lr,
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
    nvt_gate_ps, nvt_gate_K
        Length and temperature of a dynamics of the first validation frame that refined weights
        must survive to be accepted (0: none).
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
    nvt_gate_ps: float = 0.0
    nvt_gate_K: float = 300.0
    device: str = "cpu"
    accelerate: bool = True

    def __post_init__(self) -> None:
        flag("accelerate", self.accelerate)
        choose("method", self.method, REFINE_METHODS)
        text("device", self.device)
        for name in ("evaluations", "history", "products", "batch_atoms"):
            whole(name, getattr(self, name), 1)
        number("nvt_gate_K", self.nvt_gate_K, 1.0)
        for name in ("proximal", "jacobian_GB", "nvt_gate_ps"):
            number(name, getattr(self, name), 0.0)
        number("damping", self.damping, 1e-15)
        number("scaling", self.scaling, 0.0, 1.0)
        for name in WEIGHTS:
            if getattr(self, name) is not None:
                number(name, getattr(self, name), 0.0)
