import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genpolicy.bench.executors import make_executor
from genpolicy.bench.executors.base import Event, cause_of_death
from genpolicy.bench.executors.local import LocalExecutor
from genpolicy.bench.executors.progress import show
from genpolicy.errors import ConfigError, GenpolicyError
from tests.bench.stand_in_jobs import JOB, alone, notes, processes, steps

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What was written down as failed: the stand-in's folders are no workspaces."""
    written: dict[str, str] = {}
    record = lambda out, key, error: written.update({key: error})  # noqa: E731
    monkeypatch.setattr("genpolicy.bench.executors.base.record_failure", record)
    return written


def final_states(events: list[Event]) -> dict[str, str]:
    states = [(event.key, event.state) for event in events if event.final]
    assert len(dict(states)) == len(states), "a job with two final events"
    return dict(states)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)
    return found


def start_runner(out: Path, *keys: str, engine: str = "local", workers: int = 2, options: str = "") -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.bench.stand_in_jobs", str(out), engine, str(workers), options, *keys]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)


class TestLocal:
    def test_every_job_ends_once_whatever_becomes_of_the_workers(self, tmp_path: Path, failures: dict[str, str]):
        keys = ["quick-1", "once-2", "segfault-3", "always-4", "failed-5", "quick-6"]
        events = list(LocalExecutor(2, retries=1, job=JOB).run(tmp_path, alone(*keys)))
        completed = dict.fromkeys(["quick-1", "once-2", "segfault-3", "quick-6"], "completed")
        assert final_states(events) == completed | {"always-4": "failed", "failed-5": "failed"}
        lost = {event.key: event.detail for event in events if event.state == "lost"}
        assert set(lost) == {"once-2", "segfault-3", "always-4"}
        assert "SIGKILL" in lost["once-2"] and "SIGSEGV" in lost["segfault-3"]
        # Written down by the executor is only what the job itself could not write.
        assert list(failures) == ["always-4"] and "SIGKILL" in failures["always-4"]
        assert "2 attempts" in failures["always-4"]
        log = "".join(file.read_text(errors="replace") for file in (tmp_path / "logs").iterdir())
        assert "Segmentation fault" in log
        assert sorted(path.name for path in (tmp_path / "results").iterdir()) == sorted(completed)

    def test_jobs_of_a_unit_are_done_by_one_worker_and_lost_with_it(self, tmp_path: Path, failures: dict[str, str]):
        units = [("quick-1", "once-2", "quick-3"), ("always-4", "quick-5"), ("quick-6",)]
        events = list(LocalExecutor(2, retries=1, job=JOB).run(tmp_path, units))
        assert [event.key for event in events if event.state == "started"].count("quick-1") == 2
        together = {event.key for event in events if event.state == "lost"}
        assert together == {"quick-1", "once-2", "quick-3", "always-4", "quick-5"}
        states = final_states(events)
        assert (states["quick-1"], states["once-2"], states["quick-3"]) == ("done", "completed", "completed")
        assert states["always-4"] == states["quick-5"] == "failed" and set(failures) == {"always-4", "quick-5"}

    def test_workers_live_on_from_job_to_job(self, tmp_path: Path):
        keys = [f"quick-{number}" for number in range(6)]
        events = list(LocalExecutor(1, job=JOB).run(tmp_path, alone(*keys)))
        assert [event.key for event in events if event.state == "completed"] == keys
        (pid,) = processes(tmp_path)
        assert not alive(pid)
        assert {event.where for event in events} == {f"{os.uname().nodename}:{pid}"}

    def test_a_results_folder_that_cannot_be_used_ends_the_run(self, tmp_path: Path):
        with pytest.raises(GenpolicyError, match="broken-1 could not be run: OSError: the disk is full"):
            list(LocalExecutor(1, job=JOB).run(tmp_path, alone("broken-1", "quick-2")))

    def test_workers_that_do_not_start_end_the_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("genpolicy.bench.executors.local.FAILED_STARTS", 2)
        with pytest.raises(GenpolicyError, match=r"No worker starts: .*exit code 1.*no_such_module"):
            list(LocalExecutor(1, job="no_such_module:execute").run(tmp_path, alone("quick-1")))

    def test_a_caller_that_stops_listening_stops_the_workers(self, tmp_path: Path):
        events = LocalExecutor(1, job=JOB).run(tmp_path, alone("long-1"))
        assert next(events).state == "started"
        wait_for(lambda: steps(tmp_path, "long-1"))
        events.close()  # type: ignore[attr-defined]
        assert notes(tmp_path, "long-1")[-1] == "saved"
        assert not any(map(alive, processes(tmp_path)))

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_signals_stop_with_a_checkpoint(self, tmp_path: Path, number: signal.Signals):
        runner = start_runner(tmp_path, "long-1", "long-2", "long-3")
        wait_for(lambda: steps(tmp_path, "long-1") and steps(tmp_path, "long-2"))
        runner.send_signal(number)
        output, _ = runner.communicate(timeout=30)
        assert runner.returncode == 130
        assert "long-1 interrupted" in output and "long-2 interrupted" in output and "long-3" not in output
        assert notes(tmp_path, "long-1")[-1] == notes(tmp_path, "long-2")[-1] == "saved"
        assert not any(map(alive, processes(tmp_path)))

    def test_workers_end_when_the_runner_is_killed(self, tmp_path: Path):
        runner = start_runner(tmp_path, "long-1", "long-2")
        wait_for(lambda: steps(tmp_path, "long-1") and steps(tmp_path, "long-2"))
        runner.kill()
        runner.communicate()
        wait_for(lambda: not any(map(alive, processes(tmp_path))), seconds=20)
        assert notes(tmp_path, "long-1")[-1] == notes(tmp_path, "long-2")[-1] == "saved"


