"""A published many-body potential of molybdenum, for tests of its properties."""

from __future__ import annotations

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list

A0 = 3.1472  # A, of the potential


class FinnisSinclair(Calculator):
    """Many-body potential of M. W. Finnis and J. E. Sinclair, Phil. Mag. A 50, 45 (1984), Mo."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")
    A, d = 1.887117, 4.114825
    c, c0, c1, c2 = 3.25, 43.4475218, -31.9332978, 6.0804249

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        n = len(self.atoms)
        i, j, r, v = neighbor_list("ijdD", self.atoms, self.d)
        rho = np.bincount(i, (r - self.d) ** 2, n)
        inside = np.where(r < self.c, r - self.c, 0.0)
        poly = self.c0 + self.c1 * r + self.c2 * r**2
        slope = 2 * inside * poly + inside**2 * (self.c1 + 2 * self.c2 * r)
        embedding = -self.A / (2 * np.sqrt(rho))
        pull = (2 * embedding[i] * (r - self.d) + 0.5 * slope)[:, None] * v / r[:, None]
        forces = np.zeros((n, 3))
        np.add.at(forces, i, pull)
        np.add.at(forces, j, -pull)
        stress = np.einsum("pa,pb->ab", pull, v) / self.atoms.get_volume()
        energy = -self.A * np.sqrt(rho).sum() + 0.5 * (inside**2 * poly).sum()
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": forces,
            "stress": stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        }
