"""The ``ase-finetune`` command: one file per group of commands, joined in `app`."""

from ase_finetune.cli.app import main

__all__ = ["main"]
