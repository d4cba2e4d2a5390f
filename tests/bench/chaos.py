"""Runs a suite undisturbed, then again while killing the runner and its workers, and compares results and reports.

python -m tests.bench.chaos FOLDER KILLS SUITE [arguments of bench run]

The suite `quick` takes twelve minutes of CPU each time, and is no test for that:

python -m tests.bench.chaos /tmp/chaos 20 quick --workers 2 --generate
"""

import csv
import functools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from genpolicy.training import checkpoint

REPOSITORY = Path(__file__).parents[2]
EARLY = 0.25
"""Share of the kills that fall into the start of the runner or of its workers."""
TIMES = (
    "updates_per_second",
    "act_milliseconds",
    "seconds",
    "training_seconds",
    "overhead_seconds",
    "evaluation_share",
    "finished",
)


TIME_COLUMNS = ("seconds", "ms per action", "updates / s", "minutes per run", "evaluations, %")
"""Of the tables of a report."""


def bench_run(out: Path, arguments: Sequence[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "genpolicy", "bench", "run", *arguments, "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=sys.stderr)


def run_disturbed(out: Path, arguments: Sequence[str], kills: int, seed: int = 0) -> dict[str, int]:
    """Kill what runs `kills` times, start the runner again whenever it is gone, and let it finish.

    The kills are spread over the run: one falls into each part of the work that is left when it is divided equally.

    Returns:
        How many times which kind of process was killed, and how many times the runner was started.
    """
    draw, killed = random.Random(seed), {"runner": 0, "worker": 0, "everything": 0}
    starts, runner, start_seconds = 1, bench_run(out, arguments), 1.0
    while (number := sum(killed.values())) < kills and runner.poll() != 0:
        begin, end = number / (kills + 1), (number + 1) / (kills + 1)
        wait_for(lambda: runner.poll() is not None or progress(out) >= begin, math.inf)  # noqa: B023
        start_seconds = wait_for_moment(runner, out, draw, start_seconds, end)
        if runner.poll() is None:
            workers = children(runner.pid)
            draw.shuffle(workers)
            target = draw.choice(["runner", "worker", "worker", "everything"]) if workers else "runner"
            victims = {"runner": [runner.pid], "worker": workers[:1], "everything": [runner.pid, *workers]}[target]
            for pid in victims:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed[target] += 1
            if target == "worker":
                continue
        if runner.wait() != 0:
            runner, starts = bench_run(out, arguments), starts + 1
    while runner.wait() != 0:  # jobs that lost a worker too often are tried again by the next run
        assert starts < kills + 10, "the suite does not end"
        runner, starts = bench_run(out, arguments), starts + 1
    return killed | {"starts": starts}


def wait_for_moment(
    runner: subprocess.Popen, out: Path, draw: random.Random, start_seconds: float, end: float
) -> float:
    """Wait for the next kill, for the runner's end or for `progress` to reach `end`.

    Returns:
        How long it takes from a start to training.
    """
    began, wall = time.monotonic(), time.time()
    ended = lambda: runner.poll() is not None or progress(out) >= end  # noqa: E731
    if draw.random() < EARLY:
        wait_for(ended, draw.uniform(0.0, start_seconds))
        return start_seconds
    wait_for(lambda: ended() or saved_since(out, wall), 120.0)
    start_seconds = max(start_seconds, time.monotonic() - began)
    wait_for(ended, draw.uniform(0.0, 0.5))
    return start_seconds


def progress(out: Path) -> float:
    """Share of the planned work that is done: jobs with a result, and what other jobs have a checkpoint of."""
    try:
        jobs = json.loads((out / "plan.json").read_text())["jobs"]
    except FileNotFoundError:  # killed before there was a plan
        return 0.0
    ended = {file.stem for file in (out / "results").glob("*.json")}
    begun = 0.0
    for run in (out / "runs").glob("*"):
        if run.name not in ended and (saved := checkpoint.names(run / "checkpoints")):
            with suppress(FileNotFoundError):  # deleted since, with its result written
                begun += int(saved[-1].removeprefix("step_")) / planned_steps(run)
    return (len(ended) + begun) / jobs


@functools.cache
def planned_steps(run: Path) -> int:
    return yaml.safe_load((run / "config.yaml").read_text())["trainer"]["steps"]


def saved_since(out: Path, wall: float) -> bool:
    """Whether a job has written a checkpoint or a result."""
    try:
        files = [*(out / "runs").glob("*/checkpoints/*.json"), *(out / "results").glob("*.json")]
        return any(file.stat().st_mtime > wall for file in files)
    except FileNotFoundError:  # a checkpoint that was just replaced by the next
        return False


def children(pid: int) -> list[int]:
    """Workers that a runner has started."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for child in found if "executors.worker" in command_of(int(child))]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def results(out: Path) -> dict[str, Any]:
    """All results without times."""
    found = {}
    for file in sorted((out / "results").glob("*.json")):
        result = json.loads(file.read_text())
        found[file.stem] = {name: value for name, value in result.items() if name not in TIMES}
    return found


def report_numbers(out: Path) -> dict[str, list[dict[str, str]]]:
    """All tables of a report without times."""
    found = {}
    for file in sorted((out / "report").rglob("*.csv")):
        with file.open(newline="") as lines:
            rows = [{name: row[name] for name in row if name not in TIME_COLUMNS} for row in csv.DictReader(lines)]
        found[file.relative_to(out).as_posix()] = rows
    return found


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until something is so, but not longer; says whether it is."""
    limit = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < limit:
        time.sleep(0.05)
    return found


if __name__ == "__main__":
    folder, number, *suite = sys.argv[1:]
    calm, struck = Path(folder, "calm"), Path(folder, "struck")
    suite += ["--data", str(Path(folder, "data"))]
    assert bench_run(calm, suite).wait() == 0
    began = time.monotonic()
    print(run_disturbed(struck, suite, int(number)), f"{time.monotonic() - began:.0f} s")
    assert results(struck) == results(calm)
    assert report_numbers(struck) == report_numbers(calm)
    print(f"{len(results(calm))} results and {len(report_numbers(calm))} tables are equal")
