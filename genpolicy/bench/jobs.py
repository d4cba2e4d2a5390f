"""A job of a suite, its key, and doing some: what every engine calls with a folder and keys."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from genpolicy.bench.code_version import code_version
from genpolicy.bench.datasets import Source
from genpolicy.config import RunConfig, to_tree
from genpolicy.errors import NonFiniteError
from genpolicy.recipes import Tree

if TYPE_CHECKING:
    from genpolicy.bench.workspace import Workspace

Measured = dict[str, Any]
"""What is known of a finished job beside what determines it."""
Result = TypeVar("Result")

_PLACES = {"": ("run_dir", "resume", "device", "logging", "seed"), "data": ("dir",)}
_PLACES |= {"trainer": ("threads", "eval_workers")}
"""What says where and how a run is done, not what: it is no part of a key."""


@dataclass(frozen=True)
class Cell:
    """Jobs that differ in the seed alone."""

    suite: str
    kind: str
    task: str
    levels: tuple[tuple[str, str], ...]
    """(factor, level) for each factor."""
    overrides: tuple[str, ...]
    """All of them but the seed."""
    config: RunConfig
    """What they resolve to."""
    source: Source
    metric: str
    averaged: int
    """How many of the last evaluations make the score."""
    extra: Any = None
    """What the kind of job needs besides; it is part of the identity."""

    @cached_property
    def _hash(self) -> Any:
        extra = dataclasses.asdict(self.extra) | {"overrides": None, "seed": None} if self.extra else None
        identity = {
            "config": _same_numbers(identity_of(self.config)),
            "dataset_sha256": self.source.sha256,
            "protocol": {"metric": self.metric, "averaged": self.averaged},
            "extra": extra,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode())

    def key(self, seed: int) -> str:
        """The key of the job with this seed."""
        whole = self._hash.copy()
        whole.update(str(seed).encode())
        return whole.hexdigest()[:16]


@dataclass(frozen=True)
class Job:
    """One run: everything that determines its result."""

    cell: Cell
    seed: int

    @property
    def suite(self) -> str:
        """The suite that asks for it."""
        return self.cell.suite

    @property
    def task(self) -> str:
        """The task's name."""
        return self.cell.task

    @property
    def levels(self) -> tuple[tuple[str, str], ...]:
        """(factor, level) for each factor."""
        return self.cell.levels

    @property
    def overrides(self) -> tuple[str, ...]:
        """All of them, the seed included."""
        return (*self.cell.overrides, f"seed={self.seed}")

    @property
    def config(self) -> RunConfig:
        """The resolved configuration, without the places of data and run."""
        return dataclasses.replace(self.cell.config, seed=self.seed)

    @property
    def dataset_sha256(self) -> str | None:
        """Of the training data: on other data it is another job. Where the file lies does not matter."""
        return self.cell.source.sha256

    @property
    def key(self) -> str:
        """16 hex digits of a hash of configuration, data and protocol; the name of its files."""
        return self.cell.key(self.seed)

    def row(self) -> dict[str, Any]:
        """Its line of the plan."""
        row = {"key": self.key, "suite": self.suite, "kind": self.cell.kind, "task": self.task}
        return row | {"levels": dict(self.levels), "seed": self.seed}


def identity_of(config: RunConfig) -> Tree:
    """The configuration as plain values, without its seed and without what only says where and how it is run."""
    tree = to_tree(config)
    for group, names in _PLACES.items():
        inner = tree[group] if group else tree
        for name in names:
            inner.pop(name)
    return tree


