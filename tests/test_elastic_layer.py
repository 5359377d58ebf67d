"""In-plane elastic constants of layers: exact springs, rotation, vacuum, units."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, graphene, mx2
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.neighborlist import neighbor_list

from properties import MASK_2D, StructureError, layer_elastic_tensor, relax

N_PER_M = 16.021766


class Springs(Calculator):
    """Harmonic springs between first neighbours of a triangular lattice."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")
    stiffness, length, cutoff = 2.0, 3.0, 3.6  # eV/A^2, A, A

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        i, r, v = neighbor_list("idD", self.atoms, self.cutoff)
        stretch = r - self.length
        pull = (self.stiffness * stretch / r)[:, None] * v
        forces = np.zeros((len(self.atoms), 3))
        np.add.at(forces, i, pull)
        stress = 0.5 * np.einsum("pa,pb->ab", pull, v) / self.atoms.get_volume()
        energy = 0.25 * self.stiffness * (stretch**2).sum()
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": forces,
            "stress": stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        }


def triangular(height: float = 12.0, a0: float = 3.0) -> Atoms:
    cell = [[a0, 0, 0], [-a0 / 2, np.sqrt(3) / 2 * a0, 0], [0, 0, height]]
    return Atoms("Cu", positions=[[0, 0, height / 2]], cell=cell, pbc=True)


def test_springs_on_a_triangular_lattice():
    """Exactly C11 = 3 sqrt(3)/4 k, C12 = C66 = sqrt(3)/4 k: Cauchy's relation, nu = 1/3."""
    found = layer_elastic_tensor(triangular(a0=3.02), Springs(), delta=1e-4)
    unit = np.sqrt(3) / 4 * Springs.stiffness * N_PER_M
    assert np.diag(found.C) == pytest.approx([3 * unit, 3 * unit, unit], rel=1e-5)
    assert found.C[0, 1] == pytest.approx(unit, rel=1e-5)
    assert found.poisson_ratio == pytest.approx(1 / 3, abs=1e-5)
    assert found.youngs_modulus == pytest.approx(8 / 3 * unit, rel=1e-5)
    assert found.anisotropy < 1e-4
    assert found.stable
    assert np.abs(found.residual_stress).max() < 1e-4
    names = found.quantities("springs")
    assert names["C11_2d"].value == pytest.approx(3 * unit, rel=1e-5)
    assert {q.unit for name, q in names.items() if name != "poisson_ratio_2d"} == {"N/m"}


def test_height_of_the_cell_does_not_matter():
    low, high = (layer_elastic_tensor(triangular(h), Springs()) for h in (8.0, 31.0))
    assert np.allclose(high.C, low.C, rtol=1e-9, atol=1e-9)


def test_slab_has_the_layer_modulus_of_its_equation_of_state():
    """A dilation of both directions costs C11 + C12 per squared strain and area."""
    slab = fcc111("Cu", (1, 1, 3), a=3.59, vacuum=6.0)
    slab.pbc = True
    found = layer_elastic_tensor(slab, EMT())
    base = found.atoms
    energies = []
    strain = 2e-3
    for e in (-strain, 0.0, strain):
        atoms = base.copy()
        atoms.set_cell(base.cell.array @ np.diag([1 + e, 1 + e, 1.0]), scale_atoms=True)
        relaxed = relax(atoms, EMT(), fmax=1e-6).atoms
        relaxed.calc = EMT()
        energies.append(relaxed.get_potential_energy())
    area = np.linalg.norm(np.cross(base.cell[0], base.cell[1]))
    curvature = (energies[0] - 2 * energies[1] + energies[2]) / strain**2 / area * N_PER_M
    assert curvature == pytest.approx(2 * (found.C[0, 0] + found.C[0, 1]), rel=5e-3)
    assert found.anisotropy < 1e-2 * found.C[0, 0]
    # The thickness answers to the strain, which softens the layer.
    clamped = layer_elastic_tensor(base, EMT(), ions="clamped", relax_cell=False)
    assert clamped.C[0, 0] > found.C[0, 0] + 1.0


def test_turning_the_layer_changes_nothing_in_an_isotropic_tensor():
    straight = layer_elastic_tensor(triangular(), Springs())
    turned = triangular()
    turned.rotate(17, "z", rotate_cell=True)
    found = layer_elastic_tensor(turned, Springs())
    assert np.allclose(found.C, straight.C, rtol=0, atol=1e-2)


def test_unrelaxed_layer_tells_its_tension():
    stretched = triangular(a0=3.03)
    found = layer_elastic_tensor(stretched, Springs(), relax_cell=False)
    expected = np.sqrt(3) * Springs.stiffness * 0.03 / 3.03 * N_PER_M
    assert found.residual_stress == pytest.approx([expected, expected, 0.0], rel=1e-6, abs=1e-9)
    relaxed = relax(stretched, Springs(), cell=True, mask=MASK_2D, fmax=1e-6).atoms
    assert relaxed.cell.lengths()[0] == pytest.approx(3.0, abs=1e-5)


def test_progress_reaches_its_total():
    seen = []
    layer_elastic_tensor(
        triangular(), Springs(), progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1][0] == seen[-1][1] == 30


@pytest.mark.parametrize(
    ("atoms", "change", "word"),
    [
        (graphene(vacuum=None), {}, "three cell vectors"),
        (Atoms("Cu", cell=[[3, 0, 0], [0, 3, 0], [0, 1, 12]], pbc=True), {}, "third along z"),
        (Atoms("Cu", cell=[[3, 0, 1], [0, 3, 0], [0, 0, 12]], pbc=True), {}, "in xy"),
        (bulk("Cu", cubic=True), {}, "no gap of 6 A"),
        (mx2("MoS2", vacuum=6.0), {"ions": "loose"}, "relaxed"),
        (mx2("MoS2", vacuum=6.0), {"delta": 0.2}, "below 0.05"),
        (mx2("MoS2", vacuum=6.0), {"n_steps": 2}, "3 or more"),
    ],
)
def test_senseless_input_is_refused(atoms, change, word):
    with pytest.raises(StructureError, match=word):
        layer_elastic_tensor(atoms, EMT(), **change)
