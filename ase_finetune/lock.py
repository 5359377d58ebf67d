"""One process at a time in a folder: a lock that dies with its owner."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from ase_finetune.errors import UserError

LOCK_FILE = ".lock"
_held: set[int] = set()


class LockedError(UserError):
    """A folder that another process is writing."""


@contextlib.contextmanager
def locked(folder: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Keep other processes out of a folder for the body.

    The lock is the kernel's (``flock`` on the file ``.lock``), so that it ends with the process
    however that ends; the file only says who holds it.

    Parameters
    ----------
    folder
        An existing folder.
    wait_s
        How long to wait for another process, s.

    Raises
    ------
    LockedError
        If another process holds the folder, with its number and host, or there are no locks here.
    """
    path = folder / LOCK_FILE
    file = _acquire(path, time.monotonic() + wait_s)
    _held.add(file)
    try:
        yield
    finally:
        if file in _held:  # not in a forked child, whose parent goes on holding it
            # Before the lock ends, so that nobody can be holding the file that is taken away.
            path.unlink(missing_ok=True)
            _held.discard(file)
            os.close(file)


def check_unlocked(folder: Path) -> None:
    """Refuse a folder that another process holds now.

    Raises
    ------
    LockedError
        As :func:`locked`.
    """
    if (folder / LOCK_FILE).exists():
        with locked(folder):
            return


def _acquire(path: Path, deadline: float) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, path):
                owner = {
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                    "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
                }
                os.ftruncate(file, 0)
                os.pwrite(file, json.dumps(owner).encode(), 0)
                return file
        except OSError as error:
            owner_text = _owner(file)
            os.close(file)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise LockedError(f"Cannot lock {path.parent}: {error.strerror}.") from error
            if time.monotonic() >= deadline:
                raise LockedError(
                    f"{path.parent} is being written by {owner_text}; wait for it, or choose "
                    "another folder."
                ) from error
            time.sleep(0.02)
        else:
            os.close(file)  # its owner took it away between our opening and locking it


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _owner(file: int) -> str:
    try:
        owner = json.loads(os.pread(file, 4096, 0))
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"  # which has only just opened it


def _close_in_child() -> None:
    # A forked child shares its parent's lock, and would keep it after the parent's end.
    for file in _held:
        os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