class TestShow:
    def test_passes_events_through_and_counts(self):
        from io import StringIO

        from rich.console import Console

        text = StringIO()
        events = [
            Event("a", "started"),
            Event("b", "started"),
            Event("a", "lost", "the worker was killed by SIGKILL"),
            Event("b", "completed"),
            Event("a", "failed", "killed again"),
        ]
        console = Console(file=text, force_terminal=True, width=200, color_system=None)
        assert list(show(events, total=5, done=3, console=console)) == events
        shown = text.getvalue()
        assert (
            "5/5" in shown and "1 failed" in shown and "a: the worker was killed by SIGKILL; it is tried again" in shown
        )


class TestMakeExecutor:
    def test_options_come_as_text(self):
        executor = make_executor("local", workers=3, retries=2, options={"threads": "4"})
        assert isinstance(executor, LocalExecutor)
        assert (executor.workers, executor.retries, executor.options.threads) == (3, 2, 4)

    def test_as_many_workers_as_the_cores_have_room_for(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("genpolicy.bench.executors.local.available_cores", lambda: 8)
        executors = [make_executor("local", options={"threads": str(threads)}) for threads in (1, 3, 16)]
        assert [one.workers for one in executors if isinstance(one, LocalExecutor)] == [8, 2, 1]

    @pytest.mark.parametrize(
        ("engine", "options", "message"),
        [
            ("loacl", {}, "no engine 'loacl'.*local, ray, slurm.*Did you mean 'local'"),
            ("local", {"thread": "2"}, "no option 'thread'.*Did you mean 'threads'"),
            ("local", {"threads": "two"}, "threads=two does not fit the engine 'local': it is int"),
            ("local", {"threads": "0"}, "threads"),
            ("slurm", {"chunk": "few"}, "chunk=few does not fit the engine 'slurm': it is int or null"),
            ("slurm", {"cluster": "pbs"}, "cluster"),
        ],
    )
    def test_refuses(self, engine: str, options: dict[str, str], message: str):
        with pytest.raises(ConfigError, match=message):
            make_executor(engine, options=options)

    def test_refuses_no_workers(self):
        with pytest.raises(ConfigError, match="workers is 0"):
            make_executor("local", workers=0)


@pytest.mark.parametrize(
    ("code", "words"),
    [(-9, "SIGKILL .*memory"), (-11, "SIGSEGV"), (3, "exit code 3"), (-63, "signal 63"), (None, "gone")],
)
def test_cause_of_death_names_the_signal(code: int | None, words: str):
    import re

    assert re.search(words, cause_of_death(code))
