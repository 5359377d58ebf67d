"""Molecules, water and interfaces of the pretraining set, before any molecular dynamics."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.build import graphene, molecule, mx2
from ase.collections import g2
from families_solid import perturb
from numpy.random import Generator
from numpy.typing import NDArray

ELEMENTS = ("H", "C", "O", "S", "Mo")
BOX = 13.0

# Enol of acetylacetone, drawn by hand from standard bond lengths and relaxed before use (A).
ACETYLACETONE = (
    "C5O2H8",
    [
        [0.00, 0.95, 0.0], [1.24, 0.25, 0.0], [-1.21, 0.25, 0.0], [2.55, 0.98, 0.0],
        [-2.52, 0.98, 0.0], [1.29, -1.02, 0.0], [-1.29, -1.07, 0.0], [0.00, 2.03, 0.0],
        [-0.35, -1.42, 0.0], [2.60, 1.63, 0.88], [2.60, 1.63, -0.88], [3.37, 0.26, 0.0],
        [-2.57, 1.63, 0.88], [-2.57, 1.63, -0.88], [-3.34, 0.26, 0.0],
    ],
)  # fmt: skip


def boxed(atoms: Atoms) -> Atoms:
    """Periodic copy in a box with at least 6 A of vacuum, so that one code path serves all."""
    out = atoms.copy()
    out.center(vacuum=6.0)
    out.pbc = True
    return out


def rotated(atoms: Atoms, rng: Generator) -> NDArray[np.float64]:
    """Positions (n, 3) about the centre of mass under a random rotation."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    centred = atoms.positions - atoms.get_center_of_mass()
    return np.asarray(centred @ (q * np.sign(np.linalg.det(q))))


def pack(
    base: Atoms,
    guests: list[Atoms],
    rng: Generator,
    *,
    closest: float,
    low: float = 0.0,
    high: float = 1.0,
) -> Atoms:
    """Add rotated guests at random places of the cell, no contact below `closest` (A).

    `low` and `high` bound the fractional height. The contact shrinks when 200 trials fail.
    """
    out = base.copy()
    for guest in guests:
        limit = closest
        for trial in range(4000):
            spot = rng.uniform([0, 0, low], [1, 1, high]) @ out.cell.array
            new = Atoms(guest.symbols, rotated(guest, rng) + spot, cell=out.cell, pbc=True)
            both = out + new
            distances = both.get_all_distances(mic=True)[len(out) :, : len(out)]
            if not len(out) or distances.min() > limit:
                break
            limit *= 0.97 if trial % 200 == 199 else 1.0
        out = both
    return out


def molecule_names() -> list[str]:
    """Molecules of the G2 set made of H, C, O and S only."""
    return [
        n for n in g2.names if set(molecule(n).symbols) <= set(ELEMENTS) and len(molecule(n)) > 1
    ]


def molecules(rng: Generator) -> list[Atoms]:
    """G2 molecules, breathed by +-8 % and rattled up to 0.18 A, eight draws each."""
    out = []
    for name in molecule_names():
        for _ in range(8):
            atoms = boxed(molecule(name))
            atoms.positions *= rng.uniform(0.94, 1.08)
            atoms.positions += rng.normal(0, rng.uniform(0, 0.18), atoms.positions.shape)
            out.append(boxed(atoms))
    return out


def pairs(rng: Generator) -> list[Atoms]:
    """Two small molecules in contact."""
    small = [n for n in molecule_names() if len(molecule(n)) <= 8]
    out = []
    for _ in range(90):
        a, b = (molecule(str(rng.choice(small))) for _ in range(2))
        first = rotated(a, rng)
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        second, gap = rotated(b, rng), rng.uniform(1.7, 3.2)
        for reach in np.arange(0.0, 12.0, 0.05):
            apart = np.linalg.norm(first[:, None] - (second + reach * direction)[None], axis=-1)
            if apart.min() > gap:
                break
        both = Atoms([*a.symbols, *b.symbols], np.vstack([first, second + reach * direction]))
        both.positions += rng.normal(0, rng.uniform(0.0, 0.06), both.positions.shape)
        out.append(boxed(both))
    return out


