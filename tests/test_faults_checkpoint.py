"""Checkpoints that are damaged, forged, interrupted or written by two: refused or unharmed."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter

import damaged_checkpoints as damaged
import numpy as np
import pytest
from ase.build import bulk
from mace_kinds import random_mace
from processes import forked

from ase_finetune import Checkpoint, FineTunedCalculator
from ase_finetune.checkpoint_files import (
    DOCUMENT,
    WEIGHTS,
    read_document,
    read_weights,
    write_folder,
)
from ase_finetune.errors import CheckpointError

pytestmark = pytest.mark.faults

_EXECUTION = ("pickle.find_class", "os.system", "os.exec", "subprocess.Popen", "socket.connect")
_watched: list[tuple[str, object]] = []
_watching = False


def _watch(event: str, args: tuple[object, ...]) -> None:
    if not _watching:
        return
    writes = event == "open" and isinstance(args[1], str) and bool(set(args[1]) & set("wax+"))
    if writes or event in _EXECUTION:
        _watched.append((event, args))


@pytest.fixture(scope="module")
def watching():
    """A context in which what would be the execution of something is written down."""
    sys.addaudithook(_watch)  # cannot be taken away again, so it is switched

    @contextlib.contextmanager
    def switch():
        global _watching
        _watching = True
        try:
            yield
        finally:
            _watching = False

    return switch


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.from_module(
        random_mace("MP-0 L0", [29, 42]), {29: -3.25, 42: -1234.5},
        stage="finetuned", foundation={"name": "random", "sha256": "0"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair(checkpoint, tmp_path_factory):
    """Two checkpoints and the bytes of their files."""
    name = "interactions.0.linear_up.weight"
    other = checkpoint.replace(
        stage="refined", tensors={**checkpoint.tensors, name: 1.01 * checkpoint.tensors[name]}
    )
    files = []
    for one in (checkpoint, other):
        folder = one.save(tmp_path_factory.mktemp("pair") / "model")
        files.append(((folder / DOCUMENT).read_bytes(), (folder / WEIGHTS).read_bytes()))
    return files


def energy(source) -> float:
    atoms = bulk("Mo", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.numbers[0] = 29
    return FineTunedCalculator(source).get_potential_energy(atoms)


def test_damaged_and_forged_files_are_refused_or_give_the_same_energies(
    checkpoint, watching, tmp_path, capsys
):
    original = damaged.Original(checkpoint.save(tmp_path / "good"))
    expected, marker = energy(checkpoint), tmp_path / "executed"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts: dict[str, Counter[str]] = {}
    wrong = []

    def attempt(family: str, folder) -> None:
        count = counts.setdefault(family, Counter())
        try:
            with watching():
                loaded = Checkpoint.load(folder)
        except CheckpointError as error:
            count["refused"] += 1
            if "\n" in str(error).strip() and family != "documents":
                wrong.append((family, count.total(), "more than a sentence", str(error)))
            return
        except Exception as error:
            wrong.append((family, count.total(), type(error).__name__, str(error)[:200]))
            return
        count["same energy"] += 1
        found = energy(loaded)
        if abs(found - expected) > 1e-6 * abs(expected - sum(checkpoint.E0s.values())) + 1e-7:
            wrong.append((family, count.total(), "other energy", found - expected))

    families = {
        "cut": damaged.cut, "bits": damaged.bits, "digits": damaged.digits,
        "blocks": damaged.blocks, "swapped tensors": damaged.swapped_tensors,
        "wrong tensors": damaged.wrong_tensors, "headers": damaged.headers,
        "documents": damaged.documents, "pickles": lambda o: damaged.pickles(o, marker),
    }  # fmt: skip
    folder = tmp_path / "copy"
    folder.mkdir()
    for family, make in families.items():
        for document, weights in make(original):
            (folder / DOCUMENT).write_bytes(document)
            (folder / WEIGHTS).write_bytes(weights)
            attempt(family, folder)
    for place in damaged.on_disk(original, tmp_path):
        attempt("on disk", place)
    with capsys.disabled():
        print(f"\n{'damaged or forged':20} files refused same-energy")
        for family, count in counts.items():
            print(f"{family:20} {count.total():5} {count['refused']:7} {count['same energy']:11}")
        total = sum(counts.values(), Counter())
        print(f"{'all':20} {total.total():5} {total['refused']:7} {total['same energy']:11}")
    assert not wrong, wrong[:5]
    assert total.total() >= 500
    assert total["refused"] > 0.9 * total.total()
    assert total["same energy"] >= 3  # links to the good files: the check can tell the two apart
    assert not _watched, _watched[:3]
    assert not marker.exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 1_000_000  # kB


def content(folder) -> tuple[bytes, bytes]:
    """What a reader gets, as bytes."""
    document = read_document(folder)
    return document, read_weights(folder, json.loads(document)["tensors_sha256"])


KILLS = 200


def test_killed_at_any_moment_the_old_or_the_new_one_is_there(pair, tmp_path, capsys):
    """A process that goes on replacing one by the other is killed again and again."""
    target, rng = tmp_path / "model", np.random.default_rng(5)
    write_folder(target, *pair[0])
    seen: Counter[str] = Counter()

    def replace_for_ever() -> None:
        turn = 0
        while True:
            turn += 1
            write_folder(target, *pair[turn % 2])

    for _ in range(KILLS):
        child = forked(replace_for_ever)
        time.sleep(float(rng.uniform(0.0, 0.02)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = content(target)
        assert found in pair
        seen["old" if found == pair[0] else "new"] += 1
        seen["in between"] += (target / WEIGHTS).read_bytes() != found[1]
    Checkpoint.load(target)
    write_folder(target, *pair[1])
    assert content(target) == pair[1]
    assert {p.name for p in target.iterdir()} == {DOCUMENT, WEIGHTS}
    with capsys.disabled():
        print(f"\nkilled at random {KILLS} times: {dict(seen)}")
    assert seen["old"] > 0
    assert seen["new"] > 0


@pytest.mark.parametrize("existing", [True, False], ids=["replacing", "creating"])
def test_killed_at_each_step_the_old_or_the_new_one_is_there(pair, tmp_path, existing, capsys):
    calls = ("fsync", "rename", "replace", "unlink", "mkdir", "open", "ftruncate")
    steps, found = 0, []
    while True:
        target = tmp_path / f"model{steps}"
        if existing:
            write_folder(target, *pair[0])

        def until_step(target=target, step=steps) -> None:
            left = [step]

            def stopping(real):
                def call(*args, **kwargs):
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left[0] -= 1
                    return real(*args, **kwargs)

                return call

            for name in calls:
                setattr(os, name, stopping(getattr(os, name)))
            write_folder(target, *pair[1])

        _, status = os.waitpid(forked(until_step), 0)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            break
        found.append(content(target) if target.exists() else None)
        steps += 1
    assert steps >= 6
    assert all(one in (pair[0] if existing else None, pair[1]) for one in found)
    assert found[0] != pair[1]
    assert content(target) == pair[1]
    with capsys.disabled():
        new = sum(one == pair[1] for one in found)
        kind = "replacing" if existing else "creating"
        print(f"\nkilled before each of {steps} steps of {kind}: {steps - new} old, {new} new")


def test_a_full_disk_leaves_the_old_one(checkpoint, pair, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    size = sum(map(len, pair[0])) * 3 // 2 // 4096 * 4096
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        target = checkpoint.save(disk / "model")
        with pytest.raises(CheckpointError, match="No space left"):
            checkpoint.replace(stage="refined").save(target)
        assert sorted(p.name for p in target.iterdir()) == [DOCUMENT, WEIGHTS]
        assert Checkpoint.load(target).stage == "finetuned"
        with pytest.raises(CheckpointError, match="No space left"):
            checkpoint.save(disk / "another")
        assert [p.name for p in disk.iterdir()] == ["model"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_limit_on_the_size_of_files_leaves_the_old_one(checkpoint, pair, tmp_path):
    target = tmp_path / "model"
    write_folder(target, *pair[0])

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(pair[1][1]) // 2,) * 2)
        with pytest.raises(CheckpointError, match="File too large"):
            write_folder(target, *pair[1])
        with pytest.raises(CheckpointError, match="File too large"):
            write_folder(tmp_path / "another", *pair[1])

    _, status = os.waitpid(forked(limited), 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert content(target) == pair[0]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_two_processes_that_write_one_checkpoint_and_a_reader(pair, tmp_path):
    target = tmp_path / "model"
    children = []
    for files in pair:

        def write_often(files=files) -> None:
            for _ in range(40):
                write_folder(target, *files)

        children.append(forked(write_often))
    reads = 0
    while len(children) > 0:
        done, status = os.waitpid(-1, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            children.remove(done)
        if target.exists():
            with contextlib.suppress(CheckpointError):  # Checkpoint.load reads again
                assert content(target) in pair
                reads += 1
    assert reads > 20
    assert content(target) in pair
    assert {p.name for p in target.iterdir()} == {DOCUMENT, WEIGHTS}
