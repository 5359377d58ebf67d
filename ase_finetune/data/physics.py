"""Do energies, forces and stresses belong together? A wrong sign or unit shows in the work.

The energy change between nearby frames is fitted to the work of their labels (`pairs`); the
slope is one where the labels agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from ase import Atoms
from ase.units import GPa

from ase_finetune.data.pairs import Array, Pairs, work_pairs
from ase_finetune.data.read import ENERGY_KEY, STRESS_KEY

_NEAR = 0.2  # A, largest displacement between strained frames
_STRAINS = (1e-3, 0.08)
_LEAST_COSINE = 0.9
_LEAST_T = 6.0


@dataclass(frozen=True)
class Slope:
    """Least-squares slope of an energy change against a work, 1 where the labels agree.

    Attributes
    ----------
    value
        The slope.
    cosine
        Correlation about zero, -1 to 1.
    pairs
        Number of pairs.
    freedom
        Frames in them, less one and less the terms fitted beside the slope.
    """

    value: float
    cosine: float
    pairs: int
    freedom: int

    @property
    def clear(self) -> bool:
        """Whether the evidence is strong enough to judge by."""
        if self.freedom < 2 or abs(self.cosine) < _LEAST_COSINE:
            return False
        # Student's t of a correlation; pairs share frames, so frames are counted.
        return self.cosine**2 * self.freedom > _LEAST_T**2 * (1 - self.cosine**2)


@dataclass(frozen=True)
class Consistency:
    """What nearby frames say about the labels; each entry is None where they say nothing.

    Attributes
    ----------
    forces
        Energy change against the work of the forces.
    stress
        Energy change against the work of the stress under strains that are mostly normal, after
        a constant pressure is fitted away.
    virial
        The same if the label is a stress times the volume.
    pressure_offset_gpa
        Label pressure minus -dE/dV, GPa, from strains below 2 %; small where basis and smearing
        are converged.
    shear_order
        The places among (yz, xz, xy) that the last three stress components seem to hold, such as
        (`xz`, `yz`, `xy`); None also where the order given is right.
    """

    forces: Slope | None
    stress: Slope | None
    virial: Slope | None
    pressure_offset_gpa: float | None
    shear_order: tuple[str, str, str] | None


def label_consistency(frames: Sequence[Atoms]) -> Consistency:
    """Compare energy labels with the work of the forces and of the stress between nearby frames.

    Parameters
    ----------
    frames
        Labelled frames; those of one species order are compared. Molecules are superposed first.

    Returns
    -------
    Consistency
    """
    pairs = work_pairs(frames)
    strain, known = pairs.strain, np.isfinite(pairs.stress_work).all(axis=(1, 2))
    # Forces are judged in equal cells first, so that no stress can blame them.
    still = pairs[(strain < 1e-6) & (pairs.displacement > 1e-3)]
    forces = _slope(still, still.force_work)

    near = pairs[(pairs.displacement < _NEAR) & known]
    near = near[(near.strain > _STRAINS[0]) & (near.strain < _STRAINS[1])]
    if forces is None or not forces.clear:
        mild = near[near.strain < 0.03]
        forces = _slope(mild, mild.force_work, [*mild.stress_parts, mild.volume]) or forces
    chosen = near[near.shear < 0.3 * near.normal]
    work = chosen.stress_parts[0] + chosen.stress_parts[1]
    free = [chosen.force_work, chosen.volume]
    stress = _slope(chosen, work, free)
    virial = _slope(chosen, chosen.virial_work, free)
    offset = None
    # Displacements would mix their third-order terms into a pressure this small.
    small = (chosen.normal < 0.02) & (chosen.displacement < 0.02) & (chosen.volume != 0)
    if small.sum() > 3:
        excess = (chosen.energy - chosen.force_work - work)[small] / chosen.volume[small]
        offset = float(np.median(excess)) / GPa
    return Consistency(forces, stress, virial, offset, _shear_order(near))


def pressure_slope(frames: Sequence[Atoms]) -> tuple[float, float] | None:
    """Bulk modulus that labelled pressures of bulk frames imply, whatever their positions.

    The pressure is fitted to the volume and the energy per atom, so that hot frames at a larger
    volume, which have a higher pressure, are not mistaken for a negative modulus.

    Parameters
    ----------
    frames
        Frames with a gap of 5 A or more do not count, for their volume means nothing.

    Returns
    -------
    (B, correlation) or None
        -V dp/dV in GPa and the partial correlation between volume and pressure at fixed energy,
        of the composition with the most frames; None below eight frames, 2 % difference in
        volume or 1 GPa in pressure.
    """
    groups: dict[bytes, list[tuple[float, float, float]]] = {}
    for frame in frames:
        if STRESS_KEY not in frame.info or not frame.pbc.all() or _has_gap(frame):
            continue
        volume = frame.get_volume() / len(frame)
        energy = frame.info[ENERGY_KEY] / len(frame)
        pressure = -float(np.mean(frame.info[STRESS_KEY][:3])) / GPa
        counts = np.bincount(frame.numbers)
        key = (counts // np.gcd.reduce(counts)).tobytes()
        groups.setdefault(key, []).append((volume, pressure, energy))
    if not groups:
        return None
    volumes, pressures, energies = np.array(max(groups.values(), key=len)).T
    spread_out = np.ptp(volumes) > 0.02 * volumes.mean() and np.ptp(pressures) > 1.0
    if len(volumes) < 8 or not spread_out:
        return None
    free = np.stack([np.ones_like(energies), energies - energies.mean()], axis=1)
    both = np.stack([volumes, pressures], axis=1)
    fit, *_ = np.linalg.lstsq(free, both, rcond=None)
    volume_left, pressure_left = (both - free @ fit).T
    product, square = float(volume_left @ pressure_left), float(volume_left @ volume_left)
    length = float(np.linalg.norm(volume_left) * np.linalg.norm(pressure_left))
    if length == 0:
        return None
    return -float(volumes.mean()) * product / square, product / length


def _slope(pairs: Pairs, work: Array, free: Sequence[Array] = ()) -> Slope | None:
    """Fit energy change = slope * work + whatever the free terms explain."""
    change, count = pairs.energy, len(pairs.energy)
    terms = np.array([term for term in free if np.any(term)])
    freedom = len(np.unique(pairs.frames)) - 1 - len(terms)
    if not np.any(work):
        return None
    if len(terms):
        # Columns of unit length, for a volume in A^3 dwarfs a work in eV.
        basis = (terms / np.linalg.norm(terms, axis=1)[:, None]).T
        both = np.stack([change, work], axis=1)
        fit, *_ = np.linalg.lstsq(basis, both, rcond=1e-9)
        before = np.linalg.norm(work)
        change, work = (both - basis @ fit).T
        # What is left of the work must be more than rounding of what was there.
        if np.linalg.norm(work) < 1e-6 * before:
            return None
    length = float(np.linalg.norm(work) * np.linalg.norm(change))
    # Work that is all rounding, as of forces that vanish by symmetry, says nothing.
    if length == 0 or np.linalg.norm(work) < 1e-4 * np.linalg.norm(change):
        return None
    product = float(work @ change)
    return Slope(product / float(work @ work), product / length, count, freedom)


def _shear_order(pairs: Pairs) -> tuple[str, str, str] | None:
    pairs = pairs[(pairs.shear > 0.01) & (pairs.shear > 0.3 * pairs.normal)]
    if len(pairs.energy) < 6:
        return None
    normal = np.trace(pairs.stress_work[:, :3, :3], axis1=1, axis2=2)
    change = pairs.energy - pairs.force_work - normal
    misfits = {}
    for order in permutations(range(3)):
        work = sum(pairs.stress_work[:, 3 + i, 3 + j] for i, j in enumerate(order))
        misfits[order] = float(((change - work) ** 2).sum())
    best = min(misfits, key=lambda order: misfits[order])
    if misfits[best] > 0.2 * misfits[0, 1, 2] or misfits[best] > 0.2 * float(change @ change):
        return None
    names = ("yz", "xz", "xy")
    return names[best[0]], names[best[1]], names[best[2]]


def _has_gap(frame: Atoms) -> bool:
    heights = 1 / np.linalg.norm(np.linalg.inv(frame.cell.array), axis=0)
    scaled = np.sort(frame.cell.scaled_positions(frame.positions) % 1.0, axis=0)
    gaps = np.diff(np.vstack([scaled, scaled[:1] + 1]), axis=0).max(axis=0)
    return bool(np.any(gaps * heights > 5.0))
