"""A checkpoint as a file for other codes: mace-torch's ``.model``, or TorchScript for LAMMPS.

A checkpoint folder is data; these files are programs: whoever loads one executes code from it.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ase_finetune._mace import calculators, quiet_and_safe
from ase_finetune.architecture import DTYPES, dtype_name
from ase_finetune.checkpoint import Checkpoint, write_synced
from ase_finetune.errors import CheckpointError, ConfigError

FORMATS = ("mace", "lammps")


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes
    ----------
    path, format, dtype, size_bytes
        What and where it is.
    E0_rounding_eV
        Largest change of an E0 by the dtype, eV for each atom: in these files E0s have the
        dtype of the weights, in a checkpoint they are double precision.
    """

    path: Path
    format: str
    dtype: str
    size_bytes: int
    E0_rounding_eV: float


def export(
    checkpoint: Checkpoint | str | Path,
    path: str | Path,
    *,
    format: str = "mace",
    dtype: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a checkpoint for other codes, atomically: a temporary name, fsync, rename.

    Parameters
    ----------
    checkpoint
        A checkpoint, its folder, or ``seed``.
    path
        The file to write.
    format
        ``mace``: the pickled module that ``MACECalculator``, ``mace_run_train
        --foundation_model`` and mace-torch's converters load. ``lammps``: what
        ``mace_create_lammps_model`` makes of it for ``pair_style mace``. Energies include E0s.
    dtype
        ``float32`` or ``float64``; None keeps that of the checkpoint.
    overwrite
        Replace an existing file.

    Raises
    ------
    ConfigError
        For an unknown format or dtype, or if the file exists.
    CheckpointError
        If the checkpoint is damaged or the file cannot be written; an earlier one is then still
        there.
    """
    target = Path(path)
    if format not in FORMATS:
        raise ConfigError(f"format is {format!r}; choose one of {', '.join(FORMATS)}.")
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")
    if target.is_dir():
        raise ConfigError(f"{target} is a folder; name a file.")
    if target.exists() and not overwrite:
        raise ConfigError(
            f"{target} exists; choose another name, or replace it with --overwrite "
            "(overwrite=True)."
        )
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint.load(checkpoint)
    module: Any = checkpoint.module(dtype)
    kept = module.atomic_energies_fn.atomic_energies.double().flatten().tolist()
    wanted = [checkpoint.E0s[z] for z in checkpoint.numbers]
    buffer = io.BytesIO()
    if format == "lammps":
        torch.jit.save(_for_lammps(module), buffer)
    else:
        torch.save(module, buffer)
    payload = buffer.getvalue()
    _write(target, payload)
    return Exported(
        path=target,
        format=format,
        dtype=dtype_name(module),
        size_bytes=len(payload),
        E0_rounding_eV=max(abs(k - w) for k, w in zip(kept, wanted, strict=True)),
    )


def _for_lammps(module: Any) -> Any:
    """Compile the module as ``mace.cli.create_lammps_model`` does."""
    with quiet_and_safe(), warnings.catch_warnings():
        # TorchScript is deprecated and says so of every layer; LAMMPS's pair style needs it.
        warnings.simplefilter("ignore")
        from e3nn.util import jit

        lammps = calculators("lammps_mace").LAMMPS_MACE
        return jit.compile(lammps(module, head=module.heads[0]))


def _write(target: Path, payload: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_synced(temporary, payload)
        os.replace(temporary, target)
    except OSError as error:
        raise CheckpointError(f"Cannot write {target}: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):  # gone after the rename
            temporary.unlink()
