"""What ASE finds through its entry point ``ase.plugins``; ``ase info --plugins`` lists it.

ASE imports this module with its own input and output, so it must stay light: the calculator, and
torch with it, is imported when the plugin is called.
"""

from __future__ import annotations

from typing import Any

try:
    from ase._4.plugins.plugin import CalculatorPlugin
except ImportError:
    # The interface is called experimental. An ASE without it does not list the calculator; an error
    # here would break every import of ase.io.
    __ase_plugins__: set[Any] = set()
else:
    __ase_plugins__ = {
        CalculatorPlugin(
            name="ase_finetune",
            citation="I. Batatia et al., MACE, NeurIPS 35 (2022), and the data of the checkpoint",
            implementation="ase_finetune.calculator.FineTunedCalculator",
        )
    }
