"""PBE-D3(BJ)/def2-SVP of a molecule by PySCF, as labels and as an ASE calculator.

Needs ``pip install -e .[dft]``. One process on one core gives the most labels an hour; set
``OMP_NUM_THREADS=1``. The OpenBLAS inside PySCF's wheels does not know recent processors, where
``OPENBLAS_CORETYPE=Haswell`` saves a quarter of the time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from numpy.typing import NDArray

XC = "PBE"
BASIS = "def2-SVP"
AUXILIARY = "def2-universal-jfit"
# The first grid brings the density near for a tenth of the cost of the second.
GRID_LEVELS = (0, 2)
CONV_TOL = 1e-8  # Hartree; the orbital gradient is then below 1e-4
MAX_CYCLES = 120
# Unpaired electrons of free atoms.
ATOM_SPINS = {"H": 1, "C": 2, "O": 2}


@dataclass(frozen=True)
class Label:
    """Energy in eV, forces (n_atoms, 3) in eV/A, and what they cost (cycles on each grid)."""

    energy: float
    forces: NDArray[np.float64]
    cycles: tuple[int, ...]
    wall_s: float


@dataclass(frozen=True)
class Level:
    """What is varied in the comparison with other codes; the default is the level of the labels.

    Attributes
    ----------
    basis, auxiliary : str
        ``auxiliary`` of density fitting, empty: exact Coulomb integrals.
    grids : tuple of int
        PySCF's grid levels, one SCF after the other.
    damping : {"bj", "zero", "none"}
        Of D3.
    grid_response : bool
        Whether forces take the motion of the grid with the atoms into account: exact derivatives
        of the energy on this grid, which then sum to zero.
    conv_tol : float
        Hartree.
    """

    basis: str = BASIS
    auxiliary: str = AUXILIARY
    grids: tuple[int, ...] = GRID_LEVELS
    damping: str = "bj"
    grid_response: bool = True
    conv_tol: float = CONV_TOL


def dispersion(atoms: Atoms, damping: str) -> tuple[float, NDArray[np.float64]]:
    """Return D3 energy (eV) and gradient (eV/A) for PBE, without three-body terms."""
    if damping == "none" or len(atoms) == 1:
        return 0.0, np.zeros((len(atoms), 3))
    from dftd3.interface import DispersionModel, RationalDampingParam, ZeroDampingParam

    kind = {"bj": RationalDampingParam, "zero": ZeroDampingParam}[damping]
    model = DispersionModel(atoms.numbers, atoms.positions / units.Bohr)
    found = model.get_dispersion(kind(method="pbe", atm=False), grad=True)
    energy = float(found["energy"]) * units.Hartree
    return energy, np.array(found["gradient"]) * units.Hartree / units.Bohr


def converge(atoms: Atoms, spin: int = 0, level: Level | None = None, guess: Any = None) -> Any:
    """Return a converged PySCF mean field (without D3); its attribute ``history`` has the cycles.

    Raises
    ------
    RuntimeError
        If the SCF does not converge.
    """
    from pyscf import dft, gto

    level = Level() if level is None else level
    geometry = list(zip(atoms.get_chemical_symbols(), atoms.positions, strict=True))
    molecule = gto.M(
        atom=geometry, basis=level.basis, spin=spin, unit="Angstrom", verbose=0, max_memory=2000
    )
    field = (dft.UKS if spin else dft.RKS)(molecule, xc=XC)
    if level.auxiliary:
        field = field.density_fit(auxbasis=level.auxiliary)
        # With the three-index integrals at hand the Coulomb matrix is a product of matrices.
        field.with_df.build()
    field.conv_tol = level.conv_tol
    field.conv_check = False
    field.max_cycle = MAX_CYCLES
    density, history = guess, []
    for grid in level.grids[-1:] if guess is not None else level.grids:
        field.grids = dft.gen_grid.Grids(molecule)
        field.grids.level = grid
        field.kernel(density)
        if not field.converged:
            raise RuntimeError(f"the SCF did not converge on grid {grid}")
        density = field.make_rdm1()
        history.append(int(field.cycles))
    field.history = tuple(history)
    return field


def forces_of(field: Any, *, grid_response: bool = True) -> NDArray[np.float64]:
    """Return the forces (n_atoms, 3) of a converged mean field in eV/A, without D3."""
    gradient = field.nuc_grad_method()
    gradient.grid_response = grid_response
    return -np.array(gradient.kernel()) * units.Hartree / units.Bohr


def label(atoms: Atoms, spin: int = 0, level: Level | None = None) -> Label:
    """Compute energy and forces of a molecule or, with its ``spin``, of a free atom."""
    level = Level() if level is None else level
    start = time.monotonic()
    field = converge(atoms, spin, level)
    energy, gradient = dispersion(atoms, level.damping)
    energy += float(field.e_tot) * units.Hartree
    # A free atom feels no force; its open shell leaves one on the grid that means nothing.
    forces = np.zeros((1, 3))
    if len(atoms) > 1:
        forces = forces_of(field, grid_response=level.grid_response) - gradient
    return Label(energy, forces, field.history, time.monotonic() - start)


def provenance() -> dict[str, Any]:
    """Return what a stored label says of its origin, all but script and commit."""
    import ase
    import pyscf
    from dftd3.library import get_api_version

    return {
        "code": f"PySCF {pyscf.__version__}, s-dftd3 {get_api_version()} (ASE {ase.__version__})",
        "functional": XC,
        "dispersion": "D3(BJ) without three-body terms",
        "basis": BASIS,
        "density_fitting": AUXILIARY,
        "grid": f"PySCF level {GRID_LEVELS[-1]}, forces with grid response",
        "scf": f"energy {CONV_TOL:g} Hartree, orbital gradient {CONV_TOL**0.5:g}",
    }


class PBED3(Calculator):
    """ASE calculator of closed-shell molecules at the level of the labels."""

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 (as ASE has it)

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._last: tuple[Any, Any] | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Any = ("energy",),
        system_changes: Any = all_changes,
    ) -> None:
        """Fill energy (eV) and forces (eV/A); starts from the density of the last structure."""
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        molecule = cast(Atoms, self.atoms)
        guess = None
        if self._last is not None and "numbers" not in system_changes:
            overlap, density = self._last
            root = _power(overlap, 0.5)
            back = _power(_overlap(molecule), -0.5)
            guess = back @ root @ density @ root @ back
        field = converge(molecule, guess=guess)
        self._last = (field.get_ovlp(), field.make_rdm1())
        energy, gradient = dispersion(molecule, "bj")
        energy += float(field.e_tot) * units.Hartree
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": forces_of(field) - gradient,
        }


def _overlap(atoms: Atoms) -> NDArray[np.float64]:
    from pyscf import gto

    geometry = list(zip(atoms.get_chemical_symbols(), atoms.positions, strict=True))
    molecule = gto.M(atom=geometry, basis=BASIS, unit="Angstrom", verbose=0)
    return np.array(molecule.intor("int1e_ovlp"))


def _power(matrix: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    product: NDArray[np.float64] = (vectors * values**power) @ vectors.T
    return product
