"""Checkpoints: a folder of safetensors and JSON, from which nothing is ever executed."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from ase_finetune.architecture import (
    DTYPES,
    build,
    describe,
    dtype_name,
    load_tensors,
    stored_tensors,
)
from ase_finetune.checkpoint_checks import (
    FORMAT,
    FORMAT_VERSION,
    check_architecture,
    check_size,
    parse_document,
    sealed,
)
from ase_finetune.checkpoint_files import (
    DOCUMENT,
    read_document,
    read_weights,
    sha256,
    write_folder,
    write_synced,
)
from ase_finetune.errors import CheckpointError
from ase_finetune.fast_mace import accelerated
from ase_finetune.graphs import build_graph, collate, predict

SEED = Path(__file__).parent / "foundations" / "seed"  # bundled
_PACKAGES = ("ase-finetune", "torch", "mace-torch", "e3nn", "ase", "matscipy", "numpy")
_READS = 3  # of a folder that another process is replacing


def versions() -> dict[str, str]:
    """Return the versions of the libraries that shape a result."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def probe_atoms(numbers: list[int]) -> Atoms:
    """Return a small fixed cluster of a model's elements, whose energy identifies the model."""
    chosen = (numbers * 4)[: max(4, min(len(numbers), 8))]
    spacing = 2.2 * float(max(covalent_radii[z] for z in chosen))
    grid = np.array([[i % 2, (i // 2) % 2, i // 4] for i in range(len(chosen))], dtype=float)
    skew = 0.11 * np.sin(np.arange(3 * len(chosen))).reshape(-1, 3)
    return Atoms(numbers=chosen, positions=spacing * (grid + skew))


@dataclass(frozen=True)
class Checkpoint:
    """A model with its provenance.

    Attributes
    ----------
    architecture
        As from :func:`ase_finetune.architecture.describe`.
    tensors
        Name -> weights and model constants.
    E0s
        Atomic number -> eV, in double precision.
    stage
        ``zero_shot``, ``finetuned`` or ``refined``.
    foundation
        ``name`` and ``sha256`` of what it was fine-tuned from.
    config, metrics, data_hash
        Resolved settings, errors and budget, and the hash of the labelled frames.
    dispersion
        The dispersion correction that the labels include, ``none``, or None where they do not say;
        see :func:`ase_finetune.dispersion.label_dispersion`.
    """

    architecture: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    E0s: Mapping[int, float]
    stage: str
    foundation: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    data_hash: str | None = None
    dispersion: str | None = None

    @classmethod
    def from_module(
        cls, module: torch.nn.Module, E0s: Mapping[int, float], **metadata: Any
    ) -> Checkpoint:
        """Take the weights of a module; ``metadata`` are the remaining attributes.

        Raises
        ------
        CheckpointError
            If it is a model that no checkpoint can hold.
        """
        architecture = describe(module)
        check_architecture(architecture, "The module")  # now, and not after hours of training
        return cls(architecture, stored_tensors(module), dict(E0s), **metadata)

    @property
    def numbers(self) -> list[int]:
        """Atomic numbers that the model knows, in the model's order."""
        return [int(z) for z in self.architecture["atomic_numbers"]]

    @property
    def r_max(self) -> float:
        """Cutoff of one interaction layer, A."""
        return float(self.architecture["r_max"])

    def fingerprint(self) -> str:
        """Return a hash of what its energies depend on: architecture, weights and E0s."""
        about = json.dumps([dict(self.architecture), sorted(self.E0s.items())], sort_keys=True)
        weights = save_safetensors({k: v.contiguous() for k, v in self.tensors.items()})
        return sha256(about.encode() + weights)

    def replace(self, **changes: Any) -> Checkpoint:
        """Return a copy with some attributes changed."""
        return replace(self, **changes)

    def module(
        self, dtype: str | None = None, device: str = "cpu", *, accelerate: bool = False
    ) -> torch.nn.Module:
        """Build the module.

        Parameters
        ----------
        dtype
            ``float32`` or ``float64``; None keeps the stored one.
        device
            Where to put it.
        accelerate
            Return the faster form of :mod:`ase_finetune.fast_mace`; where there is none, the plain
            module, with a warning that says why.

        Raises
        ------
        CheckpointError
            If architecture and tensors do not belong together.
        """
        stored = _dtype_of(self.tensors)
        module = build(self.architecture, dtype=DTYPES[dtype or stored])
        load_tensors(module, self.tensors)
        energies: Any = module.atomic_energies_fn
        values = [[self.E0s[z] for z in self.numbers]]
        energies.atomic_energies.copy_(torch.tensor(values, dtype=torch.float64))
        module = module.to(device)
        return accelerated(module) if accelerate else module

    def probe(self) -> dict[str, float]:
        """Return the interaction energy (eV) and force norm (eV/A) of a small fixed cluster."""
        module = self.module("float64")
        atoms = probe_atoms(self.numbers)
        graph = build_graph(atoms, self.numbers, self.r_max, dtype=torch.float64)
        result = predict(module, collate([graph], len(self.numbers)), stress=False)
        return {"energy": float(result.energy), "forces_norm": float(result.forces.norm())}

    def save(self, path: str | Path) -> Path:
        """Write the folder, or replace the checkpoint in it, in one step.

        A process that is killed while it writes leaves the old checkpoint or the new one.

        Raises
        ------
        CheckpointError
            If ``path`` exists and is not a checkpoint, or the disk refuses.
        """
        target = Path(path)
        payload = save_safetensors({k: v.contiguous() for k, v in self.tensors.items()})
        document = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "backend": "mace",
            "stage": self.stage,
            "architecture": dict(self.architecture),
            "elements": [chemical_symbols[z] for z in self.numbers],
            "E0s": {chemical_symbols[z]: e for z, e in self.E0s.items()},
            "dtype": _dtype_of(self.tensors),
            "foundation": dict(self.foundation),
            "config": dict(self.config),
            "metrics": dict(self.metrics),
            "data_hash": self.data_hash,
            "dispersion": self.dispersion,
            "versions": versions(),
            "tensors_sha256": sha256(payload),
            "probe": self.probe(),
        }
        text = json.dumps(sealed(document), indent=1, allow_nan=False).encode()
        write_folder(target, text, payload)
        return target

    @classmethod
    def load(cls, path: str | Path) -> Checkpoint:
        """Read a folder; nothing in it is executed.

        Parameters
        ----------
        path
            The folder that :meth:`save` wrote, or ``seed`` for the bundled model.

        Raises
        ------
        CheckpointError
            If it is absent, damaged, foreign, of a newer format, or gives other energies here
            than where it was written.
        """
        return cls.load_hashed(path)[0]

    @classmethod
    def load_hashed(cls, path: str | Path) -> tuple[Checkpoint, str]:
        """Read a folder as :meth:`load` does; return also the SHA-256 of the weights' file."""
        folder = SEED if str(path) == "seed" else Path(path)
        document, payload = _read(folder)
        try:
            tensors = load_safetensors(payload)
        except Exception as error:  # of any kind, by what is damaged; nothing of the file ran
            raise CheckpointError(f"{folder}: the weights cannot be read ({error}).") from error
        check_size(document["architecture"], sum(t.numel() for t in tensors.values()), folder)
        result = cls(
            architecture=document["architecture"],
            tensors=tensors,
            E0s={atomic_numbers[s]: float(e) for s, e in document["E0s"].items()},
            stage=document["stage"],
            foundation=document["foundation"],
            config=document["config"],
            metrics=document["metrics"],
            data_hash=document["data_hash"],
            dispersion=document.get("dispersion"),
        )
        result._verify(document["probe"], folder)
        return result, str(document["tensors_sha256"])

    def _verify(self, expected: Mapping[str, Any], folder: Path) -> None:
        """Compare with the probe stored at saving: library changes must not pass unseen."""
        try:
            found = self.probe()
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from error
        except Exception as error:  # of any kind, by what does not belong together
            raise CheckpointError(
                f"{folder} describes a model that cannot be evaluated "
                f"({type(error).__name__}: {error})."
            ) from error
        for key, value in found.items():
            want = expected.get(key)
            if not isinstance(want, float) or abs(value - want) > 1e-6 * max(1.0, abs(want)):
                raise CheckpointError(
                    f"{folder} gives another {key} of its probe cluster here ({value:.8g}) than "
                    f"where it was saved ({want}); install the library versions it lists."
                )


def _dtype_of(tensors: Mapping[str, torch.Tensor]) -> str:
    names = {str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point()}
    if len(names) != 1 or not names <= set(DTYPES):
        raise CheckpointError(f"The weights have dtypes {sorted(names)}; expected one float dtype.")
    return names.pop()


def _read(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Return document and weights that belong together, also while a process replaces them."""
    for _ in range(_READS):
        text = read_document(folder)
        document = parse_document(text, folder / DOCUMENT)
        try:
            return document, read_weights(folder, document["tensors_sha256"])
        except CheckpointError:
            if read_document(folder) == text:
                raise
    raise CheckpointError(f"{folder} is being replaced by another process; try again.")


__all__ = ["SEED", "Checkpoint", "dtype_name", "probe_atoms", "versions", "write_synced"]
