"""One property by one code: ``property_worker.py ROLE PROPERTY MODEL DTYPE``, timed here.

``ours`` needs this project and takes a checkpoint, ``peer`` needs matcalc and takes a ``.model``
file of mace-torch; neither needs the other's.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, mx2

PROPERTIES = ("elastic_mo", "elastic_mo_54", "phonons_mo", "phonons_layer")
RUNS = 5
FMAX = {"float64": 1e-5, "float32": 1e-4}  # eV/A; rounding in float32 is as large as the first
DISTANCE = 0.01  # A
SUPERCELL = {"phonons_mo": (4, 4, 4), "phonons_layer": (5, 5, 1)}


def structure(name: str) -> Atoms:
    """Return the crystal, near its equilibrium."""
    if name == "phonons_layer":
        layer = mx2("MoS2", a=3.19, thickness=3.13, vacuum=7.5)
        layer.pbc = True
        return layer
    if name == "phonons_mo":
        return bulk("Mo", "bcc", a=3.1684427767)
    cube = bulk("Mo", "bcc", a=3.1684427767, cubic=True)
    return cube * (3, 3, 3) if name.endswith("54") else cube


def ours(name: str, model: str, dtype: str) -> Callable[[], dict[str, float]]:
    """Return a run of this project's property."""
    from ase_finetune import FineTunedCalculator
    from properties import elastic_tensor, phonon_bands

    calculator, fmax = FineTunedCalculator(model, dtype=dtype), FMAX[dtype]
    atoms = structure(name)
    if name.startswith("elastic"):

        def elastic() -> dict[str, float]:
            C = elastic_tensor(atoms, calculator, symmetry="cubic", fmax=fmax).C_triclinic
            return {"C11": C[0, 0], "C12": C[0, 1], "C44": C[3, 3]}

        return elastic

    def phonons() -> dict[str, float]:
        found = phonon_bands(
            atoms, calculator, supercell=SUPERCELL[name], distance=DISTANCE, fmax=fmax,
            dimension=2 if name == "phonons_layer" else 3,
        )  # fmt: skip
        return {"highest_THz": float(found.frequencies.max())}

    return phonons


def peer(name: str, model: str, dtype: str) -> Callable[[], dict[str, float]]:
    """Return a run of matcalc's property with mace-torch's calculator."""
    from mace.calculators import MACECalculator
    from matcalc import ElasticityCalc, PhononCalc

    calculator = MACECalculator(model_paths=model, device="cpu", default_dtype=dtype)
    fmax = FMAX[dtype]
    atoms = structure(name)
    if name.startswith("elastic"):
        strains = (-2e-3, -1e-3, 1e-3, 2e-3)
        calc = ElasticityCalc(
            calculator, norm_strains=strains, shear_strains=strains, fmax=fmax, units_GPa=True,
            relax_deformed_structures=True, relax_calc_kwargs={"optimizer": "BFGS"},
        )  # fmt: skip

        def elastic() -> dict[str, float]:
            C = np.asarray(calc.calc(atoms.copy())["elastic_tensor"].voigt)
            return {"C11": C[0, 0], "C12": C[0, 1], "C44": C[3, 3]}

        return elastic
    calc = PhononCalc(
        calculator, atom_disp=DISTANCE, supercell_matrix=np.diag(SUPERCELL[name]), fmax=fmax,
        optimizer="BFGS", write_phonon=False, on_imaginary_modes="warn",
    )  # fmt: skip

    def phonons() -> dict[str, float]:
        return {"highest_THz": float(np.max(calc.calc(atoms.copy())["frequencies"]))}

    return phonons


def main() -> None:
    """Warm up once, then time the median of five runs."""
    warnings.simplefilter("ignore")
    _, role, name, model, dtype = sys.argv
    run: Any = {"ours": ours, "peer": peer}[role](name, model, dtype)
    values = run()
    times = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rounded = {key: round(float(value), 3) for key, value in values.items()}
    print(json.dumps({"seconds": float(np.median(times)), "values": rounded, "memory_MB": memory}))


if __name__ == "__main__":
    main()
