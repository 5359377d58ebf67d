"""Where the runs of a study are executed: here one by one, or on the workers of a Dask cluster.

A run is a function of its settings and its folder. If a worker dies, Dask gives its run to another
one, which goes on from the state in that folder; so workers need the folder in common, and nothing
else.
"""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ase_finetune.errors import ConfigError, UserError
from ase_finetune.study.data import folder_of
from ase_finetune.study.plan import Run
from ase_finetune.study.run import Progress, execute, write_run

Finished = list[tuple[Run, dict[str, Any]]]
# How many workers may die with a run before it counts as failed.
_DEATHS = 5
_POLL_S = 0.05
_SLURM_KEYS = ("queue", "account", "walltime", "memory", "interface", "directive", "prologue")
_BEFORE_WALLTIME_S = 300


class Pool(Protocol):
    """Executes runs."""

    @property
    def workers(self) -> int:
        """How many runs go on at once."""

    def submit(self, run: Run) -> None:
        """Take a run."""

    def finished(self, timeout_s: float) -> Finished:
        """Return runs that finished since the last call, after at most about this time."""

    def close(self) -> None:
        """Stop what is still running."""


class SerialPool:
    """One run after another in this process, without Dask."""

    workers = 1

    def __init__(self, root: Path, threads: int, progress: Progress | None = None) -> None:
        self.root, self.threads, self.progress = root, threads, progress
        self.waiting: deque[Run] = deque()

    def submit(self, run: Run) -> None:
        """Take a run."""
        self.waiting.append(run)

    def finished(self, timeout_s: float) -> Finished:
        """Execute the next run, however long that takes."""
        run = self.waiting.popleft()
        row = execute(str(self.root), run, threads=self.threads, progress=self.progress)
        return [(run, row)]

    def close(self) -> None:
        """Nothing runs between calls."""


def _need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{module} is not installed: install it by `pip install 'ase-finetune[study]'`, or "
            "use --workers 0 to run one after another without it."
        ) from error


class DaskPool:
    """Runs on the workers of a Dask cluster that see the folder of the study."""

    def __init__(self, root: Path, threads: int, client: Any, cluster: Any = None) -> None:
        self.root, self.threads = root.resolve(), threads
        self.client, self.cluster = client, cluster
        self.dask = _need("distributed")
        self.runs: dict[Any, Run] = {}
        self.count = 0

    @property
    def workers(self) -> int:
        """Number of workers there are now."""
        return len(self.client.nthreads())

    def submit(self, run: Run) -> None:
        """Send a run to the scheduler; earlier ones go first."""
        self.count += 1
        future = self.client.submit(
            execute,
            str(self.root),
            run,
            threads=self.threads,
            key=f"{run.path}#{self.count}",
            priority=-self.count,
            pure=False,
        )
        self.runs[future] = run

    def finished(self, timeout_s: float) -> Finished:
        """Return what finished; a run that killed all its workers is a failed one.

        Raises
        ------
        UserError
            As the run did, or if the scheduler is lost or a worker cannot see the folder.
        """
        # Ctrl-C can break the locks of Dask's own waiting, but not a sleep, and here a study waits.
        stop = time.monotonic() + timeout_s
        while not any(future.done() for future in self.runs) and time.monotonic() < stop:
            time.sleep(_POLL_S)
        found: Finished = []
        for future in [f for f in self.runs if f.done()]:
            run = self.runs.pop(future)
            found.append((run, self._row(run, future)))
        return found

    def _row(self, run: Run, future: Any) -> dict[str, Any]:
        if future.status not in ("finished", "error"):
            raise UserError(_LOST)
        error = future.exception() if future.status == "error" else None
        if isinstance(error, self.dask.KilledWorker):
            reason = "Its workers died again and again, as for lack of memory."
            row = {"run": dataclasses.asdict(run), "outcome": "failed", "reason": reason}
            write_run(folder_of(self.root, run), row)
            return row
        if error is not None:
            raise error
        if not (folder_of(self.root, run) / "run.json").is_file():
            raise ConfigError(
                f"A worker finished {run.path}, but its result is not in {self.root}: choose an "
                "--out that all workers share."
            )
        row = future.result()
        assert isinstance(row, dict)
        return row

    def close(self) -> None:
        """Cancel what waits, and end the cluster if it is ours."""
        self.client.cancel(list(self.runs))
        self.client.close()
        if self.cluster is not None:
            self.cluster.close()


