"""Pairs of frames that nearly agree, and the work that labels say was done between them.

Between two frames a and b of one composition the energy must change by

    E_b - E_a = 1/2 (V_a s_a + V_b s_b) : strain - 1/2 (F_a + F_b) . u + third order,

where s is the stress, the strain is the logarithmic one between the cells, and u are the atoms'
displacements beyond the homogeneous ones. It is the trapezoidal rule along the straight path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_finetune.data.read import ENERGY_KEY, FORCES_KEY, STRESS_KEY

Array = NDArray[np.float64]

_FARTHEST = 0.35  # A; beyond it the third-order terms rival the work itself
_LARGEST_STRAIN = 0.08
_MOST_NUMBERS = 3_000_000  # floats in one array of all pairs, which bounds time and memory
_MOST_FRAMES = 1000


@dataclass(frozen=True)
class Pairs:
    """Pairs of nearby frames and the work between them, all per atom.

    Attributes
    ----------
    frames
        (P, 2), indices into the frames.
    energy
        (P,), change of the energy label, eV/atom.
    force_work
        (P,), eV/atom.
    stress_work
        (P, 6, 6), eV/atom: work of stress component i (Voigt, as labelled) on strain component j,
        NaN where a stress is missing. The trace over i = j is the work.
    virial_work
        (P,), eV/atom: the work if the "stress" label is a stress times the volume.
    volume
        (P,), change of the volume, A^3/atom.
    displacement
        (P,), largest of an atom, A.
    normal, shear
        (P,), largest strain component of each kind.
    """

    frames: NDArray[np.int64]
    energy: Array
    force_work: Array
    stress_work: Array
    virial_work: Array
    volume: Array
    displacement: Array
    normal: Array
    shear: Array

    @property
    def strain(self) -> Array:
        """(P,), largest strain component of either kind."""
        return np.maximum(self.normal, self.shear)

    @property
    def stress_parts(self) -> tuple[Array, Array]:
        """Work on normal and on shear strains, (P,) each, eV/atom."""
        diagonal = np.einsum("pii->pi", self.stress_work)
        return diagonal[:, :3].sum(axis=1), diagonal[:, 3:].sum(axis=1)

    def __getitem__(self, rows: NDArray[np.bool_]) -> Pairs:
        return Pairs(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def work_pairs(frames: Sequence[Atoms]) -> Pairs:
    """Find pairs of nearby frames and the work between them.

    Sequence neighbors and all pairs of a spread of frames are tried; the number is bounded so
    that this takes about a second whatever the data.
    """
    groups: dict[tuple[bytes, bytes], list[int]] = {}
    for index, frame in enumerate(frames):
        several = len(frame) > 1 or frame.pbc.any()
        if several and ENERGY_KEY in frame.info and FORCES_KEY in frame.arrays:
            groups.setdefault((frame.numbers.tobytes(), frame.pbc.tobytes()), []).append(index)
    found = [_empty()]
    for rows in groups.values():
        if len(rows) > 1:
            rows = rows[:_MOST_FRAMES]
            periodic = frames[rows[0]].pbc.any()
            found += (_cell_pairs if periodic else _molecule_pairs)(frames, np.array(rows))
    return Pairs(
        *(np.concatenate([getattr(p, name) for p in found]) for name in Pairs.__dataclass_fields__)
    )


def _cell_pairs(frames: Sequence[Atoms], rows: NDArray[np.int64]) -> Iterator[Pairs]:
    group = [frames[i] for i in rows]
    size, pbc = len(group[0]), group[0].pbc
    cells = np.array([f.cell.complete().array for f in group])
    scaled = np.array(
        [np.linalg.solve(h.T, f.positions.T).T for h, f in zip(cells, group, strict=True)]
    )
    energy, forces, stress = _labels(group)
    volume = np.abs(np.linalg.det(cells))
    for a, b in _candidates(len(group), size):
        shift = scaled[b] - scaled[a]
        shift[..., pbc] -= np.round(shift[..., pbc])
        shift -= shift.mean(axis=1, keepdims=True)
        shift[..., pbc] -= np.round(shift[..., pbc])
        u_a, u_b = shift @ cells[a], shift @ cells[b]
        far = np.linalg.norm(u_a, axis=2).max(axis=1)
        deform = np.linalg.inv(cells[a]) @ cells[b]
        squares, axes = np.linalg.eigh(deform @ deform.transpose(0, 2, 1))
        strain = np.einsum("pij,pj,pkj->pik", axes, np.log(squares) / 2, axes)
        stretch = np.einsum("pij,pj,pkj->pik", axes, np.sqrt(squares), axes)
        turn = np.linalg.inv(stretch) @ deform
        strain[np.abs(strain) < 1e-9] = 0.0
        voigt = np.stack([strain[:, i, j] for i, j in _VOIGT], axis=1) * [1, 1, 1, 2, 2, 2]
        largest = np.abs(strain).max(axis=(1, 2))
        keep = (far < _FARTHEST) & (largest < (_LARGEST_STRAIN if pbc.all() else 1e-6))
        turned = turn @ stress[b] @ turn.transpose(0, 2, 1)
        s_a, s_b = (np.stack([s[:, i, j] for i, j in _VOIGT], 1) for s in (stress[a], turned))
        mean = (volume[a, None] * s_a + volume[b, None] * s_b) / 2
        yield Pairs(
            frames=np.stack([rows[a], rows[b]], axis=1),
            energy=(energy[b] - energy[a]) / size,
            force_work=-((forces[a] * u_a + forces[b] * u_b).sum(axis=(1, 2))) / 2 / size,
            stress_work=mean[:, :, None] * voigt[:, None, :] / size,
            virial_work=((s_a + s_b) / 2 * voigt).sum(axis=1) / size,
            volume=(volume[b] - volume[a]) / size,
            displacement=far,
            normal=np.abs(voigt[:, :3]).max(axis=1),
            shear=np.abs(voigt[:, 3:]).max(axis=1) / 2,
        )[keep]


def _molecule_pairs(frames: Sequence[Atoms], rows: NDArray[np.int64]) -> Iterator[Pairs]:
    group = [frames[i] for i in rows]
    size = len(group[0])
    places = np.array([f.positions - f.positions.mean(axis=0) for f in group])
    energy, forces, _ = _labels(group)
    # Internal distances find neighbors whatever the orientation.
    first, second = np.triu_indices(size, 1)
    stride = max(1, len(first) // 1000)
    distances = np.linalg.norm(places[:, first[::stride]] - places[:, second[::stride]], axis=2)
    squares = (distances**2).sum(axis=1)
    apart = squares[:, None] + squares - 2 * distances @ distances.T
    np.fill_diagonal(apart, np.inf)
    a, b = np.arange(len(group)), apart.argmin(axis=1)
    left, _, right = np.linalg.svd(places[b].transpose(0, 2, 1) @ places[a])
    proper = np.ones((len(a), 3))
    proper[:, 2] = np.sign(np.linalg.det(left @ right))
    turn = (left * proper[:, None, :]) @ right
    u = places[b] @ turn - places[a]
    far = np.linalg.norm(u, axis=2).max(axis=1)
    none = np.zeros(len(a))
    yield Pairs(
        frames=np.stack([rows[a], rows[b]], axis=1),
        energy=(energy[b] - energy[a]) / size,
        force_work=-(((forces[a] + forces[b] @ turn) * u).sum(axis=(1, 2))) / 2 / size,
        stress_work=np.zeros((len(a), 6, 6)),
        virial_work=none,
        volume=none,
        displacement=far,
        normal=none,
        shear=none,
    )[far < _FARTHEST]


_FULL = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])
_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def _labels(group: Sequence[Atoms]) -> tuple[Array, Array, Array]:
    energy = np.array([f.info[ENERGY_KEY] for f in group])
    forces = np.array([f.arrays[FORCES_KEY] for f in group])
    missing = np.full(6, np.nan)
    stress = np.array([f.info.get(STRESS_KEY, missing) for f in group])
    return energy, forces, stress[:, _FULL]


def _candidates(count: int, size: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    spread = min(count, int(np.sqrt(_MOST_NUMBERS / (3 * size))) + 2, 150)
    rows = np.linspace(0, count - 1, spread).astype(int)
    first, second = np.triu_indices(spread, 1)
    near = [(np.arange(count - step), np.arange(step, count)) for step in (1, 2) if count > step]
    pairs = {
        (int(i), int(j))
        for firsts, seconds in [(rows[first], rows[second]), *near]
        for i, j in zip(firsts, seconds, strict=True)
    }
    both = np.array(sorted(pairs))
    for chunk in np.array_split(both, max(1, len(both) * size // 200_000)):
        if len(chunk):
            yield chunk[:, 0], chunk[:, 1]


def _empty() -> Pairs:
    none = np.empty(0)
    return Pairs(
        np.empty((0, 2), dtype=np.int64),
        none,
        none,
        np.empty((0, 6, 6)),
        none,
        none,
        none,
        none,
        none,
    )
