"""The ASE calculator of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    all_changes,
    register_calculator_class,
)

from ase_finetune.architecture import DTYPES
from ase_finetune.checkpoint import Checkpoint
from ase_finetune.errors import ConfigError, DataError
from ase_finetune.evaluate import chunks, resolve_device
from ase_finetune.graphs import build_graph, collate, predict

_PROPERTIES = ["energy", "free_energy", "energies", "forces", "stress"]
_SPREADS = {"energy_var": "energy", "forces_var": "forces"}


class FineTunedCalculator(Calculator):
    """A fine-tuned MACE potential as an ASE calculator.

    Energies in eV, forces in eV/A, stress in eV/A^3 (Voigt xx yy zz yz xz xy, tension positive).
    Stress needs a cell with three vectors.

    Parameters
    ----------
    checkpoint
        A checkpoint folder, ``seed``, or a :class:`~ase_finetune.checkpoint.Checkpoint`. Several
        in a list or tuple are a committee: its results are the mean of its members', and
        ``energy_var`` (eV^2) and ``forces_var`` ((eV/A)^2, shape (N, 3)) their population
        variance.
    device
        ``cpu``, ``cuda``, ``cuda:N`` or ``auto``.
    dtype
        ``float64`` (default; relaxations and phonons need it) or ``float32``.
    accelerate
        Use the faster exact evaluation (`fast_mace`) instead of mace-torch's.

    Raises
    ------
    CheckpointError
        If the folder cannot be read; nothing in it is ever executed.
    """

    implemented_properties = list(_PROPERTIES)  # noqa: RUF012

    def __init__(
        self,
        checkpoint: str | Path | Checkpoint | Sequence[str | Path | Checkpoint],
        device: str = "cpu",
        dtype: str = "float64",
        accelerate: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        if dtype not in DTYPES:
            raise ConfigError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")
        given: Any = checkpoint if isinstance(checkpoint, (list, tuple)) else [checkpoint]
        if not given:
            raise ConfigError("There is no checkpoint to attach; give one or more.")
        self.checkpoints = [c if isinstance(c, Checkpoint) else Checkpoint.load(c) for c in given]
        self.implemented_properties = [*_PROPERTIES, *(_SPREADS if len(given) > 1 else ())]
        self.device = resolve_device(device)
        self.dtype = dtype
        self.parameters.update(device=device, dtype=dtype, accelerate=accelerate)
        paths = [_location(c) for c in given if not isinstance(c, Checkpoint)]
        if len(paths) == len(given):
            self.parameters.update(checkpoint=paths if len(paths) > 1 else paths[0])
        self._modules = [
            c.module(dtype, self.device, accelerate=accelerate) for c in self.checkpoints
        ]
        for module in self._modules:
            for parameter in module.parameters():
                parameter.requires_grad_(False)

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint, of a committee the first."""
        return self.checkpoints[0]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        super().calculate(  # type: ignore[no-untyped-call]
            atoms, list(properties), list(system_changes)
        )
        if self.atoms is None or len(self.atoms) == 0:
            raise DataError("There are no atoms to calculate.")
        if "stress" in properties and self.atoms.cell.rank < 3:
            raise PropertyNotImplementedError("Stress needs a cell with three vectors.")
        self.results = self.evaluate_batch([self.atoms])[0]

    def evaluate_batch(
        self, configurations: Sequence[Atoms], *, batch_atoms: int = 256
    ) -> list[dict[str, Any]]:
        """Evaluate independent configurations together.

        Parameters
        ----------
        configurations
            Any mixture of sizes and cells.
        batch_atoms
            Atoms evaluated at once; bounds memory.

        Returns
        -------
        list of dict
            For each: ``energy``, ``free_energy`` (eV), ``energies`` (N,), ``forces`` (N, 3) and,
            with a full cell, ``stress`` (6,); of a committee ``energy_var`` and ``forces_var``.
        """
        members = [
            self._evaluate(checkpoint, module, configurations, batch_atoms)
            for checkpoint, module in zip(self.checkpoints, self._modules, strict=True)
        ]
        if len(members) == 1:
            return members[0]
        return [_mean_and_spread(results) for results in zip(*members, strict=True)]

    def _evaluate(
        self,
        checkpoint: Checkpoint,
        module: torch.nn.Module,
        configurations: Sequence[Atoms],
        batch_atoms: int,
    ) -> list[dict[str, Any]]:
        numbers, r_max, E0s = checkpoint.numbers, checkpoint.r_max, checkpoint.E0s
        graphs = [build_graph(a, numbers, r_max, dtype=DTYPES[self.dtype]) for a in configurations]
        results: list[dict[str, Any]] = []
        for part in chunks(graphs, batch_atoms):
            batch = collate(part, len(numbers), self.device)
            out = predict(module, batch, stress=True)
            assert out.stress is not None
            first = 0
            for i, graph in enumerate(part):
                atoms = configurations[len(results)]
                last = first + graph.n_atoms
                E0 = np.array([E0s[int(z)] for z in atoms.numbers])
                energy = float(out.energy[i]) + float(E0.sum())
                result: dict[str, Any] = {
                    "energy": energy,
                    "free_energy": energy,
                    "energies": out.node_energy[first:last].double().cpu().numpy() + E0,
                    "forces": out.forces[first:last].double().cpu().numpy(),
                }
                if atoms.cell.rank == 3:
                    result["stress"] = out.stress[i].double().cpu().numpy()
                results.append(result)
                first = last
        return results


def _mean_and_spread(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of what the members of a committee say, and the variance of some."""
    joined: dict[str, Any] = {
        key: np.mean([result[key] for result in results], axis=0) for key in results[0]
    }
    for spread, key in _SPREADS.items():
        joined[spread] = np.var([result[key] for result in results], axis=0)
    return {key: float(v) if np.ndim(v) == 0 else v for key, v in joined.items()}


def _location(path: str | Path) -> str:
    return "seed" if str(path) == "seed" else str(Path(path).resolve())


register_calculator_class("ase_finetune", FineTunedCalculator)
