"""Faults of single frames and of sets are found and named; clean frames raise nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from labelled_frames import (
    REAL_FILES,
    clean,
    labelled,
    moved,
    planted,
    real,
    real_data,
    shuffled,
    slab,
    zero_rows,
)

from ase_finetune.data.checks import check_frames
from ase_finetune.data.duplicates import shared_frames
from ase_finetune.data.splits import Splits
from ase_finetune.errors import DataError


def first(frames: tuple[Atoms, ...], fault: Callable[[Atoms], None], index: int = 2) -> list[Atoms]:
    copies = [deepcopy(frame) for frame in frames]
    fault(copies[index])
    return copies


SINGLE_FAULTS = {
    "energy missing": (lambda a: a.info.pop("REF_energy"), "1 of 12 .*first: 2.* no energy"),
    "forces missing": (lambda a: a.arrays.pop("REF_forces"), "1 of 12 .*first: 2.* no forces"),
    "stress missing": (lambda a: a.info.pop("REF_stress"), "1 of 12 .*first: 2.* have none"),
    "stress shape": (
        lambda a: a.info.update(REF_stress=np.eye(3)),
        "stress of frame 2 .* give six numbers",
    ),
    "energy NaN": (lambda a: a.info.update(REF_energy=np.nan), "energy of frame 2 .*not finite"),
    "forces inf": (
        lambda a: a.arrays["REF_forces"].__setitem__((1, 1), np.inf),
        "forces of frame 2 .*not finite",
    ),
    "stress NaN": (
        lambda a: a.info["REF_stress"].__setitem__(4, np.nan),
        "stress of frame 2 .*not finite",
    ),
    "positions NaN": (
        lambda a: a.positions.__setitem__((0, 0), np.nan),
        "positions of frame 2 .*not finite",
    ),
    "overlap": (
        lambda a: a.positions.__setitem__(1, a.positions[0] + 0.4),
        r"Atoms 0 \(Cu\) and 1 \(Cu\) of frame 2 .*overlap \(0\.69 A",
    ),
    "overlap through the wall": (
        lambda a: a.positions.__setitem__(1, a.positions[0] + a.cell[2] + [0.3, 0, 0]),
        r"Atoms 0 .* overlap \(0\.30 A",
    ),
    "open": (lambda a: a.set_pbc([True, True, False]), "not periodic in all directions"),
    "flat cell": (lambda a: a.set_cell([3.6, 3.6, 0]), "length zero|no volume"),
}


@pytest.mark.faults
@pytest.mark.parametrize("fault", SINGLE_FAULTS)
def test_faults_of_one_frame(fault):
    change, words = SINGLE_FAULTS[fault]
    with pytest.raises(DataError, match=words) as error:
        check_frames(first(clean("strained"), change), stress=True, name="train")
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert "train" in message


def test_empty_sets():
    with pytest.raises(DataError, match="The data set is empty"):
        check_frames([], stress=False)
    frames = list(clean("strained"))
    with pytest.raises(DataError, match="The valid set is empty"):
        Splits(frames, []).check(stress=False)
    with pytest.raises(DataError, match="The test_ood set is empty"):
        Splits(frames[:9], frames[9:], {"test_ood": []}).check(stress=False)


def test_keys_that_look_alike_are_named():
    def rename(frame: Atoms) -> None:
        frame.info["dft_stress"] = frame.info.pop("REF_stress")

    with pytest.raises(DataError, match=r"name its key \(dft_stress\) with --stress-key"):
        check_frames(planted(clean("strained"), rename), stress=True)


def test_elements_that_the_foundation_lacks():
    check_frames(clean("alloys"), stress=False, elements=[29, 79])
    with pytest.raises(DataError, match=r"The foundation lacks Au, .* \(it has Cu, Mo\)"):
        check_frames(clean("alloys"), stress=False, elements=[42, 29])


def test_isolated_atoms_need_no_stress():
    atom = Atoms("Cu", info={"REF_energy": 0.0, "config_type": "IsolatedAtom"})
    atom.arrays["REF_forces"] = np.zeros((1, 3))
    boxed = atom.copy()
    boxed.set_cell([12, 12, 12])
    boxed.pbc = True
    check_frames([atom, boxed, *clean("strained")], stress=True)


@pytest.mark.faults
@pytest.mark.parametrize("constrained", [True, False])
def test_forces_zeroed_by_constraints(constrained):
    def fault(frame: Atoms) -> None:
        zero_rows([0, 1, 2, 3])(frame)
        if constrained:
            frame.set_constraint(FixAtoms([0, 1, 2, 3]))

    with pytest.raises(
        DataError,
        match=r"120 .* 20 frames .*get_forces\(apply_constraint=False\)|"
        r"80 .* 20 frames .*get_forces\(apply_constraint=False\)",
    ):
        check_frames(planted(clean("slab"), fault), stress=False)


def test_constraints_without_zeroed_forces_are_fine():
    check_frames(planted(clean("slab"), lambda a: a.set_constraint(FixAtoms([0, 1]))), stress=False)


def test_forces_that_symmetry_zeroes_are_fine():
    symmetric = labelled(slab())
    symmetric.arrays["REF_forces"][4:8] = 0.0  # the middle of three layers
    assert np.abs(symmetric.arrays["REF_forces"][:4]).max() > 0.02
    check_frames([symmetric], stress=False)
    symmetric.arrays["REF_forces"][:4] = 0.0
    with pytest.raises(DataError, match="exactly zero"):
        check_frames([symmetric], stress=False)


def _wrapped(frame: Atoms) -> Atoms:
    out = frame.copy()
    out.positions += np.random.default_rng(0).integers(-2, 3, (len(frame), 3)) @ out.cell.array
    return out


def _turned(frame: Atoms) -> Atoms:
    out = frame.copy()
    out.rotate(40, (1, 2, 3))
    out.translate([1, 2, 3])
    return shuffled(out)


EQUAL = {
    "itself": lambda a: a.copy(),
    "other order": shuffled,
    "last digits": lambda a: moved(a, 1e-6),
}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "same"),
    [
        *((n, s) for n in ("dynamics", "alloys", "molecule", "open slab") for s in EQUAL.values()),
        ("dynamics", _wrapped),
        ("alloys", _wrapped),
        ("molecule", _turned),
    ],
)
def test_shared_frames_are_found(name, same):
    frames = list(clean(name))
    train, test = frames[:20], [*frames[20:], same(frames[7])]
    assert shared_frames(train, test) == [(7, len(test) - 1)]
    splits = Splits(train[:15], train[15:], {"test_id": test})
    with pytest.raises(
        DataError, match="test_id set are in the train set too, the first being frame"
    ):
        splits.check(stress=False)


@pytest.mark.parametrize("name", ["dynamics", "alloys", "molecule", "phonons", "curve", "scan"])
def test_different_frames_are_not_shared(name):
    frames = clean(name)
    half = len(frames) // 2
    assert shared_frames(frames[:half], frames[half:]) == []
    assert shared_frames(frames, [moved(f, 0.01) for f in frames]) == []


def test_stress_may_be_missing_in_a_test_set():
    frames = list(clean("strained"))
    for frame in (bare := [f.copy() for f in frames[9:]]):
        del frame.info["REF_stress"]
    Splits(frames[:7], frames[7:9], {"test_id": bare}).check(stress=True)


def test_checks_are_fast():
    frames = []
    for index in range(500):
        atoms = bulk("Cu", cubic=True) * (2, 2, 4)
        atoms.rattle(0.1, seed=index)
        atoms.info.update(REF_energy=float(index), REF_stress=np.zeros(6))
        atoms.arrays["REF_forces"] = np.ones((64, 3))
        frames.append(atoms)
    start = time.process_time()
    Splits(frames[:400], frames[400:450], {"test": frames[450:]}).check(stress=True, elements=[29])
    assert time.process_time() - start < 4.0  # 1 s here; the margin is for a busy machine


@real_data
def test_real_splits_pass():
    acac = [real(name) for name in REAL_FILES[2:5]]
    Splits(
        list(acac[0][:450]), list(acac[0][450:]), {"a": list(acac[1]), "b": list(acac[2])}
    ).check(stress=False)
    train, test = real(REAL_FILES[0]), real(REAL_FILES[1])
    Splits(list(train[:170]), list(train[170:]), {"test": list(test)}).check(stress=True)


@real_data
@pytest.mark.faults
@pytest.mark.parametrize("name", REAL_FILES)
def test_real_zeroed_forces(name):
    with pytest.raises(DataError, match="exactly zero"):
        check_frames(
            planted(real(name), zero_rows([0, 1]) if "acac_train" not in name else _hold),
            stress=False,
        )


def _hold(frame: Atoms) -> None:
    frame.arrays["REF_forces"][: len(frame) // 3] = 0.0


@real_data
@pytest.mark.faults
def test_real_frame_in_two_sets():
    train, test = list(real(REAL_FILES[2])), list(real(REAL_FILES[3]))
    test[100] = _turned(train[50])
    with pytest.raises(DataError, match=r"1 of 650 .* frame 100 .* which is frame 50"):
        Splits(train[:400], train[400:], {"test": test}).check(stress=False)
