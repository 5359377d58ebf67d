"""The one place that imports mace-torch, so that its import side effects are undone.

mace-torch 0.3.16 sets ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1`` for the whole process, which turns
torch's safe loading off for everybody; e3nn 0.4.4 loads a file of constants that needs ``slice``
to be allowed; without cuequivariance it prints a line on standard output, where our JSON goes.
All three are handled here, and torch's safe default is back when the import returns.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator

import torch

_FLAG = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


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
    "extract_config_mace_model",
    "load_foundations_elements",
    "modules",
    "o3",
    "quiet_and_safe",
    "remove_pt_head",
]
