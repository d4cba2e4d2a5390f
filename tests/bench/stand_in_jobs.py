"""What stands in for `genpolicy.bench.jobs.execute` in the tests of the engines: same contract, no training.

The first part of a key says how the job behaves, as in "slow-3". A job has steps and a checkpoint after each.
"""

import ctypes
import fcntl
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from genpolicy.training.signals import StopSignals

STEPS = {"quick": 1, "slow": 40, "long": 10_000}


def alone(*keys: str) -> list[tuple[str, ...]]:
    """Units of one job each."""
    return [(key,) for key in keys]


def execute(out: Path, keys: Sequence[str]) -> list[str]:
    return [_execute(out, key) for key in keys]


def _execute(out: Path, key: str) -> str:
    for name in ("results", "locks", "runs"):
        (out / name).mkdir(exist_ok=True)
    lock = os.open(out / "locks" / key, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return "busy"
    try:
        return _execute_locked(out, key)
    finally:
        os.close(lock)


def _execute_locked(out: Path, key: str) -> str:
    if (out / "results" / key).exists():
        return "done"
    kind = key.partition("-")[0]
    first = not (out / "runs" / key).exists()
    _note(out / "runs" / key, f"begin {os.getpid()}")
    if kind == "always" or (kind == "once" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "segfault" and first:
        ctypes.string_at(0)
    if kind == "exit" and first:
        os._exit(3)
    if kind == "broken":
        raise OSError("the disk is full")
    if kind == "failed":
        return "failed"
    with StopSignals() as stop:
        for _ in range(steps(out, key), STEPS.get(kind, 1)):
            time.sleep(0.05)
            _note(out / "runs" / key, "step")
            if stop.requested:
                _note(out / "runs" / key, "saved")
                return "interrupted"
    # O_EXCL: a second completion would be an error.
    os.close(os.open(out / "results" / key, os.O_CREAT | os.O_EXCL))
    return "completed"


def notes(out: Path, key: str) -> list[str]:
    file = out / "runs" / key
    return file.read_text().splitlines() if file.exists() else []


def steps(out: Path, key: str) -> int:
    return notes(out, key).count("step")


def processes(out: Path) -> set[int]:
    """Processes that have begun a job."""
    files = (out / "runs").glob("*")
    return {int(note.split()[1]) for file in files for note in notes(out, file.name) if note.startswith("begin")}


def _note(file: Path, text: str) -> None:
    with file.open("a") as log:
        log.write(text + "\n")


def main() -> None:
    """Run jobs in a process that the tests can kill: OUT ENGINE WORKERS OPTIONS KEY[+KEY]..."""
    from genpolicy.bench.executors.factory import ENGINES, read_options

    out, engine, workers, options, *units = sys.argv[1:]
    executor, options_class = ENGINES[engine]
    given = dict(pair.split("=") for pair in options.split(",") if pair)
    runner = executor(int(workers), 3, read_options(engine, options_class, given), job=JOB)
    try:
        for event in runner.run(Path(out), [tuple(unit.split("+")) for unit in units]):
            print(event.key, event.state, event.detail, flush=True)
    except KeyboardInterrupt:
        sys.exit(130)


JOB = "tests.bench.stand_in_jobs:execute"

if __name__ == "__main__":
    main()
