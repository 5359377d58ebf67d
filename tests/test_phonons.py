"""Phonons against lattices whose frequencies are known, and the laws that all crystals obey."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from harmonic_crystals import THZ, ForceConstants, Springs, spring_frequencies

from properties import (
    CalculatorError,
    PropertyError,
    StructureError,
    compare,
    phonon_bands,
)

A = 2.5
CU, AU = 63.546, 196.966569
GRID = Atoms("Cu", cell=[A] * 3, pbc=True)
LAYER = Atoms("Cu", cell=[A, A, 12.0], pbc=(True, True, False))
CHAIN = Atoms("CuAu", [(0, 0, 0), (A, 0, 0)], cell=[2 * A, A, A], pbc=True)
FEW = {"points": 7, "mesh": (4, 4, 4)}


def springs(**more):
    return Springs(2.0, 0.7, A, **more)


@functools.cache
def emt(symbol, n, structure="fcc", **more):
    return phonon_bands(bulk(symbol, structure), EMT(), supercell=(n, n, n), **(FEW | more))


@pytest.mark.parametrize("distance", [0.001, 0.05])
def test_simple_cubic_grid_is_exact(distance):
    found = phonon_bands(GRID, springs(), supercell=(3, 3, 3), distance=distance, points=21)
    expected = spring_frequencies(found.path.q, 2.0, 0.7, CU)
    assert found.frequencies == pytest.approx(expected, abs=2e-6)
    assert [label for _, label in found.path.ticks] == ["G", "X", "M", "G", "R", "X|M", "R"]
    assert found.dimension == 3
    assert found.n_imaginary == 0
    assert found.at("R") == pytest.approx(2 * np.sqrt((2.0 + 2 * 0.7) / CU) * THZ, abs=2e-6)


def test_chain_obeys_the_textbook_formula():
    """w = 2 sqrt(k/m) |sin(q a / 2)| for each stiffness along the direction of the chain."""
    found = phonon_bands(GRID, springs(), supercell=(3, 3, 3), path="GX", points=30)
    q = found.path.distance
    sine = np.abs(np.sin(np.pi * q * A))
    assert q[-1] == pytest.approx(1 / (2 * A))
    assert found.frequencies[:, 2] == pytest.approx(2 * np.sqrt(2.0 / CU) * sine * THZ, abs=2e-6)
    for branch in (0, 1):
        transverse = 2 * np.sqrt(0.7 / CU) * sine * THZ
        assert found.frequencies[:, branch] == pytest.approx(transverse, abs=2e-6)


def test_diatomic_chain_and_its_modes_at_gamma():
    along = {"path": "GA", "special_points": {"A": (0.5, 0.0, 0.0)}, "points": 20}
    found = phonon_bands(CHAIN, springs(), supercell=(2, 3, 3), relax_cell=False, **along)
    q = found.path.q[:, 0]
    inverse, root = 1 / CU + 1 / AU, 4 * np.sin(np.pi * q) ** 2 / (CU * AU)
    split = np.sqrt(inverse**2 - root)
    both = [np.sqrt(k * (inverse + s * split)) for k in (2.0, 0.7, 0.7) for s in (-1, 1)]
    assert found.frequencies == pytest.approx(np.sort(np.array(both).T) * THZ, abs=2e-6)
    # Atoms against each other along the chain, and across it in two ways.
    assert found.gamma_modes == {
        "Eu": pytest.approx(np.sqrt(2 * 0.7 * inverse) * THZ),
        "A2u": pytest.approx(np.sqrt(2 * 2.0 * inverse) * THZ),
    }
    numbers = found.quantities("springs")
    assert numbers["frequency_Gamma_Eu"].value == found.gamma_modes["Eu"]
    assert numbers["frequency_Gamma_A2u"].unit == "THz"


def test_layer_is_exact_and_stays_in_its_plane():
    found = phonon_bands(LAYER, springs(), supercell=(3, 3, 1), points=21)
    assert found.dimension == 2
    assert found.states.mesh[2] == 1
    assert (found.path.q[:, 2] == 0).all()
    expected = spring_frequencies(found.path.q, 2.0, 0.7, CU, directions=2)
    assert found.frequencies == pytest.approx(expected, abs=2e-6)
    periodic = LAYER.copy()
    periodic.pbc = True
    same = phonon_bands(periodic, springs(), supercell=(3, 3, 1), points=21, dimension=2)
    assert same.frequencies == pytest.approx(found.frequencies, abs=1e-6)


def test_net_force_shows_raw_and_is_subtracted():
    """A constant push acts like a spring of push over distance on a single displaced atom."""
    settings = {"supercell": (3, 3, 1), "relax_cell": False, **FEW, "mesh": (4, 4, 1)}
    found = phonon_bands(LAYER, springs(push=0.02), **settings)
    clean = phonon_bands(LAYER, springs(), **settings)
    assert np.abs(found.acoustic.raw).max() > 1.0
    assert found.acoustic.subtracted == pytest.approx(0.0, abs=1e-5)
    assert found.acoustic.corrected == pytest.approx(0.0, abs=1e-5)
    assert found.frequencies == pytest.approx(clean.frequencies, abs=1e-5)
    assert found.residual_force == pytest.approx(0.02)
    numbers = found.quantities("springs")
    assert abs(numbers["acoustic_raw"].value) == np.abs(found.acoustic.raw).max()
    assert abs(numbers["acoustic_corrected"].value) < 1e-5
    kept = phonon_bands(LAYER, springs(push=0.02), subtract_residual=False, **settings)
    assert kept.acoustic.raw == pytest.approx(found.acoustic.raw)
    assert kept.acoustic.subtracted is None
    pairs = phonon_bands(
        LAYER, springs(push=0.02), subtract_residual=False, plus_minus=True, **settings
    )
    assert pairs.n_displacements > kept.n_displacements
    assert pairs.acoustic.raw == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("symbol", ["Cu", "Al"])
def test_emt_metals_are_stable_with_three_acoustic_modes(symbol):
    found = emt(symbol, 4)
    assert found.n_displacements == 1
    assert found.n_imaginary == 0
    assert found.lowest_frequency > -1e-4
    assert found.at("G") == pytest.approx(0.0, abs=1e-4)
    away = np.linalg.norm(found.path.q - np.round(found.path.q), axis=1) > 0.1
    assert found.frequencies[away].min() > 0.5
    assert np.abs(found.acoustic.raw).max() < 1e-2
    assert found.gamma_modes == {}


def test_emt_converges_with_the_supercell():
    changes = [
        np.abs(emt("Cu", n + 1).frequencies - emt("Cu", n).frequencies).max() for n in (2, 3, 4)
    ]
    assert changes[0] > changes[1] > changes[2]
    assert changes[2] < 0.1


def test_slopes_at_gamma_are_those_of_the_elastic_constants():
    """Along [100] rho v^2 is C11 (longitudinal) and C44 (transverse), here those of EMT."""
    found = emt("Cu", 5, points=41, path="GX")
    density = 4 * CU * units._amu / (found.atoms.get_volume() * 4 * 1e-30)
    speeds = found.frequencies[2] / found.path.distance[2] * 100.0  # THz A to m/s
    elastic = density * speeds**2 / 1e9
    assert elastic[2] == pytest.approx(172.59, rel=0.02)
    assert elastic[:2] == pytest.approx([89.90] * 2, rel=0.02)


def test_relaxed_cells_keep_their_symmetry():
    start = bulk("Cu", "hcp", a=2.56, c=4.17)
    start.rattle(2e-4, seed=1)
    found = phonon_bands(start, EMT(), supercell=(3, 3, 2), **FEW)
    assert found.n_displacements == 1
    assert found.phonon.symmetry.dataset.number == 194
    # Which of the two in-plane axes is called the first decides between B1g and B2g.
    assert set(found.gamma_modes) in ({"E2g", "B1g"}, {"E2g", "B2g"})
    lengths = found.atoms.cell.lengths()
    assert lengths[0] == pytest.approx(lengths[1], abs=1e-9)
    assert found.residual_force < 1e-3
    assert start.calc is None


def test_masses_set_by_hand_are_used():
    heavy = GRID.copy()
    heavy.set_masses([4 * CU])
    light = phonon_bands(GRID, springs(), supercell=(3, 3, 3), **FEW)
    found = phonon_bands(heavy, springs(), supercell=(3, 3, 3), **FEW)
    assert found.frequencies == pytest.approx(0.5 * light.frequencies, abs=1e-5)
    assert found.atoms.get_masses() == pytest.approx([4 * CU])


def test_unstable_lattice_is_reported():
    unstable = Springs(2.0, -0.1, A)
    found = phonon_bands(GRID, unstable, supercell=(3, 3, 3), relax_cell=False, **FEW)
    ticks = np.arange(4) / 4
    q = np.array(np.meshgrid(ticks, ticks, ticks)).reshape(3, -1).T
    exact = spring_frequencies(q, 2.0, -0.1, CU)
    assert found.thermal.n_left_out == (exact < -1e-3).sum() > 0
    assert found.thermal.n_modes == exact.size
    expected = spring_frequencies(found.path.q, 2.0, -0.1, CU)
    assert found.lowest_frequency == pytest.approx(min(expected.min(), exact.min()), abs=1e-5)
    assert found.n_imaginary >= (expected < -0.15).sum() > 0


def test_bands_of_another_lattice_constant_are_compared_at_the_same_q():
    other = Atoms("Cu", cell=[1.03 * A] * 3, pbc=True)
    settings = {"supercell": (3, 3, 3), **FEW}
    reference = phonon_bands(GRID, springs(), **settings)
    found = phonon_bands(other, Springs(1.21 * 2.0, 1.21 * 0.7, 1.03 * A), **settings)
    assert found.path.distance[-1] == pytest.approx(reference.path.distance[-1] / 1.03)
    comparison = compare(
        found.quantities("scaled"), {"phonon_bands": reference.quantities("exact")["phonon_bands"]}
    )["phonon_bands"]
    assert comparison.value == pytest.approx(1.1 * np.asarray(comparison.reference), abs=1e-5)
    assert comparison.rmse == pytest.approx(0.1 * np.sqrt(np.mean(reference.frequencies**2)))


def test_progress_and_batches():
    class Batched(Springs):
        calls = 0

        def evaluate_batch(self, configurations):
            type(self).calls += 1
            found = []
            for atoms in configurations:
                self.calculate(atoms)
                found.append(dict(self.results))
            return found

    steps = []
    batched = Batched(2.0, 0.7, A)
    found = phonon_bands(
        GRID,
        batched,
        supercell=(3, 3, 3),
        progress=lambda done, total: steps.append((done, total)),
        **FEW,
    )
    assert Batched.calls == 1
    assert steps[-1] == (3, 3)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert found.frequencies == pytest.approx(
        phonon_bands(GRID, springs(), supercell=(3, 3, 3), **FEW).frequencies, abs=1e-6
    )


def gapped():
    layer = LAYER.copy()
    layer.pbc = True
    return layer


def tilted():
    layer = LAYER.copy()
    layer.set_cell([[A, 0, 0], [0, A, 0], [1, 0, 12]])
    return layer


def off_site():
    chain = CHAIN.copy()
    chain.positions[1, 0] += 0.05
    return chain


@pytest.mark.parametrize(
    ("atoms", "settings", "message"),
    [
        (bulk("Cu", cubic=True), {}, "holds 4 primitive cells"),
        (gapped(), {}, "empty over 12.0 A; say dimension=2"),
        (LAYER, {"dimension": 3}, "periodic in three directions"),
        (LAYER, {"supercell": (2, 2, 2)}, "one cell along z"),
        (LAYER, {"supercell": [[2, 0, 0], [0, 2, 1], [0, 0, 1]]}, "one cell along z"),
        (LAYER, {"supercell": (2, 2, 1), "mesh": (4, 4, 2)}, "one division along z"),
        (LAYER, {"supercell": (2, 2, 1), "mesh": (4, 4)}, "one division along z"),
        (tilted(), {"supercell": (2, 2, 1)}, "lies in the xy plane"),
        (GRID, {"dimension": 1}, "2 or 3"),
        (GRID, {"supercell": (2, 2)}, "three integers"),
        (GRID, {"supercell": (2.0, 2.0, 2.5)}, "three integers"),
        (GRID, {"supercell": (2, 2, 0)}, "no volume"),
        (GRID, {"distance": 0.5}, "between 0 and 0.2"),
        (GRID, {"path": "GQ"}, "it has Q"),
        (GRID, {"mesh": (4, 4)}, "three divisions"),
        (GRID, {"temperatures": [-1.0]}, "not negative"),
        (GRID, {"sigma": 0.0}, "must be positive"),
        (off_site(), {}, "above residual_limit"),
    ],
)
def test_senseless_input_is_refused(atoms, settings, message):
    with pytest.raises(StructureError, match=message):
        phonon_bands(atoms, springs(), **({"supercell": (2, 2, 2), "relax_cell": False} | settings))


def test_relaxation_needs_stress():
    calc = ForceConstants(GRID * (2, 2, 2), np.zeros((8, 8, 3, 3)))
    with pytest.raises(CalculatorError, match="does not provide"):
        phonon_bands(GRID, calc, supercell=(2, 2, 2))


def test_unknown_label_is_refused():
    found = phonon_bands(GRID, springs(), supercell=(2, 2, 2), **FEW)
    with pytest.raises(PropertyError, match="it has G, X, M, R"):
        found.at("Z")
