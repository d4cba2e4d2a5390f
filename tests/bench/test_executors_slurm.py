"""SLURM through submitit, with submitit's local executor in the place of a cluster."""

import os
import signal
import threading
from pathlib import Path

import pytest

from genpolicy.bench.executors import make_executor
from genpolicy.bench.executors.slurm import SlurmExecutor, SlurmOptions
from genpolicy.errors import ConfigError, GenpolicyError
from tests.bench.stand_in_jobs import JOB, STEPS, alone, notes, processes, steps
from tests.bench.test_executors import REPOSITORY, alive, failures, final_states, start_runner, wait_for  # noqa: F401

pytest.importorskip("submitit", reason="the engine 'slurm' needs submitit")
LOCAL = SlurmOptions(cluster="local", poll_seconds=0.1)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))  # the arrays' processes must find these tests


def test_every_job_ends_once_whatever_becomes_of_the_elements(tmp_path: Path, failures: dict[str, str]):  # noqa: F811
    keys = ["quick-1", "once-2", "always-3", "failed-4"]
    events = list(SlurmExecutor(2, retries=1, options=LOCAL, job=JOB).run(tmp_path, alone(*keys)))
    completed = dict.fromkeys(["quick-1", "once-2"], "completed")
    assert final_states(events) == completed | {"always-3": "failed", "failed-4": "failed"}
    assert {event.key for event in events if event.state == "lost"} == {"once-2", "always-3"}
    assert list(failures) == ["always-3"] and "2 attempts" in failures["always-3"]
    # Two elements for four jobs: jobs of a chunk share a process.
    assert notes(tmp_path, "quick-1")[0] == notes(tmp_path, "once-2")[0]


def test_jobs_of_a_unit_are_done_by_one_element_and_lost_with_it(tmp_path: Path, failures: dict[str, str]):  # noqa: F811
    units = [("quick-1", "once-2"), ("quick-3",)]
    events = list(SlurmExecutor(1, retries=1, options=LOCAL, job=JOB).run(tmp_path, units))
    assert final_states(events) == {"quick-1": "done", "once-2": "completed", "quick-3": "completed"}
    assert [event.key for event in events if event.state == "lost"] == ["quick-1", "once-2"] and not failures


def test_a_timeout_saves_and_queues_the_element_again(tmp_path: Path):
    keys = ["quick-1", "slow-2", "quick-3"]
    warned: list[int] = []

    def warn() -> None:
        wait_for(lambda: steps(tmp_path, "slow-2") > 2)
        warned.append(int(notes(tmp_path, "slow-2")[0].split()[1]))
        os.kill(warned[0], signal.SIGUSR2)  # what SLURM sends before the time is over

    clock = threading.Thread(target=warn)
    clock.start()
    events = list(SlurmExecutor(1, retries=0, options=LOCAL, job=JOB).run(tmp_path, alone(*keys)))
    clock.join()
    assert final_states(events) == dict.fromkeys(keys, "completed")
    assert not [event for event in events if event.state == "lost"]  # the runner did not have to do anything
    assert "saved" in notes(tmp_path, "slow-2")
    assert steps(tmp_path, "slow-2") == STEPS["slow"]
    begun = [note for note in notes(tmp_path, "slow-2") if note.startswith("begin")]
    assert len(begun) == 2 and begun[0] != begun[1]


def test_a_signal_stops_with_a_checkpoint(tmp_path: Path):
    runner = start_runner(tmp_path, "long-1", "long-2", engine="slurm", options="cluster=local,poll_seconds=0.1")
    wait_for(lambda: steps(tmp_path, "long-1") and steps(tmp_path, "long-2"))
    runner.send_signal(signal.SIGINT)
    output, _ = runner.communicate(timeout=60)
    assert runner.returncode == 130
    assert "long-1 interrupted" in output and "long-2 interrupted" in output
    assert notes(tmp_path, "long-1")[-1] == notes(tmp_path, "long-2")[-1] == "saved"
    wait_for(lambda: not any(map(alive, processes(tmp_path))))


def test_a_results_folder_that_cannot_be_used_ends_the_run(tmp_path: Path):
    with pytest.raises(GenpolicyError, match=r"broken-1 could not be run on .*the disk is full"):
        list(SlurmExecutor(1, options=LOCAL, job=JOB).run(tmp_path, alone("broken-1", "quick-2")))


def test_nodes_that_cannot_import_the_job_end_the_run(tmp_path: Path):
    with pytest.raises(GenpolicyError, match=r"failed: .*no_such_module"):
        list(SlurmExecutor(1, options=LOCAL, job="no_such_module:execute").run(tmp_path, alone("quick-1")))


class TestOptions:
    def test_those_of_submitit_are_passed_on(self):
        executor = make_executor("slurm", options={"slurm_partition": "gpu", "mem_gb": "16", "chunk": "8"})
        assert isinstance(executor, SlurmExecutor)
        assert executor.options == SlurmOptions(chunk=8, further={"slurm_partition": "gpu", "mem_gb": 16})

    def test_those_that_submitit_does_not_know_are_refused(self, tmp_path: Path):
        executor = make_executor("slurm", options={"cluster": "local", "mem_gbb": "16"})
        with pytest.raises(ConfigError, match=r"submitit refuses: .*mem_gbb"):
            list(executor.run(tmp_path, alone("quick-1")))

    def test_a_machine_without_slurm_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("PATH", "")
        with pytest.raises(ConfigError, match=r"submitit refuses: .*slurm"):
            list(make_executor("slurm").run(tmp_path, alone("quick-1")))

    @pytest.mark.parametrize(
        ("jobs", "chunk", "cluster", "workers", "sizes"),
        [
            (3, None, "slurm", None, [1, 1, 1]),
            (2500, None, "slurm", None, [3] * 833 + [1]),
            (5, 2, "slurm", None, [2, 2, 1]),
            (5, None, "local", 2, [3, 2]),
        ],
    )
    def test_chunks(
        self, tmp_path: Path, jobs: int, chunk: int | None, cluster: str, workers: int | None, sizes: list[int]
    ):
        class Queue:
            arrays: list[int] = []

            def submit_array(self, work):
                self.arrays.append(len(work))
                return [object()] * len(work)

        options = SlurmOptions(cluster=cluster, chunk=chunk)  # type: ignore[arg-type]
        chunks = SlurmExecutor(workers, options=options)._submit(Queue(), tmp_path, alone(*map(str, range(jobs))))
        assert [len(one.open) for one in chunks] == sizes
        assert max(Queue.arrays) <= 1000


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"genpolicy\[slurm\]"):
        make_executor("slurm")
