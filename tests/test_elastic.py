"""Elastic constants against exact answers and independent routes."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from properties import (
    StructureError,
    elastic_tensor,
    lattice_constant,
    relax,
    strain_scan,
)
from properties.moduli import average_moduli

# Computed with ASE's EMT by finite strain differences, GPa: C11, C12, C44.
EMT_CIJ = {
    "Cu": (172.59, 115.43, 89.90),
    "Al": (53.33, 32.89, 36.20),
    "Ni": (230.77, 148.78, 146.96),
}


def lennard_jones():
    return LennardJones(sigma=2.5, epsilon=0.1, rc=7.0, ro=5.0, smooth=True)


class Distorted(Calculator):
    """EMT whose stress along x is too large: a model that is not equivariant."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        inner = self.atoms.copy()
        inner.calc = EMT()
        energy = inner.get_potential_energy()
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": inner.get_forces(),
            "stress": inner.get_stress() * np.array([1.1, 1, 1, 1, 1, 1]),
        }


@pytest.mark.parametrize("symbol", sorted(EMT_CIJ))
def test_emt_metals(symbol):
    found = elastic_tensor(bulk(symbol), EMT(), delta=1e-4)
    assert found.symmetry == "cubic"
    assert (found.C[0, 0], found.C[0, 1], found.C[3, 3]) == pytest.approx(EMT_CIJ[symbol], abs=0.02)
    assert found.symmetry_deviation < 0.01
    assert found.C_triclinic == pytest.approx(found.C, abs=0.01)
    assert np.abs(found.residual_stress).max() < 1e-3
    assert found.born_stable
    assert found.C_err.max() < 0.1


def test_default_increment_is_on_the_plateau():
    for symbol, exact in EMT_CIJ.items():
        found = elastic_tensor(bulk(symbol), EMT())
        numbers = (found.C[0, 0], found.C[0, 1], found.C[3, 3])
        assert numbers == pytest.approx(exact, rel=1e-3)


def test_lennard_jones_obeys_cauchy_and_its_equation_of_state():
    """A pair potential at zero pressure has C12 = C44; B follows from energies alone too."""
    crystal = bulk("Ar", "fcc", a=3.85)
    found = elastic_tensor(crystal, lennard_jones(), delta=1e-4)
    assert found.C[0, 1] == pytest.approx(found.C[3, 3], rel=1e-3)
    lattice = lattice_constant(crystal, lennard_jones(), eos_strain=0.01)
    assert found.bulk_modulus_vrh == pytest.approx(lattice.bulk_modulus_eos, rel=0.01)
    assert found.bulk_modulus_vrh == pytest.approx((found.C[0, 0] + 2 * found.C[0, 1]) / 3)


@pytest.mark.parametrize("symbol", sorted(EMT_CIJ))
def test_bulk_modulus_agrees_with_equation_of_state(symbol):
    lattice = lattice_constant(bulk(symbol), EMT())
    found = elastic_tensor(lattice.atoms, EMT(), relax_cell=False)
    assert found.bulk_modulus_vrh == pytest.approx(lattice.bulk_modulus_eos, rel=0.01)


def test_primitive_and_conventional_cells_agree():
    primitive = elastic_tensor(bulk("Cu"), EMT())
    cube = elastic_tensor(bulk("Cu", cubic=True), EMT())
    np.testing.assert_allclose(cube.C, primitive.C, atol=0.02)


def test_relaxed_ions_against_second_differences_of_relaxed_energies():
    """The hexagonal close-packed crystal has ions that move under shear in the basal plane."""
    crystal = bulk("Ar", "hcp", a=2.72, c=4.44)
    relaxed = elastic_tensor(crystal, lennard_jones(), symmetry="hexagonal")
    clamped = elastic_tensor(crystal, lennard_jones(), symmetry="hexagonal", ions="clamped")
    assert relaxed.ions == "relaxed"
    assert clamped.C[5, 5] - relaxed.C[5, 5] > 0.2
    assert relaxed.symmetry_deviation < 0.02 * relaxed.C[0, 0]
    base = relaxed.atoms
    strain = 2e-3
    for mode, tensor in (("relaxed", relaxed), ("clamped", clamped)):
        energies = []
        for e in (-strain, 0.0, strain):
            shear = np.array([[1, e / 2, 0], [e / 2, 1, 0], [0, 0, 1]])
            frame = base.copy()
            frame.set_cell(base.cell.array @ shear, scale_atoms=True)
            if mode == "relaxed":
                frame = relax(frame, lennard_jones(), fmax=1e-6).atoms
            frame.calc = lennard_jones()
            energies.append(frame.get_potential_energy())
        curvature = (energies[0] - 2 * energies[1] + energies[2]) / strain**2
        expected = curvature / base.get_volume() / units.GPa
        assert tensor.C_triclinic[5, 5] == pytest.approx(expected, rel=5e-3)


