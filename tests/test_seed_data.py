"""What the bundled seed was trained on is not near a frame that it is later tested on."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from matscipy.neighbours import neighbour_list
from scipy.spatial import cKDTree

from systems import get_system, list_systems

LABELS = Path(__file__).parents[1] / "examples" / "pretrain_seed" / "data"
NEIGHBORS, CUTOFF = 20, 5.0
# A, root mean square over the distances to an atom's neighbors. Thermal motion at 300 K makes 0.05;
# the perfect crystals of an equation of state are near some frame by their nature, at 0.007.
NEAR = 0.005


def environments(atoms):
    """Sorted distances (N, NEIGHBORS) from each atom; absent neighbors stand at the cutoff."""
    boxed = atoms
    if not atoms.pbc.all():
        boxed = atoms.copy()
        boxed.center(vacuum=CUTOFF)
    i, d = neighbour_list("id", boxed, CUTOFF)
    order = np.lexsort((d, i))
    i, d = i[order], d[order]
    rank = np.arange(len(i)) - np.searchsorted(i, i)
    found = np.full((len(atoms), NEIGHBORS), CUTOFF)
    keep = rank < NEIGHBORS
    found[i[keep], rank[keep]] = d[keep]
    return found


def element_set(atoms):
    return tuple(sorted({int(z) for z in atoms.numbers}))


@pytest.fixture(scope="module")
def known():
    """Per set of elements: a tree of the environments of each element in the training frames."""
    collected = defaultdict(lambda: defaultdict(list))
    for path in sorted(LABELS.glob("*.extxyz.xz")):
        for atoms in read(path, ":", format="extxyz"):
            found = environments(atoms)
            for z in element_set(atoms):
                collected[element_set(atoms)][z].append(found[atoms.numbers == z])
    return {
        elements: {z: cKDTree(np.concatenate(rows)) for z, rows in by_element.items()}
        for elements, by_element in collected.items()
    }


def distance(atoms, trees):
    """RMS difference (A) to the nearest known environment, of the atom that is farthest."""
    found = environments(atoms)
    return max(
        float(tree.query(found[atoms.numbers == z])[0].max()) / NEIGHBORS**0.5
        for z, tree in trees.items()
    )


@pytest.mark.slow
@pytest.mark.parametrize("system", list_systems())
def test_no_test_frame_is_near_a_training_frame_of_the_seed(system, known):
    frames = get_system(system).frames()
    compared = 0
    for split in ("test_id", "test_ood"):
        for atoms in frames[split]:
            trees = known.get(element_set(atoms))
            if trees is not None:
                compared += 1
                assert distance(atoms, trees) > NEAR, (split, atoms.info["id"])
    # Systems that are growing have few test frames; none may slip through unseen.
    assert compared >= 0.8 * sum(len(frames[split]) for split in ("test_id", "test_ood"))


@pytest.mark.slow
def test_the_measure_finds_what_is_near(known):
    path = LABELS / "mo_vacancy-0.extxyz.xz"
    for atoms in read(path, ":5", format="extxyz"):
        assert distance(atoms, known[42,]) < 1e-6
        atoms.rattle(0.002, seed=1)
        assert distance(atoms, known[42,]) < NEAR
        atoms.rattle(0.05, seed=2)
        assert distance(atoms, known[42,]) > 2 * NEAR
