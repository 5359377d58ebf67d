"""What ``checkpoint.json`` may say: checked before anything is built from it.

The document names classes and sizes. Only classes on a list are ever looked up, and only sizes
that a MACE model can have, so that a damaged or hostile file can neither call anything nor fill
the memory.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from ase_finetune._mace import modules
from ase_finetune.architecture import DTYPES
from ase_finetune.checkpoint_files import shallow_json
from ase_finetune.errors import CheckpointError

FORMAT = "ase-finetune checkpoint"
FORMAT_VERSION = 2  # 1: without "sha256", the hash of the document itself
STAGES = ("zero_shot", "finetuned", "refined")
_HEX = re.compile(r"[0-9a-f]{64}")
_IRREPS = re.compile(r"\d{1,4}x\d[eo](\+\d{1,4}x\d[eo]){0,19}")
# Numbers in a coupling tensor, before the paths; 4096 in published models.
_MOST_COUPLINGS = 2**16


def _is_int(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _is_number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and low < value <= high


def _is_irreps(value: Any) -> bool:
    return isinstance(value, str) and _IRREPS.fullmatch(value.replace(" ", "")) is not None


def _is_numbers(value: Any) -> bool:
    known = _is_int(1, len(chemical_symbols) - 1)
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(known(z) for z in value)
        and len(set(value)) == len(value)
    )


def _is_list_of(check: Callable[[Any], bool], most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(check, value))


def _one_of(*choices: Any) -> Callable[[Any], bool]:
    return lambda value: any(type(value) is type(c) and value == c for c in choices)


_ARCHITECTURE: Mapping[str, Callable[[Any], bool]] = {
    "r_max": _is_number(0, 50),
    "num_bessel": _is_int(1, 256),
    "num_polynomial_cutoff": _is_int(1, 64),
    "max_ell": _is_int(0, 8),
    "num_interactions": _is_int(1, 16),
    "correlation": _is_int(1, 6),
    "avg_num_neighbors": _is_number(0, 1e6),
    "radial_type": _one_of("bessel", "gaussian", "chebyshev"),
    "radial_MLP": _is_list_of(_is_int(1, 4096), 16),
    "distance_transform": _one_of("None", "Agnesi", "Soft"),
    "hidden_irreps": _is_irreps,
    "MLP_irreps": _is_irreps,
    "edge_irreps": lambda value: value is None or _is_irreps(value),
    "gate": _one_of(None, "silu", "tanh", "abs"),
    "interaction_cls": _one_of(*modules.interaction_classes),
    "interaction_cls_first": _one_of(*modules.interaction_classes),
    "readout_cls": _one_of(*modules.readout_classes),
    "atomic_numbers": _is_numbers,
    "heads": lambda value: _is_list_of(lambda head: isinstance(head, str), 1)(value) and value,
    "built_dtype": _one_of(*DTYPES),
    **dict.fromkeys(
        (
            "pair_repulsion",
            "apply_cutoff",
            "use_reduced_cg",
            "use_so3",
            "use_agnostic_product",
            "use_last_readout_only",
            "use_edge_irreps_first",
        ),
        lambda value: value is None or isinstance(value, bool),
    ),
}
_DOCUMENT: Mapping[str, Callable[[Any], bool]] = {
    "architecture": lambda value: isinstance(value, dict),
    "elements": _is_list_of(lambda symbol: isinstance(symbol, str), 118),
    "E0s": lambda value: isinstance(value, dict),
    "dtype": _one_of(*DTYPES),
    "stage": _one_of(*STAGES),
    "foundation": lambda value: isinstance(value, dict),
    "tensors_sha256": lambda value: isinstance(value, str) and bool(_HEX.fullmatch(value)),
    "probe": lambda value: isinstance(value, dict),
    "config": lambda value: isinstance(value, dict),
    "metrics": lambda value: isinstance(value, dict),
    "data_hash": lambda value: value is None or isinstance(value, str),
}


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with the hash of its content, as JSON will give it back."""
    plain = json.loads(json.dumps(document, allow_nan=False))
    return {**plain, "sha256": _digest(plain)}


def _digest(document: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in document.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def parse_document(payload: bytes, path: Path) -> dict[str, Any]:
    """Return the content of a ``checkpoint.json`` that can be built from.

    Parameters
    ----------
    payload
        Its bytes.
    path
        Where they were, for messages.

    Raises
    ------
    CheckpointError
        If it is damaged, foreign, of a newer format, or describes no MACE model.
    """
    try:
        document = shallow_json(payload)
    except ValueError as error:  # also numbers of too many digits
        raise CheckpointError(f"{path} is not readable JSON; copy the folder again.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not an ase-finetune checkpoint.")
    version = document.get("format_version")
    if version not in (1, FORMAT_VERSION) or type(version) is not int:
        raise CheckpointError(
            f"{path} has format version {version}, this version of ase-finetune reads "
            f"{FORMAT_VERSION}; update ase-finetune."
        )
    if document.get("sha256") != (_digest(document) if version > 1 else None):
        raise CheckpointError(f"{path} was changed after it was written; copy the folder again.")
    for key, valid in _DOCUMENT.items():
        if key not in document or not valid(document[key]):
            raise CheckpointError(f"{path} lacks a valid {key!r}; copy the folder again.")
    dispersion = document.get("dispersion")
    if dispersion is not None and not isinstance(dispersion, str):
        raise CheckpointError(f"{path} lacks a valid 'dispersion'; copy the folder again.")
    check_architecture(document["architecture"], path)
    _check_elements(document, path)
    return document


def check_architecture(architecture: Mapping[str, Any], where: object) -> None:
    """Refuse what cannot be built, or is not to be looked up.

    Parameters
    ----------
    architecture
        As from :func:`ase_finetune.architecture.describe`.
    where
        For the message.

    Raises
    ------
    CheckpointError
        If it is no description of a MACE model.
    """
    for key, valid in _ARCHITECTURE.items():
        if key not in architecture or not valid(architecture[key]):
            raise CheckpointError(
                f"{where} describes no MACE model: {key!r} is missing or invalid."
            )
    if (architecture["max_ell"] + 1) ** (2 * architecture["correlation"]) > _MOST_COUPLINGS:
        raise CheckpointError(f"{where} describes a model whose couplings are too many to build.")


def check_size(architecture: Mapping[str, Any], count: int, where: object) -> None:
    """Refuse a description of far more weights than there are, before any are made.

    Parameters
    ----------
    architecture
        A valid one.
    count
        How many numbers the file of weights holds.
    where
        For the message.

    Raises
    ------
    CheckpointError
        If even some layers of such a model hold more.
    """
    terms = architecture["hidden_irreps"].replace(" ", "").split("+")
    channels = max(int(term.split("x")[0]) for term in terms)
    radial = [architecture["num_bessel"], *architecture["radial_MLP"], channels]
    least = channels**2 + sum(a * b for a, b in itertools.pairwise(radial))
    if architecture["num_interactions"] * least > count:
        raise CheckpointError(
            f"{where} describes a model of at least {architecture['num_interactions'] * least} "
            f"weights, but there are {count}."
        )


def _check_elements(document: Mapping[str, Any], path: Path) -> None:
    symbols = [chemical_symbols[z] for z in document["architecture"]["atomic_numbers"]]
    if document["elements"] != symbols or sorted(document["E0s"]) != sorted(symbols):
        raise CheckpointError(f"{path}: elements, E0s and architecture name different elements.")
    for symbol, value in document["E0s"].items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise CheckpointError(f"{path}: the E0 of {symbol} is not a finite number.")
