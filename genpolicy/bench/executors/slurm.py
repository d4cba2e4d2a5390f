"""Jobs in SLURM's job arrays, submitted by submitit."""

import importlib.util
import json
import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from genpolicy.bench.cores import available_cores
from genpolicy.bench.executors.base import JOB, Event, Losses, Unit, events_of, load_function
from genpolicy.bench.executors.worker import BROKEN, GRACE_SECONDS, run_unit
from genpolicy.errors import ConfigError, GenpolicyError
from genpolicy.options import Options, option
from genpolicy.training.signals import StopSignals

logger = logging.getLogger(__name__)

ARRAY_SIZE = 1000
"""Elements of one array; SLURM's default MaxArraySize is 1001."""
PARALLEL = 256


@dataclass(frozen=True)
class SlurmOptions(Options):
    """Options of the engine `slurm`; what is not named here goes to submitit (``slurm_partition``, ``mem_gb``)."""

    cluster: Literal["slurm", "local"] = option("slurm", "local: processes of this machine, to try things out")
    chunk: int | None = option(None, "jobs of one array element; null: 1, more if there are over 1,000 jobs", minimum=1)
    timeout_min: int = option(240, "minutes of one array element; it is requeued when they are over", minimum=1)
    cpus_per_task: int = option(1, "CPUs of a job; as many threads of arithmetic", minimum=1)
    poll_seconds: float = option(5.0, "time between two looks at the queue and at the reports", above=0)
    further: Mapping = field(default_factory=dict, metadata={"help": "other parameters of submitit"})


