"""The ASE calculator of a checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import (
    BaseCalculator,
    Calculator,
    PropertyNotImplementedError,
    all_changes,
    register_calculator_class,
)
from ase.calculators.mixing import SumCalculator
from ase.outputs import Properties, all_outputs

from ase_finetune.architecture import DTYPES
from ase_finetune.calculator_checks import check_configuration, check_distances, check_finite
from ase_finetune.checkpoint import Checkpoint
from ase_finetune.cuda_graphs import replayed
from ase_finetune.determinism import repeatable
from ase_finetune.dispersion import NONE
from ase_finetune.errors import CheckpointError, ConfigError
from ase_finetune.evaluate import chunks, resolve_device
from ase_finetune.graphs import build_graph, collate, predict
from ase_finetune.neighbors import Neighbors, VerletList

_PROPERTIES = ["energy", "free_energy", "energies", "forces", "stress"]
_SPREADS = {"energy_var": "energy", "forces_var": "forces"}
BATCH_ATOMS = {"cpu": 64, "cuda": 256}
_MADE = ("_modules", "_neighbors")  # anew wherever the calculator is copied to
_OF_ASE = ("atoms", "directory", "label")


class FineTunedCalculator(Calculator):
    """A fine-tuned MACE potential as an ASE calculator.

    Energies in eV, forces in eV/A, stress in eV/A^3 (Voigt xx yy zz yz xz xy, tension positive).
    Stress needs a cell with three vectors. Results depend on elements, positions, cell and pbc
    alone: nothing in ``atoms.info``, and neither charges nor magnetic moments.

    A calculator made from paths is pickled as these, and read again where it is unpickled; one made
    from a :class:`~ase_finetune.checkpoint.Checkpoint` is pickled with its weights.

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
    **kwargs
        ``atoms``, ``directory`` and ``label`` of ASE's calculators.

    Raises
    ------
    CheckpointError
        If the folder cannot be read; nothing in it is ever executed.
    ConfigError
        For an unknown or impossible setting.
    """

    implemented_properties = list(_PROPERTIES)  # noqa: RUF012
    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012

    def __init__(
        self,
        checkpoint: str | Path | Checkpoint | Sequence[str | Path | Checkpoint],
        device: str = "cpu",
        dtype: str = "float64",
        accelerate: bool = True,
        **kwargs: Any,
    ) -> None:
        unknown = sorted(set(kwargs) - set(_OF_ASE))
        if unknown:
            raise ConfigError(
                f"Unknown setting {', '.join(unknown)}; a calculator takes checkpoint, device, "
                f"dtype, accelerate, {', '.join(_OF_ASE)}."
            )
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
        self._build()

    def _build(self) -> None:
        self._modules = []
        self._neighbors = {c.r_max: VerletList(c.r_max) for c in self.checkpoints}
        for checkpoint in self.checkpoints:
            module = checkpoint.module(
                self.dtype, self.device, accelerate=self.parameters["accelerate"]
            )
            for parameter in module.parameters():
                parameter.requires_grad_(False)
            self._modules.append(replayed(module, self.device))

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key not in _MADE}
        if "checkpoint" in self.parameters:
            state["checkpoints"] = [c.fingerprint() for c in self.checkpoints]
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        paths = self.parameters.get("checkpoint")
        if paths is not None:
            pickled = state["checkpoints"]
            paths = [paths] if isinstance(paths, str) else paths
            self.checkpoints = [Checkpoint.load(path) for path in paths]
            for path, before, now in zip(paths, pickled, self.checkpoints, strict=True):
                if now.fingerprint() != before:
                    raise CheckpointError(
                        f"{path} holds another model than when the calculator was pickled; attach "
                        "it anew."
                    )
        self.device = resolve_device(self.parameters["device"])
        self._build()

    def __deepcopy__(self, memo: dict[int, Any]) -> FineTunedCalculator:
        # Not by way of the files, which may have been replaced meanwhile.
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        shared = {*_MADE, "checkpoints"}
        twin.__dict__.update(
            {k: v if k in shared else copy.deepcopy(v, memo) for k, v in self.__dict__.items()}
        )
        twin._build()
        return twin

    def _get_name(self) -> str:
        return "ase_finetune"

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Refuse changes: settings are fixed when the modules are built.

        Raises
        ------
        ConfigError
            If there is anything to set.
        """
        if kwargs:
            raise ConfigError(
                f"{', '.join(kwargs)} cannot be changed in a calculator; make another one."
            )
        return {}

    @property
    def dispersion(self) -> str | None:
        """Dispersion that the labels include, ``none``, or None if a member does not say."""
        stated = [c.dispersion for c in self.checkpoints]
        included = [text for text in dict.fromkeys(stated) if text not in (None, NONE)]
        if included:
            return "; ".join(str(text) for text in included)
        return None if None in stated else NONE

    def with_dispersion(self, correction: BaseCalculator) -> SumCalculator:
        """Return the sum with a dispersion correction, unless the labels have one already.

        Parameters
        ----------
        correction
            An ASE calculator of the dispersion energy alone.

        Raises
        ------
        ConfigError
            If the labels include dispersion, or do not say whether they do.
        """
        if self.dispersion is None:
            raise ConfigError(
                "The checkpoint does not say whether its labels include dispersion; if they do "
                "not, state it: Checkpoint.load(path).replace(dispersion='none')."
            )
        if self.dispersion != NONE:
            raise ConfigError(
                f"The labels of this potential include dispersion already ({self.dispersion}); "
                "adding it again would count it twice."
            )
        return SumCalculator([self, correction])

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
        self.results = {}
        assert self.atoms is not None
        if "stress" in properties and self.atoms.cell.rank < 3:
            raise PropertyNotImplementedError("Stress needs a cell with three vectors.")
        self.results = self.evaluate_batch([self.atoms])[0]

    def export_properties(self) -> Properties:
        """Return the results that ASE has a name for; the variances of a committee have none."""
        known = {name: value for name, value in self.results.items() if name in all_outputs}
        return Properties(known)

    def evaluate_batch(
        self, configurations: Sequence[Atoms], *, batch_atoms: int | None = None
    ) -> list[dict[str, Any]]:
        """Evaluate independent configurations together.

        Parameters
        ----------
        configurations
            Any mixture of sizes and cells.
        batch_atoms
            Most atoms evaluated at once, which bounds memory; by default 64 on a CPU and 256 on a
            GPU.

        Returns
        -------
        list of dict
            For each: ``energy``, ``free_energy`` (eV), ``energies`` (N,), ``forces`` (N, 3) and,
            with a full cell, ``stress`` (6,); of a committee ``energy_var`` and ``forces_var``.

        Raises
        ------
        DataError
            For no atoms, an unknown element, atoms at the same place, a periodic direction without
            a cell vector, or anything not finite.
        """
        for atoms in configurations:
            check_configuration(atoms)
        if batch_atoms is None:
            batch_atoms = BATCH_ATOMS[torch.device(self.device).type]
        found: list[dict[str, Any]] = []
        for part in chunks(configurations, batch_atoms):
            near = {r_max: [of(a) for a in part] for r_max, of in self._neighbors.items()}
            members = [
                self._evaluate(checkpoint, *module, part, near[checkpoint.r_max])
                for checkpoint, module in zip(self.checkpoints, self._modules, strict=True)
            ]
            if len(members) == 1:
                found += members[0]
            else:
                found += [_mean_and_spread(results) for results in zip(*members, strict=True)]
        return found

    def _evaluate(
        self,
        checkpoint: Checkpoint,
        module: torch.nn.Module,
        place: str,
        configurations: Sequence[Atoms],
        neighbors: Sequence[Neighbors],
    ) -> list[dict[str, Any]]:
        numbers, r_max, E0s = checkpoint.numbers, checkpoint.r_max, checkpoint.E0s
        graphs = [
            build_graph(a, numbers, r_max, dtype=DTYPES[self.dtype], neighbors=near)
            for a, near in zip(configurations, neighbors, strict=True)
        ]
        for graph in graphs:
            check_distances(graph)
        with repeatable(self.device):
            out = predict(module, collate(graphs, len(numbers), place), stress=True)
        assert out.stress is not None
        results: list[dict[str, Any]] = []
        first = 0
        for i, atoms in enumerate(configurations):
            last = first + len(atoms)
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
            check_finite(result)
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
