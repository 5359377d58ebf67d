"""Files of a molecular dynamics run that survive a kill at any moment.

Beside the trajectory ``NAME.traj`` lies ``NAME.state.npz``, which is replaced in one step at every
checkpoint and says how many frames of the trajectory belong to it. Frames after that, and a frame
cut off in the middle, are dropped when the run goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.trajectory import Trajectory
from numpy.typing import NDArray

from properties.errors import PropertyError

FORMAT = 1
SAMPLES = ("step", "temperature_K", "potential_energy", "conserved_energy")


@dataclass
class State:
    """Everything a run needs to go on, and what it has recorded so far.

    Attributes
    ----------
    positions, momenta : ndarray, shape (n_atoms, 3)
        A and ASE units.
    forces : ndarray, shape (n_atoms, 3)
        eV/A at `positions`, to recognize the calculator.
    step, n_frames : int
        Steps done, and frames of the trajectory that belong to them.
    transferred : float
        eV that the thermostat has put in.
    rng : dict
        State of the random numbers' bit generator.
    samples : list of tuple
        Rows of `SAMPLES`: step, K, eV, eV.
    minimized_force : float or None
        eV/A, largest force after the minimization.
    blow_up : tuple or None
        Step, ps and reason.
    n_continuations : int
        How often the run was continued.
    seamless : bool
        Whether every continuation met bit for bit the forces that it had left.
    seconds : float
        Wall time spent on dynamics.
    """

    positions: NDArray[np.float64]
    momenta: NDArray[np.float64]
    forces: NDArray[np.float64]
    step: int
    n_frames: int
    transferred: float
    rng: dict[str, Any]
    samples: list[tuple[float, ...]]
    minimized_force: float | None
    blow_up: tuple[int, float, str] | None = None
    n_continuations: int = 0
    seamless: bool = True
    seconds: float = 0.0


ARRAYS = ("positions", "momenta", "forces")


def state_path(file: Path) -> Path:
    """Return the name of the state beside a trajectory."""
    return file.with_name(f"{file.stem}.state.npz")


def save_state(file: Path, state: State, settings: Mapping[str, Any]) -> None:
    """Write the state of a run so that either the old or the new one is there, never a part."""
    document = {k: v for k, v in vars(state).items() if k not in (*ARRAYS, "samples")}
    text = json.dumps({"format": FORMAT, "settings": dict(settings), "state": document})
    buffer = io.BytesIO()
    np.savez(
        buffer,
        document=np.array(text),
        samples=np.array(state.samples, np.float64).reshape(-1, len(SAMPLES)),
        **{name: getattr(state, name) for name in ARRAYS},
    )
    _sync(file)  # The frames must be on the disk before the state that counts them.
    path = state_path(file)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as handle:
        handle.write(buffer.getvalue())
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)
    _sync(path.parent)


def load_state(file: Path, settings: Mapping[str, Any]) -> State | None:
    """Read the state of a run; None if there is none.

    Raises
    ------
    PropertyError
        If it belongs to a run with other settings or another start, or cannot be read, or if there
        is a trajectory without a state.
    """
    path = state_path(file)
    if not path.exists():
        if file.exists():
            raise PropertyError(
                f"{file} exists without {path.name}, so it is no run that can be continued; "
                "move it away or pass resume=False to overwrite it."
            )
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            document = json.loads(str(stored["document"]))
            arrays: dict[str, Any] = {name: np.array(stored[name]) for name in ARRAYS}
            samples = [tuple(map(float, row)) for row in stored["samples"]]
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']}, not {FORMAT}")
        old = document["settings"]
        state = State(samples=samples, **arrays, **document["state"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise PropertyError(
            f"{path} cannot be read ({error}); move it away or pass resume=False."
        ) from error
    differing = [k for k in settings if old.get(k) != settings[k]]
    if differing:
        said = "; ".join(f"{k} was {old.get(k)!r}, now {settings[k]!r}" for k in differing)
        raise PropertyError(
            f"{file} holds another run ({said}); choose another file or pass resume=False."
        )
    return state


def structure_settings(atoms: Atoms) -> dict[str, Any]:
    """Return a description of a start by which another one is recognized."""
    digest = hashlib.sha256()
    for part in (atoms.numbers, atoms.pbc, atoms.cell.array, atoms.get_masses(), atoms.positions):
        digest.update(np.ascontiguousarray(part).tobytes())
    digest.update(json.dumps([_described(c) for c in atoms.constraints]).encode())
    return {"n_atoms": len(atoms), "start": digest.hexdigest()[:16]}


def _described(constraint: Any) -> Any:
    def plain(value: Any) -> Any:
        return value.tolist() if hasattr(value, "tolist") else value

    document = constraint.todict()
    return {**document, "kwargs": {k: plain(v) for k, v in document["kwargs"].items()}}


def drop_frames(file: Path, n_frames: int) -> None:
    """Cut a trajectory back to its first frames; a missing one counts as empty.

    Raises
    ------
    PropertyError
        If the file has fewer frames than that.
    """
    if n_frames == 0:
        file.unlink(missing_ok=True)
        return
    try:
        with Trajectory(file) as old:
            found = len(old)
            if found > n_frames:
                # The file is copied rather than cut, for its index may lie behind the frames.
                temporary = file.with_name(file.name + ".tmp")
                with Trajectory(temporary, "w") as new:
                    for frame in old[:n_frames]:
                        write_frame(new, frame, frame.get_potential_energy(), frame.info)
                _sync(temporary)
                temporary.replace(file)
    except OSError as error:
        raise PropertyError(f"The trajectory {file} cannot be read ({error}).") from error
    if found < n_frames:
        raise PropertyError(
            f"The trajectory {file} has {found} frames where its state counts {n_frames}; "
            "restore it or pass resume=False."
        )


def write_frame(writer: Any, atoms: Atoms, energy: float, info: Mapping[str, Any]) -> None:
    """Append a frame: positions, momenta, constraints, energy (eV), step and time."""
    frame = atoms.copy()
    frame.calc = None
    frame.info = dict(info)
    # Without a calculator ASE notes no parameters, such as the path of a model.
    writer.write(frame, energy=energy)


def _sync(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
