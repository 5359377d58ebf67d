"""What every stage starts from: foundation, E0s and graphs, resolved from data and settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms

from ase_finetune.architecture import DTYPES, construct
from ase_finetune.checkpoint import Checkpoint
from ase_finetune.config import TrainConfig
from ase_finetune.data.agreement import check_agreement, force_slopes
from ase_finetune.data.read import is_isolated_atom
from ase_finetune.data.splits import Splits
from ase_finetune.dispersion import label_dispersion
from ase_finetune.e0s import E0s, counted, resolve_E0s
from ase_finetune.errors import ConfigError, DataError
from ase_finetune.evaluate import predict_frames, resolve_device
from ase_finetune.foundations import SEED, load_foundation
from ase_finetune.graphs import LabelledGraphs, build_graph
from ase_finetune.optimizers import build_optimizer
from ase_finetune.weights import frozen

MOST_FITTED = 1000  # frames that E0s and mean neighbor counts are taken from
MOST_JUDGED = 100  # validation frames that are compared with the foundation


@dataclass(frozen=True)
class Start:
    """A resolved beginning.

    Attributes
    ----------
    checkpoint
        Foundation weights with the E0s of this data, stage ``zero_shot``.
    E0s
        With the sentence that says how they were found.
    """

    checkpoint: Checkpoint
    E0s: E0s


def training_frames(frames: Sequence[Atoms]) -> list[Atoms]:
    """Return the frames that are trained on: isolated atoms only set E0s."""
    return [a for a in frames if not is_isolated_atom(a)]


def validation_frames(splits: Splits) -> list[Atoms]:
    """Return the frames that decide which weights are kept.

    Raises
    ------
    DataError
        If there are none.
    """
    frames = training_frames(splits.valid)
    if not frames:
        raise DataError("There are no validation frames; give some, or a validation fraction.")
    return frames


def representative(frames: Sequence[Atoms], most: int = MOST_FITTED) -> list[Atoms]:
    """Return all frames, or of a large set some that are spread evenly over each composition."""
    if len(frames) <= most:
        return list(frames)
    groups: dict[bytes, list[int]] = {}
    for index, frame in enumerate(frames):
        groups.setdefault(np.sort(frame.numbers).tobytes(), []).append(index)
    share = max(1, most // len(groups))
    chosen = sorted(
        rows[i]
        for rows in groups.values()
        for i in np.unique(np.linspace(0, len(rows) - 1, min(share, len(rows))).astype(int))
    )
    return [frames[i] for i in chosen]


def make_graphs(
    frames: Sequence[Atoms], checkpoint: Checkpoint, dtype: str, *, stress: bool
) -> LabelledGraphs:
    """Make labelled graphs for a checkpoint; stress labels are dropped unless asked for."""
    return LabelledGraphs(
        frames,
        checkpoint.numbers,
        checkpoint.r_max,
        dtype=DTYPES[dtype],
        E0s=dict(checkpoint.E0s),
        stress=stress,
    )


def prepare(splits: Splits, config: TrainConfig) -> Start:
    """Check the data, load the foundation for their elements and fix the E0s on the training set.

    Raises
    ------
    DataError, ConfigError, FoundationError
        If data, settings and foundation do not fit together.
    """
    _check_settings(config)
    splits.check(stress=config.uses_stress)
    elements = sorted({int(z) for _, frames in splits.items() for a in frames for z in a.numbers})
    if not training_frames(splits.train):
        raise DataError("There are no frames to train on.")
    validation_frames(splits)
    if config.foundation == "scratch":
        return _from_scratch(splits.train, elements, config)
    foundation = load_foundation(
        config.foundation, elements, head=config.head, dtype=config.default_dtype
    )
    bare = Checkpoint.from_module(
        foundation.module, foundation.E0s, stage="zero_shot", foundation={}
    )
    frozen(foundation.module, config.freeze)
    known = counted(splits.train)
    fitted = representative(known)
    found = predict_frames(bare, fitted, dtype=config.default_dtype, accelerate=config.accelerate)
    check_agreement(fitted, found.energy, found.forces, foundation.name, "train")
    if force_slopes(fitted, found.forces).like(1.0):  # else it is no judge of the others
        held = validation_frames(splits)
        held = held[:: math.ceil(len(held) / MOST_JUDGED)]
        other = predict_frames(bare, held, dtype=config.default_dtype, accelerate=config.accelerate)
        check_agreement(held, other.energy, other.forces, foundation.name, "valid")
    E0 = resolve_E0s(
        config.E0s,
        fitted,
        elements,
        foundation_E0s=foundation.E0s,
        foundation_energies=found.energy,
    )
    if len(fitted) < len(known):
        E0 = E0s(E0.values, f"{E0.note}, on {len(fitted)} of {len(known)} frames")
    checkpoint = Checkpoint.from_module(
        foundation.module,
        E0.values,
        stage="zero_shot",
        foundation={"name": foundation.name, "sha256": foundation.sha256},
        config=config.resolved(),
        data_hash=splits.data_hash(),
        dispersion=label_dispersion(splits.train),
    )
    return Start(checkpoint, E0)


def _check_settings(config: TrainConfig) -> None:
    """Build the optimizer on a dummy and look for the device, before anything is computed."""
    dummy = torch.nn.Parameter(torch.zeros(1))
    build_optimizer(
        config.optimizer,
        [dummy],
        lr=config.lr,
        weight_decay=config.weight_decay,
        options=config.optimizer_options,
    )
    resolve_device(config.device)


def seed_architecture() -> dict[str, Any]:
    """Return the architecture of the bundled seed, the default for training from scratch."""
    return dict(Checkpoint.load(SEED).architecture)


def _from_scratch(frames: Sequence[Atoms], elements: Sequence[int], config: TrainConfig) -> Start:
    base: Mapping[str, Any] = config.architecture
    if "hidden_irreps" not in base:
        base = {**seed_architecture(), **base}
    E0 = resolve_E0s(config.E0s, frames, elements, foundation_E0s=None, foundation_energies=None)
    described = {
        **_DEFAULTS,
        **base,
        "atomic_numbers": list(elements),
        "heads": ["Default"],
        "built_dtype": config.default_dtype,
    }
    unknown = sorted(set(described) - set(_DEFAULTS) - {"atomic_numbers", "heads", "built_dtype"})
    if unknown:
        raise ConfigError(
            f"Unknown architecture keys {unknown}; valid are {', '.join(sorted(_DEFAULTS))}."
        )
    chosen = representative(training_frames(counted(frames)))
    cutoff = described["r_max"]
    if isinstance(cutoff, bool) or not isinstance(cutoff, (int, float)) or not 0 < cutoff < 100:
        raise ConfigError(f"architecture r_max is {cutoff!r}; it must be a length in A.")
    graphs = [build_graph(a, elements, cutoff, dtype=torch.float64) for a in chosen]
    n_atoms = sum(g.n_atoms for g in graphs)
    described["avg_num_neighbors"] = max(
        1.0, sum(g.edge_index.shape[1] for g in graphs) / max(n_atoms, 1)
    )
    forces = [np.asarray(a.arrays["REF_forces"]) for a in chosen if "REF_forces" in a.arrays]
    scale = float(np.sqrt(np.mean(np.concatenate(forces) ** 2))) if forces else 1.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        module: Any = _constructed(described)
    frozen(module, config.freeze)
    module.scale_shift.scale.fill_(scale if scale > 1e-6 else 1.0)
    checkpoint = Checkpoint.from_module(
        module,
        E0.values,
        stage="zero_shot",
        foundation={"name": "scratch", "sha256": ""},
        config=config.resolved(),
        data_hash=None,
        dispersion=label_dispersion(frames),
    )
    return Start(checkpoint, E0)


def _constructed(architecture: Mapping[str, Any]) -> torch.nn.Module:
    try:
        return construct(architecture)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError) as error:
        raise ConfigError(
            f"This architecture cannot be built ({type(error).__name__}: {error})."
        ) from error


_DEFAULTS: dict[str, Any] = {
    "r_max": 5.0,
    "num_bessel": 8,
    "num_polynomial_cutoff": 5,
    "max_ell": 3,
    "num_interactions": 2,
    "correlation": 3,
    "radial_type": "bessel",
    "radial_MLP": [64, 64, 64],
    "pair_repulsion": False,
    "distance_transform": "None",
    "avg_num_neighbors": 1.0,
    "apply_cutoff": True,
    "use_reduced_cg": True,
    "use_so3": False,
    "use_agnostic_product": False,
    "use_last_readout_only": False,
    "use_edge_irreps_first": False,
    "interaction_cls": "RealAgnosticResidualInteractionBlock",
    "interaction_cls_first": "RealAgnosticInteractionBlock",
    "readout_cls": "NonLinearReadoutBlock",
    "hidden_irreps": "32x0e",
    "MLP_irreps": "16x0e",
    "edge_irreps": None,
    "gate": "silu",
}
