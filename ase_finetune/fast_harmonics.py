"""Spherical harmonics of edges as one matrix product with the monomials of their directions.

e3nn has a scripted function for them. TorchScript compiles it anew after its first calls, by the
dtypes and shapes that these had, so that the last bits of an evaluation depended on those before.
Nothing here changes as it runs.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ase_finetune.constant import Constant

_Exponents = tuple[int, int, int]
_Polynomial = dict[_Exponents, float]


class Harmonics:
    """An ``o3.SphericalHarmonics`` of l = 0, 1, ..., l_max, normalized by component.

    The sum over m of the squares is 2l+1. Their order and axes are those of e3nn: y is the polar
    axis, m goes from -l to l.
    """

    def __init__(self, module: Any) -> None:
        self.l_max = int(module.irreps_out.lmax)
        wanted = list(range(self.l_max + 1))
        exponents = [e for degree in wanted for e in _monomials(degree)]
        table = torch.zeros(len(exponents), len(exponents), dtype=torch.float64)
        columns = 0
        for degree in wanted:
            for m in range(-degree, degree + 1):
                for powers, value in _solid_harmonic(degree, m).items():
                    table[exponents.index(powers), columns] = value
                columns += 1
        self.table = Constant(table[:, :columns])

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the harmonics (edges, (l_max + 1)^2) of the directions of vectors (edges, 3)."""
        directions = torch.nn.functional.normalize(vectors, dim=1)
        x, y, z = directions.split(1, dim=1)
        monomials = [torch.ones_like(x)]
        for degree in range(1, self.l_max + 1):
            last = monomials[-1]
            monomials += [torch.cat((x * last, y * last[:, -degree:], z * last[:, -1:]), dim=1)]
        return torch.cat(monomials, dim=1) @ self.table.like(vectors)


def _monomials(degree: int) -> list[_Exponents]:
    """Exponents of x, y and z, in the order in which `Harmonics` makes the monomials."""
    if degree == 0:
        return [(0, 0, 0)]
    last = _monomials(degree - 1)
    return [
        *((a + 1, b, c) for a, b, c in last),
        *((a, b + 1, c) for a, b, c in last[-degree:]),
        *((a, b, c + 1) for a, b, c in last[-1:]),
    ]


def _solid_harmonic(degree: int, m: int) -> _Polynomial:
    """Homogeneous polynomial of x, y, z, e.g. by Helgaker et al., Molecular Electronic-Structure
    Theory (2000), section 6.4, times sqrt(2l+1); their (x, y, z) is e3nn's (z, x, y)."""
    size = abs(m)
    # Real or imaginary part of (z + i x)^|m|.
    around: _Polynomial = {}
    for k in range(size + 1):
        if k % 2 == (m < 0):
            around[k, 0, size - k] = float((-1) ** (k // 2) * math.comb(size, k))
    # The associated Legendre function over sin^|m|, with powers of r = 1 expanded.
    along: _Polynomial = {}
    for k in range((degree - size) // 2 + 1):
        factor = (-1) ** k * math.comb(degree, k) * math.comb(2 * degree - 2 * k, degree)
        factor *= math.perm(degree - 2 * k, size)
        for i in range(k + 1):
            for j in range(k + 1 - i):
                ways = math.comb(k, i) * math.comb(k - i, j)
                powers = (2 * i, degree - size - 2 * (i + j), 2 * j)
                along[powers] = along.get(powers, 0.0) + factor * ways
    scale = (2 * degree + 1) * math.factorial(degree - size) / math.factorial(degree + size)
    norm = math.sqrt(scale * (2 if m else 1)) / 2**degree
    found: _Polynomial = {}
    for (a, b, c), first in around.items():
        for (d, e, f), second in along.items():
            powers = (a + d, b + e, c + f)
            found[powers] = found.get(powers, 0.0) + norm * first * second
    return found
