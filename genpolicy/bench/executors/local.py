"""Jobs in processes of this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Pipe, wait
from pathlib import Path
from typing import Any

from genpolicy.bench.cores import available_cores
from genpolicy.bench.executors.base import JOB, Event, Losses, Unit, cause_of_death, events_of
from genpolicy.bench.executors.worker import BROKEN, GRACE_SECONDS, READY
from genpolicy.errors import GenpolicyError
from genpolicy.options import Options, option
from genpolicy.training.signals import StopSignals

POLL_SECONDS = 0.25
FAILED_STARTS = 5
"""So many workers in a row may die before they are ready."""

_WORK = "from genpolicy.bench.executors.worker import main; main()"


@dataclass(frozen=True)
class LocalOptions(Options):
    """Options of the engine `local`."""

    threads: int = option(
        1, "threads of arithmetic per job; the number can change results in the last digits", minimum=1
    )


class LocalExecutor:
    """Runs jobs in processes that live as long as the executor does and import torch once.

    A worker that dies (killed, out of memory, a segmentation fault) is replaced, and its job goes on from its
    checkpoint. Workers are in sessions of their own, so that Ctrl-C reaches only the runner, and they stop when the
    runner is gone, however it ended. What they print goes to ``OUT/logs``.

    Args:
        workers: jobs at the same time; by default as many as the cores have room for.
        retries: how many times a job is tried again whose worker died.
        options: threads per job.
        job: what does a job, as ``module:function``.
    """

    def __init__(
        self, workers: int | None = None, retries: int = 1, options: LocalOptions | None = None, *, job: str = JOB
    ):
        self.options = options or LocalOptions()
        self.workers = workers or max(1, available_cores() // self.options.threads)
        self.retries = retries
        self._job = job

    def run(self, out: Path, units: Sequence[Unit]) -> Iterator[Event]:
        """See `genpolicy.bench.executors.Executor`."""
        out = Path(out).absolute()
        losses, waiting = Losses(out, self.retries), deque(units)
        crew = _Crew(out, self._job, self.options.threads)
        with StopSignals() as stop:
            try:
                while (waiting or crew.busy) and not stop.requested:
                    crew.grow(min(self.workers, len(waiting) + len(crew.busy)))
                    for worker in crew.idle:
                        if waiting:
                            worker.begin(out, waiting.popleft())
                            yield from events_of(worker.unit, "started", where=worker.where)
                    for news in crew.news():
                        yield from losses.settle(news, waiting)
                if stop.requested:
                    crew.stop()
                    while crew.busy:
                        for event in (event for news in crew.news() for event in news):
                            lost = event.state == "lost"  # it was not training, and died of the request
                            yield Event(event.key, "interrupted", where=event.where) if lost else event
                    raise KeyboardInterrupt
            except KeyboardInterrupt:
                crew.kill()
                raise
            finally:
                crew.close()


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, number: int, log: Path, job: str, threads: int):
        self.number, self.log = number, log
        self.ready = False
        self.unit: Unit = ()
        self.connection, theirs = Pipe()
        settings = [str(theirs.fileno()), job, str(number), str(threads)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with theirs, log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _WORK, *settings],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"OMP_NUM_THREADS": str(threads)} | environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.where = f"{socket.gethostname()}:{self.process.pid}"

    def begin(self, out: Path, unit: Unit) -> None:
        self.unit = unit
        with suppress(OSError):  # it has just died, which `news` will notice
            self.connection.send((str(out), unit))

    def stop(self) -> None:
        with suppress(OSError):
            self.connection.send(None)

    def end(self, patience: float = 0.0) -> int:
        """Make sure that nothing of it is left, its simulators included; return its exit code."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.connection.close()
        return self.process.wait()


class _Crew:
    """The workers that exist."""

    def __init__(self, out: Path, job: str, threads: int):
        self._logs, self._job, self._threads = out / "logs", job, threads
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    @property
    def busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.unit]

    @property
    def idle(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.ready and not worker.unit]

    def grow(self, size: int) -> None:
        """Start workers until there are `size`."""
        self._logs.mkdir(parents=True, exist_ok=True)
        taken = {worker.number for worker in self._workers}
        for number in range(size + len(taken)):
            if len(self._workers) >= size:
                break
            if number not in taken:
                log = self._logs / f"{socket.gethostname()}-{number}.log"
                self._workers.append(_Worker(number, log, self._job, self._threads))

    def news(self) -> Iterator[list[Event]]:
        """Wait a moment for units that ended or were lost, and tell of their jobs.

        Raises:
            GenpolicyError: if workers do not come up, or a job could not use the results folder.
        """
        by_connection: dict[Any, _Worker] = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), POLL_SECONDS):
            worker = by_connection[connection]
            try:
                states, detail = worker.connection.recv()
            except (EOFError, OSError):
                yield from self._bury(worker)
                continue
            if states == READY:
                worker.ready, self._failed_starts = True, 0
                continue
            unit, worker.unit = worker.unit, ()
            if states == BROKEN:
                raise GenpolicyError(f"Job {', '.join(unit)} could not be run: {detail}. Traceback: {worker.log}.")
            yield events_of(unit, states, where=worker.where)

    def _bury(self, worker: _Worker) -> Iterator[list[Event]]:
        cause = cause_of_death(worker.end(patience=5.0))  # the pipe closes a moment before the exit code can be read
        self._workers.remove(worker)
        if worker.unit:
            yield events_of(worker.unit, "lost", f"{cause}; its output is in {worker.log}", worker.where)
        elif not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS:
                words = worker.log.read_text(errors="replace").strip().splitlines()[-1:]
                raise GenpolicyError(
                    f"No worker starts: {cause}. Its last words were {words or 'none'}; see {worker.log}. "
                    "If memory ran out, use fewer --workers."
                )

    def stop(self) -> None:
        """Ask all workers to save and end."""
        for worker in self._workers:
            worker.stop()
        for worker in [worker for worker in self._workers if not worker.unit]:
            self._workers.remove(worker)
            worker.end()

    def kill(self) -> None:
        """End all workers at once."""
        while self._workers:
            self._workers.pop().end()

    def close(self) -> None:
        """End all workers; those with a job may save first."""
        self.stop()
        limit = time.monotonic() + GRACE_SECONDS
        try:
            for worker in list(self._workers):
                worker.end(patience=max(0.0, limit - time.monotonic()))
                self._workers.remove(worker)
        finally:
            self.kill()
