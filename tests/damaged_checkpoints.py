"""Damaged and hostile copies of a checkpoint, family by family."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save

from ase_finetune.checkpoint_checks import sealed
from ase_finetune.checkpoint_files import sha256

DOCUMENT, WEIGHTS = "checkpoint.json", "model.safetensors"
ESCAPES = (
    "../../../../tmp/escaped", "/etc/escaped", "..\\escaped", "a/b", "", "\0", "x" * 9999,
    "__class__.__init__", "forward", "interactions.0",
)  # fmt: skip


class Original:
    """The files of a good checkpoint, and ways to write others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.document = (folder / DOCUMENT).read_bytes()
        self.weights = (folder / WEIGHTS).read_bytes()
        self.rng = np.random.default_rng(11)

    def sealed(self, weights: bytes | None = None, **changes: object) -> tuple[bytes, bytes]:
        """Return files whose hashes fit, as of somebody who knows how to make them."""
        weights = self.weights if weights is None else weights
        document = {**json.loads(self.document), "tensors_sha256": sha256(weights), **changes}
        document.pop("sha256")
        return json.dumps(sealed(document)).encode(), weights

    def architecture(self, **changes: object) -> tuple[bytes, bytes]:
        return self.sealed(architecture={**json.loads(self.document)["architecture"], **changes})

    def tensors(self) -> dict[str, torch.Tensor]:
        return load(self.weights)


def cut(o: Original) -> Iterator[tuple[bytes, bytes]]:
    for place in o.rng.integers(0, len(o.weights), 60):
        yield o.document, o.weights[:place]
    for place in o.rng.integers(0, len(o.document), 60):
        yield o.document[:place], o.weights