class SlurmExecutor:
    """Submits the jobs as arrays; each element of an array does a chunk of jobs, one after another.

    Before an element's time is over, SLURM signals it: the running job writes a checkpoint and the element is queued
    again. A job whose element died is submitted again. The results folder must be on a file system that the nodes
    share; submitit's files are in ``OUT/slurm``.

    Args:
        workers: array elements at the same time; 256 by default.
        retries: how many times a job is tried again whose element died.
        options: of submitit and SLURM.
        job: what does a job, as ``module:function``.

    Raises:
        ConfigError: if submitit is not installed, does not know a parameter, or finds no SLURM.
    """

    def __init__(
        self, workers: int | None = None, retries: int = 1, options: SlurmOptions | None = None, *, job: str = JOB
    ):
        if importlib.util.find_spec("submitit") is None:
            raise ConfigError("The engine 'slurm' needs submitit: pip install 'genpolicy[slurm]'.")
        self.options = options or SlurmOptions()
        self.workers = workers
        self.retries = retries
        self._job = job

    def run(self, out: Path, units: Sequence[Unit]) -> Iterator[Event]:
        """See `genpolicy.bench.executors.Executor`.

        A signal cancels the arrays. A runner that is killed leaves them: they finish their jobs without it.
        """
        out = Path(out).absolute()
        queue = self._make_queue(out)
        losses, waiting = Losses(out, self.retries), list(units)
        chunks: list[_Chunk] = []
        with StopSignals() as stop:
            try:
                while (waiting or chunks) and not stop.requested:
                    if waiting:
                        chunks += self._submit(queue, out, waiting)
                        waiting = []
                    for chunk in list(chunks):
                        ended = chunk.job.done()
                        for news in chunk.news():
                            yield from losses.settle(news, waiting)
                        if ended:
                            chunks.remove(chunk)
                            culprits, others = chunk.left()
                            yield from losses.settle(culprits, waiting)
                            waiting += others
                    _sleep(self.options.poll_seconds if chunks and not waiting else 0, stop)
                if stop.requested:
                    yield from _cancel(chunks, self.options.poll_seconds)
                    raise KeyboardInterrupt
            finally:
                for chunk in chunks:
                    with suppress(Exception):
                        chunk.job.cancel(check=False)

    def _make_queue(self, out: Path) -> Any:
        import submitit

        options, name = self.options, f"genpolicy-{out.name}"
        parameters = {"name": name, "timeout_min": options.timeout_min, "cpus_per_task": options.cpus_per_task}
        if options.cluster == "slurm":
            parameters["slurm_array_parallelism"] = self.workers or PARALLEL
        try:
            queue = submitit.AutoExecutor(folder=out / "slurm" / "%j", cluster=options.cluster)
            queue.update_parameters(**parameters | dict(options.further))
        except (RuntimeError, NameError, TypeError, ValueError) as error:
            raise ConfigError(f"submitit refuses: {' '.join(str(error).split())}.") from error
        return queue

    def _submit(self, queue: Any, out: Path, units: Sequence[Unit]) -> "list[_Chunk]":
        # submitit's local executor starts everything at once.
        elements = ARRAY_SIZE if self.options.cluster == "slurm" else self.workers or available_cores()
        size = self.options.chunk or -(-len(units) // elements)
        parts = [list(units[first : first + size]) for first in range(0, len(units), size)]
        reports = out / "slurm" / "reports"
        reports.mkdir(parents=True, exist_ok=True)
        files = [reports / f"{uuid.uuid4().hex}.jsonl" for _ in parts]
        threads = self.options.cpus_per_task
        work = [
            ChunkOfJobs(str(out), part, str(file), self._job, threads) for part, file in zip(parts, files, strict=True)
        ]
        chunks = []
        for first in range(0, len(parts), ARRAY_SIZE):
            some = slice(first, first + ARRAY_SIZE)
            jobs = queue.submit_array(work[some])
            chunks += [_Chunk(*one) for one in zip(jobs, parts[some], files[some], strict=True)]
        return chunks


class ChunkOfJobs:
    """What one element of an array does: some units of jobs, one after another, each told in a file."""

    def __init__(self, out: str, units: list[Unit], report: str, job: str, threads: int):
        self.out, self.units, self.report, self.job, self.threads = out, units, report, job, threads

    def __call__(self) -> None:
        """Do the jobs; those that are done already take no time."""
        function = load_function(self.job)
        time_is_over = _SaveBeforeRequeue()
        for unit in self.units:
            if time_is_over.requested:
                time_is_over.requeue()
            self._tell(unit, "started")
            states, detail = run_unit(function, Path(self.out), unit, self.threads)
            if time_is_over.requested:
                time_is_over.requeue()
            self._tell(unit, states, detail)
            if states == BROKEN or "interrupted" in states:
                break

    def checkpoint(self) -> Any:
        """What submitit is to queue again: the same, which goes on from what is in the results folder."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _tell(self, unit: Unit, states: str | Sequence[str], detail: str = "") -> None:
        events = events_of(unit, states, detail, f"{socket.gethostname()}:{os.getpid()}")
        with open(self.report, "a") as file:  # opened anew each time: on NFS that makes the line visible
            file.write(json.dumps([asdict(event) for event in events]) + "\n")


class _SaveBeforeRequeue:
    """Puts a checkpoint between SLURM's warning and submitit's requeueing.

    Submitit requeues within its signal handler and leaves the process at once. Here the handler asks the training to
    save and stop, as SIGTERM does, and the requeueing follows.
    """

    def __init__(self) -> None:
        from submitit import JobEnvironment

        self.requested = False
        self._signal = JobEnvironment._usr_sig()
        self._requeue: Any = signal.getsignal(self._signal)
        if callable(self._requeue):
            signal.signal(self._signal, self._ask)

    def _ask(self, *_: object) -> None:
        self.requested = True
        os.kill(os.getpid(), signal.SIGTERM)

    def requeue(self) -> None:
        """Queue the element again and leave; returns if the job may not be queued again."""
        self._requeue(self._signal, None)


class _Chunk:
    """An element of an array, seen from the runner."""

    def __init__(self, job: Any, units: list[Unit], report: Path):
        self.job, self.report = job, report
        self.open = units
        """Units with jobs that have not ended."""
        self._position = 0
        self._running: Unit = ()
        self._where = ""

    def news(self) -> Iterator[list[Event]]:
        """What the element has told since the last call, for a unit at a time."""
        with suppress(FileNotFoundError), self.report.open("rb") as file:
            file.seek(self._position)
            for line in file.read().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                events = [Event(**one) for one in json.loads(line)]
                unit, first = tuple(event.key for event in events), events[0]
                if unit not in self.open:
                    continue  # done before the element was queued again
                if first.state == BROKEN:
                    raise GenpolicyError(f"Job {', '.join(unit)} could not be run on {first.where}: {first.detail}.")
                self._running, self._where = (unit if first.state == "started" else ()), first.where
                if first.final:
                    self.open.remove(unit)
                yield events

    def left(self) -> tuple[list[Event], list[Unit]]:
        """After the end: the loss of the unit that ran, and the units that had not begun.

        Raises:
            GenpolicyError: if the nodes cannot run jobs at all.
        """
        if not self.open:
            return [], []
        output, told = self.job.paths.stderr, self.job.paths.result_pickle.exists()
        error = self.job.exception() if told else None  # it was killed; submitit would wait for the file
        if type(error).__name__ == "FailedJobError" and not self._running:
            trace = str(error).partition("You can check full logs")[0]
            words = [line for line in trace.splitlines() if line.strip(" -")]
            raise GenpolicyError(f"Array element {self.job.job_id} failed: {words[-1].strip()}. See {output}.")
        culprit = self._running or (() if told and error is None else self.open[0])
        cause = f"array element {self.job.job_id} ended as {self.job.state}; see {output}"
        others = [unit for unit in self.open if unit != culprit]
        return events_of(culprit, "lost", cause, self._where), others


def _sleep(seconds: float, stop: StopSignals) -> None:
    limit = time.monotonic() + seconds
    while (rest := limit - time.monotonic()) > 0 and not stop.requested:
        time.sleep(min(rest, 0.25))


def _cancel(chunks: list[_Chunk], poll_seconds: float) -> Iterator[Event]:
    """Take the arrays from the queue and let running jobs save."""
    for chunk in chunks:
        chunk.job.cancel(check=False)
    limit = time.monotonic() + GRACE_SECONDS
    while chunks and time.monotonic() < limit:
        for chunk in list(chunks):
            ended = chunk.job.done()
            for news in chunk.news():
                yield from news
            if ended:
                chunks.remove(chunk)
        time.sleep(min(poll_seconds, 1.0) if chunks else 0)
