"""Labelled frames in, checked and split: what every training starts from.

Labels are `info["REF_energy"]` (eV), `arrays["REF_forces"]` (eV/A) and `info["REF_stress"]`
(eV/A^3, Voigt xx yy zz yz xz xy, tension positive).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from ase import Atoms

from ase_finetune.data.checks import check_structures
from ase_finetune.data.duplicates import check_leakage
from ase_finetune.data.hashes import hash_of_sets, hash_of_structures
from ase_finetune.data.read import (
    ENERGY_KEY,
    FORCES_KEY,
    STRESS_KEY,
    WEIGHT_KEY,
    first_of,
    is_isolated_atom,
    read_frames,
)
from ase_finetune.data.scale import check_energy_scale
from ase_finetune.data.units import check_physics
from ase_finetune.errors import ConfigError, DataError

REPLAY = "replay"  # name of the set that shows what is forgotten
TRAJECTORY_KEYS = ("trajectory", "trajectory_id", "traj", "traj_id")
_MOST_BLOCKS = 4
_MEANT = {"val": "valid", "validation": "valid", "dev": "valid", "training": "train"}
_OF_ALL = ("train", "all")  # the second is what our HDF5 gives frames that name none
Paths = str | Path | Sequence[str | Path]


@dataclass(frozen=True, repr=False)
class Splits:
    """Named sets of labelled frames.

    Attributes
    ----------
    train, valid
        Frames to fit and frames that decide which weights are kept.
    tests
        Held-out sets by name, such as `test_id` and `test_ood`.
    replay
        Frames that the foundation labelled, fitted beside `train` so that it is not forgotten
        (`ase_finetune.replay.with_replay`). They set no E0s and are not of the data of `items`.
    notes
        What the user should know of how the sets were made.
    """

    train: list[Atoms]
    valid: list[Atoms]
    tests: dict[str, list[Atoms]] = field(default_factory=dict)
    replay: list[Atoms] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        counts = [f"{name}={len(frames)}" for name, frames in self.items()]
        return f"<Splits {' '.join([*counts, f'replay={len(self.replay)}'])}>"

    @classmethod
    def from_named(cls, named: Mapping[str, Sequence[Atoms]]) -> Splits:
        """Make splits of sets named `train`, `valid` and, by any other name, test sets.

        Raises
        ------
        DataError
            If one of the two is missing, or has another spelling.
        """
        for name in named:
            _check_spelling(name)
        for name in ("train", "valid"):
            if name not in named:
                raise DataError(f"There is no {name!r} set among {sorted(named)}: name one so.")
        tests = {name: list(named[name]) for name in named if name not in {"train", "valid"}}
        return cls(list(named["train"]), list(named["valid"]), tests)

    @classmethod
    def from_files(
        cls,
        train: Paths,
        *,
        valid: Paths | None = None,
        tests: Mapping[str, str | Path] | Sequence[str | Path] = (),
        valid_fraction: float = 0.1,
        by: str = "trajectory",
        seed: int | None = None,
        energy_key: str = ENERGY_KEY,
        forces_key: str = FORCES_KEY,
        stress_key: str = STRESS_KEY,
        stress: bool = False,
    ) -> Splits:
        """Read splits from files.

        If the frames of `train` name several sets in `info["split"]`, they are those; if not, all
        are to train on. Where no validation frames are named or given, `split_frames` holds out
        `valid_fraction`.

        Parameters
        ----------
        train, valid, tests
            Files for `read_frames`, of `train` and `valid` one or several. Test sets are named by
            the mapping's keys, or by the file names without their suffix.
        valid_fraction, by, seed
            As in `split_frames`.
        energy_key, forces_key, stress_key
            As in `read_frames`, for every file.
        stress
            Whether training and validation frames must have a stress.

        Raises
        ------
        DataError
            As `read_frames` and `split_frames` do, if only some frames name a set, or if two sets
            get one name.
        """

        def read(paths: Paths, needs_stress: bool | None) -> list[Atoms]:
            return [
                atoms
                for path in ([paths] if isinstance(paths, str | Path) else paths)
                for atoms in read_frames(
                    path,
                    energy_key=energy_key,
                    forces_key=forces_key,
                    stress_key=stress_key,
                    stress=needs_stress,
                )
            ]

        fit_stress = True if stress else None
        frames = read(train, fit_stress)
        notes: tuple[str, ...] = ()
        named = _named_by_frames(frames)
        if named and "train" not in named:
            return cls.from_named(named)  # which says what is missing
        named = named or {"train": frames}
        if valid is not None and "valid" in named:
            raise DataError(
                "A file of validation frames is given, and the frames to train on name a set "
                "'valid' of their own (info['split']): leave one of the two out."
            )
        if valid is not None:
            named["valid"] = read(valid, fit_stress)
        elif "valid" not in named:
            pool = named["train"]
            kept, held = split_frames(pool, valid_fraction=valid_fraction, by=by, seed=seed)
            named |= {"train": kept, "valid": held}
            notes = (
                f"Validation: {len(held)} of {len(pool)} frames are held out, in blocks of "
                f"consecutive ones (by {by}); --valid FILE or info['split'] names others.",
            )
        for name, path in _named_paths(tests):
            if name in named:
                raise DataError(f"Two sets are called {name!r}: rename one of the test files.")
            named[name] = read(path, False)
        return replace(cls.from_named(named), notes=notes)

    def items(self) -> Iterator[tuple[str, list[Atoms]]]:
        """Yield (name, frames), training first."""
        yield "train", self.train
        yield "valid", self.valid
        yield from self.tests.items()

    def fitted(self, replay_weight: float) -> list[Atoms]:
        """Return all frames that the loss is over.

        Parameters
        ----------
        replay_weight
            That of the settings, which replay frames must have; 0 if there are none.

        Raises
        ------
        ConfigError
            If they do not.
        """
        found = {float(atoms.info[WEIGHT_KEY]) for atoms in self.replay}
        if found != ({replay_weight} if replay_weight else set()):
            given = f"replay frames of weight {sorted(found)}" if found else "no replay frames"
            raise ConfigError(
                f"replay_weight is {replay_weight:g}, and the splits have {given}: make them with "
                "`ase_finetune.replay`."
            )
        return [*self.train, *self.replay]

    def check(self, *, stress: bool, elements: Sequence[int] | None = None) -> None:
        """Stop on bad data: `check_frames` on every set and no frame in two sets.

        Parameters
        ----------
        stress
            Whether the stress is trained on; test sets may lack it.
        elements
            Atomic numbers that the foundation has, or None to skip that check.

        Raises
        ------
        DataError
            With one sentence that says what to do.
        """
        for name, frames in self.items():
            needed = stress and name in {"train", "valid"}
            check_structures(frames, stress=needed, elements=elements, name=name)
        if not any(a.info.get(WEIGHT_KEY, 1.0) for a in self.train if not is_isolated_atom(a)):
            raise DataError(
                f"All frames to train on have weight 0 ({WEIGHT_KEY}): give some another weight."
            )
        check_leakage(dict(self.items()))
        # Training and validation frames together give more pairs to judge by.
        check_physics([*self.train, *self.valid], stress=stress, name="train")
        check_energy_scale([*self.train, *self.valid], "train")
        for name, frames in self.tests.items():
            check_physics(frames, stress=stress, name=name)

    def data_hash(self) -> str:
        """SHA-256 over species, cells, positions, labels and weights of all sets, in order."""
        return hash_of_sets(self.items())

    def fit_hashes(self) -> dict[str, str]:
        """Hashes of what weights were made with: `fit_hash`, and `replay_hash` if there are such.

        The first is SHA-256 over training and validation frames, as `data_hash` with the tests.
        """
        found = {"fit_hash": hash_of_sets([("train", self.train), ("valid", self.valid)])}
        replay = self.replay_hash()
        return found if replay is None else {**found, "replay_hash": replay}

    def replay_hash(self) -> str | None:
        """SHA-256 over the structures of the replay frames; None without.

        Their labels follow from the foundation, and another processor rounds them otherwise.
        """
        return hash_of_structures(self.replay) if self.replay else None


def split_frames(
    frames: Sequence[Atoms],
    *,
    valid_fraction: float,
    by: str = "trajectory",
    seed: int | None = None,
) -> tuple[list[Atoms], list[Atoms]]:
    """Hold out contiguous blocks of every group for validation, never single frames at random.

    Neighboring frames of a trajectory are nearly equal, so a frame-by-frame split would validate
    on what was trained on.

    Parameters
    ----------
    frames
        Frames in the order of their trajectories.
    valid_fraction
        Fraction of every group to hold out, between 0 and 1. A group of five or more frames
        gives at least one.
    by
        `trajectory` groups by `info["trajectory"]` (or `trajectory_id`, `traj`, `traj_id`) and,
        where frames have none, by `config_type`; `config_type` groups by that; any other word is
        an `info` key that every frame must have.
    seed
        None takes the end of every group; a number draws where in the group the block lies.

    Returns
    -------
    (train, valid)
        Each in the original order. Isolated atoms stay in train. A trajectory gives one block; a
        configuration type, which may hold several trajectories, gives up to four, evenly spaced.

    Raises
    ------
    DataError
        If there is nothing to hold out, or a frame lacks the key to group by.
    """
    if not 0 < valid_fraction < 1:
        raise DataError(f"valid_fraction is {valid_fraction}: give a number between 0 and 1.")
    groups: dict[tuple[str, str], list[int]] = {}
    for index, frame in enumerate(frames):
        if not is_isolated_atom(frame):
            groups.setdefault(_group(frames, index, by), []).append(index)
    counts = {key: _held_count(len(rows), valid_fraction) for key, rows in groups.items()}
    if groups and not any(counts.values()):
        largest = max(groups, key=lambda key: len(groups[key]))
        counts[largest] = min(1, len(groups[largest]) - 1)
    if not any(counts.values()):
        raise DataError(
            "There are too few frames to hold any out: give more frames or a validation file."
        )
    rng = None if seed is None else np.random.default_rng(seed)
    held: set[int] = set()
    for key, rows in groups.items():
        blocks = 1 if key[0] == "trajectory" else min(_MOST_BLOCKS, max(1, counts[key] // 3))
        for segment, count in zip(
            np.array_split(rows, blocks), _shares(counts[key], blocks), strict=True
        ):
            last = len(segment) - count
            start = last if rng is None else int(rng.integers(last + 1))
            held.update(int(i) for i in segment[start : start + count])
    train = [frame for index, frame in enumerate(frames) if index not in held]
    return train, [frames[index] for index in sorted(held)]


def _group(frames: Sequence[Atoms], index: int, by: str) -> tuple[str, str]:
    frame = frames[index]
    if by == "trajectory":
        for key in TRAJECTORY_KEYS:
            if key in frame.info:
                return "trajectory", str(frame.info[key])
    if by in {"trajectory", "config_type"}:
        return "config_type", str(frame.info.get("config_type", "Default"))
    if by not in frame.info:
        known = ", ".join(sorted(map(str, frame.info))) or "nothing"
        raise DataError(
            f"Frame {first_of(frames, [index])} has no {by!r} to split by (it has {known}): "
            "split by trajectory, config_type or a key that every frame has."
        )
    return "trajectory", str(frame.info[by])


def _held_count(size: int, fraction: float) -> int:
    count = round(size * fraction)
    return min(max(count, 1 if size >= 5 else 0), size - 1)


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (1 if part < total % parts else 0) for part in range(parts)]


def _named_paths(
    tests: Mapping[str, str | Path] | Sequence[str | Path],
) -> list[tuple[str, str | Path]]:
    if isinstance(tests, Mapping):
        return list(tests.items())
    return [(Path(path).stem, path) for path in tests]


def _named_by_frames(frames: Sequence[Atoms]) -> dict[str, list[Atoms]]:
    """Return the sets that frames name in `info["split"]`; none if they name one or none."""
    named: dict[str, list[Atoms]] = {}
    without = [index for index, frame in enumerate(frames) if "split" not in frame.info]
    if len(without) == len(frames):
        return named
    if without:
        raise DataError(
            f"{len(without)} of {len(frames)} frames to train on "
            f"(first: {first_of(frames, without)}) do not say in "
            "info['split'] to which set they belong, as the others do: name it in all or none."
        )
    for frame in frames:
        named.setdefault(str(frame.info["split"]), []).append(frame)
    for name in named:
        _check_spelling(name)
    if len(named) > 1:
        return named
    (name,) = named
    if name not in _OF_ALL:
        raise DataError(
            f"All frames to train on are of the set {name!r} by their info['split']: give those of "
            "the set 'train', or call them so."
        )
    return {}


def _check_spelling(name: str) -> None:
    meant = _MEANT.get(name.lower(), name.lower())
    if meant in {"train", "valid"} and name != meant:
        raise DataError(f"There is a set {name!r}: call it {meant!r}, or it is only tested on.")
