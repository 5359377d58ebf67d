"""Pretrained MACE modules by name or path, one head, absent elements pruned."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ase_finetune._mace import calculators
from ase_finetune.architecture import DTYPES, check_couplings, describe, prune, single_head
from ase_finetune.checkpoint import SEED, Checkpoint
from ase_finetune.errors import CheckpointError, FoundationError
from ase_finetune.graphs import build_graph, collate, predict

__all__ = ["SEED", "Foundation", "foundation_names", "load_foundation"]

_OFF = ("small_off", "medium_off", "large_off")


@dataclass(frozen=True)
class Foundation:
    """A pretrained module, ready to be fine-tuned.

    Attributes
    ----------
    module
        Single-head ``ScaleShiftMACE`` of the wanted elements.
    E0s
        Atomic number -> eV.
    name, sha256
        What was asked for, and the hash of the file that was read.
    """

    module: torch.nn.Module
    E0s: Mapping[int, float]
    name: str
    sha256: str

    @property
    def numbers(self) -> list[int]:
        return [int(z) for z in describe(self.module)["atomic_numbers"]]


def foundation_names() -> list[str]:
    """Return the names that :func:`load_foundation` knows beside paths."""
    return ["seed", *(n for n in _catalog().mace_mp_names if n), *_OFF]


def _catalog() -> Any:
    """Return mace-torch's module of names and downloads."""
    return calculators("foundations_models")


def load_foundation(
    name: str | Path,
    elements: Sequence[int] | None = None,
    *,
    head: str | None = None,
    dtype: str = "float64",
) -> Foundation:
    """Load a foundation.

    Parameters
    ----------
    name
        ``seed`` (bundled), a checkpoint folder, a ``.model`` file of mace-torch (a pickle: loading
        it executes code, and a warning says so), or a name known to mace-torch, which downloads.
    elements
        Atomic numbers to keep; None keeps all.
    head
        Which head of a multi-head model.
    dtype
        ``float32`` or ``float64``.

    Raises
    ------
    FoundationError
        For an unknown name, an unreadable file, a model of another kind, a missing element, or
        a pruning that would change predictions.
    """
    path = SEED if str(name) == "seed" else Path(name)
    if path.is_dir():
        try:
            checkpoint, digest = Checkpoint.load_hashed(path)
        except CheckpointError as error:
            raise FoundationError(f"Foundation {name}: {error}") from error
        module, E0s = single_head(checkpoint.module(), head), dict(checkpoint.E0s)
    else:
        file = path if path.is_file() else _download(str(name))
        module = single_head(_unpickle(file), head)
        check_couplings(module)
        E0s = _own_E0s(module)
        digest = _sha256(file)
    kept = _pruned(module, elements) if elements is not None else module
    if elements is not None:
        E0s = {z: E0s[z] for z in sorted(set(int(z) for z in elements))}
    return Foundation(kept.to(DTYPES[dtype]), E0s, str(name), digest)


def _own_E0s(module: torch.nn.Module) -> dict[int, float]:
    energies: Any = module.atomic_energies_fn
    values = torch.atleast_2d(energies.atomic_energies)[0].double()
    return {z: float(e) for z, e in zip(describe(module)["atomic_numbers"], values, strict=True)}


def _pruned(module: torch.nn.Module, elements: Sequence[int]) -> torch.nn.Module:
    """Prune, and check on a cluster of the kept elements that nothing changed."""
    from ase_finetune.checkpoint import probe_atoms

    small = prune(module, elements)
    if small is module:
        return module
    values = []
    for model in (module, small):
        info = describe(model)
        numbers = info["atomic_numbers"]
        atoms = probe_atoms(sorted(set(int(z) for z in elements)))
        dtype = next(model.parameters()).dtype
        graph = build_graph(atoms, numbers, info["r_max"], dtype=dtype)
        result = predict(model, collate([graph], len(numbers)), stress=False)
        values.append((result.energy, result.forces))
    tolerance = 1e-4 if next(module.parameters()).dtype == torch.float32 else 1e-9
    (e0, f0), (e1, f1) = values
    if not (
        torch.allclose(e0, e1, rtol=tolerance, atol=tolerance)
        and torch.allclose(f0, f1, rtol=tolerance, atol=tolerance)
    ):
        raise FoundationError(
            "Pruning this foundation to the elements of the data would change its predictions; "
            "its layers are of a kind that is not supported yet."
        )
    return small


def _download(name: str) -> Path:
    known = _catalog()
    try:
        # mace-torch reports on standard output, where our JSON goes.
        with contextlib.redirect_stdout(sys.stderr):
            if name in known.mace_mp_names:
                return Path(known.download_mace_mp_checkpoint(name))
            if name in _OFF:
                return Path(_download_off(name.removesuffix("_off")))
    except (OSError, RuntimeError) as error:
        raise FoundationError(
            f"Foundation {name} could not be downloaded ({error}); give the path of a .model file, "
            "or use the bundled 'seed'."
        ) from error
    raise FoundationError(
        f"Unknown foundation {name!r}: not a checkpoint folder, not a .model file, and not one of "
        f"{', '.join(foundation_names())}."
    )


def _download_off(size: str) -> str:
    from mace.tools.utils import get_cache_dir

    known = _catalog()
    url = known.mace_off_urls[size]
    target = Path(get_cache_dir()) / Path(url).name
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        known._urlretrieve_with_timeout(url, str(target))
    return str(target)


def _unpickle(file: Path) -> torch.nn.Module:
    warnings.warn(
        f"{file} is a pickled model: loading it executes code from the file. "
        "Load only files you trust.",
        stacklevel=3,
    )
    try:
        module = torch.load(file, map_location="cpu", weights_only=False)
    except Exception as error:
        raise FoundationError(
            f"{file} is not a model that mace-torch wrote ({type(error).__name__})."
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise FoundationError(f"{file} holds a {type(module).__name__}, not a MACE model.")
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    return module


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()