def flipped(payload: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(payload)
    changed[place] ^= 1 << bit
    return bytes(changed)


def bits(o: Original) -> Iterator[tuple[bytes, bytes]]:
    for place in o.rng.integers(0, len(o.weights), 80):
        yield o.document, flipped(o.weights, place, int(o.rng.integers(8)))
    for place in o.rng.integers(0, len(o.document), 120):
        yield flipped(o.document, place, int(o.rng.integers(8))), o.weights


def digits(o: Original) -> Iterator[tuple[bytes, bytes]]:
    """Every digit of the document that could be another one: E0s, sizes, hashes."""
    places = [i for i, c in enumerate(o.document) if chr(c).isdigit()]
    for place in o.rng.choice(places, 60, replace=False):
        other = (int(chr(o.document[place])) + int(o.rng.integers(1, 10))) % 10
        yield o.document[:place] + str(other).encode() + o.document[place + 1 :], o.weights


def blocks(o: Original) -> Iterator[tuple[bytes, bytes]]:
    """Blocks that are lost, doubled or full of something else."""
    for payload, first in itertools.product((o.document, o.weights), (True, False)):
        for _ in range(15):
            a, b = sorted(o.rng.integers(0, len(payload), 2))
            middle = o.rng.bytes(min(int(b - a), 512)) if first else payload[a:b] * 2
            changed = payload[:a] + middle + payload[b:]
            yield (changed, o.weights) if payload is o.document else (o.document, changed)


def swapped_tensors(o: Original) -> Iterator[tuple[bytes, bytes]]:
    names = sorted(k for k, v in o.tensors().items() if v.is_floating_point())
    pairs = list(itertools.combinations(names, 2))
    for row in o.rng.choice(len(pairs), min(30, len(pairs)), replace=False):
        tensors, (a, b) = o.tensors(), pairs[row]
        tensors[a], tensors[b] = tensors[b].clone(), tensors[a].clone()
        yield o.sealed(save(tensors))
    name = "interactions.0.linear_up.weight"
    for k in range(6):  # within one tensor, where no shape gives it away
        tensors = o.tensors()
        tensors[name] = tensors[name].roll(k + 1).contiguous()
        yield o.sealed(save(tensors))


def wrong_tensors(o: Original) -> Iterator[tuple[bytes, bytes]]:
    """Other shapes, dtypes, values and names, with hashes that fit."""
    names = sorted(k for k, v in o.tensors().items() if v.is_floating_point() and v.numel() > 1)
    for k in range(24):
        tensors, name = o.tensors(), names[k % len(names)]
        x = tensors[name]
        tensors[name] = (x.reshape(-1)[:-1], x[None], x.reshape(1, -1), x[:0])[k % 4].contiguous()
        yield o.sealed(save(tensors))
    for k, dtype in enumerate((torch.float16, torch.int64, torch.bool, torch.complex64) * 3):
        tensors = o.tensors()
        tensors[names[k % len(names)]] = tensors[names[k % len(names)]].to(dtype)
        yield o.sealed(save(tensors))
    for k, value in enumerate((float("nan"), float("inf"), -float("inf"), 1e30, -1e3, 0.3) * 2):
        tensors, name = o.tensors(), names[(3 * k) % len(names)]
        tensors[name].view(-1)[0] = value
        yield o.sealed(save(tensors))
    for name in ESCAPES:
        added, renamed = o.tensors(), o.tensors()
        added[name] = torch.zeros(3)
        renamed[name] = renamed.pop(names[0])
        yield o.sealed(save(added))
        yield o.sealed(save(renamed))
    for name in names[:8]:
        fewer = o.tensors()
        del fewer[name]
        yield o.sealed(save(fewer))


def headers(o: Original) -> Iterator[tuple[bytes, bytes]]:
    """Sizes in the weights' header that are not those of the file."""
    (length,) = struct.unpack("<Q", o.weights[:8])
    header, data = json.loads(o.weights[8 : 8 + length]), o.weights[8 + length :]
    for size in (0, 1, length - 1, length + 1, 2**31, 2**40, 2**63, 2**64 - 1):
        yield o.sealed(struct.pack("<Q", size) + o.weights[8:])
    name = next(k for k in header if k != "__metadata__")
    start, stop = header[name]["data_offsets"]
    for change in (
        {"shape": [2**62, 2**62]}, {"shape": [2**40]}, {"shape": [-1]}, {"shape": [0]},
        {"shape": "large"}, {"data_offsets": [0, 2**60]}, {"data_offsets": [2**60, 2**60 + 8]},
        {"data_offsets": [stop, start]}, {"data_offsets": [start]}, {"data_offsets": [-8, 0]},
        {"dtype": "F128"}, {"dtype": "F8_E5M2"}, {"dtype": None}, {"dtype": "I64"},
    ):  # fmt: skip
        text = json.dumps({**header, name: {**header[name], **change}}).encode()
        yield o.sealed(struct.pack("<Q", len(text)) + text + data)
    for text in (b"", b"{}", b"[]", b"null", b"{" * 5000, b'{"a":' * 5000, b'"\xff"', b"{}" * 9):
        yield o.sealed(struct.pack("<Q", len(text)) + text + data)


def documents(o: Original) -> Iterator[tuple[bytes, bytes]]:
    """Valid tensors with a document that is inconsistent, with a hash that fits or without."""
    document = json.loads(o.document)
    for key in document["architecture"]:
        for value in (10**9, -1, "x", {}, "__import__('os').system('true')"):
            yield o.architecture(**{key: value})
        fewer = {k: v for k, v in document["architecture"].items() if k != key}
        yield o.sealed(architecture=fewer)
    for name in ("ScaleShiftMACE", "os", "__builtins__", "__loader__", "mean_std", "torch", "Any"):
        yield o.architecture(interaction_cls=name)
        yield o.architecture(readout_cls=name)
    for changes in (
        {"hidden_irreps": "9999x0e"}, {"hidden_irreps": "99999999x0e"}, {"correlation": 6},
        {"max_ell": 8}, {"radial_MLP": [4096] * 16}, {"num_interactions": 16, "num_bessel": 256},
        {"atomic_numbers": list(range(1, 119))}, {"atomic_numbers": [42, 29]},
        {"atomic_numbers": [29, 29]}, {"atomic_numbers": [0, 42]}, {"heads": ["a", "b"]},
        {"correlation": 2}, {"max_ell": 1}, {"hidden_irreps": "8x0e+8x1o"},
    ):  # fmt: skip
        yield o.architecture(**changes)
    for key in document:
        if key in ("format", "format_version", "sha256", "data_hash", "dispersion", "versions"):
            continue
        for value in (None, [], "x", 7):
            if key not in ("backend", "config", "metrics", "foundation") or value != []:
                yield o.sealed(**{key: value}) if key != "backend" else (b"7", o.weights)
    for E0s in (
        {"Cu": "1", "Mo": 1},
        {"Cu": True, "Mo": 1},
        {"Cu": None, "Mo": 1},
        {},
        {"Mo": 1.0},
    ):
        yield o.sealed(E0s=E0s)
    for text in (b"", b"null", b"[]", b'"x"', b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe{}",
                 b'{"format_version": ' + b"9" * 5000 + b"}", b"{}",
                 o.document.replace(b'"format_version": 2', b'"format_version": 1'),
                 o.document.replace(b'"format_version": 2', b'"format_version": 1e400'),
                 o.document.replace(b'"sha256": "', b'"sha257": "')):  # fmt: skip
        yield text, o.weights


class Bomb:
    """What a pickle may do when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> object:
        return open, (str(self.marker), "w")


def pickles(o: Original, marker: Path) -> Iterator[tuple[bytes, bytes]]:
    zipped = marker.with_suffix(".pt")
    torch.save({"weights": Bomb(marker)}, zipped)
    texts = [pickle.dumps(Bomb(marker), protocol=p) for p in range(6)]
    for text in (*texts, zipped.read_bytes()):
        yield o.document, text
        yield o.sealed(text)
        yield text, o.weights
        # A pickle ends at its STOP; what follows may look like weights, and the reverse.
        yield o.sealed(text + o.weights)
        yield o.sealed(o.weights + text)


def on_disk(o: Original, folder: Path) -> Iterator[Path]:
    """Files that are not what their names say; each in a folder of its own."""
    numbers = itertools.count()

    def fresh() -> Path:
        target = folder / f"disk{next(numbers)}"
        target.mkdir()
        (target / DOCUMENT).write_bytes(o.document)
        (target / WEIGHTS).write_bytes(o.weights)
        return target

    for name in (DOCUMENT, WEIGHTS):
        good = o.folder / name
        for aim in (
            good, Path("/dev/zero"), Path("/dev/null"), Path("/etc/hostname"), folder,
            folder / "absent", Path(name), Path("../../../../../../../../etc/passwd"),
        ):  # fmt: skip
            target = fresh()
            (target / name).unlink()
            (target / name).symlink_to(aim)
            yield target
        target = fresh()
        (target / name).unlink()
        os.mkfifo(target / name)
        yield target
        target = fresh()
        (target / name).unlink()
        (target / name).mkdir()
        yield target
        for size in (2**40, 2**33):  # holes: nothing is stored, all of it would be read
            target = fresh()
            os.truncate(target / name, size)
            yield target
        target = fresh()
        (target / name).unlink()
        yield target
    for target in (fresh(), fresh()):  # beside the weights, where an unfinished replacement lies
        (target / ".model.safetensors.next").write_bytes(o.rng.bytes(100))
        yield target
    target = fresh()
    (target / ".model.safetensors.next").symlink_to("/dev/zero")
    yield target
    link = folder / "link"
    link.symlink_to(o.folder)
    yield link
    yield folder / "link" / ".." / ".." / "nowhere"
    yield Path("\0")
