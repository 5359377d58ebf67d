"""Command-line options made from the settings, so that every setting is spelled once."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from ase_finetune.config import RefineConfig, TrainConfig, from_mapping
from ase_finetune.errors import ConfigError
from ase_finetune.tracking import Tracking

HELP = {
    "foundation": "seed, a checkpoint folder, a .model file, a mace-torch name, or scratch",
    "head": "Head of a multi-head foundation",
    "optimizer": "Optimizer of the mini-batch stage",
    "lr": "Learning rate  (default: the optimizer's)",
    "weight_decay": "Weight decay, decoupled but for adam and sgd",
    "schedule": "constant, cosine or plateau",
    "lr_factor": "Factor of the plateau schedule",
    "scheduler_patience": "Epochs without improvement that the plateau schedule waits",
    "warmup_fraction": "Share of the steps spent warming up  (default: the optimizer's)",
    "epochs": "Passes over the training frames, or epochs of --epoch-frames",
    "epoch_frames": "Frames in an epoch, for large data (0: all)",
    "batch_size": "Frames per step",
    "micro_batch_size": "Frames evaluated at once, to bound memory (0: all of a step)",
    "patience": "Stop after so many epochs without improvement (0: never)",
    "loss": "mse or huber",
    "huber_delta": "Where the Huber loss turns linear, in eV/atom, eV/A and eV/A^3",
    "energy_weight": "Weight of (eV/atom)^2",
    "forces_weight": "Weight of (eV/A)^2",
    "stress_weight": "Weight of (eV/A^3)^2",
    "start_stage_two": "Epochs before the weights of a second stage hold (0: never)",
    "stage_two_energy_weight": "Energy weight of the second stage",
    "stage_two_forces_weight": "Forces weight of the second stage",
    "stage_two_stress_weight": "Stress weight of the second stage",
    "stage_two_lr": "Learning rate of the second stage",
    "freeze": "Keep the parameters of these names, such as 'interactions.0.*'; repeatable",
    "l2_sp": "Weight of half the squared distance to the foundation in the loss",
    "replay_weight": "Weight of replay frames, half of which are then trained on (0: none)",
    "E0s": "estimated, foundation, average or isolated",
    "ema_decay": "Decay of the averaged weights (0: none)  (default: 0.99, or the optimizer's own)",
    "clip": "Largest gradient norm (0: none)",
    "divergence_retries": "Times that a diverged epoch is begun again at half the learning rate",
    "default_dtype": "float32 or float64",
    "device": "cpu, cuda, cuda:N or auto",
    "seed": "Of data order and random weights",
    "accelerate": "Faster exact evaluation, or that of mace-torch",
}
_ALIASES = {
    "foundation": ("--foundation", "--foundation-model"),
    "accelerate": ("--accelerate/--no-accelerate",),
}
_REFINE_KEYS = [f.name for f in dataclasses.fields(RefineConfig)]


def train_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option per setting of TrainConfig, and a few more.

    These are ``--config``, ``--refine``, ``--tensorboard`` and ``--log-steps``. The command
    receives what was set as ``settings``, ``refine_evaluations`` and ``tracking`` instead.
    """
    added = []
    for field in dataclasses.fields(TrainConfig):
        if field.name not in HELP:
            continue  # mappings belong into the YAML file
        kind = _KINDS.get(field.name) or type(field.default)
        names = _ALIASES.get(field.name, ("--" + field.name.replace("_", "-"),))
        shown = f" (default: {field.default})" if field.name not in _KINDS else ""
        option = typer.Option(None, *names, help=HELP[field.name] + shown, show_default=False)
        added.append(_parameter(field.name, kind | None, option))
    added.append(
        _parameter(
            "config_file",
            Path | None,
            typer.Option(
                None, "--config", help="YAML file of settings; flags go over it", show_default=False
            ),
        )
    )
    added.append(
        _parameter(
            "refine_evaluations",
            int | None,
            typer.Option(
                None,
                "--refine",
                help="Gradients of the full training set that the refinement may spend (0: none)"
                f" (default: {RefineConfig().evaluations})",
                show_default=False,
            ),
        )
    )

    added.append(
        _parameter(
            "tensorboard",
            bool,
            typer.Option(False, "--tensorboard", help="Write TensorBoard events into the folder"),
        )
    )

    added.append(
        _parameter(
            "log_steps",
            bool,
            typer.Option(False, "--log-steps", help="Write a line per step into steps.jsonl"),
        )
    )

    @functools.wraps(function)
    def command(**values: Any) -> None:
        flags = {name: values.pop(name) for name in HELP if name in values}
        flags = {name: value for name, value in flags.items() if value is not None}
        path, evaluations = values.pop("config_file"), values.pop("refine_evaluations")
        function(
            settings={**read_config(path), **flags},
            refine_evaluations=evaluations,
            tracking=Tracking(values.pop("tensorboard"), values.pop("log_steps")),
            **values,
        )

    own = [
        p
        for p in inspect.signature(function, eval_str=True).parameters.values()
        if p.name not in ("settings", "refine_evaluations", "tracking")
    ]
    command.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
    return command


