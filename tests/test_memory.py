"""Freed memory stays in the process: fewer page faults, and settings of the user are left alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ase_finetune.memory import OWN_SETTINGS

SCRIPT = """
import resource, sys
import numpy as np
from ase_finetune.memory import keep_freed_memory
changed = keep_freed_memory() if "keep" in sys.argv else None
def use():
    np.ones(12_500_000)  # 100 MB, written to and freed
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(changed, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(*arguments, **settings):
    clean = {k: v for k, v in os.environ.items() if k not in (*OWN_SETTINGS, "LD_PRELOAD")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        env={**clean, **settings},
        check=True,
    )
    changed, faults = done.stdout.split()
    return changed, int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator of glibc")
def test_pages_are_reused():
    changed, kept = run("keep")
    if changed == "False":
        pytest.skip("the allocator is not glibc's")
    _, returned = run()
    assert changed == "True"
    assert kept < 0.2 * returned


def test_settings_of_the_user_are_left_alone():
    changed, _ = run("keep", MALLOC_TRIM_THRESHOLD_="200000")
    assert changed == "False"
