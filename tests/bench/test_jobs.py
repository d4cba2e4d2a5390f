"""Jobs: what a key depends on, and that a job ends once, with the same numbers, whatever happens on the way."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from genpolicy.bench import code_version, jobs, training_jobs
from genpolicy.bench.datasets import Locator
from genpolicy.bench.jobs import Job, record_failure
from genpolicy.bench.runner import plan_suite
from genpolicy.bench.suite import load_suite
from genpolicy.bench.workspace import Workspace
from genpolicy.errors import ConfigError, NonFiniteError
from genpolicy.training.trainer import Trainer

from .small_suites import DATASET, MAZE, SHA256, data, write_suite

__all__ = ["data"]


class Killed(BaseException):
    """Stands in for SIGKILL: nothing of ours catches it."""


def execute(out: Path, key: str) -> str:
    (state,) = jobs.execute(out, [key])
    return state


def planned(tmp_path: Path, data: Path, out: str = "out", *overrides: str, **settings: Any) -> Workspace:
    """A results folder with a plan, as `run_suite` leaves it before it runs anything."""
    suite = load_suite(write_suite(tmp_path), ["seeds=1", "factors.weight=low", *overrides])
    jobs, locator = plan_suite(suite, tmp_path / out, data=data)
    workspace = Workspace.create(tmp_path / out, suite.name)
    places = {"data": str(locator.data), "generated": str(locator.generated), "missing": {}}
    workspace.write_plan(suite, jobs, places | {"keep_runs": "all"} | settings)
    return workspace


def one_job(tmp_path: Path, data: Path, *overrides: str, **changes: Any) -> Job:
    suite = load_suite(write_suite(tmp_path, **changes), ["seeds=1", *overrides])
    return plan_suite(suite, tmp_path / "out", data=data)[0][0]


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    log = Trainer._log

    def logged(self: Trainer, now: int, metrics: Any) -> None:
        if now == step:
            raise Killed
        log(self, now, metrics)

    monkeypatch.setattr(Trainer, "_log", logged)


def numbers(result: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on how often a run was interrupted."""
    return {
        name: result[name] for name in ("key", "state", "score", "evaluations", "updates", "levels", "seed", "config")
    }


def weights(run: Path) -> str:
    (newest,) = run.glob("checkpoints/step_00000006.safetensors")
    return hashlib.sha256(newest.read_bytes()).hexdigest()


def error_of(workspace: Workspace) -> str:
    (record,) = workspace.failures().values()
    return record["error"]


def test_a_key_depends_on_configuration_data_and_protocol_and_on_no_place(tmp_path: Path, data: Path) -> None:
    job = one_job(tmp_path, data)
    assert job.dataset_sha256 == SHA256 and len(job.key) == 16
    for same in (
        ["device=cuda"],
        ["trainer.threads=2", "trainer.eval_workers=5"],
        ["logging.wandb=offline"],
        ["policy.bc_weight=7"],  # the level says otherwise
        ["trainer.steps=6"],
    ):
        assert one_job(tmp_path, data, *same).key == job.key, same
    other = [["trainer.batch_size=5"], ["factors.weight=high"], ["seeds=[1]"], ["data.frame_stack=2"]]
    changed = {one_job(tmp_path, data, *overrides).key for overrides in other}
    changed.add(one_job(tmp_path, data, protocol={"evaluations": "mean_of_last", "count": 2}).key)
    moved = tmp_path / "moved"
    moved.mkdir()
    (data / f"{DATASET}.npz").rename(moved / f"{DATASET}.npz")
    assert one_job(tmp_path, moved).key == job.key
    (moved / f"{DATASET}.npz").write_bytes(b"other numbers")
    changed.add(one_job(tmp_path, moved).key)
    assert len(changed | {job.key}) == 7


def test_numbers_that_are_equal_make_the_same_key(tmp_path: Path, data: Path) -> None:
    keys = {
        one_job(tmp_path, data, factors={"weight": {"low": f"policy.bc_weight={text}"}}).key for text in ("1", "1.0")
    }
    assert len(keys) == 1


