"""Which frames are chosen to be labelled: against a plain reference, and by real potentials."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from mace_kinds import KINDS, random_mace
from scipy.spatial.transform import Rotation
from test_cli import call, refused

from ase_finetune import Checkpoint, FineTunedCalculator, Splits, TrainConfig, finetune
from ase_finetune.cli.selection import select
from ase_finetune.committee import (
    ABOVE,
    BELOW,
    COPIES,
    IMPOSSIBLE,
    KNOWN,
    LEAST,
    NO_FORCES,
    OVERLAPPING,
    atom_disagreement,
    select_frames,
)
from ase_finetune.environments import environments, nearest, scale_of
from ase_finetune.errors import ConfigError, DataError
from systems import get_system

NUMBERS = [1, 8, 42]


def checkpoint(kind: str = "OFF", scale: float = 1.0) -> Checkpoint:
    """Return random weights, those of the readouts times a number."""
    module = random_mace(kind, NUMBERS)
    E0s = {1: -13.5, 8: -430.0, 42: -4.25}
    found = Checkpoint.from_module(module, E0s, stage="finetuned", foundation={})
    tensors = {k: v * scale if "readouts" in k else v for k, v in found.tensors.items()}
    return found.replace(tensors=tensors)


@pytest.fixture(scope="module")
def committee() -> FineTunedCalculator:
    return FineTunedCalculator([checkpoint(), checkpoint(scale=1.1), checkpoint(scale=0.7)])


def pool(n: int = 9) -> list[Atoms]:
    """Water molecules and crystals, each farther from its minimum than the one before."""
    frames = []
    for i in range(n):
        atoms = molecule("H2O") if i % 3 else bulk("Mo", cubic=True)
        atoms.rattle(0.02 + 0.005 * i, seed=i)
        frames.append(atoms)
    return frames


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "multi-head"])
def test_environments_do_not_turn_with_the_atoms(kind):
    atoms = molecule("CH3CH2OH")
    atoms.numbers[atoms.numbers == 6] = 42
    turned = atoms.copy()
    turned.positions = Rotation.random(random_state=3).apply(atoms.positions) + 2.0
    order = np.random.default_rng(0).permutation(len(atoms))
    module = checkpoint(kind)
    one, other = environments(module, [atoms, turned[order]])
    assert one.shape == (len(atoms), 2 * 8)  # scalars of two layers
    np.testing.assert_allclose(other, one[order], atol=1e-5 * np.abs(one).max())
    assert np.abs(one[0] - one[1]).max() > 1e-3


def test_disagreement_is_that_of_the_members(committee):
    frames = pool()
    found = select_frames(frames, committee, 3)
    for i, atoms in enumerate(frames):
        forces = []
        for member in committee.checkpoints:
            atoms.calc = FineTunedCalculator(member)
            forces.append(atoms.get_forces())
            atoms.calc = None
        off = np.array(forces) - np.mean(forces, axis=0)
        expected = np.sqrt((off**2).sum(axis=2).mean(axis=0))
        assert found.disagreement[i] == pytest.approx(expected.max(), rel=1e-9)
        assert expected[found.atoms[i]] == pytest.approx(expected.max(), rel=1e-9)


def by_hand(frames, committee, count):
    """The rule of the docstring, atom by atom."""
    results = committee.evaluate_batch(frames)
    variance = [atom_disagreement(r["forces_var"]) ** 2 for r in results]
    rows = environments(committee.checkpoint, frames)
    atoms = [(f, i) for f, frame in enumerate(frames) for i in range(len(frame))]
    of = {a: frames[a[0]].numbers[a[1]] for a in atoms}

    def apart(a, b):
        return np.linalg.norm(rows[a[0]][a[1]].astype(float) - rows[b[0]][b[1]])

    width = {}
    for z in set(of.values()):
        mine = [a for a in atoms if of[a] == z]
        width[z] = np.sqrt(np.mean([apart(a, b) ** 2 for a in mine for b in mine]))
    chosen: list[int] = []
    for _ in range(count):
        wanted = []
        for f in range(len(frames)):
            left = []
            for a in (a for a in atoms if a[0] == f):
                remains = 1.0
                for b in atoms:
                    if b[0] in chosen and of[b] == of[a]:
                        k = np.exp(-(apart(a, b) ** 2) / (2 * width[of[a]] ** 2))
                        remains = min(remains, 1 - k**2)
                left.append(variance[a[0]][a[1]] * remains)
            wanted.append(-1.0 if f in chosen else max(left))
        chosen.append(int(np.argmax(wanted)))
    return tuple(chosen)


def test_frames_are_chosen_by_the_rule(committee):
    frames = pool()
    found = select_frames(frames, committee, 6)
    assert found.indices == by_hand(frames, committee, 6)
    assert found.indices != tuple(np.argsort(-found.disagreement)[:6])  # likeness counts


def test_the_order_of_the_pool_does_not_matter(committee):
    frames = pool()
    order = np.random.default_rng(1).permutation(len(frames))
    found = select_frames([frames[i] for i in order], committee, 4)
    assert tuple(order[list(found.indices)]) == select_frames(frames, committee, 4).indices


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_copies_are_taken_once(committee, dtype):
    first, other = pool()[-1], pool()[0]
    first.set_cell([9.0, 9.0, 9.0])
    first.pbc = True
    moved = first.copy()
    moved.translate([0.3, 0.1, 0.2])
    turned = first[[1, 0, 2]]
    turned.pbc = False
    turned.positions = Rotation.random(random_state=1).apply(turned.positions)
    members = FineTunedCalculator(committee.checkpoints, dtype=dtype)
    found = select_frames([first, other, moved, turned, first.copy()], members, 5)
    assert len(found.indices) == 2 and 1 in found.indices
    assert len(found.left_out[COPIES]) == 3
    assert np.isfinite(found.disagreement).all()


def test_the_scale_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    rows = np.where(np.arange(800)[:, None] % 2, 5.0, 0.0) + rng.normal(size=(800, 6))
    pairs = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    found = scale_of(rows.astype(np.float32))
    assert found.pairs == pytest.approx(pairs.mean(), rel=1e-5)
    alike = scale_of(np.ones((5, 6), dtype=np.float32))
    assert 0.0 < alike.rounding <= alike.pairs < 1e-8


def test_the_nearest_of_many_is_found():
    rng = np.random.default_rng(0)
    rows, others = (rng.normal(size=(n, 4)).astype(np.float32) for n in (20_011, 7))
    expected = ((rows[:, None] - others[None]).astype(np.float64) ** 2).sum(-1).min(axis=1)
    np.testing.assert_allclose(nearest(rows, others), expected, atol=1e-6)


def test_what_cannot_be_used_is_left_out_with_its_reason(committee):
    flat = Atoms("H2", [[0, 0, 0], [0.9, 0, 0]], cell=[[5, 0, 0], [0, 5, 0], [1, 1, 0]], pbc=True)
    frames = [*pool(6), Atoms(), flat, Atoms("H", cell=[9, 9, 0], pbc=True)]
    frames[0].positions[0, 0] = np.nan
    frames[1].positions[1] = frames[1].positions[0] + 0.1
    plain = select_frames(pool(6), committee, 6).disagreement
    low, high = np.sort(plain[3:])[[0, -1]]
    found = select_frames(
        [*frames, bulk("Mo")],
        committee,
        6,
        known=[bulk("Mo", cubic=True), frames[2].copy()],
        at_least=low * 1.01,
        at_most=high * 0.99,
    )
    assert {why: len(i) for why, i in found.left_out.items()} == {
        IMPOSSIBLE: 4, OVERLAPPING: 1, KNOWN: 1, BELOW: 2, ABOVE: 1,
    }  # fmt: skip
    assert found.left_out[IMPOSSIBLE] == (0, 6, 7, 8) and found.left_out[KNOWN] == (2,)
    assert np.isnan(found.disagreement[:3]).all() and (found.atoms[:3] == -1).all()
    assert len(found.indices) == 1


def test_a_crystal_without_forces_is_left_out(committee):
    crystals = [bulk("Mo", a=a) for a in (2.9, 3.1, 3.3)]
    found = select_frames([*crystals, pool()[3]], committee, 4)
    assert found.indices == (3,) and found.left_out == {BELOW: (0, 1, 2)}


def test_a_frame_without_finite_forces_does_not_end_the_work(committee):
    far = molecule("H2O")
    far.positions[:2] += [[1e40, 0, 0], [3e40, 0, 0]]
    members = FineTunedCalculator(committee.checkpoints, dtype="float32")
    found = select_frames([pool()[1], far, pool()[3]], members, 3)
    assert found.left_out == {NO_FORCES: (1,)} and set(found.indices) == {0, 2}


def test_what_remains_falls_along_the_list(committee):
    found = select_frames(pool(), committee, 6)
    assert found.remaining[0] == pytest.approx(found.disagreement[found.indices[0]])
    assert list(found.remaining) == sorted(found.remaining, reverse=True)
    assert all(
        left <= found.disagreement[i]
        for left, i in zip(found.remaining, found.indices, strict=True)
    )


def test_a_committee_is_of_different_potentials(committee):
    one, other = checkpoint(), checkpoint(scale=1.1)
    for members in ([one], [one, checkpoint()], [one, other, other]):
        with pytest.raises(ConfigError, match="two potentials or more, no two of them equal"):
            select_frames(pool(), FineTunedCalculator(members), 2)
    for settings, said in (
        ({"count": 0}, "count is 0"),
        ({"at_least": -1.0}, "at-least is -1"),
        ({"at_least": 0.0}, "at-least is 0"),
        ({"at_least": np.nan}, "at-least is nan"),
        ({"at_least": 2.0, "at_most": 1.0}, "at-most is 1; give more eV/A than at-least, 2"),
        ({"at_most": np.nan}, "at-most is nan"),
    ):
        with pytest.raises(ConfigError, match=said):
            select_frames(pool(), committee, **{"count": 2, **settings})
    with pytest.raises(DataError, match="pool is empty"):
        select_frames([], committee, 2)
    with pytest.raises(DataError, match="is Cu in frame 1 of the pool set, which not every"):
        select_frames([pool()[0], bulk("Cu")], committee, 2)
    broken = pool()[1]
    broken.positions[0] = np.nan
    with pytest.raises(DataError, match="frame 0 of the known set: The position 0"):
        select_frames(pool(), committee, 2, known=[broken])


def test_potentials_of_300_K_find_what_is_new_to_them():
    data = get_system("acetylacetone").frames()
    new = [a for a in data["test_ood"] if a.info["config_type"] == "torsion_hydroxyl"][::3]
    splits = Splits(data["train"][:28], data["valid"][:4])
    members = [
        finetune(
            splits,
            TrainConfig(optimizer=name, lr=lr, epochs=4, batch_size=2, default_dtype="float32"),
        )
        for name, lr in (("adamw", 3e-3), ("soap", 1e-2))
    ]
    frames = [*data["train"][34:64], *new]
    found = select_frames(frames, FineTunedCalculator(members), 4)
    assert len(new) == 4 and min(np.argsort(-found.disagreement)[:2]) >= 30, found
    assert found.indices[0] >= 30 and sum(i >= 30 for i in found.indices[:3]) == 2, found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two checkpoints and a pool whose frames have results of some calculator."""
    path = tmp_path_factory.mktemp("select")
    checkpoint().save(path / "a")
    checkpoint(scale=1.2).save(path / "b")
    frames = pool(6)
    for i, frame in enumerate(frames):
        frame.info.update(config_type="hot", energy_of_something=-3.0, REF_energy=1.0, charge=1)
        frame.set_initial_magnetic_moments(np.arange(len(frame)))
        forces = np.full((len(frame), 3), float(i))
        frame.calc = SinglePointCalculator(frame, energy=1.0 * i, forces=forces)
    write(path / "md.xyz", frames[:4])
    write(path / "more.traj", frames[4:])
    write(path / "known.xyz", pool(6)[5])
    return path


