"""Running a suite: what is missing, an engine that does it, and what came of it."""

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from genpolicy.bench.code_version import code_version
from genpolicy.bench.cores import available_cores
from genpolicy.bench.datasets import Locator, generate_missing
from genpolicy.bench.estimates import identity
from genpolicy.bench.executors.base import Event, Executor, Unit, events_of
from genpolicy.bench.expansion import expand
from genpolicy.bench.jobs import Job, execute
from genpolicy.bench.suite import Suite
from genpolicy.bench.workspace import RUNNER, Status, Workspace
from genpolicy.errors import ConfigError

OldResults = Literal["keep", "rerun"]
"""What to do with results of other code: keep them beside new ones, or run their jobs again."""
KeepRuns = Literal["all", "logs", "none"]
"""What to keep of the run directories of finished jobs."""
Progress = Callable[[int, int, str], None]
"""Called with what is done, how much there is, and what is being done."""
_BUSY_SECONDS = 1.0


class Observer(Protocol):
    """Passes events through and looks at them, as `genpolicy.bench.executors.progress.show` does."""

    def __call__(self, events: Iterable[Event], *, total: int, done: int) -> Iterator[Event]:
        """Yield the events."""
        ...


class InProcess:
    """Does one unit of jobs after another in this process."""

    def run(self, out: Path, units: Sequence[Unit]) -> Iterator[Event]:
        """See `genpolicy.bench.executors.base.Executor`."""
        for unit in units:
            yield from events_of(unit, "started")
            states = execute(out, unit)
            yield from events_of(unit, states)
            if "interrupted" in states:
                raise KeyboardInterrupt


@dataclass(frozen=True)
class Outcome:
    """What a call of `run_suite` found and did."""

    path: Path
    status: Status
    ran: int
    """Jobs that ended with a result now."""
    failures: dict[str, str]
    """Key -> error of the jobs that have no result because they failed."""
    missing: dict[str, str]
    """Task -> how to get its data, of the tasks whose jobs were not run."""
    interrupted: bool = False


def plan_suite(suite: Suite, out: Path, *, data: Path | None = None) -> tuple[list[Job], Locator]:
    """All jobs of a suite, with the data that are here.

    Args:
        suite: what to expand.
        out: the results folder; need not exist.
        data: directory of datasets; see `genpolicy.bench.datasets.Locator`.

    Raises:
        ConfigError: if the suite does not fit together.
    """
    locator = Locator(data, Path(out) / "data")
    return expand(suite, locator), locator


