"""Relaxation, evaluation in batches, and what happens with broken calculators."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from properties import (
    MASK_2D,
    CalculatorError,
    NotConvergedError,
    StructureError,
    elastic_tensor,
    evaluate,
    gsfe_curve,
    lattice_constant,
    relax,
)


class Broken(Calculator):
    """EMT whose results of one kind are not numbers."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        inner = self.atoms.copy()
        inner.calc = EMT()
        energy = inner.get_potential_energy()
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": inner.get_forces(),
            "stress": inner.get_stress(),
        }
        for key in (self.kind, "free_energy") if self.kind == "energy" else (self.kind,):
            self.results[key] = self.results[key] * np.nan


class NoStress(EMT):
    """EMT that has no stress."""

    implemented_properties = ("energy", "free_energy", "forces")

    def get_property(self, name, atoms=None, allow_calculation=True):
        if name == "stress":
            raise PropertyNotImplementedError("stress")
        return super().get_property(name, atoms, allow_calculation)


class Batched(EMT):
    """EMT with batched evaluation; counts its calls."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def evaluate_batch(self, frames):
        self.batches.append(len(frames))
        found = []
        for frame in frames:
            frame.calc = EMT()
            found.append(
                {
                    "energy": frame.get_potential_energy(),
                    "forces": frame.get_forces(),
                    "stress": frame.get_stress(),
                }
            )
        return found


def rattled():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=3)
    return atoms


def test_positions_relax_to_the_perfect_crystal():
    start = rattled()
    before = start.positions.copy()
    found = relax(start, EMT(), fmax=1e-4)
    assert found.max_force <= 1e-4
    assert found.n_steps > 0
    perfect = bulk("Cu", cubic=True).positions
    moved = found.atoms.positions - found.atoms.positions.mean(axis=0)
    assert moved == pytest.approx(perfect - perfect.mean(axis=0), abs=1e-4)
    assert np.array_equal(start.positions, before)
    assert start.calc is None
    assert found.atoms.calc is None


def test_mask_keeps_the_third_direction():
    start = bulk("Cu", a=3.7, cubic=True)
    found = relax(start, EMT(), cell=True, mask=MASK_2D).atoms
    assert found.cell[2] == pytest.approx([0, 0, 3.7], abs=1e-12)
    assert found.cell[0, 0] < 3.69
    found.calc = EMT()
    stress = found.get_stress()
    assert np.abs(stress[[0, 1, 5]]).max() < 1e-4
    assert abs(stress[2]) > 1e-3


@pytest.mark.parametrize("cell", [True, False])
def test_too_few_steps_raise(cell):
    with pytest.raises(NotConvergedError, match="stopped after 2 steps"):
        relax(rattled(), EMT(), cell=cell, fmax=1e-6, max_steps=2)


def test_non_convergence_inside_a_property_raises():
    with pytest.raises(NotConvergedError):
        lattice_constant(bulk("Cu", a=3.4), EMT(), max_steps=1)
    with pytest.raises(NotConvergedError):
        gsfe_curve("Cu", "fcc", 3.59, (1, 1, 1), (1, 1, -2), EMT(), mode="relaxed", max_steps=1)


@pytest.mark.parametrize("kind", ["energy", "forces", "stress"])
def test_values_that_are_not_finite_are_named(kind):
    calc = Broken(kind)
    with pytest.raises(CalculatorError, match="finite"):
        lattice_constant(bulk("Cu", a=3.6), calc)
    if kind != "energy":
        with pytest.raises(CalculatorError, match="finite"):
            relax(rattled(), calc, cell=kind == "stress")
    if kind != "stress":
        with pytest.raises(CalculatorError, match="finite"):
            gsfe_curve("Cu", "fcc", 3.59, (1, 1, 1), (1, -1, 0), calc, mode="rigid")
    with pytest.raises(CalculatorError, match="finite"):
        elastic_tensor(bulk("Cu"), calc, relax_cell=False)


def test_missing_stress_is_named_where_it_is_needed():
    calc = NoStress()
    slip = ("Cu", "fcc", 3.59, (1, 1, 1), (1, -1, 0), calc)
    for failing in (
        lambda: relax(rattled(), calc, cell=True),
        lambda: lattice_constant(bulk("Cu"), calc),
        lambda: elastic_tensor(bulk("Cu"), calc, relax_cell=False),
        lambda: gsfe_curve(*slip, mode="relaxed"),
    ):
        with pytest.raises(CalculatorError, match="NoStress does not provide"):
            failing()
    assert relax(rattled(), calc, fmax=1e-3).max_force <= 1e-3
    rigid = gsfe_curve(*slip, mode="rigid")
    fixed = gsfe_curve(*slip, mode="relaxed", free_opening=False)
    assert 0 < fixed.gamma_usf < rigid.gamma_usf


def test_structures_that_cannot_be_used_are_refused():
    flat = bulk("Cu")
    flat.pbc = False
    held = bulk("Cu", cubic=True)
    held.set_constraint(FixAtoms([0]))
    empty = bulk("Cu")[:0]
    lost = bulk("Cu")
    lost.positions[0] = np.nan
    for atoms, word in ((flat, "periodic"), (held, "constraints"), (empty, "no atoms")):
        with pytest.raises(StructureError, match=word):
            lattice_constant(atoms, EMT())
        with pytest.raises(StructureError, match=word):
            elastic_tensor(atoms, EMT())
    with pytest.raises(StructureError, match="not finite"):
        lattice_constant(lost, EMT())
    with pytest.raises(StructureError, match="mask"):
        relax(bulk("Cu"), EMT(), mask=MASK_2D)


def test_batched_evaluation_is_used_and_agrees():
    frames = [bulk("Cu", a=a) for a in (3.5, 3.6, 3.7)]
    calc = Batched()
    seen = []
    one_by_one = evaluate(frames, EMT(), stress=True, progress=lambda *args: seen.append(args))
    together = evaluate(frames, calc, stress=True)
    assert calc.batches == [3]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    for single, batched in zip(one_by_one, together, strict=True):
        assert batched.energy == single.energy
        assert np.array_equal(batched.stress, single.stress)
    assert all(frame.calc is None for frame in frames)

    calc = Batched()
    tensor = elastic_tensor(bulk("Cu", a=3.58983), calc, relax_cell=False)
    assert calc.batches == [29]  # seven patterns of five strains, the unstrained one once
    looped = elastic_tensor(bulk("Cu", a=3.58983), EMT(), relax_cell=False)
    np.testing.assert_allclose(tensor.C, looped.C, atol=1e-8)
    calc = Batched()
    gsfe_curve("Cu", "fcc", 3.59, (1, 1, 1), (1, -1, 0), calc, mode="rigid", n_planes=6)
    assert calc.batches == [12]


def test_incomplete_batches_are_named():
    calc = Batched()
    calc.evaluate_batch = lambda frames: [{"energy": 0.0, "forces": np.zeros((1, 3))}]
    with pytest.raises(CalculatorError, match="no stress"):
        evaluate([bulk("Cu")], calc, stress=True)
    with pytest.raises(CalculatorError, match="1 results for 2"):
        evaluate([bulk("Cu"), bulk("Cu")], calc, stress=False)


def test_forces_do_not_hide_behind_constraints():
    atoms = rattled()
    atoms.set_constraint(FixAtoms([0, 1, 2, 3]))
    assert np.abs(evaluate([atoms], EMT(), stress=False)[0].forces).max() > 0.1


def test_import_needs_neither_torch_nor_matplotlib():
    # Our file format and the name of our calculator are loaded by ASE itself, with ase.io.
    code = (
        "import sys, properties; listed = ('', '.ase_plugin', '.ase_format');"
        "print([m for m in sys.modules if m in ('torch', 'matplotlib')"
        " or (m.startswith('ase_finetune') and m[12:] not in listed)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
