"""The two files of a checkpoint on disk: written so that a kill leaves the old or the new one.

A folder that is new is written under another name and renamed. In an existing one the new weights
are put beside the old ones first; replacing ``checkpoint.json``, which holds the hash of its
weights, is the one step that exchanges the checkpoint, and the weights take their name afterwards.
Whoever reads in between takes the weights that fit the hash.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

from ase_finetune.errors import CheckpointError
from ase_finetune.lock import locked

DOCUMENT, WEIGHTS = "checkpoint.json", "model.safetensors"
_NEXT_DOCUMENT, _NEXT_WEIGHTS = ".checkpoint.json.next", ".model.safetensors.next"
# A longer file is not a checkpoint's, and would only fill the memory.
_LONGEST = {DOCUMENT: 2**28, WEIGHTS: 2**32, _NEXT_WEIGHTS: 2**32}
_PATIENCE_S = 60.0
_BRACKETS = re.compile(r'"(?:\\.|[^"\\])*"|[][{}]')  # whole strings, so that theirs do not count
_DEEPEST = 64


def shallow_json(payload: bytes) -> Any:
    """Read JSON unless it is nested so deeply that reading it would exhaust the stack.

    Where the recursion limit was raised, as libraries do, that ends the process and raises nothing.

    Raises
    ------
    ValueError
        If it is not JSON, or too deep.
    """
    text = payload.decode("utf-8")
    depth = 0
    for match in _BRACKETS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match.group(), 0)
        if depth > _DEEPEST:
            raise ValueError(f"nested more than {_DEEPEST} deep")
    return json.loads(text)


def sha256(payload: bytes) -> str:
    """Return the hash as 64 hexadecimal digits."""
    return hashlib.sha256(payload).hexdigest()


def read_document(folder: Path) -> bytes:
    """Return the bytes of ``checkpoint.json``.

    Raises
    ------
    CheckpointError
        If there are none to be read.
    """
    if not folder.is_dir() or not (folder / DOCUMENT).is_file():
        raise CheckpointError(
            f"{folder} is not a checkpoint folder (it has no {DOCUMENT}){_instead(folder)}"
        )
    return _read(folder / DOCUMENT)


def _instead(folder: Path) -> str:
    """Say what may have been meant by something that is not a checkpoint."""
    for stage in ("refined", "finetuned"):
        inside = folder / "checkpoints" / stage
        if (inside / DOCUMENT).is_file():
            return f": did you mean {inside}?"
    if folder.suffix == ".model" or (len(folder.parts) == 1 and not folder.exists()):
        return (
            "; if it is a foundation, measure it by "
            f"`ase-finetune doctor FRAMES --foundation {folder}`."
        )
    return "."


def read_weights(folder: Path, digest: str) -> bytes:
    """Return the bytes of the weights that have this hash.

    Raises
    ------
    CheckpointError
        If there are none.
    """
    # In this order, since a writer turns the first into the second.
    for path in (folder / _NEXT_WEIGHTS, folder / WEIGHTS):
        if path.name == WEIGHTS or path.is_file():
            payload = _read(path)
            if sha256(payload) == digest:
                return payload
    raise CheckpointError(
        f"{folder}: the weights are not those that its {DOCUMENT} describes; "
        "copy the whole folder again."
    )


def _read(path: Path) -> bytes:
    """Read a regular file of a credible size; nothing else can block or fill the memory."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{path} is not a regular file.")
            if status.st_size > _LONGEST[path.name]:
                raise CheckpointError(
                    f"{path} has {status.st_size} bytes, more than any checkpoint's."
                )
            return file.read(status.st_size)
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror}.") from error


def write_folder(target: Path, document: bytes, weights: bytes) -> None:
    """Write a checkpoint, or replace one.

    Raises
    ------
    CheckpointError
        If ``target`` exists and is not a checkpoint, or the disk refuses; what was there is still
        there.
    """
    if target.exists() and not (target / DOCUMENT).is_file():
        raise CheckpointError(f"{target} exists and is not a checkpoint; choose another name.")
    try:
        if target.exists() or not _create(target, document, weights):
            with locked(target, wait_s=_PATIENCE_S):
                _replace(target, document, weights)
    except OSError as error:
        raise CheckpointError(f"Cannot write {target}: {error.strerror}.") from error


def _create(target: Path, document: bytes, weights: bytes) -> bool:
    """Make the folder; False if another process made it meanwhile."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process with our number
        temporary.mkdir()
        write_synced(temporary / WEIGHTS, weights)
        write_synced(temporary / DOCUMENT, document)
        _sync(temporary)
        try:
            os.rename(temporary, target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        _sync(target.parent)
        return True
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(target: Path, document: bytes, weights: bytes) -> None:
    next_document, next_weights = target / _NEXT_DOCUMENT, target / _NEXT_WEIGHTS
    _settle(target)
    try:
        write_synced(next_weights, weights)
        write_synced(next_document, document)
        _sync(target)
        os.replace(next_document, target / DOCUMENT)
    except OSError:
        next_weights.unlink(missing_ok=True)
        next_document.unlink(missing_ok=True)
        raise
    _sync(target)
    os.replace(next_weights, target / WEIGHTS)
    _sync(target)


def _settle(target: Path) -> None:
    """Finish or undo what a killed process left, before its files are written over."""
    pending = target / _NEXT_WEIGHTS
    if pending.exists():
        if sha256(_read(pending)) == _described(target):
            os.replace(pending, target / WEIGHTS)
            _sync(target)
        else:
            pending.unlink()


def _described(target: Path) -> object:
    """Return the hash of the weights that a folder's document names."""
    try:
        return shallow_json(_read(target / DOCUMENT)).get("tensors_sha256")
    except (ValueError, AttributeError):
        return None  # damaged, and about to be replaced


def write_synced(path: Path, payload: bytes) -> None:
    """Write a file and wait until it is on disk."""
    with open(path, "wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
