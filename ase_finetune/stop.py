"""Ctrl-C, and the signal that ends a job on a cluster, remembered.

Python raises KeyboardInterrupt wherever the interpreter is. In a destructor or the callback of a
weak reference, of which torch has many, it is printed and forgotten, and the run would go on. So
the signal is remembered too, and the next progress that is shown raises what got lost.
"""

from __future__ import annotations

import signal
from typing import Any

_told = False


def catch_signals() -> None:
    """Make SIGINT, unless it is ignored, and SIGTERM raise KeyboardInterrupt and be remembered."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)


def _stop(*_: Any) -> None:
    global _told
    _told = True
    raise KeyboardInterrupt


def stop_if_told() -> None:
    """Raise KeyboardInterrupt if a signal came."""
    if _told:
        raise KeyboardInterrupt
