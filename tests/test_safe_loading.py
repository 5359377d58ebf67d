"""torch's safe loading stays on, although mace-torch turns it off when it is imported."""

from __future__ import annotations

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
