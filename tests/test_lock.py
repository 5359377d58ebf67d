"""A folder is written by one process at a time, and a file of it whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import TINY, cu_frames
from processes import forked

from ase_finetune import Checkpoint
from ase_finetune.errors import ConfigError
from ase_finetune.lock import LOCK_FILE, LockedError, check_unlocked, locked
from ase_finetune.results import write_text

pytestmark = pytest.mark.faults


@contextlib.contextmanager
def held_elsewhere(folder):
    """Hold the lock of a folder in another process; gives its number."""
    read, write = os.pipe()

    def hold() -> None:
        with locked(folder):
            os.write(write, b"x")
            time.sleep(600)

    child = forked(hold)
    assert os.read(read, 1) == b"x"
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
        os.close(read)
        os.close(write)


def test_a_lock_says_who_holds_it_and_dies_with_its_owner(tmp_path):
    with held_elsewhere(tmp_path) as owner:
        words = f"being written by process {owner} on {socket.gethostname()} since 20"
        with pytest.raises(LockedError, match=words), locked(tmp_path):
            pass
        with pytest.raises(LockedError, match=words):
            check_unlocked(tmp_path)
        begun = time.monotonic()
        with pytest.raises(LockedError), locked(tmp_path, wait_s=0.2):
            pass
        assert time.monotonic() - begun >= 0.2
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
        assert (tmp_path / LOCK_FILE).exists()  # left, and worth nothing
        check_unlocked(tmp_path)
        with locked(tmp_path):
            assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_does_not_keep_the_lock_of_its_dead_parent(tmp_path):
    read, write = os.pipe()

    def parent() -> None:
        with locked(tmp_path):
            grandchild = forked(lambda: time.sleep(30))
            os.write(write, grandchild.to_bytes(8, "little"))
            time.sleep(600)

    child = forked(parent)
    grandchild = int.from_bytes(os.read(read, 8), "little")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with locked(tmp_path):
        pass
    os.kill(grandchild, signal.SIGKILL)


def test_only_one_of_many_holds_a_lock(tmp_path):
    """Eight processes add to a number in a file, one at a time, and none is lost."""
    number = tmp_path / "number"
    number.write_text("0")

    def add() -> None:
        for _ in range(25):
            with locked(tmp_path, wait_s=60):
                number.write_text(str(int(number.read_text()) + 1))

    for child in [forked(add) for _ in range(8)]:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert number.read_text() == "200"


class Silent:
    def note(self, text):
        pass

    def record(self, record):
        pass

    def steps(self, title):
        return lambda done, total: None


def test_a_run_keeps_others_out_of_its_folder(splits, tiny_config, tmp_path, monkeypatch):
    import dataclasses

    import ase_finetune.run as module

    out = tmp_path / "run"
    out.mkdir()
    config = dataclasses.replace(tiny_config, epochs=1)
    with held_elsewhere(out) as owner:
        for options in ({"overwrite": False}, {"overwrite": True}):
            with pytest.raises(LockedError, match=f"process {owner}"):
                module.check_folder(out, resume=False, **options)
        with pytest.raises(LockedError, match=f"process {owner}"):
            module.run_job(splits, config, None, out, Silent())
        assert [p.name for p in out.iterdir()] == [LOCK_FILE]
    real = module.finetune

    def while_held(*args, **kwargs):
        with pytest.raises(LockedError, match=f"process {os.getpid()}"):
            module.check_folder(out, overwrite=True, resume=False)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "finetune", while_held)
    (out / "checkpoints" / ".finetuned.123.tmp").mkdir(parents=True)
    results = module.run_job(splits, config, None, out, Silent())
    assert list(results["errors"]) == ["zero_shot", "finetuned"]
    assert not (out / LOCK_FILE).exists()
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["finetuned"]


def test_a_run_that_ended_meanwhile_is_not_written_over(splits, tiny_config, tmp_path, monkeypatch):
    import ase_finetune.run as module

    real, out = module.prepare, tmp_path / "run"

    def another_run(*args):
        out.mkdir()
        (out / "results.json").write_text("{}")
        return real(*args)

    monkeypatch.setattr(module, "prepare", another_run)
    with pytest.raises(ConfigError, match="meanwhile"):
        module.run_job(splits, tiny_config, None, out, Silent())
    assert (out / "results.json").read_text() == "{}"


@pytest.mark.slow
def test_of_two_commands_on_one_folder_one_ends_with_2_and_a_sentence(tmp_path):
    import yaml
    from ase.io import write

    write(tmp_path / "train.xyz", cu_frames(12, 1))
    write(tmp_path / "valid.xyz", cu_frames(4, 2))
    settings = {"foundation": "scratch", "architecture": TINY, "epochs": 300, "batch_size": 3}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    command = [
        sys.executable, "-m", "ase_finetune.cli", "train", "--data", str(tmp_path / "train.xyz"),
        "--valid", str(tmp_path / "valid.xyz"), "--config", str(tmp_path / "settings.yaml"),
        "--out", str(tmp_path / "run"), "--overwrite",
    ]  # fmt: skip
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "run" / "state.pt").exists():
        assert first.poll() is None
        time.sleep(0.05)
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.poll() is None, "the first run ended too soon to be in the way"
    assert second.returncode == 2
    assert f"is being written by process {first.pid} on" in " ".join(second.stderr.split())
    assert first.wait() == 0
    assert Checkpoint.load(tmp_path / "run" / "checkpoints" / "finetuned").stage == "finetuned"


def test_pictures_of_a_run_that_is_replaced_go_with_it(tmp_path):
    """The new report would show them where the new run has drawn none."""
    from ase_finetune.run import check_folder, make_folder

    picture = tmp_path / "figures" / "finetuned" / "phonons.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"")
    with pytest.raises(ConfigError, match="already holds a run"):
        check_folder(tmp_path, overwrite=False, resume=False)
    make_folder(tmp_path, keep=True)
    assert picture.exists()
    check_folder(tmp_path, overwrite=True, resume=False)
    make_folder(tmp_path, keep=False)
    assert not (tmp_path / "figures").exists()


def test_a_file_is_on_disk_before_it_replaces_another(tmp_path, monkeypatch):
    """Otherwise a machine that stops may leave an empty results.json."""
    done = []

    def noted(real):
        def call(*args, **kwargs):
            done.append(real.__name__)
            return real(*args, **kwargs)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, noted(getattr(os, name)))
    write_text(tmp_path / "results.json", "µ\n")
    assert done == ["fsync", "replace"]
    assert (tmp_path / "results.json").read_bytes() == "µ\n".encode()
    assert len(list(tmp_path.iterdir())) == 1