def _same_numbers(tree: Any) -> Any:
    """1.0 as 1, so that a value is the same however it was written."""
    if isinstance(tree, dict):
        return {key: _same_numbers(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_same_numbers(value) for value in tree]
    return int(tree) if isinstance(tree, float) and tree.is_integer() else tree


def execute(out: Path, keys: Sequence[str]) -> list[str]:
    """Do jobs of a results folder, or what is left of them.

    Several are trained as one batched computation, and so must differ in the seed alone.

    May be called for any keys by any number of processes: a job is done by one of them at a time and once in all. A
    kill at any moment loses at most the work since the last checkpoint.

    Args:
        out: the results folder, which says what to run.
        keys: of the jobs.

    Returns:
        For each job ``done`` if there was a result, ``busy`` if another process works on it, else how it ended:
        ``completed``, ``diverged``, ``failed`` (``failed/KEY.json`` says why), or ``interrupted`` by SIGINT or
        SIGTERM, with a checkpoint.

    Raises:
        GenpolicyError: if the folder has no such job or the disk refuses; not for errors of a job.
    """
    from genpolicy.bench.workspace import Workspace

    workspace, states = Workspace.open(out), dict[str, str]()
    with contextlib.ExitStack() as locks:
        for key in keys:
            if not locks.enter_context(workspace.lock(key)):
                states[key] = "busy"
            elif workspace.has_result(key):
                states[key] = "done"
        if left := [key for key in keys if key not in states]:
            states |= _do(workspace, left)
    return [states[key] for key in keys]


def _do(workspace: "Workspace", keys: Sequence[str]) -> dict[str, str]:
    """Run jobs whose locks are held, and write down what came of each."""
    started = time.perf_counter()
    try:
        jobs = [workspace.job(key) for key in keys]
        ends = _run(jobs, workspace)
    except KeyboardInterrupt:
        return dict.fromkeys(keys, "interrupted")
    except Exception as error:
        for key in keys:
            workspace.write_failure(key, f"{type(error).__name__}: {error}")
        return dict.fromkeys(keys, "failed")
    seconds = time.perf_counter() - started
    return {job.key: _write_end(workspace, job, end, seconds) for job, end in zip(jobs, ends, strict=True)}


def _write_end(workspace: "Workspace", job: Job, end: Measured | Exception | None, seconds: float) -> str:
    """Write down how a job ended, and return its state."""
    if end is None:
        return "interrupted"
    if isinstance(end, NonFiniteError):
        workspace.write_failure(job.key, f"{end}", state="diverged")
        workspace.write_result(job.key, _facts(job) | {"state": "diverged", "score": None, "error": str(end)})
        return "diverged"
    if isinstance(end, Exception):
        workspace.write_failure(job.key, f"{type(end).__name__}: {end}")
        return "failed"
    overhead = seconds - end.pop("training_seconds", 0.0)
    workspace.write_result(job.key, _facts(job) | end | {"overhead_seconds": overhead})
    _tidy(workspace, job.key)
    return "completed"


def record_failure(out: Path, key: str, error: str, *, state: str = "failed") -> None:
    """Write down that a job failed, where its own process could not.

    Args:
        out: the results folder.
        key: of the job.
        error: one line, as in "the worker was killed by SIGKILL".
        state: how it ended.
    """
    from genpolicy.bench.workspace import Workspace

    Workspace.open(out).write_failure(key, error, state=state)


def _run(jobs: Sequence[Job], workspace: "Workspace") -> Sequence[Measured | Exception | None]:
    """For each job what was measured, or the error that ended it; None if it was interrupted."""
    with _wandb_group(jobs[0]):
        if jobs[0].cell.kind == "toy":
            from genpolicy.bench.toy_jobs import run_toy_job

            return [end_of(run_toy_job, job) for job in jobs]
        from genpolicy.bench.training_jobs import run_training_job, run_training_jobs

        paths = [workspace.runs / job.key for job in jobs]
        if len(jobs) == 1:
            return [end_of(run_training_job, jobs[0], paths[0])]
        return run_training_jobs(jobs, paths)


def end_of(function: Callable[..., Result], *arguments: Any) -> Result | Exception:
    """What a function returns, or the error that it raises."""
    try:
        return function(*arguments)
    except Exception as error:
        return error


def _facts(job: Job) -> dict[str, Any]:
    """What every result says, however the job ended."""
    return {
        "key": job.key,
        "suite": job.suite,
        "kind": job.cell.kind,
        "task": job.task,
        "metric": job.cell.metric,
        "levels": dict(job.levels),
        "seed": job.seed,
        "overrides": list(job.overrides),
        "config": identity_of(job.config) | {"seed": job.seed},
        "dataset_sha256": job.dataset_sha256,
        "code": code_version(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _tidy(workspace: "Workspace", key: str) -> None:
    """Remove what the user does not want to keep of a finished run."""
    run, kept = workspace.runs / key, workspace.settings["keep_runs"]
    if kept == "none":
        shutil.rmtree(run, ignore_errors=True)
    elif kept == "logs":
        shutil.rmtree(run / "checkpoints", ignore_errors=True)


@contextlib.contextmanager
def _wandb_group(job: Job) -> Iterator[None]:
    """Tell W&B, should the job log to it, what the job belongs to: it reads these variables when a run starts."""
    label = ", ".join(f"{factor}={level}" for factor, level in job.levels) or job.suite
    told = {
        "WANDB_RUN_GROUP": job.suite,
        "WANDB_JOB_TYPE": label[:64],
        "WANDB_TAGS": ",".join(one[:64] for one in (job.suite, job.task, *(f"{f}={v}" for f, v in job.levels))),
    }
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
