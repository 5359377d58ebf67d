"""Simple physics of a model beside its teachers: lattices, elasticity, slip, phonons, water.

The same file runs in both environments::

    python check.py teachers --out teachers.json     # environment of README.md
    python check.py CHECKPOINT --out seed.json       # the project's environment
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, graphene, molecule, mx2
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE
from ase.units import GPa
from families_solid import A_MO, slip_cell
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

J_PER_M2 = 16.0218


def molybdenum(calculator: Calculator) -> dict[str, float]:
    """a0 (A), C11, C12, C44 (GPa) by central differences of 0.5 %, rigid gamma_110 at b/2."""
    grid = A_MO * np.linspace(0.985, 1.015, 7)
    energies = []
    for a in grid:
        atoms = bulk("Mo", a=a, cubic=True)
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
    fit = np.polyfit(grid, energies, 3)
    roots = np.roots(np.polyder(fit))
    a0 = float(min((r.real for r in roots), key=lambda r: abs(r - A_MO)))
    delta, stress = 5e-3, {}
    for name, (i, j) in (("xx", (0, 0)), ("xy", (0, 1))):
        values = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * delta / (1 if i == j else 2)
            if i != j:
                strain[j, i] += sign * delta / 2
            atoms = bulk("Mo", a=a0, cubic=True)
            atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            atoms.calc = calculator
            values.append(atoms.get_stress())
        stress[name] = (values[0] - values[1]) / (2 * delta) / GPa
    slips = []
    for shift in (0.0, 0.5):
        atoms = slip_cell("110", 12, shift, 0.0)
        atoms.set_cell(atoms.cell.array * a0 / A_MO, scale_atoms=True)
        atoms.calc = calculator
        slips.append(atoms.get_potential_energy())
    area = np.linalg.norm(np.cross(atoms.cell[0], atoms.cell[1]))
    return {
        "a0_Mo": a0,
        "C11": float(stress["xx"][0]),
        "C12": float(stress["xx"][1]),
        "C44": float(stress["xy"][5]),
        "gamma_110_half": float((slips[1] - slips[0]) / area * J_PER_M2),
    }


def layer_constant(atoms: Atoms, calculator: Calculator) -> Atoms:
    """The layer relaxed in plane."""
    atoms = atoms.copy()
    atoms.pbc = True
    atoms.calc = calculator
    FIRE(FrechetCellFilter(atoms, mask=[1, 1, 0, 0, 0, 1]), logfile=None).run(fmax=2e-3, steps=300)
    return atoms


def phonons(calculator: Calculator) -> dict[str, float]:
    """Monolayer MoS2, 5x5 supercell: lowest band on Gamma-M-K-Gamma, optical modes at Gamma (THz).

    Pairs of opposite displacements of 0.01 A; a negative frequency is imaginary.
    """
    layer = layer_constant(mx2("MoS2", vacuum=7.0), calculator)
    layer.calc = calculator
    BFGS(layer, logfile=None).run(fmax=1e-4, steps=300)
    unit = PhonopyAtoms(
        symbols=list(layer.symbols), cell=layer.cell.array, positions=layer.positions
    )
    phonon = Phonopy(unit, np.diag([5, 5, 1]), primitive_matrix="P", log_level=0)
    phonon.generate_displacements(distance=0.01, is_plusminus=True)
    forces = []
    for cell in phonon.supercells_with_displacements:
        atoms = Atoms(cell.symbols, cell.positions, cell=cell.cell, pbc=True)
        atoms.calc = calculator
        forces.append(atoms.get_forces())
    phonon.forces = forces
    phonon.produce_force_constants(fc_calculator="symfc")
    corners = np.array([[0, 0, 0], [1 / 2, 0, 0], [1 / 3, 1 / 3, 0], [0, 0, 0]])
    path = [(1 - t) * a + t * b for a, b in pairwise(corners) for t in np.linspace(0, 1, 41)]
    phonon.run_qpoints(path)
    bands = phonon.qpoints.frequencies
    phonon.run_qpoints([[0, 0, 0]])
    gamma = phonon.qpoints.frequencies[0]
    # E'' and E' are pairs; A1' and A2'' are single and lie above them.
    return {
        "MoS2_lowest_THz": float(bands.min()),
        "MoS2_E''_THz": float(gamma[3:5].mean()),
        "MoS2_E'_THz": float(gamma[5:7].mean()),
        "MoS2_A1'_THz": float(gamma[7]),
        "MoS2_A2''_THz": float(gamma[8]),
    }


def others(calculator: Calculator) -> dict[str, float]:
    """a0 of graphene and MoS2 (A), water's geometry (A, degrees), water dimer binding (meV)."""
    sheet = layer_constant(graphene(vacuum=7.0), calculator)
    layer = layer_constant(mx2("MoS2", vacuum=7.0), calculator)
    water = molecule("H2O", vacuum=7.0)
    water.pbc = True
    water.calc = calculator
    BFGS(water, logfile=None).run(fmax=5e-3, steps=200)
    pair = Atoms(
        "OHHOHH",
        [
            [-1.551, -0.115, 0.0], [-1.934, 0.763, 0.0], [-0.600, 0.041, 0.0],
            [1.351, 0.111, 0.0], [1.680, -0.374, -0.759], [1.680, -0.374, 0.759],
        ],
    )  # fmt: skip
    pair.center(vacuum=7.0)
    pair.pbc = True
    pair.calc = calculator
    BFGS(pair, logfile=None).run(fmax=5e-3, steps=300)
    binding = 2 * water.get_potential_energy() - pair.get_potential_energy()
    return {
        "a0_graphene": float(sheet.cell.lengths()[0]),
        "a0_MoS2": float(layer.cell.lengths()[0]),
        "S_S_MoS2": float(np.ptp(layer.positions[:, 2])),
        "d_OH": float(water.get_distance(0, 1)),
        "angle_HOH": float(water.get_angle(1, 0, 2)),
        "dimer_binding_meV": 1e3 * float(binding),
        "dimer_OO": float(pair.get_distance(0, 3)),
    }


def main() -> None:
    """Compute and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="'teachers' or a checkpoint folder")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.model == "teachers":
        from teachers import sevennet, snap

        result = {**molybdenum(snap()), **others(sevennet()), **phonons(sevennet())}
    else:
        from ase_finetune.calculator import FineTunedCalculator

        calculator = FineTunedCalculator(args.model)
        result = {**molybdenum(calculator), **others(calculator), **phonons(calculator)}
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, value in result.items():
        print(f"{name:20s} {value:.4f}")


if __name__ == "__main__":
    main()