def test_fit_without_symmetry_shows_a_model_that_lacks_it():
    found = elastic_tensor(bulk("Cu", a=3.58983), Distorted(), relax_cell=False)
    assert found.symmetry == "cubic"
    # The honest C11 exceeds C22 by 10 %; the cubic fit knows the first only.
    assert found.symmetry_deviation == pytest.approx(17.3, abs=0.5)


def test_residual_stress_is_reported():
    compressed = bulk("Cu", a=3.55)
    found = elastic_tensor(compressed, EMT(), relax_cell=False)
    compressed.calc = EMT()
    assert found.residual_stress == pytest.approx(compressed.get_stress() / units.GPa, abs=1e-9)
    assert found.residual_stress[0] < -2.0


def test_rotated_crystal_is_not_called_cubic():
    rotated = bulk("Cu")
    rotated.rotate(30, "z", rotate_cell=True)
    with pytest.raises(StructureError, match="rotate the cell"):
        elastic_tensor(rotated, EMT(), symmetry="cubic")
    found = elastic_tensor(rotated, EMT())
    straight = elastic_tensor(bulk("Cu"), EMT())
    assert found.symmetry == "triclinic"
    assert found.bulk_modulus_vrh == pytest.approx(straight.bulk_modulus_vrh, rel=1e-3)
    assert found.shear_modulus_vrh == pytest.approx(straight.shear_modulus_vrh, rel=1e-3)
    assert found.C[0, 0] - straight.C[0, 0] > 10.0
    assert "poisson_ratio_100" not in found.quantities("EMT")


def test_scan_finds_the_plateau():
    scan = strain_scan(bulk("Cu"), EMT(), deltas=(5e-3, 1e-3, 1e-4, 2e-2))
    assert scan.deltas.tolist() == [1e-4, 1e-3, 5e-3, 2e-2]
    assert scan.plateau == 1
    assert scan.spread < 0.2
    assert abs(scan.results[-1].C[0, 0] - scan.results[1].C[0, 0]) > 0.5


def test_averages_of_an_isotropic_tensor_are_exact():
    bulk_modulus, shear = 160.0, 80.0
    C = np.zeros((6, 6))
    C[:3, :3] = bulk_modulus - 2 * shear / 3
    C[range(3), range(3)] += 2 * shear
    C[range(3, 6), range(3, 6)] = shear
    found = average_moduli(C)
    assert found.bulk == pytest.approx(bulk_modulus)
    assert found.shear == pytest.approx(shear)
    assert found.youngs == pytest.approx(9 * 160 * 80 / (3 * 160 + 80))
    assert found.poisson == pytest.approx((3 * 160 - 160) / (2 * (3 * 160 + 80)))
    assert found.born_stable
    C[3, 3] = -1.0
    assert not average_moduli(C).born_stable


def test_both_poisson_ratios_are_named():
    found = elastic_tensor(bulk("Cu"), EMT()).quantities("EMT")
    c11, c12 = found["C11"].value, found["C12"].value
    assert found["poisson_ratio_100"].value == pytest.approx(c12 / (c11 + c12))
    assert found["poisson_ratio_vrh"].value == pytest.approx(0.3147, abs=1e-3)
    assert list(found) == [
        "C11",
        "C12",
        "C44",
        "bulk_modulus_vrh",
        "shear_modulus_vrh",
        "youngs_modulus_vrh",
        "poisson_ratio_vrh",
        "poisson_ratio_100",
    ]
    assert all(
        q.unit == ("1" if name.startswith("poisson") else "GPa") for name, q in found.items()
    )


@pytest.mark.parametrize(
    "bad", [{"ions": "frozen"}, {"symmetry": "round"}, {"delta": 0.1}, {"n_steps": 2}]
)
def test_senseless_settings_are_refused(bad):
    with pytest.raises(StructureError):
        elastic_tensor(bulk("Cu"), EMT(), **bad)


def test_layers_are_refused():
    layer = bulk("Cu")
    layer.pbc = [True, True, False]
    with pytest.raises(StructureError, match="three directions"):
        elastic_tensor(layer, EMT())


def test_no_cell_is_evaluated_twice():
    seen = []

    class Watched(EMT):
        def calculate(self, atoms=None, *args, **kwargs):
            seen.append(atoms.cell.array.tobytes())
            super().calculate(atoms, *args, **kwargs)

    elastic_tensor(bulk("Cu"), Watched(), ions="clamped", relax_cell=False)
    # Five strains of seven patterns, of which one is none at all, and the residual stress of that.
    assert len(set(seen)) == 7 * 4 + 1
    assert len(seen) == len(set(seen)) + 1
    seen.clear()
    relaxed = elastic_tensor(bulk("Cu"), Watched(), ions="clamped").atoms.cell.array.tobytes()
    assert seen.count(relaxed) == 2  # by the last step of the relaxation, and among the strained
