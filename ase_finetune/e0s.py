"""The energy of each isolated element (E0), which decides what the network has to learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from ase_finetune.data.read import ENERGY_KEY, WEIGHT_KEY, is_isolated_atom
from ase_finetune.errors import ConfigError, DataError

SAME_ATOM = 1e-6  # eV, between labels of one isolated element


@dataclass(frozen=True)
class E0s:
    """E0s and how they were found.

    Attributes
    ----------
    values
        Atomic number -> eV.
    note
        One sentence for the log: mode, and for fits the rank.
    """

    values: dict[int, float]
    note: str


def counted(frames: Sequence[Atoms]) -> list[Atoms]:
    """Return the frames that may set E0s: all but those of weight 0.

    Isolated atoms are never in the loss, so that their weight says nothing and is not looked at.
    """
    return [a for a in frames if _counts(a)]


def _counts(atoms: Atoms) -> bool:
    return is_isolated_atom(atoms) or float(atoms.info.get(WEIGHT_KEY, 1.0)) > 0.0


def _isolated_energies(frames: Sequence[Atoms]) -> dict[int, float]:
    """Return the label of each isolated element, eV; refuse two that differ."""
    values: dict[int, float] = {}
    for atoms in frames:
        if not is_isolated_atom(atoms):
            continue
        number, energy = int(atoms.numbers[0]), float(atoms.info[ENERGY_KEY])
        before = values.setdefault(number, energy)
        if abs(energy - before) > SAME_ATOM:
            raise DataError(
                f"Isolated atoms of {chemical_symbols[number]} have different energies "
                f"({before:.6f} and {energy:.6f} eV): keep the one that is right."
            )
    return values


def _fit(
    frames: Sequence[Atoms], target: np.ndarray, elements: Sequence[int]
) -> tuple[np.ndarray, int]:
    """Least squares over the frames; isolated atoms only decide what these leave open.

    Per atom, so that large frames do not outvote small ones; minimum norm where rank-deficient.
    """
    counts = np.array([[np.sum(a.numbers == z) for z in elements] for a in frames], dtype=float)
    size = counts.sum(axis=1)
    rows, values = counts / size[:, None], target / size
    free = np.array([is_isolated_atom(a) for a in frames])
    if free.all():
        free = ~free
    solution, _, rank, _ = np.linalg.lstsq(rows[~free], values[~free], rcond=1e-8)
    if rank < len(elements) and free.any():
        _isolated_energies(frames)
        _, _, basis = np.linalg.svd(rows[~free])
        null = basis[rank:].T
        rest = values[free] - rows[free] @ solution
        along, _, more, _ = np.linalg.lstsq(rows[free] @ null, rest, rcond=1e-8)
        solution, rank = solution + null @ along, rank + more
    return solution, int(rank)


def _rank_text(rank: int, elements: Sequence[int]) -> str:
    text = f"rank {rank} of {len(elements)}"
    if rank < len(elements):
        text += " (fixed composition: minimum-norm solution; isolated-atom frames would decide it)"
    return text


def resolve_E0s(
    mode: str | Mapping[str, float],
    frames: Sequence[Atoms],
    elements: Sequence[int],
    *,
    foundation_E0s: Mapping[int, float] | None,
    foundation_energies: np.ndarray | None,
) -> E0s:
    """Find the E0s of a fine-tuning.

    Parameters
    ----------
    mode
        ``estimated``: the foundation's plus a least-squares shift per element of label minus
        foundation prediction, which keeps its binding; ``foundation``; ``average``: least squares
        of the labels; ``isolated``: from isolated-atom frames; or ``{symbol: eV}``.
    frames
        Training frames with ``REF_energy``, isolated atoms among them. Those of weight 0 are left
        out, see :func:`counted`.
    elements
        Atomic numbers of the model.
    foundation_E0s, foundation_energies
        Atomic number -> eV, and eV for each of ``frames``; None when training from scratch, where
        ``estimated`` means ``average``.

    Raises
    ------
    ConfigError
        If a given mapping lacks an element or there is no foundation to take E0s from.
    DataError
        If isolated atoms are asked for and absent or decide and differ, or no frame has an energy.
    """
    if isinstance(mode, Mapping):
        unknown = [s for s in mode if s not in atomic_numbers]
        lacking = [chemical_symbols[z] for z in elements if chemical_symbols[z] not in mode]
        if unknown or lacking:
            raise ConfigError(
                f"E0s must give every element once; unknown {unknown}, lacking {lacking}."
            )
        try:
            given = {z: float(mode[chemical_symbols[z]]) for z in elements}
        except (TypeError, ValueError) as error:
            raise ConfigError(f"E0s must be numbers in eV by element ({error}).") from error
        return E0s(given, "E0s: given")
    if mode == "foundation":
        if foundation_E0s is None:
            raise ConfigError("E0s 'foundation' needs a foundation; use average or isolated.")
        return E0s({z: float(foundation_E0s[z]) for z in elements}, "E0s: the foundation's")
    labelled = [i for i, a in enumerate(frames) if ENERGY_KEY in a.info and _counts(a)]
    if not labelled:
        raise DataError(
            "No training frame has an energy label, so E0s cannot be fitted; "
            "use E0s 'foundation' or give them."
        )
    if mode == "isolated":
        values = _isolated_energies([frames[i] for i in labelled])
        lacking = [chemical_symbols[z] for z in elements if z not in values]
        if lacking:
            raise DataError(
                f"E0s 'isolated' needs a frame of one {lacking[0]} atom in vacuum; "
                f"add it, or use E0s 'estimated'."
            )
        return E0s({z: values[z] for z in elements}, "E0s: labels of isolated atoms")
    labels = np.array([float(frames[i].info[ENERGY_KEY]) for i in labelled])
    chosen = [frames[i] for i in labelled]
    if mode == "average" or foundation_E0s is None or foundation_energies is None:
        fit, rank = _fit(chosen, labels, elements)
        note = f"E0s: least-squares fit of the labels, {_rank_text(rank, elements)}"
        return E0s(dict(zip(elements, map(float, fit), strict=True)), note)
    shift, rank = _fit(chosen, labels - foundation_energies[labelled], elements)
    note = f"E0s: the foundation's, shifted by least squares, {_rank_text(rank, elements)}"
    values = {z: foundation_E0s[z] + float(s) for z, s in zip(elements, shift, strict=True)}
    return E0s(values, note)
