"""The one place that imports mace-torch, so that its import side effects are undone.

mace-torch 0.3.16 sets ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1`` for the whole process, which turns
torch's safe loading off for everybody; e3nn 0.4.4 loads a file of constants that needs ``slice``
to be allowed; without cuequivariance it prints a line on standard output, where our JSON goes.
All three are handled here, and torch's safe default is back when the import returns.

``mace.calculators`` sets the variable once more when it is imported, and its ``MACECalculator``
reads models by it. Our own import of it is therefore kept from everybody else: whoever imports it
later gets what they would have without us.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch

_FLAG = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_CALCULATORS = "mace.calculators"
_ours: dict[str, ModuleType] = {}  # of `mace.calculators`, where nobody else has imported it


@contextlib.contextmanager
def quiet_and_safe() -> Iterator[None]:
    """Undo what importing from mace-torch does to the process, and keep what it prints."""
    before = os.environ.get(_FLAG)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        if before is None:
            os.environ.pop(_FLAG, None)
        else:
            os.environ[_FLAG] = before


def calculators(name: str) -> Any:
    """Return a module of ``mace.calculators``, and leave that as unimported as it was."""
    path = f"{_CALCULATORS}.{name}"
    if path in sys.modules:
        return sys.modules[path]
    if path not in _ours:
        with quiet_and_safe():
            importlib.import_module(path)
        for found in [m for m in sys.modules if f"{m}.".startswith(f"{_CALCULATORS}.")]:
            _ours[found] = sys.modules.pop(found)
        del sys.modules["mace"].calculators
    return _ours[path]


def mace_calculator(**settings: Any) -> Any:
    """Return mace-torch's own calculator, which unpickles and so executes its model file."""
    maker = calculators("mace").MACECalculator
    with quiet_and_safe():
        os.environ[_FLAG] = "1"  # for this file alone
        return maker(**settings)


torch.serialization.add_safe_globals([slice])
with quiet_and_safe(), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from e3nn import o3
    from mace import modules
    from mace.tools.finetuning_utils import load_foundations_elements
    from mace.tools.scripts_utils import extract_config_mace_model, remove_pt_head
    from mace.tools.utils import AtomicNumberTable

__all__ = [
    "AtomicNumberTable",
    "calculators",
    "extract_config_mace_model",
    "load_foundations_elements",
    "mace_calculator",
    "modules",
    "o3",
    "quiet_and_safe",
    "remove_pt_head",
]
