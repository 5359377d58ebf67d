"""``python -m ase_finetune.cli``, which launchers such as torchrun need."""

from ase_finetune.cli import main

main()