def water_clusters(rng: Generator) -> list[Atoms]:
    """Monomers with stretched bonds and bent angles; two to six molecules in a small sphere."""
    water = molecule("H2O")
    out = []
    for _ in range(60):
        atoms = water.copy()
        atoms.set_distance(0, 1, rng.uniform(0.8, 1.35), fix=0)
        atoms.set_distance(0, 2, rng.uniform(0.8, 1.25), fix=0)
        atoms.set_angle(1, 0, 2, rng.uniform(75, 145))
        out.append(boxed(atoms))
    for count, draws in ((2, 80), (3, 24), (4, 16), (6, 12)):
        for _ in range(draws):
            side = 2.9 * count ** (1 / 3) + rng.uniform(0.0, 1.5)
            blank = Atoms(cell=[side] * 3, pbc=False)
            atoms = pack(blank, [water] * count, rng, closest=rng.uniform(1.6, 2.1))
            atoms.positions += rng.normal(0, rng.uniform(0.0, 0.06), atoms.positions.shape)
            out.append(boxed(atoms))
    return out


def ice(rng: Generator) -> list[Atoms]:
    """Cubic ice of 8 molecules with random proton order that obeys the ice rules."""
    a = 6.36
    fcc = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    oxygen = a * np.vstack([fcc, fcc + 0.25])
    lattice = Atoms("O8", oxygen, cell=[a] * 3, pbc=True)
    vectors = lattice.get_all_distances(mic=True, vector=True)
    bonds = [(i, j) for i in range(4) for j in range(4, 8)]
    bonds = [p for p in bonds if np.linalg.norm(vectors[p]) < 3.0]
    out = []
    while len(out) < 24:
        donor = rng.integers(0, 2, len(bonds))
        owners = np.array([bond[d] for bond, d in zip(bonds, donor, strict=True)])
        if (np.bincount(owners, minlength=8) != 2).any():
            continue
        hydrogen = []
        for (i, j), owner in zip(bonds, owners, strict=True):
            other = j if owner == i else i
            step = vectors[owner, other]
            hydrogen.append(oxygen[owner] + step / np.linalg.norm(step))
        atoms = Atoms(f"O8H{len(bonds)}", np.vstack([oxygen, hydrogen]), cell=[a] * 3, pbc=True)
        out.append(perturb(atoms, rng, volume=0.15, shear=0.012, rattle=(0.0, 0.09)))
    return out


def interfaces(rng: Generator) -> list[Atoms]:
    """One to three water molecules on small graphene and MoS2 cells, as packed."""
    water = molecule("H2O")
    out = []
    for size, draws in ((2, 50), (3, 16)):
        for _ in range(draws):
            sheet = graphene(a=2.468, size=(size, size, 1))
            sheet.cell[2] = [0, 0, 14.0]
            sheet.pbc = True
            sheet = perturb(sheet, rng, volume=0.06, shear=0.01, rattle=(0.0, 0.06), planar=True)
            guests = [water] * int(rng.integers(1, size + 1))
            out.append(pack(sheet, guests, rng, closest=rng.uniform(1.9, 2.5), low=0.15, high=0.5))
    for _ in range(28):
        layer = mx2("MoS2", a=3.19, thickness=3.13, size=(2, 2, 1), vacuum=0.0)
        layer.cell[2] = [0, 0, 15.0]
        layer.pbc = True
        layer = perturb(layer, rng, volume=0.06, shear=0.01, rattle=(0.0, 0.1), planar=True)
        guests = [water] * int(rng.integers(1, 3))
        out.append(pack(layer, guests, rng, closest=rng.uniform(1.9, 2.4), low=0.35, high=0.6))
    for atoms in out:
        atoms.positions += rng.normal(0, rng.uniform(0.0, 0.07), atoms.positions.shape)
    return out


def dimers(rng: Generator) -> list[Atoms]:
    """Pairs of atoms on a jittered grid of distances: short-range repulsion."""
    out = []
    for a, b in combinations_with_replacement(ELEMENTS, 2):
        if a == b == "Mo":
            continue
        start = {0: 0.7, 1: 0.85, 2: 1.1}[("H" not in (a, b)) + ("Mo" in (a, b) or "S" in (a, b))]
        for d in np.concatenate([np.linspace(start, start + 1.2, 7), [start + 1.7, start + 2.6]]):
            d = d + rng.uniform(-0.04, 0.04)
            out.append(Atoms([a, b], [[0, 0, 0], [0, 0, d]], cell=[BOX] * 3, pbc=True))
    return out


def isolated(rng: Generator) -> list[Atoms]:
    """Single atoms in a box."""
    return [Atoms(s, cell=[BOX] * 3, pbc=True) for s in ELEMENTS]
