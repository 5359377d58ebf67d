"""A cheap crystal that the tests of molecular dynamics share."""

from __future__ import annotations

import numpy as np
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes

CRYSTAL = bulk("Cu", cubic=True) * (1, 1, 2)


class Springs(Calculator):
    """Atoms bound to each other by random springs that stiffen: invariant under translation.

    Harmonic ones would keep the share of each mode, which no global thermostat equalizes.
    """

    implemented_properties = ("energy", "forces")

    def __init__(self, atoms, seed=0):
        super().__init__()
        n = len(atoms)
        self.rest = atoms.positions.copy()
        k = np.random.default_rng(seed).uniform(size=(n, n))
        self.k, self.quartic, self.calls = k + k.T, 30.0, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        u = self.atoms.positions - self.rest
        d = u[:, None] - u
        squares = (d**2).sum(axis=2)
        pull = self.k + self.quartic * squares
        energy = np.sum(self.k * squares / 4 + self.quartic * squares**2 / 8)
        self.results = {"energy": energy, "forces": -np.einsum("ij,ijx->ix", pull, d)}
