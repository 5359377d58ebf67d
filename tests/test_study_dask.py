"""Studies on Dask: workers that die, schedulers that exist, jobs of Slurm."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ase_finetune.cli.app import app
from ase_finetune.errors import ConfigError
from ase_finetune.study.plan import Run
from ase_finetune.study.pool import (
    DaskPool,
    local_pool,
    scheduler_pool,
    slurm_cluster,
    slurm_settings,
)
from ase_finetune.study.run import execute
from ase_finetune.study.store import read_rows

ROOT = Path(__file__).parents[1]


def command(out, *more):
    return [
        "study", "mo", "--out", str(out), "--optimizers", "adamw", "--seeds", "1",
        "--epochs", "15", "--trials", "3", "--extensions", "0", "--default-dtype", "float32", *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path):
    pytest.importorskip("distributed")
    out = tmp_path / "study"
    program = [sys.executable, "-m", "ase_finetune.cli", *command(out, "--workers", "1")]
    process = subprocess.Popen(
        program,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # Ctrl-C is ignored in what a shell runs in the background, such as this test.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not list(out.rglob("state.pt")) and process.poll() is None:
            time.sleep(0.1)
        # A terminal sends it to all processes of the study.
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, errors.decode()
    assert "the same command goes on from there" in errors.decode()


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_nothing_but_time(tmp_path):
    pytest.importorskip("distributed")
    out = tmp_path / "study"
    program = [sys.executable, "-m", "ase_finetune.cli", *command(out, "--workers", "2")]
    process = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    victim = None
    while victim is None and process.poll() is None:
        time.sleep(0.2)
        for attempts in out.rglob("attempts.jsonl"):
            folder = attempts.parent
            if (folder / "state.pt").exists() and not (folder / "run.json").exists():
                time.sleep(2.0)  # some epochs
                if not (folder / "run.json").exists():
                    os.kill(json.loads(attempts.read_text())["pid"], signal.SIGKILL)
                    victim = folder
                    break
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    assert victim is not None
    rows = read_rows(out)
    assert len(rows) == 1 + 3 + 1
    assert all(row["outcome"] == "ok" for row in rows.values())
    assert rows[victim.relative_to(out).as_posix()]["attempts"] == 2
    hosts = [json.loads(line)["pid"] for line in (victim / "attempts.jsonl").open()]
    assert len(set(hosts)) == 2

    before = {path: path.stat().st_mtime_ns for path in out.rglob("run.json")}
    begun = time.monotonic()
    done = subprocess.run(program, cwd=ROOT, capture_output=True, check=True)
    print(f"doing nothing took {time.monotonic() - begun:.1f} s")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("run.json")} == before
    assert done.stdout.decode().startswith("# Optimizer study")

    # Without a kill it leaves the same numbers.
    row = rows[victim.relative_to(out).as_posix()]
    run = Run(**row["run"])
    execute(str(tmp_path / "alone"), run)
    alone = read_rows(tmp_path / "alone")[run.path]
    for key in ("errors", "curve", "valid_force_rmse_meV_per_A"):
        assert alone[key] == row[key], key


@pytest.mark.slow
def test_a_run_that_kills_every_worker_is_a_failed_run(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    from ase_finetune.study import pool as study_pool

    monkeypatch.setattr(study_pool, "execute", _dies)
    monkeypatch.setattr(study_pool, "_DEATHS", 1)
    pool = local_pool(tmp_path, 2, 1)
    run = Run("mo", "adamw", 1, "evaluation", 1e-3, {})
    try:
        pool.submit(run)
        found = []
        while not found:
            found = pool.finished(1.0)
    finally:
        pool.close()
    ((same, row),) = found
    assert same == run
    assert row["outcome"] == "failed"
    assert "died" in row["reason"]
    assert "died" in read_rows(tmp_path)[run.path]["reason"]


def _dies(*_, **__):
    os._exit(1)


def _done(root, run, threads):
    from ase_finetune.study.data import folder_of
    from ase_finetune.study.run import write_run

    row = {"run": {"system": run.system}, "outcome": "ok", "threads": threads}
    write_run(folder_of(root, run), row)
    return row


@pytest.mark.slow
def test_a_scheduler_that_is_there_is_joined(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    from ase_finetune.study import pool as study_pool

    monkeypatch.setattr(study_pool, "execute", _done)
    options = {"processes": False, "dashboard_address": None, "n_workers": 1}
    with distributed.LocalCluster(threads_per_worker=1, **options) as cluster:
        pool = scheduler_pool(tmp_path, cluster.scheduler_address, 1)
        assert isinstance(pool, DaskPool)
        assert pool.workers == 1
        runs = [Run("mo", "adamw", seed, "evaluation", 1e-3, {}) for seed in (1, 2)]
        for run in runs:
            pool.submit(run)
        found = []
        while len(found) < 2:
            found += pool.finished(1.0)
        assert {run.seed for run, _ in found} == {1, 2}
        pool.close()
    with (
        distributed.LocalCluster(threads_per_worker=2, **options) as cluster,
        pytest.raises(ConfigError, match="--nthreads 1"),
    ):
        scheduler_pool(tmp_path, cluster.scheduler_address, 1)


def test_a_job_script_of_slurm(tmp_path):
    pytest.importorskip("dask_jobqueue")
    settings = slurm_settings(
        ["queue=long", "account=abc", "walltime=1-02:00:00", "memory=6GB",
         "directive=--gres=gpu:1", "directive=--exclusive", "prologue=module load cuda"],
        threads=4,
    )  # fmt: skip
    with slurm_cluster(settings) as cluster:
        lines = cluster.job_script().splitlines()
    for line in (
        "#SBATCH -J ase-finetune-study", "#SBATCH -p long", "#SBATCH -A abc",
        "#SBATCH --cpus-per-task=4", "#SBATCH -t 1-02:00:00", "#SBATCH --gres=gpu:1",
        "#SBATCH --exclusive", "export OMP_NUM_THREADS=4", "export OMP_WAIT_POLICY=PASSIVE",
        "module load cuda",
    ):  # fmt: skip
        assert line in lines
    worker = lines[-1]
    assert sys.executable in worker
    assert "--nthreads 1 " in worker
    # It leaves five minutes before Slurm ends the job, so that its run moves on.
    assert f"--lifetime {26 * 3600 - 300}s" in worker
    shell = subprocess.run(["bash", "-n"], input="\n".join(lines), text=True, check=False)
    assert shell.returncode == 0


def test_the_job_script_is_shown_before_anything_is_submitted(tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["study", "mo", "--slurm", "queue=long", "--job-script"])
    assert result.exit_code == 0, result.output
    assert "#SBATCH -p long" in result.stdout
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    "options", [["queue"], ["=x"], ["partition=x"], ["walltime=90"], ["walltime=1:b:3"]]
)
def test_options_of_slurm_that_do_not_exist(options):
    with pytest.raises(ConfigError):
        slurm_settings(options, 1)


@pytest.mark.parametrize("more", [["--workers", "2"], ["--scheduler", "tcp://localhost:1"]])
def test_without_dask_it_says_how_to_get_it(tmp_path, monkeypatch, more):
    def absent(name, *args, **kwargs):
        if name in ("distributed", "dask", "dask_jobqueue"):
            raise ImportError(f"No module named {name!r}", name=name)
        return original(name, *args, **kwargs)

    original = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", absent)
    result = CliRunner().invoke(app, command(tmp_path / "study", *more))
    assert result.exit_code == 2
    assert "pip install 'ase-finetune[study]'" in result.stderr
    assert "--workers 0" in result.stderr


def test_importing_the_command_leaves_dask_unloaded():
    code = (
        "import sys, ase_finetune.study, ase_finetune.cli;"
        "assert not {'dask', 'distributed', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.slow
def test_jobs_do_the_runs(tmp_path, monkeypatch):
    """Commands that run a script at once stand in for those of Slurm."""
    pytest.importorskip("dask_jobqueue")
    from ase_finetune.study import pool as study_pool

    commands = {
        # Like Slurm's it keeps the script, which is removed at once.
        "sbatch": 'cp "$1" "$0.$$"; setsid bash "$0.$$" >"$0.$$.log" 2>&1 & '
        'echo "Submitted batch job $!"',
        "scancel": 'kill -- "-$1"',
    }
    for name, line in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(study_pool, "execute", _done)
    # What is executed is a function of the tests.
    options = ["interface=lo", f"prologue=export PYTHONPATH={Path(__file__).parent}"]
    pool = study_pool.slurm_pool(tmp_path, slurm_settings(options, 3), 2, 3)
    found, deadline = [], time.monotonic() + 200
    try:
        for seed in (1, 2, 3):
            pool.submit(Run("mo", "adamw", seed, "evaluation", 1e-3, {}))
        while len(found) < 3 and time.monotonic() < deadline:
            found += pool.finished(1.0)
    finally:
        pool.close()
    assert {row["threads"] for _, row in found} == {3}
    assert len(read_rows(tmp_path)) == 3
