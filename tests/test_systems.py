"""The registry of systems, and the properties of Mo with a potential of known answers."""

from __future__ import annotations

import numpy as np
import pytest
from finnis_sinclair import FinnisSinclair

from properties import compare
from systems import UnknownPropertyError, UnknownSystemError, get_system, list_systems
from systems.system import SPLITS


def test_names():
    assert "mo" in list_systems()
    for name in list_systems():
        assert get_system(name).name == name


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(UnknownSystemError, match=r"no system 'Mo'; choose one of: .*mo"):
        get_system("Mo")
    with pytest.raises(UnknownPropertyError, match=r"'phonons'; choose one of: lattice, elastic"):
        get_system("mo").compute("phonons", FinnisSinclair())


@pytest.mark.parametrize("name", list_systems())
def test_every_system_is_complete(name):
    system = get_system(name)
    frames = system.frames()
    assert tuple(frames) == SPLITS
    counts = system.counts()
    assert {split: len(members) for split, members in frames.items()}.items() <= counts.items()
    assert all(frames.values())
    symbols = {s for members in frames.values() for a in members for s in a.get_chemical_symbols()}
    assert symbols == set(system.elements)
    provenance = system.provenance()
    for key in ("description", "level_of_theory", "license"):
        assert provenance[key] == getattr(system, key)
    references = system.all_references()
    assert all(ref.value.source for ref in references)
    defaults = [ref.name for ref in references if ref.default]
    assert len(defaults) == len(set(defaults)) == len(system.references())


def test_mo_properties_with_a_potential_of_known_answers():
    """Lattice and elastic constants were fitted by the authors to 3.1472 A, 464.7, 161.5, 108.9.

    The paper gives them to four digits for a cutoff without smoothing, hence 0.5 %.
    """
    mo, calculator, seen = get_system("mo"), FinnisSinclair(), []
    found = {}
    for name in mo.properties:
        result = mo.compute(name, calculator, progress=lambda *step: seen.append(step))
        found.update(result.quantities("Finnis-Sinclair"))
    assert seen[-1][0] == seen[-1][1]
    assert found["a0"].value == pytest.approx(3.1472, rel=1e-4)
    for name, value in {"C11": 464.7, "C12": 161.5, "C44": 108.9}.items():
        assert found[name].value == pytest.approx(value, rel=5e-3)
        assert found[name].unit == "GPa"
    compared = compare(found, mo.references())
    assert compared.keys() == mo.references().keys()
    assert compared["C11"].relative_error == pytest.approx(
        found["C11"].value / mo.references()["C11"].value - 1.0
    )
    assert 2.0 < found["vacancy_formation_energy"].value < 3.5
    assert found["screw_polarity"].value == pytest.approx(0.087, abs=0.01)
    curve = next(v for k, v in found.items() if k.startswith("gsfe_121"))
    assert curve.y[0] == pytest.approx(0.0, abs=1e-6)
    assert curve.y[-1] == pytest.approx(0.0, abs=1e-4)
    assert curve.y.max() > 0.5


def test_slip_cells_of_the_generator_and_of_the_properties_agree():
    """Two constructions of the same fault, by different axes, have the same energy."""
    from properties import gsfe_cell
    from systems.dft.mo_frames import slip_cell
    from systems.mo import PLANES

    calculator = FinnisSinclair()
    for plane, normal in PLANES.items():
        for x in (0.0, 0.3, 0.7):
            ours = slip_cell(plane, x, a=3.16, planes=6)
            theirs = gsfe_cell("Mo", "bcc", 3.16, normal, (1, 1, 1), n_planes=6, displacement=x)
            energies = []
            for atoms in (ours, theirs):
                atoms.calc = calculator
                energies.append(atoms.get_potential_energy())
            assert energies[0] == pytest.approx(energies[1], abs=1e-9)
            assert np.allclose(
                np.sort(np.linalg.norm(ours.get_forces(), axis=1)),
                np.sort(np.linalg.norm(theirs.get_forces(), axis=1)),
                atol=1e-8,
            )