def test_the_command_writes_structures_without_labels(folder):
    out = folder / "chosen.xyz"
    done = call(
        "select", folder / "a", folder / "b", "--pool", folder / "md.xyz", "--pool",
        folder / "more.traj", "--known", folder / "known.xyz", "--count", 3, "--out", out,
        "--dtype", "float64",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Left out: 1 with labels already" in done.output
    assert "3 frames in" in done.output
    frames = pool(6)
    committee = FineTunedCalculator([checkpoint(), checkpoint(scale=1.2)])
    expected = select_frames(frames, committee, 3, known=[frames[5]])
    chosen = read(out, ":")
    assert len(chosen) == 3
    for atoms, i in zip(chosen, expected.indices, strict=True):
        np.testing.assert_allclose(atoms.positions, frames[i].positions, atol=1e-7)
        assert atoms.calc is None and set(atoms.arrays) == {
            "numbers",
            "positions",
            "initial_magmoms",
        }
        assert atoms.info["charge"] == 1 and atoms.get_initial_magnetic_moments()[-1] > 0
        where = f"md.xyz@{i}" if i < 4 else f"more.traj@{i - 4}"
        assert atoms.info["source"].endswith(where)
        assert set(atoms.info) == {
            "config_type", "charge", "source", "disagreement_eV_per_A",
        }  # fmt: skip
        assert atoms.info["disagreement_eV_per_A"] == pytest.approx(
            expected.disagreement[i], abs=1e-4
        )
    said = refused("select", folder / "a", folder / "b", "--pool", folder / "md.xyz", "--out", out)
    assert "exists" in said


def test_the_command_speaks_json(folder, tmp_path):
    done = call(
        "select", folder / "a", folder / "b", "--pool", folder / "md.xyz", "--count", 2,
        "--out", tmp_path / "chosen.xyz", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["pool"] == 4 and len(found["chosen"]) == 2 and found["unit"] == "eV/A"
    first = found["chosen"][0]
    frame = pool(6)[int(first["frame"].rpartition("@")[2])]
    assert frame.symbols[first["atom"]] == first["element"]
    assert found["quantiles"]["median"] < found["quantiles"]["largest"]
    assert len(found["disagreement"]) == 4
    done = call(
        "select", folder / "a", folder / "b", "--pool", folder / "md.xyz", "--every", 3,
        "--out", tmp_path / "few.xyz", "--json",
    )  # fmt: skip
    few = json.loads(done.stdout)
    assert few["pool"] == 2
    assert {row["frame"].rpartition("@")[2] for row in few["chosen"]} == {"0", "3"}


def test_the_command_says_what_is_wrong(folder, tmp_path):
    out = tmp_path / "none.xyz"

    def says(*options, members=("a", "b"), file=out):
        paths = [folder / name for name in members]
        return refused("select", *paths, "--pool", folder / "md.xyz", "--out", file, *options)

    said = says("--at-least", 1e6)
    assert "no frame to choose of 4: 4 with disagreement below at-least (the largest dis" in said
    assert "two potentials or more" in says(members=["a"])
    assert "two potentials or more" in says(members=["a", "b", "a"])
    assert "more.traj is a file, not a checkpoint folder" in says(members=["a", "b", "more.traj"])
    assert "--every is 0" in says("--every", 0)
    assert "count is 0" in says("--count", 0)
    assert "ends in .xyz" in says(file=tmp_path / "none.traj")
    assert "no folder" in says(file=tmp_path / "nowhere" / "none.xyz")
    assert list(tmp_path.iterdir()) == []


def test_the_command_and_the_function_have_one_least():
    assert inspect.signature(select).parameters["at_least"].default == LEAST


def test_fewer_frames_than_asked_for_are_told(folder, tmp_path):
    strange = tmp_path / "md [old].xyz"
    write(strange, [pool()[1]] * 3)
    done = call(
        "select", folder / "a", folder / "b", "--pool", strange, "--out", tmp_path / "one.xyz"
    )
    assert done.exit_code == 0, done.output
    assert "1 frames of 20 asked for" in done.output and "md [old].xyz@" in done.output
    assert "2 with environments that are all among the chosen ones" in done.output
