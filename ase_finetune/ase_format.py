"""The file format of `systems.hdf5`, for ASE's entry point ``ase.ioformats``.

Registered here and not where it is written, because ``ase info --plugins`` asks for the
distribution that the top-level package is named after.
"""

from __future__ import annotations

from systems.hdf5 import ase_finetune_h5, read_ase_finetune_h5, write_ase_finetune_h5

__all__ = ["ase_finetune_h5", "read_ase_finetune_h5", "write_ase_finetune_h5"]
