"""Predictions on labelled frames and their errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from ase import Atoms

from ase_finetune.architecture import DTYPES
from ase_finetune.checkpoint import Checkpoint
from ase_finetune.cuda_graphs import replayed
from ase_finetune.determinism import repeatable
from ase_finetune.errors import ConfigError, DataError
from ase_finetune.graphs import Graph, build_graph, collate, predict

Frame = TypeVar("Frame", Graph, Atoms)


@dataclass(frozen=True)
class Predictions:
    """Labels and predictions of a set of frames, frame after frame.

    Attributes
    ----------
    energy, energy_ref
        Shape (n,), eV; NaN where a frame has no label.
    forces, forces_ref
        Shape (n_atoms_total, 3), eV/A.
    stress, stress_ref
        Shape (n, 6), eV/A^3, Voigt xx yy zz yz xz xy.
    n_atoms
        Shape (n,).
    config_type
        One name per frame, ``default`` where the frame states none.
    """

    energy: np.ndarray
    energy_ref: np.ndarray
    forces: np.ndarray
    forces_ref: np.ndarray
    stress: np.ndarray
    stress_ref: np.ndarray
    n_atoms: np.ndarray
    config_type: tuple[str, ...]

    def select(self, mask: np.ndarray) -> Predictions:
        """Return the frames where ``mask`` (n,) is true."""
        atoms = np.repeat(mask, self.n_atoms)
        return Predictions(
            self.energy[mask],
            self.energy_ref[mask],
            self.forces[atoms],
            self.forces_ref[atoms],
            self.stress[mask],
            self.stress_ref[mask],
            self.n_atoms[mask],
            tuple(c for c, keep in zip(self.config_type, mask, strict=True) if keep),
        )

    def errors(self) -> Errors:
        """Return root mean square errors; None where no frame has the label."""
        return Errors(
            _rmse((self.energy - self.energy_ref) / self.n_atoms),
            _rmse(self.forces - self.forces_ref),
            _rmse(self.stress - self.stress_ref),
            len(self.n_atoms),
        )

    def energy_offset(self) -> tuple[float, float]:
        """Return the median error of the energies and its spread, eV/atom; NaN without labels.

        The spread is 1.48 times the median distance from that median, the standard deviation of
        errors that are normal. Far beyond it, an offset is of other atomic energies or another
        level of theory, not of the model's forces.
        """
        errors = (self.energy - self.energy_ref) / self.n_atoms
        errors = errors[~np.isnan(errors)]
        if not errors.size:
            return float("nan"), float("nan")
        middle = float(np.median(errors))
        return middle, 1.4826 * float(np.median(np.abs(errors - middle)))

    def errors_by_type(self) -> dict[str, Errors]:
        """Return the errors of each configuration type, in order of appearance."""
        types = np.array(self.config_type)
        return {t: self.select(types == t).errors() for t in dict.fromkeys(self.config_type)}


@dataclass(frozen=True)
class Errors:
    """Root mean square errors in the units of the names, or None without labels."""

    energy_rmse_meV_per_atom: float | None
    force_rmse_meV_per_A: float | None
    stress_rmse_meV_per_A3: float | None
    n_frames: int


def _rmse(difference: np.ndarray) -> float | None:
    finite = difference[~np.isnan(difference)]
    return None if finite.size == 0 else float(1000.0 * np.sqrt(np.mean(finite**2)))


def chunks(frames: Iterable[Frame], batch_atoms: int) -> Iterator[list[Frame]]:
    """Yield consecutive graphs or Atoms, at least one, with at most ``batch_atoms`` atoms."""
    part: list[Frame] = []
    total = 0
    for frame in frames:
        if part and total + len(frame) > batch_atoms:
            yield part
            part, total = [], 0
        part.append(frame)
        total += len(frame)
    if part:
        yield part


def resolve_device(device: str) -> str:
    """Turn ``auto`` into what is there, and refuse what is not.

    Raises
    ------
    ConfigError
        For an unknown device, or one that this machine lacks.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise ConfigError(f"device is {device!r}; choose cpu, cuda, cuda:N or auto.")
    if kind == "cuda" and not int(index or 0) < torch.cuda.device_count():
        raise ConfigError(f"There is no device {device!r} on this machine; choose cpu or auto.")
    return device


def force_rmse(
    module: torch.nn.Module,
    graphs: Sequence[Graph],
    n_elements: int,
    device: str,
    batch_atoms: int = 256,
) -> tuple[float, float]:
    """Return (force RMSE in meV/A, energy RMSE in meV/atom) of a module on labelled graphs.

    Raises
    ------
    DataError
        If no graph has forces.
    """
    squares, count, energies = 0.0, 0, []
    for part in chunks(graphs, batch_atoms):
        batch = collate(part, n_elements, device)
        result = predict(module, batch, stress=False)
        mask = batch.has_forces[batch.inputs["batch"]]
        squares += float((result.forces - batch.forces)[mask].double().square().sum())
        count += 3 * int(mask.sum())
        difference = ((result.energy - batch.energy) / batch.n_atoms)[batch.has_energy]
        energies.append(difference.double())
    if count == 0:
        raise DataError("The validation frames have no forces, so no weights can be chosen.")
    joined = torch.cat(energies)
    energy = float(joined.square().mean().sqrt()) if len(joined) else float("nan")
    return 1000.0 * (squares / count) ** 0.5, 1000.0 * energy


def predict_frames(
    checkpoint: Checkpoint,
    frames: Sequence[Atoms],
    *,
    dtype: str = "float64",
    device: str = "cpu",
    batch_atoms: int = 256,
    accelerate: bool = True,
) -> Predictions:
    """Evaluate a checkpoint on labelled frames.

    Raises
    ------
    DataError
        If there are no frames, or one has an element that the model does not know.
    """
    if not frames:
        raise DataError("There are no frames to evaluate.")
    device = resolve_device(device)
    module, place = replayed(checkpoint.module(dtype, device, accelerate=accelerate), device)
    numbers = checkpoint.numbers
    graphs = (build_graph(a, numbers, checkpoint.r_max, dtype=DTYPES[dtype]) for a in frames)
    energies, forces, stresses = [], [], []
    for part in chunks(graphs, batch_atoms):
        with repeatable(device):
            result = predict(module, collate(part, len(numbers), place), stress=True)
        energies.append(result.energy.double().cpu().numpy())
        forces.append(result.forces.double().cpu().numpy())
        assert result.stress is not None
        stresses.append(result.stress.double().cpu().numpy())
    E0 = np.array([sum(checkpoint.E0s[int(z)] for z in a.numbers) for a in frames])
    nan6 = np.full(6, np.nan)
    return Predictions(
        energy=np.concatenate(energies) + E0,
        energy_ref=np.array([float(a.info.get("REF_energy", np.nan)) for a in frames]),
        forces=np.concatenate(forces),
        forces_ref=np.concatenate(
            [np.asarray(a.arrays.get("REF_forces", np.full((len(a), 3), np.nan))) for a in frames]
        ),
        stress=np.concatenate(stresses),
        stress_ref=np.array([np.asarray(a.info.get("REF_stress", nan6)) for a in frames]),
        n_atoms=np.array([len(a) for a in frames]),
        config_type=tuple(str(a.info.get("config_type", "default")) for a in frames),
    )
