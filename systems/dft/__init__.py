"""Scripts that computed the DFT labels and references; run them with ``python -m``."""
