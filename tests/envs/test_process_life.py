"""What users see of the simulator processes from outside: scripts, Ctrl-C, kill -9."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.envs.helpers import REPOSITORY, simulator_processes, wait_until

SCRIPT = """
import signal, sys, time
if {deaf}:
    signal.signal(signal.SIGINT, lambda number, frame: None)
sys.path.insert(0, {repository!r})
import torch
from genpolicy.envs import Evaluator
from tests.envs.helpers import toy_task

def act(observations, generators):
    print("acting", flush=True)
    time.sleep({pause})
    return torch.zeros(len(observations), 1)

evaluator = Evaluator(toy_task("Countdown"), episodes=4, workers=2)
print(len(evaluator.evaluate(act, step=0).returns), "episodes")
"""


@pytest.fixture
def start(tmp_path):
    processes = []

    def start(pause: float, deaf: bool = False) -> subprocess.Popen:
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.format(repository=str(REPOSITORY), pause=pause, deaf=deaf))
        process = subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_script_without_main_guard_and_without_close_ends_cleanly(start):
    out, err = start(pause=0.0).communicate(timeout=60)
    assert out.endswith("4 episodes\n")
    assert err == ""


@pytest.mark.parametrize("during", ["start", "evaluation"])
def test_interrupt_shows_one_traceback_and_leaves_nothing_running(start, during):
    process = start(pause=0.2)
    if during == "start":
        assert wait_until(lambda: len(simulator_processes(process.pid)) == 2, 30)
    else:
        process.stdout.readline()
    children = simulator_processes(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert err.count("Traceback") == 1 and err.strip().endswith("KeyboardInterrupt")
    assert len(children) == 2
    assert wait_until(lambda: not any(os.path.exists(f"/proc/{child}") for child in children), 5)


def test_interrupt_that_the_caller_handles_does_not_disturb_the_simulators(start):
    process = start(pause=0.05, deaf=True)
    assert wait_until(lambda: simulator_processes(process.pid) != [], 30)
    while process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.01)
    out, err = process.communicate(timeout=30)
    assert err == ""
    assert out.endswith("4 episodes\n")


def test_killed_parent_takes_its_simulators_along(start):
    process = start(pause=0.2)
    process.stdout.readline()
    children = simulator_processes(process.pid)
    process.kill()
    _, err = process.communicate(timeout=30)
    assert len(children) == 2
    assert wait_until(lambda: not any(os.path.exists(f"/proc/{child}") for child in children), 10)
    assert "Traceback" not in err  # Python's own resource tracker may mention what it cleaned up
