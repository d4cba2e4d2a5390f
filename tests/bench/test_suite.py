"""Suites: what the YAML says becomes these jobs, and what it cannot mean is refused by name."""

import resource
import time
from pathlib import Path
from typing import Any

import pytest

from genpolicy.bench.datasets import Locator
from genpolicy.bench.expansion import expand
from genpolicy.bench.jobs import Job
from genpolicy.bench.suite import Suite, load_suite, suite_files
from genpolicy.errors import ConfigError

from .small_suites import MAZE, write_suite

OTHER = "pointmaze-medium-navigate-singletask-task1-v0"


def jobs_of(suite: Suite, folder: Path) -> list[Job]:
    return expand(suite, Locator(folder / "data", folder))


def levels(jobs: list[Job]) -> list[dict[str, str]]:
    return [dict(job.levels) for job in jobs]


def load(folder: Path, *overrides: str, quick: bool = False, **changes: Any) -> Suite:
    return load_suite(write_suite(folder, **changes), overrides, quick=quick)


def test_a_grid_is_the_product_of_its_factors_and_all_cells_get_their_first_seed_first(tmp_path: Path) -> None:
    factors = {
        "weight": {"low": "policy.bc_weight=1", "high": "policy.bc_weight=3"},
        "width": {16: "head.backbone.hidden_dims=[16]", 8: ["head.backbone.hidden_dims=[8]"]},
    }
    jobs = jobs_of(load(tmp_path, factors=factors, seeds=[3, 5], tasks=[MAZE, OTHER]), tmp_path)
    cells = [{"weight": weight, "width": width} for weight in ("low", "high") for width in ("16", "8")]
    assert levels(jobs) == 4 * cells
    assert [job.seed for job in jobs] == 8 * [3] + 8 * [5]
    assert [job.task for job in jobs[:8]] == 4 * [MAZE] + 4 * [OTHER]
    config = jobs[3].config
    assert (config.policy.bc_weight, config.head.backbone.hidden_dims, config.seed) == (3, (8,), 3)  # type: ignore
    assert len({job.key for job in jobs}) == 16


def test_levels_win_over_the_tasks_overrides_and_these_over_the_base(tmp_path: Path) -> None:
    tasks = {MAZE: {"overrides": ["trainer.batch_size=8", "policy.bc_weight=9"]}, OTHER: None}
    jobs = jobs_of(load(tmp_path, "trainer.steps=4", tasks=tasks, seeds=1), tmp_path)
    found = [(job.task, job.config.trainer.batch_size, job.config.policy.bc_weight) for job in jobs]  # type: ignore
    assert found == [(MAZE, 8, 1), (MAZE, 8, 3), (OTHER, 4, 1), (OTHER, 4, 3)]
    assert {job.config.trainer.steps for job in jobs} == {4}


def test_combinations_replace_the_grid_or_add_to_it_and_take_the_rest_from_the_baseline(tmp_path: Path) -> None:
    factors = {
        "weight": {"low": "policy.bc_weight=1", "high": "policy.bc_weight=3"},
        "steps": {"few": "trainer.steps=4", "many": "trainer.steps=8"},
    }
    plan: dict[str, Any] = {"factors": factors, "baseline": {"weight": "low", "steps": "few"}, "seeds": 1}
    plan["combinations"] = [{}, {"weight": "high"}, {"steps": "many"}]
    few = [("low", "few"), ("high", "few"), ("low", "many")]
    assert [tuple(cell.values()) for cell in levels(jobs_of(load(tmp_path, **plan), tmp_path))] == few
    both = levels(jobs_of(load(tmp_path, grid=True, exclude=[{"weight": "low", "steps": "many"}], **plan), tmp_path))
    assert [tuple(cell.values()) for cell in both] == [("low", "few"), ("high", "few"), ("high", "many")]


def test_exclusions_match_partly_and_may_name_a_task(tmp_path: Path) -> None:
    suite = load(tmp_path, tasks=[MAZE, OTHER], exclude=[{"task": OTHER, "weight": "high"}], seeds=1)
    assert [(job.task, *dict(job.levels).values()) for job in jobs_of(suite, tmp_path)] == [
        (MAZE, "low"),
        (MAZE, "high"),
        (OTHER, "low"),
    ]


def test_the_quick_section_replaces_keys_and_appends_to_the_base(tmp_path: Path) -> None:
    quick = {"seeds": 1, "base": ["trainer.steps=2"], "tasks": {OTHER: {"generate": 5}}}
    path = write_suite(tmp_path, quick=quick)
    full, small = load_suite(path), load_suite(path, quick=True)
    assert (full.seeds, full.task_names, full.factors) == ((0, 1), (MAZE,), small.factors)
    assert (small.seeds, small.task_names, small.tasks[0].generate) == ((0,), (OTHER,), 5)
    assert small.base == (*full.base, "trainer.steps=2")
    with pytest.raises(ConfigError, match="no section 'quick'"):
        load(tmp_path, quick=True)