_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
_KINDS: dict[str, Any] = {
    "head": str,
    "lr": float,
    "warmup_fraction": float,
    "ema_decay": float,
    "stage_two_energy_weight": float,
    "stage_two_forces_weight": float,
    "stage_two_stress_weight": float,
    "stage_two_lr": float,
    "freeze": list[str],
}


def _parameter(name: str, kind: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind)


def read_config(path: Path | None) -> dict[str, Any]:
    """Read a YAML file of settings.

    Raises
    ------
    ConfigError
        If it cannot be read or is not a mapping.
    """
    if path is None:
        return {}
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; name a YAML file of settings.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not a readable YAML file of settings.") from error
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path} must hold settings as 'name: value' lines.")
    return {str(key): _numbers(value) for key, value in content.items()}


def _numbers(value: Any) -> Any:
    """Read 1e-3 as a number: YAML 1.1 takes it for text unless it is written 1.0e-3."""
    if isinstance(value, Mapping):
        return {key: _numbers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_numbers(entry) for entry in value]
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    return value


def resolve(
    settings: Mapping[str, Any],
    refine_evaluations: int | None,
    defaults: Mapping[str, Any] | None = None,
) -> tuple[TrainConfig, RefineConfig | None]:
    """Turn settings into configs: flag over file over the system's recipe over default.

    Where another optimizer than the recipe's is asked for, the recipe's learning rate is not taken
    over, nor its schedule and average by an optimizer that averages itself; and with another
    foundation than the seed, the seed's frames are not trained on.

    Raises
    ------
    ConfigError
        On unknown or invalid settings.
    """
    recipe = dict(defaults or {})
    own = recipe.get("optimizer", TrainConfig().optimizer)
    asked = settings.get("optimizer", own)
    if asked != own:
        from ase_finetune.optimizers import optimizer_info

        ends = ("lr", "schedule", "ema_decay") if optimizer_info(asked).averages else ("lr",)
        recipe = {key: value for key, value in recipe.items() if key not in ends}
    if settings.get("foundation", "seed") != "seed":
        recipe.pop("replay_weight", None)
    merged = {**recipe, **settings}
    refine = merged.pop("refine", {})
    if refine_evaluations is not None:
        refine = (
            None
            if refine_evaluations == 0
            else {**(refine or {}), "evaluations": refine_evaluations}
        )
    if refine is not None and not isinstance(refine, Mapping):
        raise ConfigError(
            f"refine is {refine!r}; write `refine: null` for none, or settings such as "
            "`refine: {evaluations: 50}`."
        )
    train = from_mapping(TrainConfig, merged)
    if refine is None:
        return train, None
    shared = {"device": train.device, "accelerate": train.accelerate}
    return train, from_mapping(RefineConfig, {**shared, **refine})
