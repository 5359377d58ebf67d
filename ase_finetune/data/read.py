"""Labelled frames from files: any ASE-readable format in, `REF_*` labels out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from numpy.typing import NDArray

from ase_finetune.errors import DataError

ENERGY_KEY = "REF_energy"
FORCES_KEY = "REF_forces"
STRESS_KEY = "REF_stress"
WEIGHT_KEY = "config_weight"  # of a frame in the loss, by the name that MACE gives it
_SOURCE = "_aseft_source"  # attribute of frames in memory; no file and no copy takes it along

_LOOKS_LIKE = {
    "energy": re.compile(r"energy|toten|etot", re.IGNORECASE),
    "forces": re.compile(r"force|gradient", re.IGNORECASE),
    "stress": re.compile(r"stress|virial", re.IGNORECASE),
}
FORMATS = {".h5": "ase-finetune-h5", ".hdf5": "ase-finetune-h5", ".xyz": "extxyz"}


def read_frames(
    path: str | Path,
    *,
    energy_key: str = ENERGY_KEY,
    forces_key: str = FORCES_KEY,
    stress_key: str = STRESS_KEY,
    stress: bool | None = None,
    labelled: bool = True,
) -> list[Atoms]:
    """Read every frame of a file and bring its labels under the `REF_*` keys.

    Parameters
    ----------
    path
        Extended XYZ, our HDF5 (`.h5`), or anything `ase.io.read` knows.
    energy_key, forces_key, stress_key
        Where the labels are: `atoms.info` or `atoms.arrays`, or the name of a stored calculator
        result (`energy`, `free_energy`, `forces`, `stress`). Nothing is taken from a calculator
        unless it is named, because `energy` is often not the force-consistent energy.
    stress
        Whether a stress label must be there; None requires one if a key other than the default is
        named.
    labelled
        Whether labels must be there at all.

    Returns
    -------
    list of Atoms
        `info["REF_energy"]` float (eV), `arrays["REF_forces"]` (N, 3) (eV/A) and, where the file
        has one, `info["REF_stress"]` (6,) (eV/A^3, Voigt xx yy zz yz xz xy, tension positive).
        All other information is kept, constraints included; there is no calculator.
        Messages name them by file and index, as in `hot.xyz@17`.
        A one-atom frame without forces gets zeros: translation symmetry leaves no other value.

    Raises
    ------
    DataError
        If the file cannot be read, is empty, or no frame has a label under a requested key.
        The message lists the label-like keys that the file has.
    """
    path = Path(path)
    raw = _read(path, "labelled frames" if labelled else "frames")
    wanted = {"energy": energy_key, "forces": forces_key}
    if stress or (stress is None and stress_key != STRESS_KEY):
        wanted["stress"] = stress_key
    if re.search("virial", stress_key, re.IGNORECASE) and stress_key in label_keys(raw)["stress"]:
        raise DataError(
            f"{path.name}: {stress_key!r} names a virial, so divide it by minus the cell volume "
            "and store the result as a stress in eV/A^3."
        )
    for kind, key in wanted.items() if labelled else ():
        if not any(label_of(frame, key) is not None for frame in raw):
            raise DataError(_absent(path, kind, key, raw))
    return [
        _normalize(frame, index, path, energy_key, forces_key, stress_key)
        for index, frame in enumerate(raw)
    ]


def label_keys(frames: Iterable[Atoms]) -> dict[str, list[str]]:
    """Names under which frames hold something like an energy, forces or a stress.

    Returns
    -------
    dict
        `energy`, `forces` and `stress`, each with the sorted names found in `info`, `arrays` or
        the results of an attached calculator.
    """
    found: dict[str, set[str]] = {kind: set() for kind in _LOOKS_LIKE}
    for frame in frames:
        per_frame = [*frame.info, *_results(frame)]
        for kind, pattern in _LOOKS_LIKE.items():
            names: Sequence[str] = per_frame if kind != "forces" else []
            for name in [*names, *frame.arrays, *(_results(frame) if kind == "forces" else [])]:
                value = label_of(frame, name)
                if value is not None and pattern.search(name) and _shape_fits(kind, value, frame):
                    found[kind].add(name)
    return {kind: sorted(names) for kind, names in found.items()}


def first_of(frames: Sequence[Atoms], rows: Sequence[int]) -> str:
    """Return the first of some indices into a set, and where that frame was read, if known."""
    source = source_of(frames[rows[0]])
    return str(rows[0]) + ("" if source is None else f", {source}")


def source_of(frame: Atoms) -> str | None:
    """Return file and index that `read_frames` took a frame from, as in `hot.xyz@17`."""
    source: str | None = getattr(frame, _SOURCE, None)
    return source


def place_of(frames: Sequence[Atoms], index: int, name: str) -> str:
    """Return such as `frame 2 of the valid set (hot.xyz@17)`."""
    source = source_of(frames[index])
    return f"frame {index} of the {name} set" + ("" if source is None else f" ({source})")


def is_isolated_atom(frame: Atoms) -> bool:
    """Tell whether a frame is a free atom: `config_type` IsolatedAtom, or one atom, no periodicity.

    The name alone does not make a frame of several atoms one.
    """
    named = str(frame.info.get("config_type", "")).lower() in {"isolatedatom", "isolated_atom"}
    return len(frame) == 1 and (named or not frame.pbc.any())


def stress_voigt(value: Any) -> NDArray[np.float64]:
    """Turn a (6,), (9,) or (3, 3) stress into Voigt order xx yy zz yz xz xy.

    Raises
    ------
    ValueError
        If the shape is another one or the matrix is not symmetric within 5 %.
    """
    stress = np.asarray(value, dtype=float)
    if stress.shape == (6,):
        return stress
    if stress.shape not in {(9,), (3, 3)}:
        raise ValueError(f"has shape {stress.shape} instead of (6,) or (3, 3)")
    full = stress.reshape(3, 3)
    asymmetry = np.abs(full - full.T).max()
    if asymmetry > 0.05 * np.abs(full).max() + 1e-4:
        raise ValueError("is not a symmetric matrix")
    full = (full + full.T) / 2
    voigt: NDArray[np.float64] = full[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return voigt


def _read(path: Path, what: str) -> list[Atoms]:
    if not path.exists():
        raise DataError(f"There is no file {path}: check the path.")
    try:
        frames = ase.io.read(
            path, ":", format=FORMATS.get(path.suffix.lower()), do_not_split_by_at_sign=True
        )
    except Exception as error:  # every ASE reader has its own exceptions
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(
            f"{path.name} cannot be read as {what} ({reason}): "
            "give extended XYZ, this project's HDF5, or another file that ASE reads."
        ) from error
    if not frames:
        raise DataError(f"{path.name} holds no frames: give a file with {what}.")
    return [frames] if isinstance(frames, Atoms) else list(frames)


def _results(frame: Atoms) -> dict[str, Any]:
    results = getattr(frame.calc, "results", None) or {}
    return {key: value for key, value in results.items() if key in all_properties}


def label_of(frame: Atoms, key: str) -> Any:
    for place in (frame.info, frame.arrays, _results(frame)):
        if place.get(key) is not None:
            return place[key]
    return None


def _shape_fits(kind: str, value: Any, frame: Atoms) -> bool:
    size = np.size(value)
    if kind == "energy":
        return size == 1
    return size == 3 * len(frame) if kind == "forces" else size in {6, 9}


def _absent(path: Path, kind: str, key: str, frames: Sequence[Atoms]) -> str:
    others = [name for name in label_keys(frames)[kind] if name != key]
    flag = f"--{kind}-key"
    if not others:
        return f"{path.name} has no {kind} under {key!r} and nothing that looks like one: " + (
            "drop --stress-weight or give frames with a stress."
            if kind == "stress" and key == STRESS_KEY
            else f"give labelled frames, or name the key with {flag}."
        )
    offers = " or ".join(f"`{flag} {name}`" for name in others)
    return (
        f"{path.name} has no {kind} under {key!r}, but it has {', '.join(others)}: "
        f"pass {offers} if that is the label."
    )


def _normalize(
    frame: Atoms, index: int, path: Path, energy_key: str, forces_key: str, stress_key: str
) -> Atoms:
    out: Atoms = frame.copy()
    out.calc = None
    energy, forces = label_of(frame, energy_key), label_of(frame, forces_key)
    stress = label_of(frame, stress_key)
    # Labels under the default keys too, lest a frame without the named one falls back to them.
    for key in (energy_key, forces_key, stress_key, ENERGY_KEY, FORCES_KEY, STRESS_KEY):
        out.info.pop(key, None)
        out.arrays.pop(key, None)
    setattr(out, _SOURCE, f"{path}@{index}")
    if forces is None and len(frame) == 1:
        forces = np.zeros((1, 3))
    try:
        if energy is not None:
            out.info[ENERGY_KEY] = float(np.asarray(energy, dtype=float).reshape(()))
        if forces is not None:
            out.arrays[FORCES_KEY] = np.asarray(forces, dtype=float).reshape(len(frame), 3)
        if stress is not None:
            out.info[STRESS_KEY] = stress_voigt(stress)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{path.name}, frame {index}: a label under {energy_key!r}, {forces_key!r} or "
            f"{stress_key!r} is not usable ({error}): correct it or name another key."
        ) from error
    return out
