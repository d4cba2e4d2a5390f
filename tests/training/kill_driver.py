"""Kills training of the fake agent at many moments, resumes it, and prints what became of it as JSON.

One process imports torch and forks each attempt, so that a kill costs milliseconds.

    kill_driver.py points DIRECTORY        one kill at every write, rename and removal of a short run
    kill_driver.py loop DIRECTORY KILLS    kills of one run at random times and in the middle of random writes
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from conftest import FakeAgent, FakeConfig, build_trainer, outcome

from genpolicy.training.run_directory import RunDirectory

SHORT = FakeConfig(steps=6, log_every=3, eval_every=3, checkpoint_every=2)
STEPS_PER_KILL = 150


def train(path: Path, config: FakeConfig) -> None:
    resuming = RunDirectory.exists(path)
    trainer = build_trainer(path, config, agent=FakeAgent(seconds=0.0 if config is SHORT else 1e-4))
    result = trainer.resume() if resuming else trainer.run()
    assert result.state == "completed"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(10)


class Events:
    """Counts the system calls that change files and dies at the `fatal`-th; a fatal write is half done."""

    def __init__(self, fatal: int | None):
        self.count, self.fatal = 0, fatal
        for name in ("write", "replace", "unlink", "mkdir"):
            setattr(os, name, self.counted(name, getattr(os, name)))

    def counted(self, name, function):
        def call(*arguments, **keywords):
            self.count += 1
            if self.count == self.fatal:
                if name == "write":
                    descriptor, data = arguments
                    function(descriptor, data[: len(data) // 2])
                die()
            return function(*arguments, **keywords)

        return call


def attempt(path: Path, config: FakeConfig, *, fatal: int | None = None, seconds: float | None = None) -> bool:
    """Train in a forked process; return whether it was killed (else it completed)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            events = Events(fatal)
            os.close(writer)
            train(path, config)
            Path(f"{path}.events").write_text(str(events.count))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writer)
    os.read(reader, 1)  # returns when the child has closed its end, that is, when it begins
    os.close(reader)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"An attempt ended with code {code}.")
    return code != 0


def every_point(directory: Path) -> dict:
    attempt(directory / "reference", SHORT)
    reference = outcome(directory / "reference")
    points = int((directory / "reference.events").read_text())
    different = []
    for point in range(1, points + 1):
        run = directory / f"killed_{point}"
        assert attempt(run, SHORT, fatal=point), f"no kill at event {point}"
        attempt(run, SHORT)
        if outcome(run) != reference:
            different.append(point)
        shutil.rmtree(run)
    return {"points": points, "different": different, "reference": reference}


def loop(directory: Path, kills: int) -> dict:
    config = FakeConfig(steps=STEPS_PER_KILL * kills, log_every=5, eval_every=50, checkpoint_every=10)
    attempt(directory / "reference", config)
    chance = random.Random(0)
    run, killed = directory / "killed", {"by time": 0, "in a write": 0}
    for number in range(kills):
        if number % 2:
            killed["by time"] += attempt(run, config, seconds=chance.uniform(0, 0.06))
        else:
            killed["in a write"] += attempt(run, config, fatal=chance.randint(1, 150))
    attempt(run, config)
    return {"killed": killed, "reference": outcome(directory / "reference"), "final": outcome(run)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    mode, where, *rest = sys.argv[1:]
    result = every_point(Path(where)) if mode == "points" else loop(Path(where), int(rest[0]))
    print(json.dumps(result))
