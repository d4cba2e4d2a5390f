"""The zoo's table end to end at a tiny size: files, resuming, runs that fail, refusals."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from genpolicy import cli
from genpolicy.bench import latency, zoo, zoo_runs
from genpolicy.bench.intervals import mean_interval, share_interval
from genpolicy.bench.zoo_report import describe_data, read_rows, render_tables, summarise
from genpolicy.bench.zoo_runs import Job, result_file, run_and_store
from genpolicy.data import Task
from genpolicy.envs import Evaluation
from genpolicy.errors import ConfigError, NonFiniteError
from genpolicy.recipes import recipe_names

MAZE, PEN = "pointmaze-medium-navigate-singletask-task5-v0", "pen-expert-v1"
SMALL = ["preset=smoke", "trainer.eval_every=0", "trainer.checkpoint_every=0", "trainer.log_every=1"]


def tiny_suite(steps: int = 3, seeds: int = 1) -> dict[str, Any]:
    task = {"generate": 1, "official_episodes": 1000, "overrides": ["trainer.batch_size=4"]}
    common = [*SMALL, f"trainer.steps={steps}"]
    return {"recipes": "all", "seeds": seeds, "episodes": 1, "common": common, "tasks": {MAZE: task}}


def outcome(recipe: str = "fql", seed: int = 0, task: str = MAZE, **more: Any) -> dict[str, Any]:
    facts = {"recipe": recipe, "task": task, "metric": "success" if task == MAZE else "score", "seed": seed}
    costs = {"updates_per_second": 50.0, "act_milliseconds": 1.5, "evaluations_per_action": 1, "candidates": 1}
    sizes = {"action_chunk": 1, "policy_parameters": 1000, "critic_parameters": 2000, "seconds": 1.0}
    return facts | {"state": "completed", "scores": [1.0, 0.0]} | costs | sizes | more


def failure(recipe: str, seed: int = 0) -> dict[str, Any]:
    facts = {"recipe": recipe, "task": MAZE, "metric": "success", "seed": seed, "seconds": 1.0}
    return facts | {"state": "diverged", "error": "NonFiniteError: NaN"}


class OneStep:
    """Stands in for the evaluator: each episode is one call of the policy and a success."""

    def __init__(self, task: Task, *, episodes: int, workers: int, seed: int, frame_stack: int):
        self.episodes = episodes

    def __enter__(self) -> "OneStep":
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def evaluate(self, act: Any, *, step: int) -> Evaluation:
        generators = [torch.Generator().manual_seed(index) for index in range(self.episodes)]
        assert np.abs(act(np.zeros((self.episodes, 2), np.float32), generators)).max() <= 1
        ones = np.ones(self.episodes)
        return Evaluation(returns=-ones, lengths=ones.astype(int), successes=ones > 0, seconds=0.1)


def jobs_of(suite: dict[str, Any], *recipes: str) -> list[Job]:
    return zoo.list_jobs(suite, recipes, list(suite["tasks"]))


def forbid_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("a run was repeated")

    monkeypatch.setattr(zoo, "run_and_store", refuse)


def test_the_zoo_writes_its_files_and_a_second_call_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "TIMED_CALLS", 3)
    monkeypatch.setattr(zoo_runs, "Evaluator", OneStep)
    out, told = tmp_path / "out", []

    def run(**more: Any) -> list[dict[str, Any]]:
        plan: dict[str, Any] = {"suite": tiny_suite(), "recipes": ["td3_bc", "qc_fql"], "workers": 1}
        return zoo.run_zoo(out, command="genpolicy zoo", progress=lambda *what: told.append(what), **(plan | more))

    rows = run()
    assert {row["recipe"] for row in rows} == {"td3_bc", "qc_fql"}
    assert all(row["score"] == 1.0 and row["finished"] == 1 and row["act_milliseconds"] > 0 for row in rows)
    assert {row["recipe"]: row["action_chunk"] for row in rows} == {"td3_bc": 1, "qc_fql": 5}
    assert {row["candidates"] for row in rows} == {1}, "neither recipe chooses among candidates"
    with (out / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    document = json.loads((out / "results.json").read_text())
    assert document["datasets"][MAZE]["episodes"] == 1 and len(document["runs"]) == 2
    assert {run["updates"] for run in document["runs"]} == {3}
    assert str(tmp_path) not in json.dumps(document), "a machine's paths are nobody's business"
    assert "| `td3_bc` |" in (out / "table.md").read_text()
    readme = (out / "README.md").read_text()
    assert "    genpolicy zoo\n" in readme and "1,001 rows in 1 episodes" in readme
    for name in ("scores", "latency"):
        assert (out / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert told[-1][:2] == (2, 2)

    forbid_runs(monkeypatch)
    assert run() == rows
    with pytest.raises(AssertionError, match="repeated"):
        run(suite=tiny_suite(steps=4))


def test_a_run_that_fails_is_recorded_and_only_a_diverged_one_is_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {"fql": NonFiniteError("loss is NaN at step 2"), "iql": RuntimeError("the simulator is gone")}
    tried = []

    def fail(job: Job, run_dir: Path, data: Path | None) -> dict[str, Any]:
        tried.append(job.recipe)
        raise errors[job.recipe]

    monkeypatch.setattr(zoo_runs, "run_job", fail)
    jobs = jobs_of(tiny_suite(), "fql", "iql")
    for _ in range(2):
        results = zoo.run_jobs(jobs, tmp_path, {MAZE: None}, workers=1)
        assert [result["state"] for result in results] == ["diverged", "failed"]
    assert tried == ["fql", "iql", "iql"]
    rows = summarise(results)
    assert [row["score"] for row in rows] == [None, None]
    data = {
        MAZE: {"dataset": "maze", "generated": True, "rows": 9, "episodes": 1, "sha256": None, "official_episodes": 1}
    }
    table = render_tables(rows, data, tiny_suite())
    assert "| `fql` | no result |" in table
    assert "`fql`, seed 0: NonFiniteError: loss is NaN at step 2" in table
    assert "runs without a result: fql (1 of 1), iql (1 of 1)" in read_rows(rows)[0]


def test_an_interrupted_run_leaves_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo_runs, "run_job", interrupt)
    (job,) = jobs_of(tiny_suite(), "fql")
    with pytest.raises(KeyboardInterrupt):
        run_and_store(job, tmp_path, None)
    assert not result_file(job, tmp_path).exists()


@pytest.mark.slow
def test_several_workers_record_errors_in_the_order_of_the_jobs(tmp_path: Path) -> None:
    jobs = jobs_of(tiny_suite(), "td3_bc", "iql")
    results = zoo.run_jobs(jobs, tmp_path / "runs", {MAZE: tmp_path / "missing" / "\0"}, workers=2)
    assert [result["recipe"] for result in results] == ["td3_bc", "iql"]
    assert all(result["state"] == "failed" and "ValueError" in result["error"] for result in results)


def test_a_score_is_the_mean_over_the_episodes_of_all_seeds_with_the_librarys_interval() -> None:
    runs = [outcome(scores=[1.0, 1.0, 0.0, 1.0]), outcome(seed=1, scores=[0.0, 1.0, 0.0, 1.0])]
    (row,) = summarise(runs)
    assert (row["score"], row["by_seed"], row["episodes"]) == (5 / 8, [0.75, 0.5], 8)
    assert (row["low"], row["high"]) == share_interval(5, 8)
    runs = [outcome(task=PEN, scores=[10.0, 20.0]), outcome(task=PEN, seed=1, scores=[60.0, 70.0])]
    (row,) = summarise(runs)
    assert row["score"] == 40.0 and (row["low"], row["high"]) == mean_interval(np.array([10.0, 20.0, 60.0, 70.0]))


def test_rows_are_sorted_by_score_and_a_row_that_lost_a_seed_stands_behind_whole_ones() -> None:
    runs = [outcome("lucky", 0, scores=[1.0]), failure("lucky", 1), failure("broken")]
    runs += [outcome("weak", 0, scores=[0.0]), outcome("strong", 0, scores=[1.0])]
    rows = summarise(runs)
    assert [row["recipe"] for row in rows] == ["strong", "weak", "lucky", "broken"]
    lucky = rows[2]
    assert (lucky["finished"], lucky["seeds"], lucky["by_seed"]) == (1, 2, [1.0, None])
    data = {
        MAZE: {"dataset": "maze", "generated": True, "rows": 9, "episodes": 1, "sha256": None, "official_episodes": 1}
    }
    table = render_tables(rows, data, tiny_suite())
    assert "| `lucky` (1 of 2 seeds failed) | 1.00 |" in table and "1.00, none" in table


def test_a_reading_names_who_is_level_with_the_best() -> None:
    rows = summarise(
        [outcome("a", scores=[1.0] * 9), outcome("b", scores=[1.0] * 8 + [0.0]), outcome("c", scores=[0.0] * 9)]
    )
    (line,) = read_rows(rows)
    assert "1.00 (a)" in line and line.endswith("overlaps with those of b.")


def test_data_that_is_a_part_of_the_official_dataset_is_said_to_be_one() -> None:
    facts = {
        "dataset": PEN,
        "generated": False,
        "rows": 3901,
        "episodes": 40,
        "sha256": "abc",
        "official_episodes": 5000,
    }
    text = describe_data(facts)
    assert "3,901 rows in 40 episodes" in text and "5,000 episodes: scores here are not comparable" in text
    assert "not comparable" not in describe_data(facts | {"episodes": 4990})


def test_the_declaration_resolves_for_every_recipe() -> None:
    suite = zoo.load_suite()
    recipes = zoo.find_recipes(suite)
    jobs = zoo.list_jobs(suite, recipes, [MAZE])
    assert {job.label for job in jobs} == set(recipe_names())
    assert len(jobs) == len(recipes) * suite["seeds"] and [job.seed for job in jobs] == sorted(job.seed for job in jobs)
    for job in jobs:
        assert job.config.seed == job.seed and job.config.trainer.eval_every == 0 and job.config.trainer.threads == 1
        assert job.config.data.dir is None and job.config.data.path is None and job.config.run_dir is None
    for quick in (False, True):
        suite = zoo.load_suite(quick)
        assert len(jobs_of(suite, "fql")) == len(suite["tasks"]) * suite["seeds"] and MAZE in suite["tasks"]


def test_other_data_is_another_run() -> None:
    (job,) = jobs_of(tiny_suite(), "fql")
    names = {dataclasses.replace(job, dataset_sha256=checksum).name for checksum in ("abc", "abd")}
    assert len(names) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--recipes", "meanflow_q"], "'meanflow_ql'"), (["--tasks", "pen-expert"], "'pen-expert-v1'")],
)
def test_a_wrong_name_on_the_command_line_is_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    answer = CliRunner().invoke(cli.app, ["zoo", "--quick", "--out", str(tmp_path / "out"), *arguments])
    assert isinstance(answer.exception, ConfigError)
    assert message in str(answer.exception)
    assert not (tmp_path / "out").exists()


def test_the_command_prints_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(out: Path, **plan: Any) -> list[dict[str, Any]]:
        assert (plan["recipes"], plan["seeds"], plan["workers"], plan["quick"]) == (["fql", "iql"], 3, 2, True)
        return summarise([outcome("fql"), failure("iql")])

    monkeypatch.setattr(zoo, "run_zoo", pretend)
    options = ["--recipes", "fql,iql", "--seeds", "3", "--workers", "2", "--quick"]
    answer = CliRunner().invoke(cli.app, ["zoo", "--out", str(tmp_path), *options])
    assert answer.exit_code == 0, answer.exception
    assert "fql" in answer.output and "no result" in answer.output and "table.md" in answer.output
