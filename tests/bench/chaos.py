"""Runs a suite while killing the runner and its workers.

``python -m tests.bench.chaos OUT KILLS SUITE [arguments of bench run]``
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
PAUSES = 1.0, 15.0
"""Seconds between two kills, at least and at most: some fall into the start of workers, some into training."""
TIMES = ("updates_per_second", "act_milliseconds", "seconds", "training_seconds", "overhead_seconds", "finished")


def bench_run(out: Path, arguments: Sequence[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "genpolicy.cli", "bench", "run", *arguments, "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=sys.stderr)


def run_disturbed(out: Path, arguments: Sequence[str], kills: int, seed: int = 0) -> dict[str, int]:
    """Kill what runs `kills` times, start the runner again whenever it is gone, and let it finish.

    Returns:
        How many times which kind of process was killed, and how many times the runner was started.
    """
    draw = random.Random(seed)
    killed = {"runner": 0, "worker": 0, "everything": 0, "starts": 1}
    runner = bench_run(out, arguments)
    while sum(killed.values()) - killed["starts"] < kills:
        pause = time.monotonic() + draw.uniform(*PAUSES)
        while time.monotonic() < pause and runner.poll() is None:
            time.sleep(0.05)
        if runner.poll() == 0:
            break  # the suite is smaller than the chaos
        if runner.poll() is None:
            workers = children(runner.pid)
            target = draw.choice(["runner", "worker", "worker", "everything"]) if workers else "runner"
            victims = {"runner": [runner.pid], "worker": workers[:1], "everything": [runner.pid, *workers]}[target]
            draw.shuffle(workers)
            for pid in victims:
                try_kill(pid)
            killed[target] += 1
            if target == "worker":
                continue
        runner.wait()
        runner = bench_run(out, arguments)
        killed["starts"] += 1
    while runner.wait() != 0:  # jobs that lost a worker too often are tried again by the next run
        runner = bench_run(out, arguments)
        killed["starts"] += 1
        assert killed["starts"] < kills + 10, "the suite does not end"
    return killed


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


def try_kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def results(out: Path) -> dict[str, Any]:
    """All results without times."""
    found = {}
    for file in sorted((out / "results").glob("*.json")):
        result = json.loads(file.read_text())
        found[file.stem] = {name: value for name, value in result.items() if name not in TIMES}
    return found


def wait_for(condition: Callable[[], Any], seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.1)


if __name__ == "__main__":
    started = time.monotonic()
    print(run_disturbed(Path(sys.argv[1]), sys.argv[3:], int(sys.argv[2])), f"{time.monotonic() - started:.0f} s")
