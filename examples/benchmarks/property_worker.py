"""One property by one code: ``property_worker.py ROLE PROPERTY MODEL DTYPE``, timed here.

``ours`` needs this project and takes a checkpoint, ``peer`` needs matcalc and takes a ``.model``
file of mace-torch; neither needs the other's. Prints a JSON line: the median time of a run, and
what the potential and two parts of phonopy took of it.
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


def count_seconds(spent: dict[str, float], part: str, owner: Any, method: str) -> None:
    """Have a method of a class add the time that it takes to a part."""
    inner = getattr(owner, method)

    def outer(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            spent[part] += time.perf_counter() - begun

    setattr(owner, method, outer)


def parts(role: str) -> dict[str, tuple[Any, str]]:
    """Return the methods whose time is counted, by the name of the part."""
    from phonopy import Phonopy

    if role == "ours":
        from ase_finetune import FineTunedCalculator

        potential: tuple[Any, str] = (FineTunedCalculator, "evaluate_batch")
    else:
        from mace.calculators import MACECalculator

        potential = (MACECalculator, "calculate")
    return {
        "potential": potential,
        "symmetry": (Phonopy, "__init__"),
        "force_constants": (Phonopy, "produce_force_constants"),
    }


def main() -> None:
    """Warm up once, then time the median of five runs."""
    warnings.simplefilter("ignore")
    _, role, name, model, dtype = sys.argv
    spent: dict[str, float] = {}
    for part, (owner, method) in parts(role).items():
        count_seconds(spent, part, owner, method)
        spent[part] = 0.0
    run: Any = {"ours": ours, "peer": peer}[role](name, model, dtype)
    values = run()
    runs = []
    for _ in range(RUNS):
        spent.update(dict.fromkeys(spent, 0.0))
        begun = time.perf_counter()
        run()
        runs.append((time.perf_counter() - begun, dict(spent)))
    seconds, of_parts = sorted(runs, key=lambda one: one[0])[RUNS // 2]
    found = {
        "seconds": seconds,
        "parts": {part: round(value, 3) for part, value in of_parts.items() if value},
        "values": {key: round(float(value), 3) for key, value in values.items()},
        "memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
