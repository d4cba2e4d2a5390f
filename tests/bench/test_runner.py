"""Running suites: what is missing is run, once, with the code of now; everything else is said by name."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from genpolicy import cli
from genpolicy.bench import datasets, executors, runner, training_jobs
from genpolicy.bench.estimates import Estimate, estimate, identity
from genpolicy.bench.executors.base import Event, Unit
from genpolicy.bench.runner import InProcess, Outcome, plan_suite, run_suite
from genpolicy.bench.suite import load_suite
from genpolicy.bench.workspace import RUNNER, Workspace
from genpolicy.errors import ConfigError

from .small_suites import DATASET, MAZE, data, write_suite

__all__ = ["data"]

ELSEWHERE = "pointmaze-large-navigate-singletask-task1-v0"
"""A task whose data is not here."""


class Recording(InProcess):
    """Runs jobs in this process, and knows which."""

    def __init__(self) -> None:
        self.rounds: list[list[Unit]] = []

    def run(self, out: Path, units: Sequence[Unit]) -> Iterator[Event]:
        self.rounds.append(list(units))
        yield from super().run(out, units)

    @property
    def keys(self) -> list[str]:
        return [key for units in self.rounds for unit in units for key in unit]


def run(tmp_path: Path, data: Path | None, *overrides: str, **options: Any) -> tuple[Outcome, list[str]]:
    suite = load_suite(options.pop("suite", None) or write_suite(tmp_path), overrides)
    executor = Recording()
    outcome = run_suite(suite, tmp_path / "out", executor=executor, data=data, **options)
    return outcome, executor.keys


def pretend_other_code(monkeypatch: pytest.MonkeyPatch, digest: str = "0ther") -> None:
    for module in ("runner", "workspace", "jobs", "training_jobs"):
        monkeypatch.setattr(f"genpolicy.bench.{module}.code_version", lambda: {"version": "9", "digest": digest})


def test_a_second_call_runs_nothing_and_a_changed_level_runs_only_its_jobs(tmp_path: Path, data: Path) -> None:
    first, keys = run(tmp_path, data)
    assert len(set(keys)) == len(keys) == first.ran == first.status.completed == 4
    second, again = run(tmp_path, data)
    assert again == [] and second.ran == 0 and second.status == first.status
    factors = {"weight": {"low": "policy.bc_weight=1", "high": "policy.bc_weight=4"}}
    third, new = run(tmp_path, data, suite=write_suite(tmp_path, factors=factors))
    results = Workspace.open(tmp_path / "out").read_results()
    assert [result["levels"]["weight"] for result in results if result["key"] in new] == ["high", "high"]
    assert third.ran == 2 and len(results) == 4 and not set(new) & set(keys)
    fourth, more = run(tmp_path, data, "seeds=3")
    assert len(more) == 2 and fourth.status.jobs == 6


def test_seeds_are_trained_together_where_that_is_possible(tmp_path: Path, data: Path) -> None:
    factors = {"weight": {"low": "policy.bc_weight=1", "online": "trainer.online_steps=2"}}
    suite, recording = load_suite(write_suite(tmp_path, factors=factors), ["seeds=3"]), Recording()
    jobs, _ = plan_suite(suite, tmp_path / "out", data=data)
    levels = {job.key: dict(job.levels)["weight"] for job in jobs}
    assert runner._groups(jobs).keys() == {key for key, level in levels.items() if level == "low"}
    small = load_suite(write_suite(tmp_path), ["seeds=3"])
    run_suite(small, tmp_path / "small", executor=recording, data=data, vectorize=True)
    (units,) = recording.rounds
    assert [len(unit) for unit in units] == [3, 3]
    results = {one["key"]: one for one in Workspace.open(tmp_path / "small").read_results()}
    assert [[results[key]["seed"] for key in unit] for unit in units] == [[0, 1, 2]] * 2
    assert [{results[key]["levels"]["weight"] for key in unit} for unit in units] == [{"low"}, {"high"}]
    Workspace.open(tmp_path / "small").result_file(units[0][1]).unlink()
    run_suite(small, tmp_path / "small", executor=recording, data=data, vectorize=True)
    assert recording.rounds[1:] == [[(units[0][1],)]]


def test_a_lost_result_is_made_again_with_the_same_numbers(tmp_path: Path, data: Path) -> None:
    run(tmp_path, data, "seeds=1")
    workspace = Workspace.open(tmp_path / "out")
    first = workspace.read_results()
    workspace.result_file(first[1]["key"]).unlink()
    _, keys = run(tmp_path, data, "seeds=1")
    assert keys == [first[1]["key"]]
    same = ("key", "score", "evaluations")
    assert [[one[name] for name in same] for one in workspace.read_results()] == [
        [one[name] for name in same] for one in first
    ]


def test_the_folder_of_another_suite_or_of_something_else_is_refused(tmp_path: Path, data: Path) -> None:
    run(tmp_path, data, "seeds=1", "factors.weight=low")
    with pytest.raises(ConfigError, match="holds results of the suite 'small', not of 'large'"):
        run(tmp_path, data, suite=write_suite(tmp_path, "large"))
    other = tmp_path / "papers"
    other.mkdir()
    (other / "draft.tex").write_text("")
    with pytest.raises(ConfigError, match="is not empty and no results folder"):
        run_suite(load_suite(write_suite(tmp_path)), other, data=data)


def test_results_of_other_code_are_never_mixed_silently(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ("seeds=1", "factors.weight=low")
    run(tmp_path, data, *one)
    pretend_other_code(monkeypatch)
    assert run(tmp_path, data, *one)[1] == [], "nothing is to be added"
    with pytest.raises(ConfigError, match=r"results of other code: .*--old-results rerun"):
        run(tmp_path, data, "seeds=1")
    kept, keys = run(tmp_path, data, "seeds=1", old_results="keep")
    workspace = Workspace.open(tmp_path / "out")
    assert kept.ran == len(keys) == 1 and len(workspace.code_versions()) == 2
    assert len({result["code"]["digest"] for result in workspace.read_results()}) == 2
    _, rerun = run(tmp_path, data, "seeds=1", old_results="rerun")
    assert len(rerun) == 1 and rerun != keys
    assert [one["digest"] for one in workspace.code_versions()] == ["0ther"]
    assert {result["code"]["digest"] for result in workspace.read_results()} == {"0ther"}


def test_a_failing_job_is_tried_again_and_then_reported_while_others_go_on(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, tried = training_jobs.train, []

    def sometimes(config: Any) -> Any:
        if config.policy.bc_weight == 3 and len(tried) < 3:
            tried.append(config.seed)
            raise RuntimeError("the simulator is gone")
        return train(config)

    monkeypatch.setattr(training_jobs, "train", sometimes)
    outcome, keys = run(tmp_path, data, "seeds=1", retries=1)
    assert len(keys) == 3 and len(tried) == 2 and outcome.ran == 1
    assert list(outcome.failures.values()) == ["RuntimeError: the simulator is gone"]
    again, keys = run(tmp_path, data, "seeds=1", retries=1)
    assert len(keys) == 2 and again.failures == {} and again.status.completed == 2


def test_lost_workers_count_as_attempts(tmp_path: Path, data: Path) -> None:
    class Losing:
        rounds = 0

        def run(self, out: Path, units: Sequence[Unit]) -> Iterator[Event]:
            self.rounds += 1
            for (key,) in units:
                yield from (Event(key, "started"), Event(key, "lost"), Event(key, "failed"))

    executor = Losing()
    suite = load_suite(write_suite(tmp_path))
    run_suite(suite, tmp_path / "out", executor=executor, data=data, retries=1)
    assert executor.rounds == 1


def test_a_job_of_somebody_else_is_waited_for(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter(["busy", "busy", "completed"])
    monkeypatch.setattr(runner, "execute", lambda out, keys: [next(states)])
    slept = []
    monkeypatch.setattr(runner.time, "sleep", slept.append)
    _, keys = run(tmp_path, data, "seeds=1", "factors.weight=low")
    assert len(keys) == 3 and len(slept) == 2


def test_an_interruption_ends_the_run_and_says_so(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "execute", lambda out, keys: ["interrupted"])
    outcome, _ = run(tmp_path, data)
    assert outcome.interrupted and outcome.ran == 0 and outcome.status.waiting == 4


def test_two_runners_do_not_share_a_folder(tmp_path: Path, data: Path) -> None:
    run(tmp_path, data, "seeds=1", "factors.weight=low")
    with (
        Workspace.open(tmp_path / "out").lock(RUNNER),
        pytest.raises(ConfigError, match="Another `genpolicy bench run` works"),
    ):
        run(tmp_path, data)


def test_jobs_without_data_are_named_with_the_way_to_get_it_and_the_others_run(tmp_path: Path, data: Path) -> None:
    outcome, keys = run(tmp_path, data, "seeds=1", f"tasks=[{MAZE},{ELSEWHERE}]")
    assert len(keys) == 2 and outcome.status.jobs == 4
    assert list(outcome.missing) == [ELSEWHERE]
    assert "genpolicy data generate pointmaze-large-navigate-v0" in outcome.missing[ELSEWHERE]
    (data / "pointmaze-large-navigate-v0.npz").write_bytes((data / f"{DATASET}.npz").read_bytes())
    assert len(run(tmp_path, data, "seeds=1", f"tasks=[{MAZE},{ELSEWHERE}]")[1]) == 2


def test_data_that_the_suite_wants_generated_is_generated_once_when_asked_for(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def make(name: str, *, directory: Path, episodes: int, workers: int, progress: Any) -> Path:
        made.append((name, episodes))
        directory.mkdir(parents=True)
        (directory / f"{name}.npz").write_bytes((data / f"{DATASET}.npz").read_bytes())
        return directory

    monkeypatch.setattr("genpolicy.data.generation.generate", make)
    suite = write_suite(tmp_path, tasks={MAZE: {"generate": 5}}, seeds=1)
    outcome, keys = run(tmp_path, None, suite=suite)
    assert keys == [] and "--generate makes it" in outcome.missing[MAZE]
    for _ in range(2):
        outcome, _ = run(tmp_path, None, suite=suite, generate=True)
        assert outcome.status.completed == 2 and made == [(DATASET, 5)]
    assert (tmp_path / "out" / "data" / "5-episodes" / f"{DATASET}.npz").exists()
    facts = Workspace.open(tmp_path / "out").data()[MAZE]
    assert (facts["dataset"], facts["generated"], facts["bytes"]) == (DATASET, 5, 14)


def test_a_checksum_is_computed_once_for_a_file(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = data / f"{DATASET}.npz"
    first = datasets.checksum(file)
    monkeypatch.setattr(datasets.hashlib, "file_digest", None)
    assert datasets.checksum(file) == first
    file.write_bytes(b"other numbers")
    with pytest.raises(TypeError):
        datasets.checksum(file)


def test_estimates_come_from_results_of_the_cell_then_of_its_levels_then_from_sizes(tmp_path: Path, data: Path) -> None:
    other = "pointmaze-medium-navigate-singletask-task1-v0"
    suite = load_suite(write_suite(tmp_path), [f"tasks=[{MAZE},{other}]"])
    jobs, _ = plan_suite(suite, tmp_path / "out", data=data)
    facts = {"suite": "small", "task": MAZE, "levels": {"weight": "low"}, "state": "completed"}
    costs = estimate(jobs, [facts | {"seconds": 10.0}, facts | {"seconds": 40.0, "together": 2}])
    by_cell = {(job.task, job.levels[0][1]): costs[identity(job.cell)] for job in jobs}
    assert by_cell[MAZE, "low"] == Estimate(15.0, "measured")
    assert by_cell[other, "low"] == Estimate(15.0, "from other tasks")
    assert by_cell[other, "high"].how == "guessed" and 1 < by_cell[other, "high"].seconds < 60
    wider, _ = plan_suite(load_suite(write_suite(tmp_path), ["critic.hidden_dims=[2048,2048]"]), tmp_path, data=data)
    assert all(cost.seconds > by_cell[other, "high"].seconds for cost in estimate(wider).values())
    assert {cost.how for cost in estimate(jobs, calibrate=True).values()} == {"calibrated"}


@pytest.fixture
def command(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls ``genpolicy bench`` with jobs in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(executors, "make_executor", lambda engine, **options: InProcess())
    suite = write_suite(tmp_path, quick={"seeds": 1})

    def call(name: str, *arguments: str, code: int = 0) -> str:
        given = [suite, *arguments] if name in ("plan", "run") else list(arguments)
        places = ["--data", str(data)] if name in ("plan", "run") else []
        answer = CliRunner().invoke(cli.app, ["bench", name, *given, *places])
        assert answer.exit_code == code, (answer.output, answer.exception)
        return answer.output

    return call


def test_the_commands_list_plan_run_and_show(tmp_path: Path, command: Any) -> None:
    assert "title" in command("list")
    plan = command("plan", "--quick")
    assert "2 jobs: 0 finished, 2 to run." in plan and "2 guessed" in plan
    assert "2 to run, 2 of them as soon as there is data." in command("plan", f"tasks={ELSEWHERE}", "seeds=1")
    assert not (tmp_path / "benchmarks_out").exists(), "a plan writes nothing"
    output = command("run", "--quick", "--no-report")
    assert "2 of 2 jobs have a result (2 new)" in output
    assert "(0 new)" in command("run", "--quick", "--no-report")
    assert "2 finished, 0 to run" in command("plan", "--quick")
    rows = [json.loads(line) for line in command("plan", "--quick", "--json").splitlines()]
    assert [(row["levels"], row["seed"], row["finished"]) for row in rows] == [
        ({"weight": "low"}, 0, True),
        ({"weight": "high"}, 0, True),
    ]
    command("run", "--quick", "seeds=3", "--vectorize", "--no-report")
    out = tmp_path / "benchmarks_out" / "small-quick"
    assert [one["together"] for one in Workspace.open(out).read_results()] == [1, 1, 2, 2, 2, 2]
    for where in (["small", "--quick"], [str(out)]):
        assert json.loads(command("status", *where, "--json"))["completed"] == 6
        assert "completed" in command("status", *where)
    assert "completed" in command("status", str(out), "--watch")
    answer = CliRunner().invoke(cli.app, ["bench", "status", "smell"])
    assert isinstance(answer.exception, ConfigError) and "There are no results of 'smell'" in str(answer.exception)


def test_the_command_ends_with_an_error_code_if_a_job_failed_or_was_interrupted(
    tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("the simulator is gone")

    with monkeypatch.context() as patch:
        patch.setattr(training_jobs, "train", fail)
        output = command("run", "--quick", code=1)
    assert "RuntimeError: the simulator is gone" in output
    assert "after 2 attempts: RuntimeError" in command("status", "small", "--quick").replace("\n", " ")
    monkeypatch.setattr(runner, "execute", lambda out, keys: ["interrupted"])
    assert "the same command goes on" in command("run", "--quick", code=130)


def test_status_of_100_000_jobs_looks_at_names_only(tmp_path: Path, data: Path) -> None:
    import time

    suite = load_suite(write_suite(tmp_path), ["seeds=50000"])
    jobs, locator = plan_suite(suite, tmp_path / "out", data=data)
    workspace = Workspace.create(tmp_path / "out", suite.name)
    facts = {"data": str(locator.data), "generated": str(locator.generated), "missing": {}, "keep_runs": "logs"}
    workspace.write_plan(suite, jobs, facts)
    keys = workspace.keys()
    for key in keys[:2000]:
        workspace.result_file(key).touch()  # empty: whoever read them would fail
    (workspace.failed / f"{keys[0]}.json").touch()
    started = time.process_time()
    status = workspace.status()
    assert time.process_time() - started < 1  # the measure is 2 seconds for the command, which takes one to start
    assert (status.jobs, status.completed, status.diverged, status.waiting) == (100_000, 1999, 1, 98_000)
    assert np.unique(keys).size == 100_000