_LOST = "The connection to the Dask scheduler was lost; the same command goes on from here."


def local_pool(root: Path, workers: int, threads: int) -> DaskPool:
    """Start a cluster of processes on this machine, one run in each at a time."""
    distributed, dask = _need("distributed"), _need("dask")
    dask.config.set({"distributed.scheduler.allowed-failures": _DEATHS})
    cluster = distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        memory_limit=0,  # Dask holds no data here; a limit would only kill a large Jacobian
        silence_logs="CRITICAL",
    )
    return DaskPool(root, threads, distributed.Client(cluster), cluster)


def scheduler_pool(root: Path, address: str, threads: int) -> DaskPool:
    """Join a scheduler that is there already.

    Raises
    ------
    ConfigError
        If it does not answer, or a worker would execute several runs in one process.
    """
    distributed = _need("distributed")
    try:
        client = distributed.Client(address, timeout="20s")
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(f"There is no Dask scheduler at {address} that answers.") from error
    if any(count > 1 for count in client.nthreads().values()):
        client.close()
        raise ConfigError(
            "A worker of this scheduler has several threads, but torch's settings belong to a "
            "whole process: start workers with --nthreads 1."
        )
    return DaskPool(root, threads, client)


def slurm_settings(options: Sequence[str], threads: int) -> dict[str, Any]:
    """Turn ``key=value`` options into the keywords of ``dask_jobqueue.SLURMCluster``.

    Raises
    ------
    ConfigError
        On an unknown key or a walltime that is not ``[D-]HH:MM:SS``.
    """
    given: dict[str, list[str]] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or key not in _SLURM_KEYS:
            raise ConfigError(
                f"--slurm {option!r} is not KEY=VALUE with a key of {', '.join(_SLURM_KEYS)}."
            )
        given.setdefault(key, []).append(value)
    single = {key: values[-1] for key, values in given.items()}
    walltime = single.get("walltime", "08:00:00")
    lifetime = max(60, _seconds(walltime) - _BEFORE_WALLTIME_S)
    chosen: dict[str, Any] = {
        "n_workers": 0,
        "job_name": "ase-finetune-study",
        # One run in a worker at a time; the CPUs of the job are torch's.
        "cores": 1,
        "processes": 1,
        "job_cpu": threads,
        "memory": single.get("memory", "4GB"),
        "walltime": walltime,
        "job_extra_directives": given.get("directive", []),
        "job_script_prologue": [
            f"export OMP_NUM_THREADS={threads}",
            "export OMP_WAIT_POLICY=PASSIVE",
            *given.get("prologue", []),
        ],
        # Leaves before Slurm kills it, so that its run moves on without counting as a death.
        "worker_extra_args": ["--lifetime", f"{lifetime}s", "--lifetime-stagger", "60s"],
        "scheduler_options": {"dashboard_address": None},
    }
    return chosen | {key: single[key] for key in ("queue", "account", "interface") if key in single}


def _seconds(walltime: str) -> int:
    days, _, clock = walltime.rpartition("-")
    parts = clock.split(":")
    if len(parts) != 3 or not all(p.isdecimal() for p in (*parts, days or "0")):
        raise ConfigError(f"The walltime {walltime!r} is not [D-]HH:MM:SS.")
    hours, minutes, seconds = map(int, parts)
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def slurm_cluster(settings: Mapping[str, Any]) -> Any:
    """Make a cluster whose workers are Slurm jobs; none is submitted yet."""
    jobqueue, dask = _need("dask_jobqueue"), _need("dask")
    dask.config.set({"distributed.scheduler.allowed-failures": _DEATHS})
    return jobqueue.SLURMCluster(**settings)


def slurm_pool(root: Path, settings: Mapping[str, Any], jobs: int, threads: int) -> DaskPool:
    """Submit jobs to Slurm, and again where one ends while there is work."""
    cluster = slurm_cluster(settings)
    cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
    return DaskPool(root, threads, _need("distributed").Client(cluster), cluster)
