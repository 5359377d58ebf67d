"""E0s: what each mode means, and what a fixed composition leaves open."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from ase_finetune.e0s import counted, resolve_E0s
from ase_finetune.errors import ConfigError, DataError

TRUE = {1: -13.0, 6: -1030.0, 8: -2040.0}


def frames(names, noise=0.0):
    rng = np.random.default_rng(1)
    result = []
    for name in names:
        atoms = molecule(name)
        atoms.info["REF_energy"] = (
            sum(TRUE[z] for z in atoms.numbers) - 3.0 * len(atoms) + noise * rng.standard_normal()
        )
        result.append(atoms)
    return result


def isolated():
    result = []
    for z, energy in TRUE.items():
        atoms = Atoms(numbers=[z])
        atoms.info.update(REF_energy=energy, config_type="IsolatedAtom")
        result.append(atoms)
    return result


def resolve(mode, data, foundation=None, energies=None):
    return resolve_E0s(
        mode, data, [1, 6, 8], foundation_E0s=foundation, foundation_energies=energies
    )


def test_estimated_keeps_the_binding_of_the_foundation():
    data = frames(["H2O", "CO2", "CH4", "CH3OH"])
    foundation = {1: -1.0, 6: -8.0, 8: -4.0}
    binding = np.array([-3.0 * len(a) for a in data])
    predicted = np.array([sum(foundation[z] for z in a.numbers) for a in data]) + binding
    found = resolve("estimated", data, foundation, predicted)
    assert found.values == pytest.approx(TRUE, abs=1e-6)
    assert "rank 3 of 3" in found.note


def test_average_absorbs_the_binding():
    found = resolve("average", frames(["H2O", "CO2", "CH4", "CH3OH"]))
    assert found.values == pytest.approx({z: e - 3.0 for z, e in TRUE.items()}, abs=1e-6)


def test_a_fixed_composition_is_rank_deficient_and_said():
    data = frames(["CH3OH"] * 4, noise=0.01)
    foundation = {1: 0.0, 6: 0.0, 8: 0.0}
    found = resolve("estimated", data, foundation, np.zeros(4))
    assert "rank 1 of 3" in found.note
    assert "minimum-norm" in found.note
    fitted = sum(found.values[z] for z in data[0].numbers)
    assert fitted == pytest.approx(np.mean([a.info["REF_energy"] for a in data]), abs=1e-6)


def test_isolated_atoms_decide_what_a_fixed_composition_leaves_open():
    data = [*frames(["CH3OH"] * 4), *isolated()]
    foundation = {1: 0.0, 6: 0.0, 8: 0.0}
    predicted = np.array([-3.0 * len(a) for a in data[:4]] + [0.0] * 3)
    found = resolve("estimated", data, foundation, predicted)
    assert "rank 3 of 3" in found.note
    assert found.values == pytest.approx(TRUE, abs=1e-6)
    assert resolve("isolated", data).values == TRUE


def test_isolated_atoms_do_not_move_what_the_frames_determine():
    """An isolated atom far off the foundation's must not shift a well-determined fit."""
    data = [*frames(["H2O", "CO2", "CH4", "CH3OH"]), *isolated()]
    data[-1].info["REF_energy"] += 50.0
    foundation = {1: 0.0, 6: 0.0, 8: 0.0}
    predicted = np.array([-3.0 * len(a) for a in data[:4]] + [0.0] * 3)
    assert resolve("estimated", data, foundation, predicted).values == pytest.approx(TRUE, abs=1e-6)


@pytest.mark.parametrize("mode", ["estimated", "average"])
def test_frames_of_weight_zero_set_no_E0s(mode):
    data = frames(["H2O", "CO2", "CH4", "CH3OH", "C6H6", "CO"])
    foundation = dict.fromkeys(TRUE, 0.0)
    good = data[:4]
    for atoms in (data[4], data[5]):
        atoms.info["REF_energy"] += 1000.0
        atoms.info["config_weight"] = 0.0
    expected = resolve(mode, good, foundation, np.zeros(4))
    assert resolve(mode, data, foundation, np.zeros(6)).values == expected.values
    assert counted(data) == good


def test_isolated_atoms_count_whatever_their_weight():
    data = [*frames(["CH3OH"] * 4), *isolated()]
    for atoms in data[4:]:
        atoms.info["config_weight"] = 0.0
    assert resolve("isolated", data).values == TRUE and counted(data) == data


def test_isolated_atoms_that_differ_are_refused_where_they_decide():
    twice = [*isolated(), *isolated()]
    twice[3].info["REF_energy"] += 1e-7
    assert resolve("isolated", twice).values == TRUE
    twice[3].info["REF_energy"] += 1e-5
    foundation = dict.fromkeys(TRUE, 0.0)
    with pytest.raises(DataError, match="Isolated atoms of H have different energies"):
        resolve("isolated", twice)
    for mode in ("estimated", "average"):
        with pytest.raises(DataError, match=r"\(-13.000000 and -12.999990 eV\): keep the one"):
            resolve(mode, [*frames(["CH3OH"]), *twice], foundation, np.zeros(7))
        determined = [*frames(["H2O", "CO2", "CH4", "CH3OH"]), *twice]
        assert "rank 3 of 3" in resolve(mode, determined, foundation, np.zeros(10)).note


def test_modes_that_lack_what_they_need():
    with pytest.raises(DataError, match="one H atom in vacuum"):
        resolve("isolated", frames(["H2O"]))
    with pytest.raises(ConfigError, match="needs a foundation"):
        resolve("foundation", frames(["H2O"]))
    with pytest.raises(ConfigError, match=r"lacking \['C'"):
        resolve({"H": -1.0, "O": -2.0}, frames(["H2O"]))
    with pytest.raises(ConfigError, match="numbers in eV"):
        resolve({"H": "minus one", "C": -3.0, "O": -2.0}, frames(["H2O"]))
    bare = [molecule("H2O")]
    with pytest.raises(DataError, match="No training frame has an energy"):
        resolve("average", bare)
    given = resolve({"H": -1.0, "C": -3.0, "O": -2.0}, bare)
    assert given.values == {1: -1.0, 6: -3.0, 8: -2.0}
