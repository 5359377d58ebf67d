"""Labelled frames and reference values in one HDF5 file, readable through ASE.

``ase.io.read("mo.h5", ":", format="ase-finetune-h5")`` and ``ase.io.write`` work wherever this
package is installed. Schema, version 1 (n frames and N atoms in a split, all little-endian)::

    /                            attrs: format = "ase-finetune-h5", version = 1, and what the
                                 writer says of the file (system, level_of_theory, license, ...)
    /provenance                  (m,) str    JSON objects, the distinct origins of labels
    /frames/SPLIT/offsets        (n+1,) i8   atoms of frame i are offsets[i]:offsets[i+1]
    /frames/SPLIT/numbers        (N,) u1     atomic numbers
    /frames/SPLIT/positions      (N, 3) f8   A
    /frames/SPLIT/forces         (N, 3) f8   eV/A
    /frames/SPLIT/cell           (n, 3, 3) f8  A, rows are vectors
    /frames/SPLIT/pbc            (n, 3) bool
    /frames/SPLIT/energy         (n,) f8     eV, force-consistent
    /frames/SPLIT/stress         (n, 6) f8   eV/A^3, Voigt xx yy zz yz xz xy, tension positive;
                                             a row of NaN: the frame has no stress label
    /frames/SPLIT/config_type    (n,) str
    /frames/SPLIT/id             (n,) str    empty where the frame has none
    /frames/SPLIT/provenance     (n,) i4     row of /provenance
    /references/NAME/LABEL       attrs: kind = "quantity" | "curve", source, default (bool), and
                                 unit, or x_unit, y_unit, periodic; data: value (), or x, y

Atoms of all frames of a split are concatenated, so a frame is one slice of each array and large
files can be read piece by piece. A frame comes back with ``info`` keys ``REF_energy``,
``REF_stress``, ``config_type``, ``split``, ``id`` and those of its provenance, and with the array
``REF_forces``. Frames written without a split go to one named ``all``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.utils.plugins import ExternalIOFormat
from numpy.typing import NDArray

from systems.errors import DataFileError

if TYPE_CHECKING:
    from properties.quantity import Curve, Quantity

BLOCK = 1000  # frames read at once
FORMAT = "ase-finetune-h5"
VERSION = 1
UNSPLIT = "all"
OWN_INFO = ("REF_energy", "REF_stress", "config_type", "split", "id")
KNOWN_ARRAYS = ("numbers", "positions", "REF_forces")

ase_finetune_h5 = ExternalIOFormat(
    desc="ase-finetune HDF5 frames and references", code="+S", module="systems.hdf5"
)


def write_frames(
    path: str | Path, frames: Sequence[Atoms], attributes: Mapping[str, Any] | None = None
) -> None:
    """Write labelled frames to a new file, replacing an old one.

    Parameters
    ----------
    path : path
        File to write.
    frames : sequence of Atoms
        With ``REF_energy`` (eV), ``REF_forces`` (eV/A) and, where there is one, ``REF_stress``
        (eV/A^3). Their order is kept within each ``info["split"]``.
    attributes : mapping, optional
        Attributes of the file: strings, numbers or lists of them.

    Raises
    ------
    DataFileError
        If a frame lacks a label or holds something that the schema has no place for.
    """
    import h5py

    splits: dict[str, list[Atoms]] = {}
    for i, atoms in enumerate(frames):
        _check_frame(i, atoms)
        splits.setdefault(str(atoms.info.get("split", UNSPLIT)), []).append(atoms)
    origins: dict[str, int] = {}
    with h5py.File(path, "w") as file:
        file.attrs.update({**(attributes or {}), "format": FORMAT, "version": VERSION})
        parent = file.create_group("frames", track_order=True)
        for split, members in splits.items():
            group = parent.create_group(split)
            for name, values in _columns(members, origins).items():
                if values.dtype == object:
                    group.create_dataset(name, data=values, dtype=h5py.string_dtype())
                else:
                    group.create_dataset(name, data=values, compression="gzip", shuffle=True)
        file.create_dataset("provenance", data=list(origins), dtype=h5py.string_dtype())


def _check_frame(index: int, atoms: Atoms) -> None:
    name = atoms.info.get("id", index)
    if "REF_energy" not in atoms.info or "REF_forces" not in atoms.arrays:
        raise DataFileError(
            f"Frame {name} has no REF_energy or no REF_forces; rename its labels to these keys."
        )
    extra = sorted(set(atoms.arrays) - set(KNOWN_ARRAYS))
    if extra or atoms.constraints:
        what = ", ".join(extra) or "constraints"
        raise DataFileError(
            f"Frame {name} carries {what}, which the format does not hold; remove it first."
        )


def _columns(frames: Sequence[Atoms], origins: dict[str, int]) -> dict[str, NDArray[Any]]:
    """Return the datasets of one split; adds to ``origins`` (JSON to row)."""
    rows = []
    for atoms in frames:
        rest = {key: value for key, value in atoms.info.items() if key not in OWN_INFO}
        try:
            text = json.dumps(rest, sort_keys=True, default=_plain)
        except TypeError as error:
            raise DataFileError(
                f"Frame {atoms.info.get('id', '')} has an info entry that JSON cannot hold "
                f"({error}); remove it first."
            ) from error
        rows.append(origins.setdefault(text, len(origins)))
    no_stress = np.full(6, np.nan)
    return {
        "offsets": np.cumsum([0, *(len(a) for a in frames)]).astype("<i8"),
        "numbers": np.concatenate([a.numbers for a in frames]).astype("u1"),
        "positions": np.concatenate([a.positions for a in frames]).astype("<f8"),
        "forces": np.concatenate([a.arrays["REF_forces"] for a in frames]).astype("<f8"),
        "cell": np.array([a.cell.array for a in frames], dtype="<f8"),
        "pbc": np.array([a.pbc for a in frames], dtype=bool),
        "energy": np.array([a.info["REF_energy"] for a in frames], dtype="<f8"),
        "stress": np.array([a.info.get("REF_stress", no_stress) for a in frames], dtype="<f8"),
        "config_type": np.array([a.info.get("config_type", "") for a in frames], dtype=object),
        "id": np.array([str(a.info.get("id", "")) for a in frames], dtype=object),
        "provenance": np.array(rows, dtype="<i4"),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__}")


def open_data(path: str | Path) -> Any:
    """Open a file of this format for reading (an ``h5py.File``).

    Raises
    ------
    DataFileError
        If there is no such file, or it is not of this format or version.
    """
    import h5py

    if not Path(path).exists():
        raise DataFileError(f"There is no file {path}; check the path.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataFileError(f"{path} is no readable HDF5 file; restore it.") from error
    if file.attrs.get("format") != FORMAT or file.attrs.get("version") != VERSION:
        file.close()
        raise DataFileError(
            f"{path} is not in the format {FORMAT} version {VERSION}; write it with this package."
        )
    return file


def file_attributes(path: str | Path) -> dict[str, Any]:
    """Return the attributes of the file, arrays as lists."""
    with open_data(path) as file:
        return {
            key: value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
            for key, value in file.attrs.items()
        }


def split_sizes(path: str | Path) -> dict[str, int]:
    """Return the number of frames of each split without reading them."""
    with open_data(path) as file:
        return {name: len(group["energy"]) for name, group in file["frames"].items()}


def iterate_frames(path: str | Path, split: str | None = None) -> Iterator[Atoms]:
    """Yield the frames of a file one by one, splits and frames in the order written.

    Parameters
    ----------
    path : path
        File in this format.
    split : str, optional
        Only this split.

    Raises
    ------
    DataFileError
        If the file is not of this format or lacks the split.
    """
    with open_data(path) as file:
        groups = file["frames"]
        if split is not None and split not in groups:
            raise DataFileError(f"{path} has no split {split!r}; it has {', '.join(groups)}.")
        origins = [json.loads(text) for text in file["provenance"].asstr()[:]]
        for name in groups if split is None else [split]:
            yield from _split_frames(groups[name], name, origins)


def _split_frames(group: Any, split: str, origins: Sequence[Mapping[str, Any]]) -> Iterator[Atoms]:
    """Yield frames, reading a block of them at a time: one by one would cost 8 ms each."""
    offsets = group["offsets"][:]
    for first in range(0, len(offsets) - 1, BLOCK):
        bounds = offsets[first : first + BLOCK + 1]
        rows, atoms = slice(first, first + BLOCK), slice(int(bounds[0]), int(bounds[-1]))
        block = {
            **{key: group[key][atoms] for key in ("numbers", "positions", "forces")},
            **{key: group[key][rows] for key in ("cell", "pbc", "energy", "stress", "provenance")},
            **{key: group[key].asstr()[rows] for key in ("config_type", "id")},
        }
        for i in range(len(bounds) - 1):
            here = slice(int(bounds[i] - bounds[0]), int(bounds[i + 1] - bounds[0]))
            yield _frame(block, split, i, here, origins)


def _frame(
    block: Mapping[str, NDArray[Any]],
    split: str,
    i: int,
    here: slice,
    origins: Sequence[Mapping[str, Any]],
) -> Atoms:
    """Make frame ``i`` of a block, whose atoms are at ``here`` in it."""
    atoms = Atoms(
        numbers=block["numbers"][here],
        positions=block["positions"][here],
        cell=block["cell"][i],
        pbc=block["pbc"][i],
    )
    # Copies, so that a frame does not hold on to its whole block.
    atoms.arrays["REF_forces"] = block["forces"][here].copy()
    atoms.info["REF_energy"] = float(block["energy"][i])
    if not np.isnan(block["stress"][i]).any():
        atoms.info["REF_stress"] = block["stress"][i].copy()
    for key in ("config_type", "id"):
        text = block[key][i]
        if text:
            atoms.info[key] = text
    atoms.info["split"] = split
    atoms.info.update(origins[int(block["provenance"][i])])
    return atoms


def read_ase_finetune_h5(filename: str, index: int | slice | None = None) -> Iterator[Atoms]:
    """Yield the frames that ``ase.io.read`` asks for; ASE finds this by its name."""
    frames = list(iterate_frames(filename))
    chosen = frames[-1 if index is None else index]
    yield from [chosen] if isinstance(chosen, Atoms) else chosen


def write_ase_finetune_h5(filename: str, images: Atoms | Sequence[Atoms]) -> None:
    """Write what ``ase.io.write`` hands over; ASE finds this by its name."""
    write_frames(filename, [images] if isinstance(images, Atoms) else images)


@dataclass(frozen=True)
class Reference:
    """One stored reference value or curve.

    Attributes
    ----------
    name : str
        Key of the result that it belongs to, for example ``"C11"``.
    label : str
        Where it comes from, short: distinguishes references of one name.
    value : Quantity or Curve
    default : bool
        Whether models are compared with this one; at most one per name.
    """

    name: str
    label: str
    value: Quantity | Curve
    default: bool


def write_references(path: str | Path, references: Sequence[Reference]) -> None:
    """Add references to a file of this format.

    Raises
    ------
    DataFileError
        If a name has two defaults or the same label twice.
    """
    import h5py

    from properties.quantity import Quantity

    keys = [(ref.name, ref.label) for ref in references]
    defaults = [ref.name for ref in references if ref.default]
    if len(set(keys)) < len(keys) or len(set(defaults)) < len(defaults):
        raise DataFileError("A reference has two defaults or one label twice; keep one of them.")
    with h5py.File(path, "a") as file:
        parent = file.create_group("references", track_order=True)
        for ref in references:
            names = parent.require_group(ref.name)
            group = names.create_group(ref.label)
            group.attrs.update({"source": ref.value.source, "default": ref.default})
            if isinstance(ref.value, Quantity):
                group.attrs.update({"kind": "quantity", "unit": ref.value.unit})
                group.create_dataset("value", data=ref.value.value)
                continue
            group.attrs["kind"] = "curve"
            for key in ("x_unit", "y_unit", "periodic"):
                group.attrs[key] = getattr(ref.value, key)
            group.create_dataset("x", data=ref.value.x)
            group.create_dataset("y", data=ref.value.y)


def read_references(path: str | Path) -> list[Reference]:
    """Return all references of a file, in the order written."""
    from properties.quantity import Curve, Quantity

    found = []
    with open_data(path) as file:
        for name, labels in file.get("references", {}).items():
            for label, group in labels.items():
                attrs = group.attrs
                value: Quantity | Curve
                if attrs["kind"] == "quantity":
                    value = Quantity(float(group["value"][()]), attrs["unit"], attrs["source"])
                else:
                    value = Curve(
                        group["x"][:],
                        group["y"][:],
                        attrs["x_unit"],
                        attrs["y_unit"],
                        attrs["source"],
                        periodic=bool(attrs["periodic"]),
                    )
                found.append(Reference(name, label, value, bool(attrs["default"])))
    return found
