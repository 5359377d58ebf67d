"""torch's safe loading stays on, although mace-torch turns it off when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FLAG = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@pytest.mark.parametrize(
    "use",
    [
        "import ase_finetune.calculator",
        "from ase_finetune.foundations import foundation_names; foundation_names()",
        "from ase_finetune.export import export; export('seed', out + '.model')",
        "from ase_finetune.export import export; export('seed', out + '.model', format='lammps')",
        "from ase_finetune.export import export; export('seed', out + '.model');"
        "from ase_finetune.cli.properties import any_calculator;"
        "any_calculator('mace:' + out + '.model', None, 'cpu')",
    ],
    ids=["calculator", "names", "mace", "lammps", "MACECalculator"],
)
def test_safe_loading_stays_on(use, tmp_path):
    code = (
        f"import os; out = {str(tmp_path / 'x')!r}; os.environ.pop({FLAG!r}, None); {use};"
        f"import sys; assert 'mace' in sys.modules; assert {FLAG!r} not in os.environ"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=300)


_LATER = """
import os, sys
from ase.build import bulk
from ase_finetune.cli.properties import any_calculator
from ase_finetune.export import export
from ase_finetune.foundations import FoundationError, load_foundation
path = sys.argv[1]
export("seed", path)
try:
    load_foundation("no such foundation")
except FoundationError:
    pass
export("seed", path + ".pt", format="lammps")
energies = []
for attach in range(2):  # with `mace:PATH`
    atoms = bulk("Mo")
    atoms.calc = any_calculator("mace:" + path, None, "cpu")
    energies.append(atoms.get_potential_energy())
assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
import mace
assert not hasattr(mace, "calculators")
from mace.calculators import MACECalculator
atoms.calc = MACECalculator(path, device="cpu", default_dtype="float64")
assert energies == [atoms.get_potential_energy()] * 2
"""


def test_mace_torch_works_as_ever_after_us(tmp_path):
    """Its calculator reads models by the variable that its own first import sets."""
    clean = {k: v for k, v in os.environ.items() if k != FLAG}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _LATER, str(tmp_path / "x.model")],
        check=True, timeout=300, env=clean,
    )  # fmt: skip