def run_suite(
    suite: Suite,
    out: Path,
    *,
    executor: Executor | None = None,
    retries: int = 1,
    old_results: OldResults | None = None,
    data: Path | None = None,
    generate: bool = False,
    workers: int | None = None,
    vectorize: bool = False,
    keep_runs: KeepRuns = "logs",
    progress: Progress | None = None,
    observe: Observer | None = None,
    arguments: Sequence[str] | None = None,
) -> Outcome:
    """Run the jobs that have no result yet; called again, go on, or do nothing.

    Args:
        suite: what to run.
        out: the results folder; made if missing.
        executor: where to run; by default one job after another in this process.
        retries: how many times a job that fails is tried again by this call.
        old_results: what to do with results of other code: ``keep`` them beside new ones, or ``rerun`` them. By
            default they are kept if nothing is to be added, else refused.
        data: directory of datasets; by default each source's own, and OUT/data for generated ones.
        generate: generate data that the suite wants generated and that are missing.
        workers: simulator processes that generate data; by default as many as there are cores.
        vectorize: train the seeds of a cell together, as one job; see `genpolicy.training.agent_group`. Cells that see
            images or learn online, and the toy study, are run seed by seed all the same.
        keep_runs: what to keep of a finished run: ``all``, its ``logs``, or ``none`` of it.
        progress: called with (done, total, description) while data are generated.
        observe: sees the events of each round of jobs pass by; called with them and the numbers of all jobs and of
            those that are done.
        arguments: of the command line that made the suite what it is, for the report.

    Raises:
        ConfigError: if the suite does not fit together, the folder is another suite's, another process runs it, or
            results of other code are there.
        StorageError: if the disk refuses.
    """
    Workspace(out).refuse_foreign(suite.name)
    jobs, locator = plan_suite(suite, out, data=data)  # a wrong setting ends everything here, before any data are made
    workspace = Workspace.create(out, suite.name)
    with workspace.lock(RUNNER) as alone:
        if not alone:
            raise ConfigError(f"Another `genpolicy bench run` works in {out}. Wait for it, or stop it.")
        if generate and generate_missing(suite, locator, workers=workers or available_cores(), progress=progress):
            jobs, locator = plan_suite(suite, out, data=data)
        missing = {job.task: job.cell.source.missing for job in jobs if job.cell.source.missing}
        runnable = [job for job in jobs if not job.cell.source.missing]
        _settle_versions(workspace, {job.key for job in runnable}, old_results)
        workspace.write_plan(
            suite,
            jobs,
            {
                "data": None if data is None else str(locator.data),
                "generated": str(locator.generated),
                "keep_runs": keep_runs,
                "missing": missing,
                "arguments": None if arguments is None else list(arguments),
            },
        )
        known = workspace.finished()
        waiting = [key for key in dict.fromkeys(job.key for job in runnable) if key not in known]
        groups = _groups(runnable) if vectorize else {}
        interrupted = _run_rounds(workspace, waiting, groups, executor or InProcess(), retries, observe)
        failures = {
            key: record["error"] for key, record in workspace.failures().items() if not workspace.has_result(key)
        }
        ran = sum(workspace.has_result(key) for key in waiting)
        return Outcome(workspace.path, workspace.status(), ran, failures, missing, interrupted)


def _run_rounds(
    workspace: Workspace,
    keys: Sequence[str],
    groups: Mapping[str, Hashable],
    executor: Executor,
    retries: int,
    observe: Observer | None,
) -> bool:
    """Let the engine do the jobs, and those again that failed or were busy; says whether it was interrupted."""
    attempts, waiting = Counter[str](), list(keys)
    while waiting:
        again, busy = [], 0
        units: dict[Hashable, Unit] = {}
        for key in waiting:
            group = groups.get(key, key)
            units[group] = (*units.get(group, ()), key)
        events = executor.run(workspace.path, list(units.values()))
        if observe is not None:
            status = workspace.status()
            events = observe(events, total=status.jobs, done=status.completed + status.diverged)
        try:
            for event in events:
                if event.state in ("failed", "lost"):  # a lost worker was an attempt too
                    attempts[event.key] += 1
                if event.state == "busy" or (event.state == "failed" and attempts[event.key] <= retries):
                    again.append(event.key)
                    busy += event.state == "busy"
        except KeyboardInterrupt:
            return True
        if busy and busy == len(again):  # what an orphan of a killed runner still does is worth waiting for
            time.sleep(_BUSY_SECONDS)
        waiting = again
    return False


def _groups(jobs: Sequence[Job]) -> dict[str, Hashable]:
    """By key: what jobs have in common that can be trained together."""
    from genpolicy.training.run import can_be_vectorized

    able = [job for job in jobs if job.cell.kind == "train" and can_be_vectorized(job.config)]
    return {job.key: identity(job.cell) for job in able}


def _settle_versions(workspace: Workspace, keys: set[str], old_results: OldResults | None) -> None:
    """Never let results of other code stand beside new ones unless the user says so."""
    now = code_version()["digest"]
    others = [one for one in workspace.code_versions() if one["digest"] != now]
    if not others or old_results == "keep":
        return
    if old_results == "rerun":
        workspace.drop_other_versions(now)
        return
    if keys <= workspace.finished():
        return
    listed = ", ".join(f"{one['version']} ({one['digest']})" for one in others)
    raise ConfigError(
        f"{workspace.path} has results of other code: {listed}; this is {code_version()['version']} ({now}). Say "
        "--old-results rerun to replace them, --old-results keep to add to them (the report says which is which), or "
        "choose another --out."
    )
