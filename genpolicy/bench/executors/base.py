"""What every engine does: take jobs and tell what becomes of each."""

import importlib
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

JOB = "genpolicy.bench.jobs:execute"
"""What does jobs: a function of the results folder and the keys of a unit that returns the state of each."""

Unit = tuple[str, ...]
"""Keys of the jobs that a worker does in one call: one, or several that are computed together."""

PASSING = ("started", "lost")


@dataclass(frozen=True)
class Event:
    """Something happened to a job.

    Attributes:
        key: of the job.
        state: "started"; "lost": its worker died, and the job goes on elsewhere from its checkpoint; else final: what
            `genpolicy.bench.jobs.execute` returned, "failed" if its worker died once too often.
        detail: one line about a loss or a failure.
        where: host and process, or machine.
    """

    key: str
    state: str
    detail: str = ""
    where: str = ""

    @property
    def final(self) -> bool:
        """Whether this call has nothing more to tell of the job."""
        return self.state not in PASSING


def events_of(unit: Unit, states: str | Sequence[str], detail: str = "", where: str = "") -> list[Event]:
    """The events of a unit's jobs: of one state, or each of its own."""
    each = [states] * len(unit) if isinstance(states, str) else states
    return [Event(key, state, detail, where) for key, state in zip(unit, each, strict=True)]


class Executor(Protocol):
    """Somewhere to run jobs."""

    def run(self, out: Path, units: Sequence[Unit]) -> Iterator[Event]:
        """Run the jobs and yield what happens; each key has exactly one final event.

        The first SIGINT or SIGTERM lets the running jobs write a checkpoint; a second one does not wait for them.

        Args:
            out: the results folder.
            units: jobs of its plan, the first ones first; those of a unit go to one worker together.

        Raises:
            KeyboardInterrupt: after a signal, when everything has stopped and the jobs that ran had their event.
            ConfigError: if the engine cannot be used so.
            GenpolicyError: if no worker comes up.
        """
        ...


class Losses:
    """Counts the workers that each job has cost, and gives a job up that costs too many.

    Args:
        out: the results folder.
        retries: how many times a job is tried again.
        record: writes down that a job failed; (out, key, error).
    """

    def __init__(self, out: Path, retries: int, record: Callable[[Path, str, str], None] | None = None):
        self.out, self.retries = out, retries
        self._record = record_failure if record is None else record
        self._lost: Counter[str] = Counter()

    def add(self, key: str, cause: str, where: str = "") -> Event:
        """Note a loss: the event is "lost" if the job may be tried again, else "failed", and written down."""
        self._lost[key] += 1
        if self._lost[key] <= self.retries:
            return Event(key, "lost", cause, where)
        times = "" if self._lost[key] == 1 else f" (the last of {self._lost[key]} attempts)"
        self._record(self.out, key, f"{cause}{times}")
        return Event(key, "failed", cause, where)

    def settle(self, news: Iterable[Event], waiting: MutableSequence[Unit]) -> Iterator[Event]:
        """Pass the events of a unit's end on; of its jobs, those that may be tried again wait as a unit."""
        again = []
        for event in news:
            if event.state in ("lost", "interrupted"):
                event = self.add(event.key, event.detail or "the worker was told to stop", event.where)
            if event.state == "lost":
                again.append(event.key)
            yield event
        if again:
            waiting.append(tuple(again))


def record_failure(out: Path, key: str, error: str) -> None:
    """Write a job down as failed; see `genpolicy.bench.jobs.record_failure`."""
    from genpolicy.bench.jobs import record_failure

    record_failure(out, key, error)


def load_function(path: str) -> Callable:
    """Import ``package.module:function``."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def cause_of_death(exit_code: int | None) -> str:
    """Say how a process ended; a negative code is a signal's."""
    if exit_code is None:
        return "the worker is gone"
    if exit_code >= 0:
        return f"the worker ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    hint = " (perhaps memory ran out)" if name == "SIGKILL" else ""
    return f"the worker was killed by {name}{hint}"
