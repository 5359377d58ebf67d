"""Processes of tests."""

from __future__ import annotations

import os


def forked(body) -> int:
    """Run ``body`` in a forked child, which ends with 0 unless something was raised or killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            body()
            code = 0
        finally:
            os._exit(code)
    return child
