"""The ASE calculator of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
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


class FineTunedCalculator(Calculator):
    """A fine-tuned MACE potential as an ASE calculator.

    Energies in eV, forces in eV/A, stress in eV/A^3 (Voigt xx yy zz yz xz xy, tension positive).
    Stress needs a cell with three vectors.

    Parameters
    ----------
    checkpoint
        A checkpoint folder, or a :class:`~ase_finetune.checkpoint.Checkpoint`.
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
        checkpoint: str | Path | Checkpoint,
        device: str = "cpu",
        dtype: str = "float64",
        accelerate: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        if dtype not in DTYPES:
            raise ConfigError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")
        self.implemented_properties = list(_PROPERTIES)
        loaded = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.load(checkpoint)
        self.checkpoint = loaded
        self.device = resolve_device(device)
        self.dtype = dtype
        self.parameters.update(device=device, dtype=dtype, accelerate=accelerate)
        if not isinstance(checkpoint, Checkpoint):
            self.parameters.update(checkpoint=str(Path(checkpoint).resolve()))
        self._module = loaded.module(dtype, self.device, accelerate=accelerate)
        for parameter in self._module.parameters():
            parameter.requires_grad_(False)

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
            with a full cell, ``stress`` (6,).
        """
        numbers, r_max = self.checkpoint.numbers, self.checkpoint.r_max
        E0s = self.checkpoint.E0s
        graphs = [build_graph(a, numbers, r_max, dtype=DTYPES[self.dtype]) for a in configurations]
        results: list[dict[str, Any]] = []
        for part in chunks(graphs, batch_atoms):
            batch = collate(part, len(numbers), self.device)
            out = predict(self._module, batch, stress=True)
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


register_calculator_class("ase_finetune", FineTunedCalculator)
