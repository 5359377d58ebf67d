"""Keep freed memory in the process, so that every evaluation reuses the pages of the last one."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

# Names of mallopt's parameters in glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
OWN_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_",
                "GLIBC_TUNABLES")  # fmt: skip


@functools.cache
def keep_freed_memory() -> bool:
    """Tell glibc's allocator to reuse freed blocks of any size instead of returning them.

    By default it takes blocks of more than some MB from the system and gives them back when they
    are freed. The arrays of an evaluation are of that size and live for a moment, so the system
    maps and clears the same pages again and again: half the time of an evaluation of a thousand
    atoms. The peak of the memory stays what it is; between evaluations up to 2 GB of it are kept.

    Returns
    -------
    bool
        False, and nothing is changed, where the allocator is another one or the user has settings
        of their own in the environment (``MALLOC_*_``, ``GLIBC_TUNABLES``, or a preloaded one).
    """
    if not sys.platform.startswith("linux") or "LD_PRELOAD" in os.environ:
        return False
    if any(name in os.environ for name in OWN_SETTINGS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
