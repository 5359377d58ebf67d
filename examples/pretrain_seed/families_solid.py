"""Crystals, surfaces and layers of the pretraining set, drawn from a seeded generator."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk, graphene, mx2, surface
from numpy.random import Generator
from numpy.typing import NDArray

A_MO = 3.165


def random_strain(rng: Generator, volume: float, shear: float, planar: bool) -> NDArray[np.float64]:
    """Deformation gradient (3, 3): isotropic part within `volume`, symmetric noise of `shear`."""
    noise = rng.normal(0.0, shear, (3, 3))
    strain = 0.5 * (noise + noise.T) + np.eye(3) * rng.uniform(-volume, volume) / 3.0
    if planar:
        strain[2, :] = strain[:, 2] = 0.0
    return np.eye(3) + strain


def perturb(
    atoms: Atoms,
    rng: Generator,
    *,
    volume: float,
    shear: float,
    rattle: tuple[float, float],
    planar: bool = False,
) -> Atoms:
    """Copy of `atoms`, strained and displaced by a normal draw of width in `rattle` (A)."""
    out = atoms.copy()
    out.set_cell(out.cell.array @ random_strain(rng, volume, shear, planar), scale_atoms=True)
    out.positions += rng.normal(0.0, rng.uniform(*rattle), out.positions.shape)
    return out


def slip_cell(plane: str, planes: int, shift: float, opening: float) -> Atoms:
    """One stacking fault per cell of bcc Mo, the third vector tilted by the slip.

    Parameters
    ----------
    plane
        ``"110"`` or ``"112"``; one atom per plane.
    planes
        Number of planes.
    shift
        Slip in units of b = 1/2<111>.
    opening
        Displacement of the upper half along the plane normal, A.
    """
    b = np.array([1.0, 1.0, 1.0]) / 2.0
    second, step, normal = {
        "110": ([0.5, 0.5, -0.5], [0.5, -0.5, 0.5], [1.0, -1.0, 0.0]),
        "112": ([1.0, 0.0, -1.0], [0.5, -0.5, -0.5], [1.0, -2.0, 1.0]),
    }[plane]
    t1, t2, s = A_MO * b, A_MO * np.array(second), A_MO * np.array(step)
    n = np.array(normal) / np.linalg.norm(normal)
    third = planes * s
    in_plane = np.linalg.lstsq(np.array([t1, t2, n]).T, third, rcond=None)[0]
    third = third - round(in_plane[0]) * t1 - round(in_plane[1]) * t2
    cell = np.array([t1, t2, third + shift * t1 + opening * n])
    atoms = Atoms(f"Mo{planes}", positions=[k * s for k in range(planes)], cell=cell, pbc=True)
    atoms.wrap()
    return atoms


def mo_bulk(rng: Generator) -> list[Atoms]:
    """Strained and rattled bcc cells of 1 to 16 atoms; both small and large amplitudes."""
    cubic = bulk("Mo", a=A_MO, cubic=True)
    shapes = [(bulk("Mo", a=A_MO), 50), (cubic, 130), (cubic * (2, 1, 1), 80)]
    shapes += [(cubic * (2, 2, 1), 60), (cubic * (2, 2, 2), 36)]
    out = []
    for cell, count in shapes:
        for i in range(count):
            wide = i % 3 == 0
            volume, shear = (0.15, 0.03) if wide else (0.06, 0.012)
            rattle = (0.0, 0.3) if wide else (0.0, 0.18)
            out.append(perturb(cell, rng, volume=volume, shear=shear, rattle=rattle))
    return out


def mo_phases(rng: Generator) -> list[Atoms]:
    """Strained and rattled fcc, hcp and simple cubic cells."""
    cells = [bulk("Mo", "fcc", a=4.0, cubic=True), bulk("Mo", "hcp", a=2.77, c=4.95)]
    cells.append(bulk("Mo", "sc", a=2.64) * (2, 1, 1))
    return [
        perturb(cell, rng, volume=0.12, shear=0.02, rattle=(0.0, 0.15))
        for cell in cells
        for _ in range(20)
    ]


def mo_vacancy(rng: Generator) -> list[Atoms]:
    """One atom missing from 8 or 16."""
    out = []
    for repeat, count in (((2, 2, 1), 25), ((2, 2, 2), 40)):
        for _ in range(count):
            atoms = bulk("Mo", a=A_MO, cubic=True) * repeat
            del atoms[0]
            out.append(perturb(atoms, rng, volume=0.06, shear=0.012, rattle=(0.0, 0.2)))
    return out


def mo_surface(rng: Generator) -> list[Atoms]:
    """(100), (110) and (111) slabs of 5 to 8 atomic planes."""
    out = []
    for miller, layers in (((1, 0, 0), 3), ((1, 1, 0), 3), ((1, 1, 1), 3)):
        for _ in range(24):
            slab = surface(
                bulk("Mo", a=A_MO, cubic=True), miller, layers, vacuum=6.0, periodic=True
            )
            out.append(perturb(slab, rng, volume=0.06, shear=0.01, rattle=(0.0, 0.18), planar=True))
    return out


def mo_slip(rng: Generator) -> list[Atoms]:
    """Tilted slip cells on {110} and {112} along 1/2<111>, opened along the normal, rattled."""
    out = []
    for i in range(170):
        atoms = slip_cell(
            ("110", "112")[i % 2],
            int(rng.integers(8, 13)),
            rng.uniform(-1, 1),
            rng.uniform(-0.1, 0.6),
        )
        out.append(perturb(atoms, rng, volume=0.03, shear=0.006, rattle=(0.0, 0.12)))
    return out


def mos2(rng: Generator) -> list[Atoms]:
    """1H and 1T layers of 1x1 to 3x3, bulk 2H, sulfur vacancies."""
    out = []
    for size, count, vacancy in (
        (1, 110, False),
        (2, 44, False),
        (3, 14, False),
        (2, 24, True),
        (3, 8, True),
    ):
        for i in range(count):
            kind = "1T" if i % 4 == 3 else "2H"
            layer = mx2("MoS2", kind=kind, a=3.19, thickness=3.13, size=(size, size, 1), vacuum=6.5)
            layer.pbc = True
            if vacancy:
                del layer[next(a.index for a in layer if a.symbol == "S")]
            rattle = (0.0, 0.12) if i % 3 else (0.0, 0.25)
            out.append(perturb(layer, rng, volume=0.12, shear=0.015, rattle=rattle, planar=True))
    for _ in range(50):
        a = mx2("MoS2", a=3.19, thickness=3.13)
        b = a.copy()
        b.rotate(60, "z", rotate_cell=False)
        b.positions += a.positions[0] * [1, 1, 0] - b.positions[1] * [1, 1, 0] + [0, 0, 6.3]
        cell = a.cell.array.copy()
        cell[2] = [0, 0, 12.6]
        both = Atoms(
            [*a.symbols, *b.symbols], np.vstack([a.positions, b.positions]), cell=cell, pbc=True
        )
        out.append(perturb(both, rng, volume=0.12, shear=0.015, rattle=(0.0, 0.15)))
    return out


def carbon(rng: Generator) -> list[Atoms]:
    """Graphene flat and rippled, graphite, diamond."""
    out = []
    for size, count in ((1, 36), (2, 44), (3, 24), (4, 8)):
        for i in range(count):
            sheet = graphene(a=2.468, size=(size, size, 1), vacuum=6.5)
            sheet.pbc = True
            if i % 2:
                phase = sheet.get_scaled_positions()[:, 0] * 2 * np.pi
                sheet.positions[:, 2] += rng.uniform(0, 0.25 * size) * np.sin(
                    phase + rng.uniform(0, 6)
                )
            out.append(
                perturb(sheet, rng, volume=0.12, shear=0.015, rattle=(0.0, 0.12), planar=True)
            )
    for i in range(70):
        if i < 32:
            cell = bulk("C", "hcp", a=2.468, c=6.8)
            cell = Atoms(
                "C4",
                scaled_positions=[[0, 0, 0], [1 / 3, 2 / 3, 0], [0, 0, 0.5], [2 / 3, 1 / 3, 0.5]],
                cell=cell.cell * np.array([[1, 1, 1], [1, 1, 1], [1, 1, rng.uniform(0.88, 1.2)]]),
                pbc=True,
            )
        else:
            cell = bulk("C", "diamond", a=3.57, cubic=i % 2 == 0)
        out.append(perturb(cell, rng, volume=0.15, shear=0.02, rattle=(0.0, 0.15)))
    return out