def test_a_job_writes_what_the_report_needs(tmp_path: Path, data: Path) -> None:
    workspace = planned(tmp_path, data, "out", "trainer.eval_episodes=3", keep_runs="logs")
    (key,) = workspace.keys()
    assert execute(workspace.path, key) == "completed"
    assert execute(workspace.path, key) == "done"
    (result,) = workspace.read_results()
    assert (result["key"], result["suite"], result["kind"], result["task"]) == (key, "small", "train", MAZE)
    assert (result["metric"], result["levels"], result["seed"]) == ("success", {"weight": "low"}, 0)
    assert (result["state"], result["episodes"], result["updates"]) == ("completed", 3, 6)
    assert [one["step"] for one in result["evaluations"]] == [2, 4, 6]
    assert result["score"] == result["evaluations"][-1]["score"]
    assert {one["length"] for one in result["evaluations"]} == {1.0} and len(result["evaluations"][0]) == 5
    assert result["act_milliseconds"] > 0 and result["updates_per_second"] > 0 and result["seconds"] > 0
    assert (result["evaluations_per_action"], result["candidates"], result["action_chunk"]) == (1, 1, 1)
    assert result["policy_parameters"] > 0 and result["critic_parameters"] > 0
    assert result["dataset_sha256"] == SHA256 and result["code"] == code_version.code_version()
    assert result["overrides"][-1] == "seed=0" and result["config"]["policy"]["bc_weight"] == 1
    assert result["machine"]["device"] == "cpu" and str(tmp_path) not in json.dumps(result)
    assert not list(workspace.locks.iterdir()) and not workspace.failures()
    assert (workspace.runs / key / "train.jsonl").exists() and not (workspace.runs / key / "checkpoints").exists()


def test_a_score_is_the_mean_of_the_last_evaluations_that_the_protocol_names(tmp_path: Path, data: Path) -> None:
    job = one_job(tmp_path, data, protocol={"evaluations": "mean_of_last", "count": 2}, metric="return")
    result = training_jobs.run_training_job(job, tmp_path / "run")
    assert result is not None
    scores = [one["score"] for one in result["evaluations"]]
    assert scores == [one["return"] for one in result["evaluations"]] and len(set(scores)) == 3
    assert result["score"] == (scores[1] + scores[2]) / 2


