"""The HDF5 format: what goes in comes out, and what it cannot hold is refused."""

from __future__ import annotations

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from properties import Curve, Quantity
from systems import DataFileError
from systems.hdf5 import (
    FORMAT,
    Reference,
    file_attributes,
    iterate_frames,
    read_references,
    split_sizes,
    write_frames,
    write_references,
)


def labelled(i: int, split: str | None = "train") -> Atoms:
    """Copper cells of different sizes with EMT labels and provenance."""
    atoms = bulk("Cu", cubic=True) * (1, 1, 1 + i % 2)
    atoms.rattle(0.1, seed=i)
    atoms.calc = EMT()
    atoms.info = {
        "id": f"rattle_{i:02d}",
        "config_type": "rattle",
        "REF_energy": atoms.get_potential_energy(),
        "REF_stress": atoms.get_stress(),
        "code": "EMT",
        "cutoff_eV": 550.0,
    }
    if split is not None:
        atoms.info["split"] = split
    atoms.arrays["REF_forces"] = atoms.get_forces()
    atoms.calc = None
    return atoms


def assert_same(a: Atoms, b: Atoms) -> None:
    assert a.info.keys() == b.info.keys()
    for key, value in a.info.items():
        assert np.array_equal(value, b.info[key]), key
    for key in a.arrays:
        assert np.array_equal(a.arrays[key], b.arrays[key]), key
    assert np.array_equal(a.cell, b.cell)
    assert np.array_equal(a.pbc, b.pbc)
    assert a.calc is None and b.calc is None


def test_round_trip_through_ase_is_exact(tmp_path):
    path = tmp_path / "frames.h5"
    frames = [labelled(i, split) for i, split in enumerate(["train", "train", "valid", "train"])]
    frames[3].pbc = (True, True, False)
    ase.io.write(path, frames, format=FORMAT)
    back = ase.io.read(path, ":", format=FORMAT)
    # Splits are contiguous in the file; within a split the order is kept.
    for old, new in zip([frames[0], frames[1], frames[3], frames[2]], back, strict=True):
        assert_same(old, new)
    assert_same(ase.io.read(path, 1, format=FORMAT), frames[1])
    assert_same(ase.io.read(path, format=FORMAT), frames[2])
    assert split_sizes(path) == {"train": 3, "valid": 1}
    assert [a.info["id"] for a in iterate_frames(path, "valid")] == ["rattle_02"]


def test_frames_without_split_or_stress(tmp_path):
    path = tmp_path / "frames.h5"
    atoms = labelled(0, None)
    del atoms.info["REF_stress"]
    write_frames(path, [atoms, labelled(1, None)])
    first, second = iterate_frames(path)
    assert first.info["split"] == "all"
    assert "REF_stress" not in first.info
    assert "REF_stress" in second.info


def test_streaming_reads_nothing_ahead(tmp_path):
    path = tmp_path / "frames.h5"
    write_frames(path, [labelled(i) for i in range(4)])
    stream = iterate_frames(path)
    assert next(stream).info["id"] == "rattle_00"
    stream.close()


def spoil(kind: str) -> Atoms:
    atoms = labelled(0)
    if kind == "energy":
        del atoms.info["REF_energy"]
    elif kind == "forces":
        del atoms.arrays["REF_forces"]
    elif kind == "array":
        atoms.set_tags([1, 2, 3, 4])
    elif kind == "constraint":
        atoms.set_constraint(FixAtoms([0]))
    else:
        atoms.info["object"] = object()
    return atoms


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("energy", "no REF_energy"),
        ("forces", "no REF_forces"),
        ("array", "carries tags"),
        ("constraint", "carries constraints"),
        ("object", "JSON cannot hold"),
    ],
)
def test_what_has_no_place_is_refused(tmp_path, kind, message):
    with pytest.raises(DataFileError, match=message):
        write_frames(tmp_path / "frames.h5", [labelled(1), spoil(kind)])


def test_foreign_files_are_refused(tmp_path):
    with pytest.raises(DataFileError, match="no file"):
        list(iterate_frames(tmp_path / "absent.h5"))
    text = tmp_path / "text.h5"
    text.write_text("not HDF5")
    with pytest.raises(DataFileError, match="no readable HDF5"):
        list(iterate_frames(text))
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["x"] = 1.0
    with pytest.raises(DataFileError, match="not in the format"):
        list(iterate_frames(foreign))
    good = tmp_path / "good.h5"
    write_frames(good, [labelled(0)])
    with pytest.raises(DataFileError, match="no split 'test'; it has train"):
        list(iterate_frames(good, "test"))


def test_references_and_attributes_round_trip(tmp_path):
    path = tmp_path / "frames.h5"
    x = np.linspace(0.0, 1.0, 5)
    curve = Curve(x, np.sin(np.pi * x) ** 2, "b", "J/m^2", "a paper", periodic=True)
    stored = [
        Reference("C11", "ours", Quantity(441.0, "GPa", "GPAW"), True),
        Reference("C11", "theirs", Quantity(459.0, "GPa", "VASP"), False),
        Reference("gsfe", "theirs", curve, True),
    ]
    write_frames(path, [labelled(0)], {"license": "CC-BY-4.0", "elements": ["Cu"]})
    write_references(path, stored)
    found = read_references(path)
    assert found[:2] == stored[:2]
    assert (found[2].name, found[2].label, found[2].default) == ("gsfe", "theirs", True)
    back = found[2].value
    assert isinstance(back, Curve)
    assert np.array_equal(back.x, curve.x) and np.array_equal(back.y, curve.y)
    assert (back.x_unit, back.y_unit, back.source, back.periodic) == (
        "b",
        "J/m^2",
        "a paper",
        True,
    )
    attributes = file_attributes(path)
    assert attributes["license"] == "CC-BY-4.0"
    assert attributes["elements"] == ["Cu"]
    assert (attributes["format"], attributes["version"]) == (FORMAT, 1)


def test_two_defaults_of_one_name_are_refused(tmp_path):
    path = tmp_path / "frames.h5"
    write_frames(path, [labelled(0)])
    value = Quantity(441.0, "GPa", "GPAW")
    with pytest.raises(DataFileError, match="two defaults"):
        write_references(
            path, [Reference("C11", "a", value, True), Reference("C11", "b", value, True)]
        )
    assert read_references(path) == []
