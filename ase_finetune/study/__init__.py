"""Comparisons of optimizers over systems and paired seeds; `engine` runs them."""
