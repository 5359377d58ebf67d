"""The bcc Mo structures to label, built from a seed.

Every job has an id such as ``slip_110_03``; its random numbers depend on the id alone, so that
a longer plan leaves the earlier structures as they are. The k-meshes (all Gamma-centered) have
the density of 8x8x8 on the 2-atom cell and are fixed per cell family.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import bulk
from numpy.typing import NDArray

SEED = 20260
A0 = 3.1615  # A, GPAW PBE equation of state
A_SLIP = 3.16  # A, the lattice constant of the published GSFE curves
CUTOFF_EV = 550.0
KMESH = {1: (8, 8, 8), 2: (4, 8, 8), 4: (4, 4, 8)}  # 2-atom cells repeated along x, then y
SLIP_KMESH = {"110": (10, 10, 2), "121": (6, 10, 4)}
SURFACE_KMESH = {"110": (10, 10, 1), "100": (8, 8, 1)}
SLIP_PLANES = 6
# Rattle amplitudes (A per Cartesian component) that stand for these temperatures.
RATTLE = {"rattle_300K": 0.06, "rattle_1200K": 0.13, "rattle_2400K": 0.20}
# Slips in units of b by the number in the id: points of the published curves. On {110}
# gamma(x) = gamma(1-x) by symmetry, so the second half would repeat the first.
RIGID_SLIPS = {
    "110": {0: 0.0, 5: 4 / 11, 19: 2 / 11, 22: 5 / 11},
    "121": {0: 0.0, 5: 4 / 11, 3: 7 / 11, 19: 2 / 11, 22: 5 / 11, 21: 9 / 11},
}
# Opening and plane shifts (A) that the GPAW forces and stress of the rigid cells ask for, with the
# Hessian of the Finnis-Sinclair potential of Mo at the same slip.
NEAR_RELAXED = {
    12: (0.095, (0.026, -0.008, 0.017, -0.017, 0.008, -0.026)),
    13: (0.104, (-0.010, 0.015, 0.003, -0.003, -0.015, 0.010)),
}


@dataclass(frozen=True)
class Job:
    """One structure to label: ``kpts`` Gamma-centered mesh, ``cutoff_eV`` of the plane waves."""

    id: str
    family: str
    atoms: Atoms
    kpts: tuple[int, int, int]
    cutoff_eV: float = CUTOFF_EV


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng([SEED, zlib.crc32(name.encode())])


def _set_cell(atoms: Atoms, cell: object) -> Atoms:
    atoms.set_cell(cell, scale_atoms=True)
    return atoms


def _deform(atoms: Atoms, strain: NDArray[np.float64]) -> Atoms:
    return _set_cell(atoms, atoms.cell.array @ (np.eye(3) + strain))


def strained(voigt: str, amount: float, *, primitive: bool = False) -> Atoms:
    """Return bcc Mo at `A0` with a symmetric strain.

    Parameters
    ----------
    voigt : {"zero", "xx", "yz", "vol"}
        Uniaxial (e_xx), shear (e_yz = e_zy) or isotropic linear strain.
    amount : float
        Strain component; a shear of ``amount`` is an engineering shear of twice that.
    primitive : bool
        One atom instead of two.
    """
    pattern = {
        "zero": np.zeros((3, 3)),
        "xx": np.diag([1.0, 0.0, 0.0]),
        "yz": np.array([[0.0, 0, 0], [0, 0, 1], [0, 1, 0]]),
        "vol": np.eye(3),
    }[voigt]
    return _deform(bulk("Mo", "bcc", a=A0, cubic=not primitive), amount * pattern)


def slip_cell(
    plane: str,
    x: float,
    *,
    a: float,
    planes: int,
    across: float = 0.0,
    opening: float = 0.0,
    repeat: int = 1,
) -> Atoms:
    """Return a periodic bcc cell with one stacking fault, one atom per plane.

    The third cell vector carries the slip, so there is one fault per cell and no surface. On
    {121} the axes [10-1], [111], [1-21] are right-handed and +x moves the upper half along
    +1/2[111], the anti-twinning sense.

    Parameters
    ----------
    plane : {"110", "121"}
    x, across : float
        Slip along 1/2[111] in units of b, and along the in-plane normal of it in A.
    a : float
        Lattice constant in A.
    planes : int
        Number of atomic planes.
    opening : float
        Extra distance of the two halves at the fault in A.
    repeat : int
        Stack the unslipped cell this many times first. A k-mesh of as many fewer points along
        the third vector is then the folded one, so that without slip the energy per atom is
        exactly that of the short cell.
    """
    b = 0.5 * a * np.array([1.0, 1.0, 1.0])
    if plane == "121":
        first, step = a * np.array([1.0, 0, -1]), 0.5 * a * np.array([1.0, -1, -1])
    else:
        first, step = 0.5 * a * np.array([-1.0, 1, -1]), 0.5 * a * np.array([1.0, 1, -1])
    normal = np.cross(first, b)
    normal /= np.linalg.norm(normal)
    sideways = np.cross(b, normal) / np.linalg.norm(b)
    third = planes * step
    # The shortest equivalent third vector: remove in-plane lattice vectors before the slip.
    in_plane = np.linalg.lstsq(np.array([first, b]).T, third, rcond=None)[0]
    third = repeat * (third - np.round(in_plane) @ np.array([first, b]))
    planes *= repeat
    third = third + x * b + across * sideways + opening * normal
    positions = np.arange(planes)[:, None] * step
    atoms = Atoms(f"Mo{planes}", positions=positions, cell=[first, b, third], pbc=True)
    _set_cell(atoms, atoms.cell.standard_form()[0])
    # Plane 0 must not fall on either side of the cell edge by rounding.
    atoms.wrap(eps=1e-6)
    return atoms


def _rattled(name: str, family: str, cells: int) -> Atoms:
    rng = _rng(name)
    atoms: Atoms = bulk("Mo", "bcc", a=A0, cubic=True) * {1: (1, 1, 1), 2: (2, 1, 1)}[cells]
    strain = rng.normal(0.0, 0.01, (3, 3))
    _deform(atoms, 0.5 * (strain + strain.T))
    atoms.positions += rng.normal(0.0, RATTLE[family], atoms.positions.shape)
    return atoms


def _slipped(name: str, plane: str) -> Atoms:
    """A random point near the slip path, opened and rattled: what relaxation passes through."""
    rng = _rng(name)
    atoms = slip_cell(
        plane,
        rng.uniform(0.08, 0.92),
        a=A_SLIP * (1.0 + rng.normal(0.0, 0.004)),
        planes=SLIP_PLANES,
        across=rng.normal(0.0, 0.12),
        opening=rng.uniform(-0.05, 0.25),
    )
    atoms.positions += rng.normal(0.0, 0.04, atoms.positions.shape)
    return atoms


def _vacancy_job(index: int) -> Job:
    name = f"vacancy_{index:02d}"
    rng = _rng(name)
    atoms: Atoms = bulk("Mo", "bcc", a=A0, cubic=True) * (2, 2, 1)
    del atoms[int(rng.integers(len(atoms)))]
    atoms.positions += rng.normal(0.0, 0.08, atoms.positions.shape)
    return Job(name, "vacancy", atoms, KMESH[4])


def _surface_job(plane: str, index: int) -> Job:
    """Five layers and 9 A of vacuum."""
    name = f"surface_{plane}_{index:02d}"
    rng = _rng(name)
    layers = 5
    vectors = {
        "110": [[-0.5, 0.5, -0.5], [0.5, 0.5, 0.5], [1, 0, -1]],
        "100": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    }[plane]
    cell = A0 * np.array(vectors, dtype=float)
    step = 0.5 * A0 * np.array([1.0, 1.0, -1.0 if plane == "110" else 1.0])
    normal = cell[2] / np.linalg.norm(cell[2])
    cell[2] = normal * (layers * float(step @ normal) + 9.0)
    atoms = Atoms(f"Mo{layers}", positions=np.arange(layers)[:, None] * step, cell=cell, pbc=True)
    _set_cell(atoms, atoms.cell.standard_form()[0])
    atoms.positions += rng.normal(0.0, 0.04, atoms.positions.shape)
    atoms.wrap(eps=0.5)
    return Job(name, f"surface_{plane}", atoms, SURFACE_KMESH[plane])


def _eos_jobs() -> Iterator[Job]:
    for i, percent in enumerate(np.linspace(-6.0, 6.0, 9)):
        atoms = bulk("Mo", "bcc", a=3.163 * (1.0 + percent / 100), cubic=True)
        yield Job(f"eos_{i:02d}", "eos", atoms, KMESH[1])


def _elastic_jobs() -> Iterator[Job]:
    # Opposite shears are equivalent by symmetry, so one sign of yz is enough.
    steps = (
        ("zero", 0.0),
        ("xx", 0.005),
        ("yz", 0.005),
        ("xx", -0.005),
        ("xx", 0.01),
        ("yz", 0.01),
        ("xx", -0.01),
    )
    for i, (voigt, amount) in enumerate(steps):
        yield Job(f"elastic_{i:02d}", "elastic", strained(voigt, amount), KMESH[1])


def _slip_job(plane: str, index: int) -> Job:
    """A rigid reference point (`RIGID_SLIPS`) or a random slip."""
    family = f"slip_{plane}"
    name = f"{family}_{index:02d}"
    if index in RIGID_SLIPS[plane]:
        atoms = slip_cell(plane, RIGID_SLIPS[plane][index], a=A_SLIP, planes=SLIP_PLANES)
    else:
        atoms = _slipped(name, plane)
    return Job(name, family, atoms, SLIP_KMESH[plane])


def _relaxed_job(number: int, x: float) -> Job:
    """A rigid {121} fault after one Newton step along the plane normal (`NEAR_RELAXED`)."""
    opening, shifts = NEAR_RELAXED[number]
    atoms = slip_cell("121", x, a=A_SLIP, planes=SLIP_PLANES, opening=opening)
    atoms.positions[:, 2] += shifts
    return Job(f"slip_121_{number:02d}", "slip_121", atoms, SLIP_KMESH["121"])


def _long_slip_job() -> Job:
    """The rigid fault at x = 4/11 with twice the planes."""
    atoms = slip_cell("121", 4 / 11, a=A_SLIP, planes=SLIP_PLANES, repeat=2)
    return Job("slip_121_18", "slip_121", atoms, (6, 10, 2))


def _rattle_job(family: str, index: int) -> Job:
    name = f"{family}_{index:02d}"
    cells = 2 if index % 3 == 1 else 1
    return Job(name, family, _rattled(name, family, cells), KMESH[cells])


def label_jobs() -> list[Job]:
    """Return the plan in order; wherever it stops, what is done covers all families.

    Numbers 3 and 4 of a family are for validation and test (`systems.dft.assemble`), so they come
    early.
    """
    jobs = [*_eos_jobs(), *_elastic_jobs()]
    jobs += [_rattle_job(family, 0) for family in RATTLE]
    jobs += [_slip_job("121", i) for i in (0, 5, 3)]
    jobs += [_slip_job("110", i) for i in (0, 5)]
    jobs += [_relaxed_job(12, 4 / 11), _long_slip_job()]
    for i in (3, 4):
        jobs += [_rattle_job(family, i) for family in ("rattle_300K", "rattle_1200K")]
    jobs += [_slip_job("110", 4), _slip_job("121", 4), _slip_job("110", 3)]
    jobs += [_rattle_job(family, 2) for family in ("rattle_300K", "rattle_1200K")]
    jobs += [_vacancy_job(0), *(_rattle_job("rattle_2400K", i) for i in (2, 3))]
    jobs += [_rattle_job(family, 1) for family in ("rattle_300K", "rattle_1200K")]
    jobs += [_slip_job("121", 1), _slip_job("110", 1)]
    jobs += [_surface_job(plane, 0) for plane in SURFACE_KMESH]
    jobs += [_slip_job("110", 22), _slip_job("121", 22), _rattle_job("rattle_2400K", 1)]
    jobs += [_slip_job("110", 19), _slip_job("121", 19), _slip_job("121", 21)]
    jobs += [_vacancy_job(1), _rattle_job("rattle_2400K", 4), _relaxed_job(13, 7 / 11)]
    later = (2, 6, 7, 8, 9, 10)
    for turn, i in enumerate(later, start=1):
        if i > 2:
            jobs += [_rattle_job(family, i) for family in ("rattle_300K", "rattle_1200K")]
        jobs.append(_rattle_job("rattle_2400K", turn + 4))
        if turn in (2, 4):
            jobs += [_surface_job(plane, turn // 2) for plane in SURFACE_KMESH]
            jobs.append(_vacancy_job(turn // 2 + 1))
        jobs += [_slip_job(plane, i) for plane in ("110", "121")]
    return jobs


def convergence_jobs() -> list[Job]:
    """Strained cells over cutoffs and k-meshes, for the convergence table."""
    jobs = []
    settings = [
        (550.0, 8, False),
        (550.0, 16, True),
        (450.0, 8, False),
        (650.0, 8, False),
        (550.0, 12, True),
        (550.0, 12, False),
        (800.0, 8, False),
        (550.0, 22, True),
    ]
    steps = (
        ("vol", -0.01),
        ("vol", -0.005),
        ("zero", 0.0),
        ("vol", 0.005),
        ("vol", 0.01),
        ("xx", -0.01),
        ("xx", 0.01),
        ("yz", 0.01),
    )
    for cutoff, k, primitive in settings:
        cell = "prim" if primitive else "conv"
        at_labels = (cutoff, k, primitive) == (CUTOFF_EV, 8, False)
        # There the strains other than isotropic are the family `elastic`.
        for voigt, amount in steps[:5] if at_labels else steps:
            name = f"{cell}_k{k}_pw{cutoff:.0f}_{voigt}_{1000 * amount:+.0f}"
            atoms = strained(voigt, amount, primitive=primitive)
            jobs.append(Job(name, "convergence", atoms, (k, k, k), cutoff))
    return jobs
