"""Molecular dynamics that is killed and goes on, and files that do not belong to the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io.trajectory import Trajectory
from stiffening_springs import CRYSTAL, Springs

from properties import CalculatorError, PropertyError, nvt_trajectory

ROOT = Path(__file__).parents[1]
RATTLED = bulk("Cu", cubic=True) * (2, 1, 1)
CHILD = """
import sys, os, signal
from ase.build import bulk
from ase.calculators.emt import EMT
sys.path.insert(0, {root!r})
from properties import nvt_trajectory

class Dying(EMT):
    calls = 0
    def calculate(self, *args, **kwargs):
        self.calls += 1
        if self.calls == {call}:
            os.kill(os.getpid(), signal.SIGKILL)
        super().calculate(*args, **kwargs)

nvt_trajectory(bulk("Cu", cubic=True) * (2, 1, 1), Dying(), file={file!r}, **{settings!r})
"""
SETTINGS = {
    "timestep_fs": 5.0,
    "temperature_K": 900.0,
    "interval_fs": 15.0,
    "equilibration_ps": 0.1,
    "production_ps": 0.5,
    "checkpoint_ps": 0.12,
    "seed": 7,
}


def start_child(file, settings, call=0):
    code = CHILD.format(root=str(ROOT), file=str(file), settings=settings, call=call)
    return subprocess.Popen([sys.executable, "-c", code])


def assert_same_run(one, other):
    with Trajectory(one.file) as a, Trajectory(other.file) as b:
        assert len(a) == len(b) == one.n_frames
        for left, right in zip(a, b, strict=True):
            assert left.info == right.info
            assert np.array_equal(left.positions, right.positions)
            assert np.array_equal(left.get_momenta(), right.get_momenta())
            assert left.get_potential_energy() == right.get_potential_energy()
    for name in ("time_ps", "temperature", "potential_energy", "conserved_energy"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_killed_and_continued_equals_uninterrupted(tmp_path):
    """Killed before, between and after checkpoints, and while a frame is being written."""
    whole = nvt_trajectory(RATTLED, EMT(), file=tmp_path / "whole.traj", **SETTINGS)
    file = tmp_path / "killed.traj"
    for call in (1, 30, 45):
        child = start_child(file, SETTINGS, call)
        assert child.wait(timeout=120) == -signal.SIGKILL
    with Trajectory(file) as frames:
        surplus = len(frames)
    with file.open("ab") as handle:
        handle.write(b"half a frame")
    found = nvt_trajectory(RATTLED, EMT(), file=file, **SETTINGS)
    assert surplus > 0 and found.n_continuations == 2 and found.seamless
    assert_same_run(found, whole)
    assert sorted(p.name for p in tmp_path.iterdir() if "killed" in p.name) == [
        "killed.state.npz",
        "killed.traj",
    ]


@pytest.mark.slow
def test_twenty_ps_killed_three_times_equal_the_uninterrupted(tmp_path):
    """Killed from outside, whatever the run is doing."""
    settings = SETTINGS | {"production_ps": 20.0, "checkpoint_ps": 0.5, "interval_fs": 10.0}
    whole = nvt_trajectory(RATTLED, EMT(), file=tmp_path / "whole.traj", **settings)
    size, file = whole.file.stat().st_size, tmp_path / "killed.traj"
    for share in (0.21, 0.48, 0.77):
        child = start_child(file, settings)
        while not (file.exists() and file.stat().st_size > share * size):
            assert child.poll() is None
            time.sleep(0.003)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    found = nvt_trajectory(RATTLED, EMT(), file=file, **settings)
    assert found.n_frames == 2001 and found.n_continuations == 3 and found.seamless
    assert_same_run(found, whole)
    print(f"{len(whole.time_ps)} samples, {whole.n_frames} frames equal after 3 kills")


def test_a_complete_run_is_returned_and_another_one_refused(tmp_path):
    file = tmp_path / "a.traj"
    calc = Springs(CRYSTAL)
    arguments = {"file": file, "timestep_fs": 2.0, "production_ps": 0.2, "equilibration_ps": 0.1}
    seen = []
    first = nvt_trajectory(
        CRYSTAL, calc, progress=lambda done, total: seen.append((done, total)), **arguments
    )
    assert seen == [(step, 150) for step in range(0, 151, 5)]
    calls = calc.calls
    assert np.array_equal(nvt_trajectory(CRYSTAL, calc, **arguments).time_ps, first.time_ps)
    assert calc.calls == calls + 1
    with pytest.raises(PropertyError, match=r"temperature_K was 300\.0, now 400\.0"):
        nvt_trajectory(CRYSTAL, calc, temperature_K=400.0, **arguments)
    moved = CRYSTAL.copy()
    moved.rattle(0.01, seed=1)
    with pytest.raises(PropertyError, match="start was"):
        nvt_trajectory(moved, calc, **arguments)
    with pytest.raises(CalculatorError, match="another calculator"):
        nvt_trajectory(CRYSTAL, Springs(CRYSTAL, seed=1), **arguments)
    other = nvt_trajectory(CRYSTAL, Springs(CRYSTAL, seed=1), resume=False, **arguments)
    assert other.n_continuations == 0 and not np.array_equal(other.temperature, first.temperature)


def test_damaged_files_are_refused(tmp_path):
    file = tmp_path / "a.traj"
    arguments = {"file": file, "timestep_fs": 5.0, "production_ps": 0.2, "equilibration_ps": 0.0}
    with pytest.raises(PropertyError, match=r"NAME\.traj"):
        nvt_trajectory(CRYSTAL, EMT(), file=tmp_path / "a.xyz")
    file.write_bytes(b"something else")
    with pytest.raises(PropertyError, match=r"without a\.state\.npz"):
        nvt_trajectory(CRYSTAL, Springs(CRYSTAL), **arguments)
    assert file.read_bytes() == b"something else"
    nvt_trajectory(CRYSTAL, Springs(CRYSTAL), resume=False, **arguments)
    state = tmp_path / "a.state.npz"
    state.write_bytes(state.read_bytes()[:-50])
    with pytest.raises(PropertyError, match="cannot be read"):
        nvt_trajectory(CRYSTAL, Springs(CRYSTAL), **arguments)
