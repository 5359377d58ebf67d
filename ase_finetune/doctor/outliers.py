"""Energies that do not belong to their frames: single ones, one half of them, or all.

Two witnesses: pairs of nearby frames, between which the energy must change by the work of forces
and stress (`data.pairs`), and a linear model of the energies (`surrogate`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_finetune.data.pairs import Pairs
from ase_finetune.data.read import FORCES_KEY
from ase_finetune.doctor.finding import Finding, listed, of_frames
from ase_finetune.doctor.surrogate import Surrogate

Array = NDArray[np.float64]

# Of pairs, in eV per root of the number of atoms: third-order terms add up like that, and reach
# 0.06 in clean frames of 2 to 54 atoms.
_FLOOR = 0.1
_SCALES = 25.0  # quartiles of the excess of all pairs; clean pairs reach 18
# Of the linear model: robust standard deviations, and eV per root of the number of atoms. Of 72
# random parts of clean files, half of the frames or more, none is accused.
_SCORE = 8.0
_MODEL_FLOOR = 0.22
_ENOUGH = 100  # frames, for the linear model to accuse one
_ENOUGH_FOR_LEVELS = 40
_FEW = 0.1  # of the frames; more than that are not outliers


@dataclass(frozen=True)
class Jumps:
    """Energy changes that the work between P pairs of nearby frames does not explain.

    Attributes
    ----------
    frames
        (P, 2), rows.
    excess
        (P,), eV, energy change less the work.
    work
        (P,), eV.
    limit
        (P,), eV; a larger excess is a fault.
    """

    frames: NDArray[np.int64]
    excess: Array
    work: Array
    limit: Array

    @property
    def bad(self) -> NDArray[np.bool_]:
        return np.asarray(np.abs(self.excess) > self.limit)


def jumps(pairs: Pairs, sizes: NDArray[np.int64], trust_stress: bool) -> Jumps:
    """Take the pairs in equal cells, and the slightly strained ones if the stress is trusted."""
    still = pairs.strain < 1e-6
    known = np.isfinite(pairs.stress_work).all(axis=(1, 2))
    stretched = ~still & known & (pairs.strain < 0.03) & (pairs.displacement < 0.2)
    keep = still | stretched if trust_stress else still
    chosen = pairs[keep]
    stress = np.nan_to_num(np.einsum("pii->p", chosen.stress_work))
    count = sizes[chosen.frames[:, 0]] if len(chosen.frames) else np.empty(0)
    work = (chosen.force_work + np.where(chosen.strain < 1e-6, 0.0, stress)) * count
    excess = chosen.energy * count - work
    root = np.sqrt(count)
    quartile = float(np.percentile(np.abs(excess) / root, 25)) if len(excess) else 0.0
    return Jumps(chosen.frames, excess, work, root * max(_FLOOR, _SCALES * quartile))


def check_energies(
    found: Jumps,
    model: Surrogate | None,
    sizes: NDArray[np.int64],
    rows: Sequence[int],
    name: str,
) -> list[Finding]:
    """Find mixed levels of theory, energies of other frames, and single wrong energies.

    Parameters
    ----------
    found
        Of `jumps`, in rows.
    model
        Of `surrogate`, in the same rows, or None.
    sizes
        (F,), atoms per frame.
    rows
        Numbers of the frames in their set.
    name
        Of the set.
    """
    split = _levels_by_pairs(found, sizes) or _levels_by_model(model)
    if split is not None:
        step, high = split
        return [
            Finding(
                "error",
                "levels_mixed",
                f"The energies lie on two levels {1000 * step:.3g} meV/atom apart: "
                f"{of_frames(len(high), len(rows))} are above the others although structures and "
                "forces go on smoothly.",
                "These frames seem to come from another code, functional, setup or reference: "
                "train on one kind, or compute the others again.",
                name,
                tuple(sorted(rows[r] for r in high)),
            )
        ]
    unrelated = _unrelated(found, model, sizes)
    if unrelated:
        return [
            Finding(
                "error",
                "energies_unrelated",
                f"The energies do not belong to the structures: {unrelated}.",
                "Look for energies stored in another order than the frames, or read from "
                "another run.",
                name,
            )
        ]
    wrong = _outliers(found, model, sizes)
    if not wrong or len(wrong) > max(3, _FEW * len(rows)):
        return []
    first = max(wrong, key=lambda row: abs(wrong[row]))
    return [
        Finding(
            "warning",
            "energy_outlier",
            f"The energy of {of_frames(len(wrong), len(rows))} does not fit its structure and "
            f"neighbors (frame {rows[first]} by {wrong[first]:+.2f} eV): "
            f"{listed(sorted(rows[r] for r in wrong))}.",
            "Look whether these calculations converged; compute them again or drop them.",
            name,
            tuple(sorted(rows[r] for r in wrong)),
        )
    ]


def _levels_by_pairs(found: Jumps, sizes: NDArray[np.int64]) -> tuple[float, list[int]] | None:
    bad = found.bad
    per_atom = found.excess / np.maximum(sizes[found.frames[:, 0]], 1) if len(bad) else bad
    involved = len(np.unique(found.frames))
    if bad.sum() < 4 or bad.mean() < 0.05:
        return None
    size = np.abs(per_atom[bad])
    step = float(np.median(size))
    # One step for all: the levels differ by a constant per atom, give or take the third order.
    if np.percentile(size, 90) - np.percentile(size, 10) > 0.4 * step:
        return None
    links: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for (a, b), value, jumped in zip(found.frames, found.excess, bad, strict=True):
        change = int(np.sign(value)) if jumped else 0
        links[int(a)].append((int(b), change))
        links[int(b)].append((int(a), -change))
    levels = _climb(links)
    high = [row for row, level in levels.items() if level > 0]
    if not 0.1 * involved <= len(high) <= 0.9 * involved or len(high) < 3:
        return None
    return step, high


def _climb(links: dict[int, list[tuple[int, int]]]) -> dict[int, int]:
    """Give every row a level, 0 or 1, by walking along the pairs."""
    levels: dict[int, int] = {}
    for root in links:
        if root in levels:
            continue
        part, open_rows = {root: 0}, [root]
        while open_rows:
            row = open_rows.pop()
            for other, change in links[row]:
                if other not in part:
                    part[other] = part[row] + change
                    open_rows.append(other)
        low = min(part.values())
        levels |= {row: min(level - low, 1) for row, level in part.items()}
    return levels


def _levels_by_model(model: Surrogate | None) -> tuple[float, list[int]] | None:
    if model is None or model.levels is None or len(model.residual) < _ENOUGH_FOR_LEVELS:
        return None
    return model.levels.step, [int(row) for row in np.flatnonzero(model.levels.high)]


def _unrelated(found: Jumps, model: Surrogate | None, sizes: NDArray[np.int64]) -> str:
    change = found.excess + found.work
    involved = len(np.unique(found.frames))
    if involved >= 8 and np.sqrt(np.mean(found.work**2)) > 0.03:
        # Few energies may be wrong without making all unrelated, hence signs and medians.
        clear = np.abs(found.work) > 0.5 * np.sqrt(np.mean(found.work**2))
        agree = float(np.mean(np.sign(change[clear]) == np.sign(found.work[clear])))
        misfit = float(np.median(np.abs(found.excess[clear])))
        usual = float(np.median(np.abs(found.work[clear])))
        if clear.sum() >= 8 and 0.2 < agree < 0.8 and misfit > 0.7 * usual:
            return (
                f"between {len(found.frames)} pairs of nearby frames they change by "
                f"{misfit:.2g} eV more or less than the forces say, in sign as chance has it"
            )
    if model is not None and len(model.residual) >= _ENOUGH and model.explained < 0.3:
        size = float(np.median(sizes))
        if model.scatter * size > 0.05:
            return (
                "a linear model of pair distances, which explains most of the energy of sound "
                f"data, explains {max(0.0, model.explained):.0%} of it"
            )
    return ""


def _outliers(found: Jumps, model: Surrogate | None, sizes: NDArray[np.int64]) -> dict[int, float]:
    """Rows whose energy is wrong, and by how much, eV."""
    by_row: dict[int, list[tuple[int, float]]] = defaultdict(list)
    limits: dict[int, float] = {}
    for (a, b), value, limit in zip(found.frames, found.excess, found.limit, strict=True):
        by_row[int(b)].append((int(a), float(value)))
        by_row[int(a)].append((int(b), -float(value)))
        limits[int(a)] = limits[int(b)] = float(limit)
    scores = None if model is None else model.scores
    wrong: dict[int, float] = {}
    while True:
        off = {
            row: float(np.median([value for other, value in pairs if other not in wrong]))
            for row, pairs in by_row.items()
            if row not in wrong and any(other not in wrong for other, _ in pairs)
        }
        off = {row: value for row, value in off.items() if abs(value) > limits[row]}
        if not off or len(wrong) > len(sizes) / 5:
            break
        # Of two frames that accuse each other, the linear model knows the wrong one.
        wrong_row = max(
            off,
            key=lambda r: (
                len(by_row[r]) > 2,
                abs(off[r]) if scores is None else min(abs(scores[r]), 99.0),
                abs(off[r]),
            ),
        )
        wrong[wrong_row] = off[wrong_row]
    if model is not None and scores is not None and len(sizes) >= _ENOUGH:
        for row in _beyond(np.where(model.usual, np.abs(scores), 0.0), _SCORE, 1.5):
            error = float((model.residual[row] - np.median(model.residual)) * sizes[row])
            cleared = row in by_row and row not in wrong
            if abs(error) > _MODEL_FLOOR * np.sqrt(sizes[row]) and not cleared:
                wrong.setdefault(row, error)
    return wrong


def check_extremes(
    frames: Sequence[Atoms], energy: Array, rows: Sequence[int], name: str
) -> list[Finding]:
    """Find frames far outside the others: energies by volts per atom, forces manyfold.

    Parameters
    ----------
    frames, energy, rows
        Frames, (F,) eV/atom over the fitted E0s, and their numbers in the set.
    """
    findings = []
    middle = float(np.median(energy))
    spread = 1.4826 * float(np.median(np.abs(energy - middle)))
    far = np.abs(energy - middle)
    bad = _beyond(far, max(2.0, 10 * spread))
    if len(bad):
        worst = bad[int(np.argmax(far[bad]))]
        findings.append(
            Finding(
                "warning",
                "energy_outlier",
                f"The energy of {of_frames(len(bad), len(rows))} lies far from all others after "
                f"the fit of E0s (frame {rows[worst]} by {energy[worst] - middle:+.2f} eV/atom).",
                "Look at these structures and whether the calculations converged, or drop them.",
                name,
                tuple(rows[r] for r in bad),
            )
        )
    largest = np.array([np.linalg.norm(f.arrays[FORCES_KEY], axis=1).max() for f in frames])
    bad = _beyond(largest, max(20.0, 10 * float(np.median(largest))), 4.0)
    if len(bad):
        worst = bad[int(np.argmax(largest[bad]))]
        findings.append(
            Finding(
                "warning",
                "force_outlier",
                f"The largest force of {of_frames(len(bad), len(rows))} is manyfold that of all "
                f"others (frame {rows[worst]}: {largest[worst]:.3g} eV/A, median "
                f"{np.median(largest):.3g}).",
                "Look at these structures and whether the calculations converged, or drop them.",
                name,
                tuple(rows[r] for r in bad),
            )
        )
    return findings


def _beyond(values: Array, least: float, gap: float = 2.5) -> list[int]:
    """Indices above a limit and above a gap: the lowest has ``gap`` times what the next has."""
    order = np.argsort(values)
    most = max(1, len(values) // 20)
    for count in range(most, 0, -1):
        if count >= len(values):
            continue
        lower, upper = values[order[-count - 1]], values[order[-count]]
        if upper > least and upper > gap * lower:
            return sorted(int(i) for i in order[-count:])
    return []
