"""The calculator's neighbor lists: what a search finds, in one order, whatever came before."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Iterator

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule
from ase.neighborlist import neighbor_list
from mace_kinds import random_mace

from ase_finetune import Checkpoint, FineTunedCalculator
from ase_finetune.architecture import DTYPES
from ase_finetune.graphs import build_graph
from ase_finetune.neighbors import VerletList, bounding_cell
from ase_finetune.neighbors import pairs as search

R_MAX = 4.0


def crystal() -> Atoms:
    atoms = bulk("Mo", cubic=True) * 2
    atoms.rattle(0.05, seed=1)
    return atoms


def sheet() -> Atoms:
    atoms = graphene(size=(2, 2, 1), vacuum=4.0)
    atoms.pbc = (True, True, False)
    atoms.rattle(0.05, seed=1)
    return atoms


SYSTEMS = {"crystal": crystal, "sheet": sheet, "molecule": lambda: molecule("CH3CH2OH")}


def walk(start: Atoms, steps: int, size: float) -> Iterator[Atoms]:
    """Wander about with a drift; now and then strain, rotate, and wrap into the cell."""
    rng = np.random.default_rng(7)
    atoms = start.copy()
    for step in range(steps):
        atoms.positions += rng.normal(0.0, size, atoms.positions.shape) + 0.1
        if step % 7 == 3 and atoms.cell.rank == 3:
            strain = np.eye(3) + rng.uniform(-0.01, 0.01, (3, 3))
            atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        if step % 11 == 5:
            atoms.rotate(2.0, (1, 2, 3), rotate_cell=True)
        if step % 17 == 9:
            atoms.wrap()
        yield atoms.copy()


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_pair_of_a_full_search_is_there_and_no_other(name):
    neighbors = VerletList(R_MAX)
    for atoms in walk(SYSTEMS[name](), 60, 0.03):
        found = neighbors(atoms)
        ours = np.column_stack((*found.edge_index, found.unit_shifts))
        theirs = np.column_stack(neighbor_list("ijS", atoms, R_MAX))
        assert len(ours) > len(atoms)
        np.testing.assert_array_equal(ours, ours[np.lexsort(ours.T[::-1])])
        np.testing.assert_array_equal(ours, theirs[np.lexsort(theirs.T[::-1])])


def cluster(distance: float, pbc: tuple[bool, bool, bool]) -> Atoms:
    """Two clouds of atoms that are far apart along every open direction, and atoms on their own."""
    rng = np.random.default_rng(3)
    cell = np.diag(np.where(pbc, 9.0, 0.0)) + np.where(pbc, 0.4, 0.0)[:, None]
    positions = rng.uniform(-4.0, 4.0, (30, 3))
    positions[12:24] += distance * ~np.array(pbc) * (1.0, -0.7, 0.3)
    positions[24:] += distance * ~np.array(pbc) * rng.normal(size=(6, 3))
    return Atoms("H30", positions, cell=cell, pbc=pbc)


@pytest.mark.filterwarnings("error:Ratio of simulation cell")  # which ends in a lack of memory
@pytest.mark.parametrize("distance", [0.0, 60.0, 3e3, 1e4, 1e7])
@pytest.mark.parametrize("pbc", [(False,) * 3, (True, False, False), (True, False, True)])
def test_atoms_may_be_any_distance_apart(distance, pbc):
    atoms = cluster(distance, pbc)
    images = [np.arange(-2, 3) if periodic else (0,) for periodic in pbc]
    expected = []
    for shift in itertools.product(*images):
        ends = atoms.positions + np.array(shift) @ atoms.cell.array
        apart = np.linalg.norm(ends[None] - atoms.positions[:, None], axis=2)
        found = np.argwhere(apart < R_MAX)
        expected += [(*pair, *shift) for pair in found if any(shift) or pair[0] != pair[1]]
    near = search(atoms, R_MAX).ordered()
    assert len(expected) > 30
    np.testing.assert_array_equal(
        np.column_stack((*near.edge_index, near.unit_shifts)), sorted(expected)
    )


def test_the_box_of_ordinary_systems_is_as_it_was():
    """Its length decides the order in which pairs are found, and so the last bits of results."""
    for make in SYSTEMS.values():
        atoms = make()
        extent = np.ptp(atoms.positions, axis=0).max()
        lengths = np.linalg.norm(bounding_cell(atoms, R_MAX), axis=1)
        np.testing.assert_array_equal(lengths[~atoms.pbc], 2.0 * (extent + R_MAX) + 10.0)


def test_a_trajectory_is_searched_seldom_and_a_strained_cell_only_twice():
    neighbors = VerletList(R_MAX)
    atoms = crystal()
    for _ in range(50):
        atoms.positions += 0.1  # all together
        atoms.positions[3] += 0.006
        neighbors(atoms)
    assert neighbors.searches == 3
    neighbors = VerletList(R_MAX)
    for strain in np.linspace(0.02, -0.02, 11):
        strained = crystal()
        strained.set_cell(strained.cell.array * (1.0 + strain), scale_atoms=True)
        neighbors(strained)
    assert neighbors.searches == 2


def test_unrelated_configurations_are_searched_no_further_than_the_cutoff(monkeypatch):
    import ase_finetune.neighbors as module

    reached, pairs = [], module.pairs
    monkeypatch.setattr(module, "pairs", lambda a, r: (reached.append(r), pairs(a, r))[1])
    neighbors = VerletList(R_MAX)
    for make in (crystal, sheet, crystal, SYSTEMS["molecule"], sheet):
        neighbors(make())
    np.testing.assert_allclose(reached, R_MAX, atol=1e-5)
    assert len(reached) == 5


def test_a_pair_that_crosses_the_cutoff_within_the_skin_counts():
    neighbors = VerletList(R_MAX)
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, R_MAX + 0.1]])
    assert neighbors(atoms).edge_index.shape[1] == 0
    for z, pairs in ((R_MAX + 0.05, 0), (R_MAX - 0.01, 2), (R_MAX + 0.01, 0), (R_MAX - 0.2, 2)):
        atoms.positions[1, 2] = z
        assert neighbors(atoms).edge_index.shape[1] == pairs
    assert neighbors.searches == 2


@pytest.fixture(scope="module")
def calc() -> FineTunedCalculator:
    module = random_mace("OFF", [1, 6, 8, 42])
    E0s = {1: -13.5, 6: -1000.0, 8: -430.0, 42: -4.25}
    return FineTunedCalculator(Checkpoint.from_module(module, E0s, stage="t", foundation={}))


@pytest.mark.parametrize("name", SYSTEMS)
def test_results_are_the_same_bits_whatever_was_calculated_before(calc, name):
    frames = list(walk(SYSTEMS[name](), 12, 0.03))
    after = [calc.evaluate_batch([atoms])[0] for atoms in frames]
    for atoms, found in zip(frames, after, strict=True):
        fresh = copy.deepcopy(calc).evaluate_batch([atoms])[0]
        assert fresh.keys() == found.keys()
        for key, values in fresh.items():
            np.testing.assert_array_equal(values, found[key])


def far_away(atoms: Atoms) -> Atoms:
    """Move all atoms far from the origin, and each by cell vectors of its own."""
    moved = atoms.copy()
    crossed = np.random.default_rng(2).integers(-300, 300, (len(atoms), 3)) * atoms.pbc
    moved.positions += crossed @ atoms.cell.array + (1e4, -5e3, 3e3)
    return moved


@pytest.mark.parametrize("name", SYSTEMS)
def test_float32_keeps_its_digits_far_from_the_origin(calc, name):
    low = FineTunedCalculator(calc.checkpoint, dtype="float32")
    atoms = SYSTEMS[name]()
    atoms.positions += 1.7  # so that no atom rests on a face of the cell
    for configuration in (atoms, far_away(atoms)):
        exact, rounded = (c.evaluate_batch([configuration])[0] for c in (calc, low))
        largest = np.abs(exact["forces"]).max()
        assert np.abs(rounded["forces"] - exact["forces"]).max() < 1e-5 * largest
        if name == "crystal":
            np.testing.assert_allclose(rounded["stress"], exact["stress"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", SYSTEMS)
def test_only_float32_frames_with_large_coordinates_are_moved(name):
    near = SYSTEMS[name]()
    for atoms, dtype in ((near, "float32"), (near, "float64"), (far_away(near), "float64")):
        graph = build_graph(atoms, [1, 6, 8, 42], R_MAX, dtype=DTYPES[dtype])
        np.testing.assert_array_equal(graph.positions, atoms.positions.astype(dtype))
        np.testing.assert_array_equal(graph.unit_shifts, search(atoms, R_MAX).unit_shifts)
    graph = build_graph(far_away(near), [1, 6, 8, 42], R_MAX, dtype=DTYPES["float32"])
    assert graph.positions.abs().max() < 10.0


def test_lists_are_not_pickled_nor_shared_by_copies(calc):
    calc.evaluate_batch([crystal()])
    for twin in (copy.deepcopy(calc), pickle.loads(pickle.dumps(calc))):
        (neighbors,) = twin._neighbors.values()
        assert neighbors.searches == 0
        twin.evaluate_batch([crystal()])
        assert neighbors.searches == 1