def test_the_command_line_restricts_tasks_seeds_and_levels(tmp_path: Path) -> None:
    path = write_suite(tmp_path, tasks={MAZE: {"generate": 7}}, exclude=[{"weight": "high", "task": MAZE}])
    suite = load_suite(path, [f"tasks=[{MAZE},{OTHER}]", "seeds=[4]", "factors.weight=[low]"])
    assert [(task.name, task.generate) for task in suite.tasks] == [(MAZE, 7), (OTHER, None)]
    assert (suite.seeds, list(suite.factors["weight"]), suite.exclude) == ((4,), ["low"], ())
    assert load_suite(path, ["factors.weight=high", f"tasks={OTHER}"]).baseline == {}
    for wrong, message in (
        ("factors.weight=[lo]", "has no level 'lo'. Did you mean 'low'"),
        ("factors.wait=[low]", r"has no factors.wait. Did you mean 'factors.weight'"),
        ("seeds=0", "seeds is 0"),
        ("tasks=[pen-expert]", "pen-expert-v1"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_suite(path, [wrong])


def test_a_suite_of_suites_runs_the_miniatures_and_shares_what_is_the_same(tmp_path: Path) -> None:
    quick = {"seeds": 1}
    first, second = write_suite(tmp_path, "first", quick=quick), write_suite(tmp_path, "second", quick=quick)
    path = tmp_path / "both.yaml"
    path.write_text(f"title: Both\nquestion: Both?\ninclude: [{first}, {second}]\n")
    suite = load_suite(str(path), ["factors.weight=low"])
    jobs = jobs_of(suite, tmp_path)
    assert [(job.suite, job.seed) for job in jobs] == [("first", 0), ("second", 0)]
    assert jobs[0].key == jobs[1].key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factors": {"form": {"a": "head.tanhh=true"}}}, "factor 'form', level 'a': Unknown key 'head.tanhh'"),
        ({"factors": {"form": {"a": "policy.bc_weight=much"}}}, "factor 'form', level 'a': policy.bc_weight is 'much'"),
        ({"factors": {"form": {"a": "trainer"}}}, "factor 'form', level 'a' is 'trainer'; give overrides"),
        ({"factors": {"form": {"a": ["head=mixture"]}}}, "factor 'form', level 'a': "),
        ({"factors": {"form": {}}, "baseline": None}, "factor 'form' has no levels"),
        ({"factors": {"task": {"a": "seed=1"}}}, "a factor cannot be called 'task'"),
        (
            {"factors": {"s": {"a": "seed=1"}}, "baseline": None},
            "Suite .* vectorize, run_dir, resume are not for overrides",
        ),
        ({"base": ["algorithm=td3"]}, "base: Unknown algorithm 'td3'"),
        ({"exclude": [{"weight": "low"}, {"weight": "high"}]}, "Suite 'small' is empty"),
        ({"exclude": [{"wait": "low"}]}, "exclude: unknown factor 'wait'. Did you mean 'weight'"),
        ({"exclude": [{"task": OTHER}]}, "exclude: unknown task"),
        ({"exclude": [{}]}, "would exclude everything"),
        ({"combinations": [{"weight": "lowest"}]}, "combinations: factor 'weight' has no level 'lowest'"),
        ({"combinations": [{}], "baseline": None}, "names no level of 'weight', and neither does the baseline"),
        ({"baseline": {"weight": "none"}}, "baseline: factor 'weight' has no level 'none'"),
        ({"seeds": 0}, "seeds is 0; give a number of at least 1"),
        ({"seeds": [1, 1]}, r"seeds is \[1, 1\]"),
        ({"tasks": ["pen-expert"]}, "Unknown task 'pen-expert'"),
        ({"tasks": []}, "there are no tasks"),
        ({"tasks": {MAZE: {"generate": 0}}}, "generate is 0"),
        ({"title": None}, "title is None"),
        ({"kind": "play"}, "kind is 'play'; allowed: train, toy"),
        ({"seed": 3}, "unknown key 'seed'. Did you mean 'seeds'"),
        ({"metric": "reward"}, "metric is 'reward'"),
        ({"protocol": {"evaluations": "best"}}, "protocol.evaluations is 'best'"),
        ({"protocol": {"evaluations": "mean_of_last", "count": 4}}, "averages 4 evaluations, .* has 3"),
        ({"references": ["mine"]}, "references names 'mine'"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    if "factors" in changes:
        changes = {"baseline": None} | changes
    with pytest.raises(ConfigError, match=message):
        jobs_of(load(tmp_path, **changes), tmp_path)


def test_levels_that_do_not_go_together_are_both_named(tmp_path: Path) -> None:
    rules = {"clone": [], "climb": ["critic=td", "policy=q_gradient"]}
    factors = {"head": {"gaussian": "head=gaussian", "mixture": "head=mixture"}, "rule": rules}
    base = ["algorithm=bc", "preset=smoke", "trainer.eval_every=10"]
    suite = load(tmp_path, factors=factors, base=base, baseline=None)
    with pytest.raises(ConfigError, match=r"the levels head=mixture, rule=climb do not go together .* `exclude`"):
        jobs_of(suite, tmp_path)


def test_a_suite_that_takes_the_name_of_a_shipped_one_is_refused_unless_it_is_a_copy(tmp_path: Path) -> None:
    name, shipped = next(iter(suite_files().items()))
    with pytest.raises(ConfigError, match=f"Two suites are called '{name}'"):
        load_suite(write_suite(tmp_path, name))
    (tmp_path / f"{name}.yaml").write_bytes(shipped.read_bytes())
    assert load_suite(str(tmp_path / f"{name}.yaml")).name == name
    with pytest.raises(ConfigError, match=f"Unknown suite '{name}x'. Did you mean '{name}'"):
        load_suite(f"{name}x")
    with pytest.raises(ConfigError, match="There is no suite"):
        load_suite(str(tmp_path / "missing.yaml"))


def test_a_plan_of_100_000_jobs_is_expanded_in_seconds(tmp_path: Path) -> None:
    weights = {f"w{index}": f"policy.bc_weight={index + 1}" for index in range(20)}
    suite = load(tmp_path, factors={"weight": weights}, tasks="paper", seeds=69, baseline=None)
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    jobs = jobs_of(suite, tmp_path)
    keys = {job.key for job in jobs}
    # 1,460 cells; the measure is 10 seconds and 1 GiB, also with eight times as many cells.
    assert time.process_time() - started < 5
    assert len(keys) == len(jobs) == 73 * 20 * 69
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # KiB
