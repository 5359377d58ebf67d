"""The CP2K input of one structure, and what a stored label says of it.

GPW with the bases DZVP-MOLOPT-SR-GTH and GTH pseudopotentials for PBE. The deck is our own, so that
every setting that matters is in sight here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ase import Atoms

BASIS = "DZVP-MOLOPT-SR-GTH"
# Valence electrons that the pseudopotentials GTH-PBE-q<n> leave.
VALENCE = {"H": 1, "C": 4, "O": 6, "S": 6, "Mo": 14}
# A coarse fifth grid holds the diffuse products of the basis: the energy changes by 2e-8 eV and
# the grid part of a step costs a third less than with four.
GRIDS = 5
EPS_DEFAULT = 1e-10
MAX_SCF = 80
NBROYDEN = 20
D3_CUTOFF = 10.0  # A


@dataclass(frozen=True)
class Level:
    """Settings of one calculation.

    Attributes
    ----------
    kpts : tuple of int
        Monkhorst-Pack mesh, which holds Gamma where all numbers are odd.
    cutoff_Ry, rel_cutoff_Ry : float
        Of the finest grid, and of the grid that a Gaussian is put on.
    dispersion : bool
        D3 with the damping of Becke and Johnson, two-body terms within `D3_CUTOFF`.
    smearing_K : float
        Electronic temperature of Fermi-Dirac occupations; 0: integer occupations.
    added_mos : int
        Empty orbitals that smearing may fill.
    eps_scf : float
        Convergence of the density.
    mixing : float
        Share of the new density in Broyden mixing; 0: orbital transformation instead of
        diagonalization and mixing, for free atoms and molecules.
    kerker : float
        Damping of long waves in the mixing. CP2K's default of 0.5 is for metals; here it would
        take a quarter more SCF steps.
    spin : int
        Unpaired electrons; if there are any, the calculation is spin-polarized.
    """

    kpts: tuple[int, int, int] = (1, 1, 1)
    cutoff_Ry: float = 600.0
    rel_cutoff_Ry: float = 60.0
    dispersion: bool = False
    smearing_K: float = 0.0
    added_mos: int = 0
    eps_scf: float = 1e-6
    mixing: float = 0.5
    kerker: float = 0.01
    spin: int = 0

    def __post_init__(self) -> None:
        if any(n < 1 for n in self.kpts):
            raise ValueError(f"The k-mesh {self.kpts} must have positive numbers.")

    @property
    def mesh(self) -> str:
        """The k-mesh in words."""
        odd = all(n % 2 for n in self.kpts)
        return "x".join(map(str, self.kpts)) + (" gamma" if odd else " Monkhorst-Pack")


@dataclass(frozen=True)
class Job:
    """One structure to label; ``id`` names the frame and ``family`` is its ``config_type``."""

    id: str
    family: str
    atoms: Atoms
    level: Level


def provenance(symbols: set[str], level: Level) -> dict[str, Any]:
    """Return what a stored label says of its settings, all but code, script and commit."""
    smearing = f"Fermi-Dirac {level.smearing_K:g} K" if level.smearing_K else "none"
    solver = (
        f"diagonalization, Broyden mixing {level.mixing:g}"
        if level.mixing
        else "orbital transformation"
    )
    return {
        "functional": "PBE",
        "dispersion": (
            f"D3(BJ) without three-body terms, cutoff {D3_CUTOFF:g} A"
            if level.dispersion
            else "none"
        ),
        "basis": BASIS,
        "cutoff_Ry": level.cutoff_Ry,
        "rel_cutoff_Ry": level.rel_cutoff_Ry,
        "kpts": level.mesh,
        "smearing": smearing,
        "scf": f"EPS_SCF {level.eps_scf:g}, EPS_DEFAULT {EPS_DEFAULT:g}, {solver}",
        "pseudopotentials": "; ".join(f"{s} GTH-PBE-q{VALENCE[s]}" for s in sorted(symbols)),
        **({"spin": level.spin} if level.spin else {}),
    }


def _scf(level: Level) -> str:
    smear = ""
    if level.smearing_K:
        smear = f"""
      ADDED_MOS {level.added_mos}
      &SMEAR ON
        METHOD FERMI_DIRAC
        ELECTRONIC_TEMPERATURE [K] {level.smearing_K:g}
      &END SMEAR"""
    if level.mixing:
        solver = f"""
      &MIXING
        METHOD BROYDEN_MIXING
        ALPHA {level.mixing:g}
        BETA {level.kerker:g}
        NBROYDEN {NBROYDEN}
      &END MIXING"""
    else:
        solver = """
      &OT
        PRECONDITIONER FULL_SINGLE_INVERSE
        MINIMIZER DIIS
      &END OT
      &OUTER_SCF
        MAX_SCF 10
      &END OUTER_SCF"""
    return f"""
    &SCF
      EPS_SCF {level.eps_scf:g}
      MAX_SCF {MAX_SCF}{smear}{solver}
    &END SCF"""


def _dispersion() -> str:
    return f"""
      &VDW_POTENTIAL
        POTENTIAL_TYPE PAIR_POTENTIAL
        &PAIR_POTENTIAL
          TYPE DFTD3(BJ)
          PARAMETER_FILE_NAME dftd3.dat
          REFERENCE_FUNCTIONAL PBE
          R_CUTOFF [angstrom] {D3_CUTOFF:g}
        &END PAIR_POTENTIAL
      &END VDW_POTENTIAL"""


def deck(atoms: Atoms, level: Level) -> str:
    """Return the input for energy, forces and analytic stress.

    Parameters
    ----------
    atoms : Atoms
        Periodic in three directions, with elements of `VALENCE`.
    level : Level
    """
    cell = "\n".join(
        f"      {name} " + " ".join(f"{x:.12f}" for x in vector)
        for name, vector in zip("ABC", atoms.cell.array, strict=True)
    )
    coordinates = "\n".join(
        f"      {symbol} " + " ".join(f"{x:.12f}" for x in position)
        for symbol, position in zip(atoms.symbols, atoms.positions, strict=True)
    )
    kinds = "".join(
        f"""
    &KIND {symbol}
      BASIS_SET {BASIS}
      POTENTIAL GTH-PBE-q{VALENCE[symbol]}
    &END KIND"""
        for symbol in sorted(set(atoms.symbols))
    )
    mesh = ""
    if level.kpts != (1, 1, 1):
        mesh = f"""
    &KPOINTS
      SCHEME MONKHORST-PACK {" ".join(map(str, level.kpts))}
      WAVEFUNCTIONS COMPLEX
    &END KPOINTS"""
    spin = f"\n    UKS\n    MULTIPLICITY {level.spin + 1}" if level.spin else ""
    return f"""&GLOBAL
  PROJECT label
  RUN_TYPE ENERGY_FORCE
  PRINT_LEVEL MEDIUM
&END GLOBAL
&FORCE_EVAL
  METHOD QS
  STRESS_TENSOR ANALYTICAL
  &PRINT
    &FORCES ON
      NDIGITS 12
    &END FORCES
    &STRESS_TENSOR ON
    &END STRESS_TENSOR
  &END PRINT
  &DFT
    BASIS_SET_FILE_NAME BASIS_MOLOPT
    POTENTIAL_FILE_NAME GTH_POTENTIALS{spin}
    &MGRID
      CUTOFF {level.cutoff_Ry:g}
      REL_CUTOFF {level.rel_cutoff_Ry:g}
      NGRIDS {GRIDS}
    &END MGRID
    &QS
      EPS_DEFAULT {EPS_DEFAULT:g}
    &END QS{mesh}{_scf(level)}
    &XC
      &XC_FUNCTIONAL PBE
      &END XC_FUNCTIONAL{_dispersion() if level.dispersion else ""}
    &END XC
  &END DFT
  &SUBSYS
    &CELL
{cell}
    &END CELL
    &COORD
{coordinates}
    &END COORD{kinds}
  &END SUBSYS
&END FORCE_EVAL
"""
