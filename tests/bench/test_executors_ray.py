"""Ray with several nodes: each is a raylet of its own on this machine."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genpolicy.bench.executors import Event, make_executor
from genpolicy.bench.executors.ray import RayExecutor, RayOptions
from genpolicy.errors import ConfigError, GenpolicyError
from tests.bench.stand_in_jobs import JOB, STEPS, alone, notes, processes, steps
from tests.bench.test_executors import REPOSITORY, alive, final_states, start_runner, wait_for

ray = pytest.importorskip("ray", reason="the engine 'ray' needs Ray")
NODES = 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that runs no jobs and two nodes with one CPU each."""
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(REPOSITORY)  # the nodes must find these tests
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(NODES):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def run_all(executor: RayExecutor, out: Path, keys: list[str]) -> list[Event]:
    """As the runner does: what was busy is run again."""
    events = []
    while keys:
        news = list(executor.run(out, alone(*keys)))
        events += [event for event in news if event.state != "busy"]
        keys = [event.key for event in news if event.state == "busy"]
    return events


@pytest.mark.slow
class TestCluster:
    def test_a_lost_worker_and_a_lost_node_cost_no_job(self, cluster: Any, tmp_path: Path):
        keys = [f"slow-{number}" for number in range(9)]
        executor = RayExecutor(None, 3, RayOptions(address=cluster.address), job=JOB)
        doomed = cluster.add_node(num_cpus=1)
        raylet = doomed.all_processes["raylet"][0].process.pid
        on_doomed: list[str] = []

        def job_on(doomed: bool) -> tuple[str, int] | None:
            """A job that has just begun on the doomed node, or on another one, and its process."""
            for key in keys:
                begun = [int(note.split()[1]) for note in notes(tmp_path, key) if note.startswith("begin")]
                if 0 < steps(tmp_path, key) < STEPS["slow"] // 2 and (parent(begun[-1]) == raylet) == doomed:
                    return key, begun[-1]
            return None

        def disturb() -> None:
            _, process = wait_for(lambda: job_on(doomed=False))
            os.kill(process, signal.SIGKILL)
            on_doomed.append(wait_for(lambda: job_on(doomed=True))[0])
            cluster.remove_node(doomed, allow_graceful=False)

        nuisance = threading.Thread(target=disturb)
        nuisance.start()
        events = run_all(executor, tmp_path, keys)
        nuisance.join()
        assert final_states(events) == dict.fromkeys(keys, "completed")
        lost = [event for event in events if event.state == "lost"]
        assert len(lost) >= 2 and on_doomed[0] in [event.key for event in lost]
        # Every step was done, and none that had been done before a loss was done again.
        assert [steps(tmp_path, key) for key in keys] == [STEPS["slow"]] * len(keys)
        assert sorted(path.name for path in (tmp_path / "results").iterdir()) == keys

    def test_jobs_of_a_unit_are_done_by_one_task_and_lost_with_it(self, cluster: Any, tmp_path: Path):
        executor = RayExecutor(1, 1, RayOptions(address=cluster.address), job=JOB)
        events = list(executor.run(tmp_path, [("quick-1", "once-2"), ("quick-3",)]))
        assert final_states(events) == {"quick-1": "done", "once-2": "completed", "quick-3": "completed"}
        assert [event.key for event in events if event.state == "lost"] == ["quick-1", "once-2"]

    def test_a_job_that_always_dies_is_given_up(self, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        written: dict[str, str] = {}
        record = lambda out, key, error: written.update({key: error})  # noqa: E731
        monkeypatch.setattr("genpolicy.bench.executors.base.record_failure", record)
        executor = RayExecutor(1, 1, RayOptions(address=cluster.address), job=JOB)
        events = run_all(executor, tmp_path, ["always-1", "quick-2"])
        assert final_states(events) == {"always-1": "failed", "quick-2": "completed"}
        assert "2 attempts" in written["always-1"] and "WorkerCrashedError" in written["always-1"]

    def test_a_signal_stops_with_a_checkpoint_and_a_restarted_runner_goes_on(self, cluster: Any, tmp_path: Path):
        keys = ["slow-1", "slow-2", "slow-3", "slow-4"]
        start = lambda: start_runner(tmp_path, *keys, engine="ray", options=f"address={cluster.address}")  # noqa: E731
        runner = start()
        wait_for(lambda: steps(tmp_path, "slow-1") and steps(tmp_path, "slow-2"))
        runner.send_signal(signal.SIGINT)
        output, _ = runner.communicate(timeout=60)
        assert runner.returncode == 130
        assert "slow-1 interrupted" in output
        assert notes(tmp_path, "slow-1")[-1] == notes(tmp_path, "slow-2")[-1] == "saved"
        runner = start()
        wait_for(lambda: steps(tmp_path, "slow-3") and steps(tmp_path, "slow-4"))
        runner.kill()
        runner.communicate()
        wait_for(lambda: not any(map(alive, processes(tmp_path))))
        executor = RayExecutor(None, 1, RayOptions(address=cluster.address), job=JOB)
        events = run_all(executor, tmp_path, keys)
        assert set(final_states(events).values()) <= {"completed", "done"}
        assert [steps(tmp_path, key) for key in keys] == [STEPS["slow"]] * len(keys)

    def test_a_folder_that_nodes_do_not_share_is_refused(
        self, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("genpolicy.bench.executors.ray.TOKEN", ".elsewhere")  # not in the nodes' processes
        executor = RayExecutor(options=RayOptions(address=cluster.address), job=JOB)
        with pytest.raises(ConfigError, match=f"{tmp_path} is not shared: the node .* does not see it"):
            list(executor.run(tmp_path, alone("quick-1")))

    def test_a_results_folder_that_cannot_be_used_ends_the_run(self, cluster: Any, tmp_path: Path):
        executor = RayExecutor(options=RayOptions(address=cluster.address), job=JOB)
        with pytest.raises(GenpolicyError, match=r"broken-1 could not be run on .*the disk is full"):
            list(executor.run(tmp_path, alone("broken-1")))


def test_refuses_an_address_without_a_cluster(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"Cannot connect to the Ray cluster .*ray start --head"):
        list(RayExecutor(options=RayOptions(address="no-port")).run(tmp_path, alone("quick-1")))


def test_options_come_as_text():
    executor = make_executor("ray", options={"cpus": "2", "gpus": "0.25", "memory_gb": "4", "address": "node:6379"})
    assert isinstance(executor, RayExecutor)
    assert executor.options == RayOptions(address="node:6379", cpus=2.0, gpus=0.25, memory_gb=4.0)
    assert executor._resources == {"num_cpus": 2.0, "num_gpus": 0.25, "memory": 4 * 2**30}


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"genpolicy\[ray\]"):
        make_executor("ray")