@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_killed_job_ends_with_the_numbers_of_an_undisturbed_one(
    step: int, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, killed = planned(tmp_path, data, "calm"), planned(tmp_path, data, "killed")
    (key,) = calm.keys()
    assert execute(calm.path, key) == "completed"
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(Killed):
            execute(killed.path, key)
    assert not killed.has_result(key) and not killed.failures()
    assert execute(killed.path, key) == "completed"
    (first,), (second,) = calm.read_results(), killed.read_results()
    assert numbers(first) == numbers(second)
    assert weights(calm.runs / key) == weights(killed.runs / key)


def test_a_job_killed_while_its_folder_was_made_begins_anew(tmp_path: Path, data: Path) -> None:
    workspace = planned(tmp_path, data)
    (key,) = workspace.keys()
    (workspace.runs / key / "checkpoints").mkdir(parents=True)
    (workspace.runs / key / "provenance.json").write_text("{")
    assert execute(workspace.path, key) == "completed"


def test_what_other_code_has_begun_is_not_gone_on_with(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = planned(tmp_path, data)
    (key,) = workspace.keys()
    with monkeypatch.context() as patch:
        kill_at(patch, 4)
        with pytest.raises(Killed):
            execute(workspace.path, key)
    run = workspace.runs / key
    (run / "code.json").write_text('{"digest": "another"}')
    (run / "mark").write_text("")
    assert execute(workspace.path, key) == "completed"
    assert not (run / "mark").exists()


def test_a_run_directory_that_was_edited_is_reported_and_not_used(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = planned(tmp_path, data)
    (key,) = workspace.keys()
    run = workspace.runs / key
    with monkeypatch.context() as patch:
        kill_at(patch, 4)
        with pytest.raises(Killed):
            execute(workspace.path, key)
    good = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(good.replace("batch_size: 4", "batch_size: 5"))
    assert execute(workspace.path, key) == "failed"
    assert "config.yaml was changed by hand: it differs from the job in trainer.batch_size" in error_of(workspace)
    (run / "config.yaml").write_text("- nothing")
    assert execute(workspace.path, key) == "failed"
    assert "config.yaml was changed by hand" in error_of(workspace)
    (run / "config.yaml").write_text(good)
    for file in run.glob("checkpoints/*.safetensors"):
        file.write_bytes(b"0" * file.stat().st_size)
    assert execute(workspace.path, key) == "failed"
    assert "None of the" in error_of(workspace) and str(run) in error_of(workspace)
    assert not workspace.has_result(key) and workspace.failures()[key]["attempts"] == 3


def test_evaluations_that_were_edited_are_reported(tmp_path: Path, data: Path) -> None:
    workspace = planned(tmp_path, data)
    (key,) = workspace.keys()
    assert execute(workspace.path, key) == "completed"
    workspace.result_file(key).unlink()
    log = workspace.runs / key / "eval.jsonl"
    log.write_text("\n".join(log.read_text().splitlines()[:1]) + "\n")
    assert execute(workspace.path, key) == "failed"
    assert "eval.jsonl has evaluations at [2] and not at [2, 4, 6]" in error_of(workspace)


def test_a_job_that_diverges_has_a_result_without_a_score(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = planned(tmp_path, data)
    (key,) = workspace.keys()

    def diverge(*arguments: Any) -> None:
        raise NonFiniteError("loss is NaN at step 2")

    monkeypatch.setattr(training_jobs, "train", diverge)
    assert execute(workspace.path, key) == "diverged"
    (result,) = workspace.read_results()
    assert (result["state"], result["score"]) == ("diverged", None)
    assert workspace.failures()[key]["state"] == "diverged"
    status = workspace.status()
    assert (status.completed, status.diverged, status.failed) == (0, 1, 0)
    assert execute(workspace.path, key) == "done"


def test_a_job_that_fails_says_why_and_an_engine_can_say_it_for_its_worker(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = planned(tmp_path, data)
    (key,) = workspace.keys()

    def fail(*arguments: Any) -> None:
        raise RuntimeError("the simulator is gone")

    with monkeypatch.context() as patch:
        patch.setattr(training_jobs, "train", fail)
        assert execute(workspace.path, key) == "failed"
    assert error_of(workspace) == "RuntimeError: the simulator is gone"
    record_failure(workspace.path, key, "the worker was killed by SIGSEGV")
    assert workspace.failures()[key]["attempts"] == 2
    assert workspace.status().failed == 1
    assert execute(workspace.path, key) == "completed"
    assert not workspace.failures()


def test_an_interrupted_job_leaves_no_result(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = planned(tmp_path, data)
    (key,) = workspace.keys()

    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training_jobs, "train", interrupt)
    assert execute(workspace.path, key) == "interrupted"
    assert workspace.status().waiting == 1 and not list(workspace.locks.iterdir())


def test_a_job_that_somebody_works_on_is_left_alone(tmp_path: Path, data: Path) -> None:
    workspace = planned(tmp_path, data)
    (key,) = workspace.keys()
    with workspace.lock(key) as held:
        assert held and execute(workspace.path, key) == "busy"
        assert workspace.status().running == (key,)
    assert workspace.status().running == ()
    assert execute(workspace.path, key) == "completed"


def test_a_lock_file_of_a_dead_process_is_no_lock(tmp_path: Path, data: Path) -> None:
    workspace = planned(tmp_path, data)
    (key,) = workspace.keys()
    (workspace.locks / f"{key}.lock").write_text("another 1234")
    assert workspace.status().running == ()
    assert execute(workspace.path, key) == "completed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tmp_path, data, patch: (data / f"{DATASET}.npz").write_bytes(b"others"),
            "is no longer what was planned",
        ),
        (lambda tmp_path, data, patch: (data / f"{DATASET}.npz").unlink(), "npz is missing; download"),
        (
            lambda tmp_path, data, patch: patch.setattr(
                "genpolicy.bench.workspace.code_version", lambda: {"digest": "new", "version": "1"}
            ),
            "The code was changed meanwhile",
        ),
    ],
)
def test_what_changed_since_the_plan_is_not_run(
    change: Any, message: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = planned(tmp_path, data)
    (key,) = workspace.keys()
    change(tmp_path, data, monkeypatch)
    assert execute(workspace.path, key) == "failed"
    assert message in error_of(workspace)


def test_a_folder_without_a_plan_and_an_unknown_key_are_refused(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ConfigError, match="is not a results folder"):
        execute(tmp_path, "0123456789abcdef")
    workspace = planned(tmp_path, data)
    with pytest.raises(ConfigError, match="has no job 0123456789abcdef"):
        workspace.job("0123456789abcdef")


def test_wandb_is_told_what_a_job_belongs_to_by_its_environment(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {}

    def look(*arguments: Any) -> None:
        told.update({name: value for name, value in jobs.os.environ.items() if name.startswith("WANDB_")})
        raise RuntimeError

    monkeypatch.setenv("WANDB_TAGS", "mine")
    monkeypatch.setattr(training_jobs, "train", look)
    workspace = planned(tmp_path, data)
    execute(workspace.path, workspace.keys()[0])
    assert (told["WANDB_RUN_GROUP"], told["WANDB_JOB_TYPE"]) == ("small", "weight=low")
    assert told["WANDB_TAGS"] == f"small,{MAZE},weight=low"
    assert jobs.os.environ["WANDB_TAGS"] == "mine" and "WANDB_RUN_GROUP" not in jobs.os.environ


@pytest.fixture
def group(tmp_path: Path, data: Path) -> Workspace:
    return planned(tmp_path, data, "group", "seeds=3")


def approximately(result: dict[str, Any]) -> dict[str, Any]:
    """`numbers`, equal but for the rounding of another order of sums."""
    near = lambda value: pytest.approx(value, abs=1e-4) if isinstance(value, float) else value  # noqa: E731
    evaluations = [{name: near(value) for name, value in one.items()} for one in result["evaluations"]]
    return numbers(result) | {"score": near(result["score"]), "evaluations": evaluations}


def alone(tmp_path: Path, data: Path) -> list[dict[str, Any]]:
    """The results of the jobs of `group`, each done by itself."""
    workspace = planned(tmp_path, data, "alone", "seeds=3")
    assert [execute(workspace.path, row["key"]) for row in workspace.rows()] == ["completed"] * 3
    return workspace.read_results()


def test_jobs_done_together_end_as_alone_each_in_its_own_place(group: Workspace, tmp_path: Path, data: Path) -> None:
    assert jobs.execute(group.path, group.keys()) == ["completed"] * 3
    assert jobs.execute(group.path, group.keys()) == ["done"] * 3
    found, expected = group.read_results(), alone(tmp_path, data)
    assert [numbers(one) for one in found] == [approximately(one) for one in expected]
    assert len({one["evaluations"][-1]["return"] for one in found}) == 3
    assert [one["together"] for one in found] == [3] * 3 and [one["together"] for one in expected] == [1] * 3
    assert all((group.runs / one["key"] / "checkpoints").is_dir() for one in found)
    assert not list(group.locks.iterdir()) and not group.failures()


@pytest.mark.parametrize("seed", [0, 2])
def test_killed_in_the_middle_jobs_done_together_go_on_together(
    seed: int, group: Workspace, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Trainer._log

    def logged(self: Trainer, now: int, metrics: Any) -> None:
        if now == 4 and f"seed: {seed}\n" in self.directory.config_yaml:
            raise Killed
        log(self, now, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_log", logged)
        with pytest.raises(Killed):
            jobs.execute(group.path, group.keys())
    assert not group.finished() and not list(group.locks.iterdir())
    shutil.rmtree(group.runs / group.keys()[1])  # as if killed before it began
    began = []
    monkeypatch.setattr(Trainer, "_log", lambda self, now, metrics: (began.append(now), log(self, now, metrics)))
    assert jobs.execute(group.path, group.keys()) == ["completed"] * 3
    assert sorted(began)[:4] == [1, 2, 3, 4] and len(began) == 6 + 3 + 3, "two went on, one began"
    assert [numbers(one) for one in group.read_results()] == [approximately(one) for one in alone(tmp_path, data)]


def test_of_jobs_done_together_the_finished_are_left_out_and_the_others_know_how_they_began(
    group: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = group.keys()
    with monkeypatch.context() as patch:
        kill_at(patch, 4)
        with pytest.raises(Killed):
            jobs.execute(group.path, [first, second])
    with group.lock(second):
        assert jobs.execute(group.path, [first, second]) == ["completed", "busy"]
    stamp = group.result_file(first).stat().st_mtime_ns
    assert jobs.execute(group.path, group.keys()) == ["done", "completed", "completed"]
    assert group.result_file(first).stat().st_mtime_ns == stamp
    assert [one["together"] for one in group.read_results()] == [2, 2, 2]


def test_of_jobs_done_together_one_that_fails_ends_alone(
    group: Workspace, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = group.keys()
    with monkeypatch.context() as patch:
        kill_at(patch, 4)
        with pytest.raises(Killed):
            jobs.execute(group.path, group.keys())
    (group.runs / first / "config.yaml").write_text("- nothing")
    log = Trainer._log

    def diverge(self: Trainer, now: int, metrics: Any) -> None:
        if now == 5 and "seed: 1\n" in self.directory.config_yaml:
            raise NonFiniteError("loss is NaN at step 5")
        log(self, now, metrics)

    monkeypatch.setattr(Trainer, "_log", diverge)
    assert jobs.execute(group.path, group.keys()) == ["failed", "diverged", "completed"]
    failures = group.failures()
    assert "was changed by hand" in failures[first]["error"] and failures[second]["state"] == "diverged"
    (data / f"{DATASET}.npz").unlink()
    group.result_file(third).unlink()
    assert jobs.execute(group.path, [first, third]) == ["failed", "failed"]


def test_a_toy_job_is_measured_by_the_distance_to_the_known_law(tmp_path: Path) -> None:
    pytest.importorskip("ot")
    suite = load_suite("toy", ["trainer.steps=3", "factors.variant=[gaussian,residual]", "seeds=1"], quick=True)
    assert {task.name for task in suite.tasks} == {"cloning/grid", "q_gradient/slope"}
    found, locator = plan_suite(suite, tmp_path / "out")
    assert [(job.task, dict(job.levels), job.cell.metric) for job in found] == [
        ("cloning/grid", {"variant": "gaussian"}, "W2"),
        ("q_gradient/slope", {"variant": "gaussian"}, "return"),
        ("cloning/grid", {"variant": "residual"}, "W2"),
        ("q_gradient/slope", {"variant": "residual"}, "return"),
    ]
    workspace = Workspace.create(tmp_path / "out", suite.name)
    facts = {"data": None, "generated": str(locator.generated), "missing": {}, "keep_runs": "logs"}
    workspace.write_plan(suite, found[:2], facts)
    assert [execute(workspace.path, job.key) for job in found[:2]] == ["completed", "completed"]
    distance, value = workspace.read_results()
    assert (distance["updates"], value["updates"]) == (3, 3)
    assert distance["score"] > 0 and distance["dataset_sha256"] is None
    assert value["score"] == value["evaluations"][-1]["return"]


def test_a_locator_takes_generated_data_only_where_the_suite_asks_for_them(tmp_path: Path, data: Path) -> None:
    job = one_job(tmp_path, data)
    locator = Locator(data, tmp_path / "generated")
    official = locator.find(job.config, load_suite(write_suite(tmp_path)).tasks[0])
    assert (official.sha256, official.directory, official.generated) == (SHA256, data, None)
    wanted = load_suite(write_suite(tmp_path, tasks={MAZE: {"generate": 5}})).tasks[0]
    assert "--generate makes it (5 episodes)" in str(locator.find(job.config, wanted).missing)
    (data / "5-episodes").mkdir()
    (data / "5-episodes" / f"{DATASET}.npz").write_bytes(b"five")
    found = Locator(data, tmp_path / "generated").find(job.config, wanted)
    assert (found.directory, found.generated, found.bytes) == (data / "5-episodes", 5, 4)
    online = dataclasses.replace(
        job.config,
        trainer=dataclasses.replace(job.config.trainer, steps=0, online_steps=4),
        online=dataclasses.replace(job.config.online, sampling="online"),
    )
    assert locator.find(online, wanted).dataset is None
