"""The 73 tasks of the paper, their published scores and hyperparameters, and what of them is on this machine."""

import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from genpolicy import recipes
from genpolicy.catalogue import task_facts, task_rows
from genpolicy.config import compose
from genpolicy.data import availability, get_task, list_tasks, published_scores
from genpolicy.data.availability import data_path, missing_for_scoring
from genpolicy.recipes import declarations, recipe_names, tuned_overrides, tuned_rows

PAPER = [task for task in list_tasks() if task.in_paper]
CUBE = "cube-double-play-singletask-task2-v0"
HUMANOID = "humanoidmaze-medium-navigate-singletask-task1-v0"


# The 73


def test_the_paper_has_fifty_five_six_and_twelve_tasks():
    kinds = Counter((task.source, task.pixels, task.metric) for task in PAPER)
    assert kinds == {
        ("ogbench", False, "success"): 50,
        ("ogbench", True, "success"): 5,
        ("d4rl", False, "success"): 6,
        ("d4rl", False, "score"): 12,
    }
    assert not [task.name for task in PAPER if task.alias_of]
    states = Counter(task.dataset for task in PAPER if task.source == "ogbench" and not task.pixels)
    assert len(states) == 10 and set(states.values()) == {5}


@pytest.mark.parametrize(
    ("name", "discount", "updates", "evaluations"),
    [
        ("antmaze-giant-navigate-singletask-task5-v0", 0.995, 1_000_000, (800_000, 900_000, 1_000_000)),
        ("visual-puzzle-4x4-play-singletask-task1-v0", 0.99, 500_000, (300_000, 400_000, 500_000)),
        ("antmaze-large-diverse-v2", 0.99, 500_000, (500_000,)),
        ("relocate-expert-v1", 0.99, 500_000, (500_000,)),
    ],
)
def test_a_task_of_the_paper_has_its_protocol(name, discount, updates, evaluations):
    task = get_task(name)
    protocol = task.protocol
    assert task.in_paper and task.discount == discount
    assert (protocol.updates, protocol.evaluations, protocol.episodes) == (updates, evaluations, 50)
    assert all(evaluation % protocol.eval_every == 0 for evaluation in evaluations)


@pytest.mark.parametrize("name", ["visual-scene-play-singletask-task2-v0", "cube-triple-play-singletask-task1-v0"])
def test_its_neighbours_are_not_of_the_paper(name):
    assert not get_task(name).in_paper


# Published scores


def found(task, algorithm, setting):
    scores = published_scores(task)
    return [(one.mean, one.std, one.kind) for one in scores if (one.algorithm, one.setting) == (algorithm, setting)]


@pytest.mark.parametrize(
    ("task", "algorithm", "setting", "score"),
    [  # read off Tables 3 and 4 of arXiv:2502.02538
        ("antmaze-large-navigate-singletask-task3-v0", "FQL", "offline", (93, 3)),
        ("puzzle-4x4-play-singletask-task5-v0", "IDQL", "offline", (24, 11)),
        ("visual-cube-double-play-singletask-task1-v0", "IQL", "offline", (34, 23)),
        ("pen-expert-v1", "ReBRAC", "offline", (152, None)),
        ("antsoccer-arena-navigate-singletask-v0", "FQL", "after online", (86, 5)),
        ("relocate-cloned-v1", "RLPD", "after online", (2, 2)),
        ("antmaze-umaze-v2", "Cal-QL", "before online", (77, None)),
    ],
)
def test_scores_are_those_of_the_tables(task, algorithm, setting, score):
    assert found(task, algorithm, setting) == [(*score, "published")]


def test_every_task_of_the_paper_has_scores_and_no_other_has_its_own():
    for task in PAPER:
        assert len(found(task, "FQL", "offline")) == 1, task.name
    settings = {score.setting for task in PAPER for score in published_scores(task)}
    assert settings == {"offline", "before online", "after online"}
    assert published_scores("hopper-medium-v2") == published_scores("pointmaze-large-stitch-singletask-v0") == []


def test_a_default_task_has_the_scores_of_its_number():
    assert published_scores("cube-double-play-singletask-v0") == published_scores(CUBE)
    assert published_scores(get_task(CUBE)) == published_scores(CUBE)


def test_no_row_is_lost_or_given_twice():
    path = Path(availability.__file__).with_name("published_scores.csv")
    rows = list(csv.DictReader(path.open()))
    shown = {id(score) for task in PAPER for score in published_scores(task)}
    assert len(rows) == len(shown) == 921
    for task in PAPER:
        scores = published_scores(task)
        assert len(set(scores)) == len(scores), task.name


def test_what_is_not_the_authors_own_word_is_marked():
    assert found("pen-cloned-v1", "MeanFlowQL", "after online") == [
        (151, 7, "second-hand"),
        (150.1, None, "rerun"),
        (118.27, None, "rerun"),
    ]
    (row,) = [one for one in published_scores(CUBE) if one.task == "cube-double-play" and one.setting == "after online"]
    assert (row.mean, row.kind) == (95, "second-hand") and "names no task" in row.source
    assert all(one.source for task in PAPER for one in published_scores(task))


# Tuned hyperparameters


def test_tuned_values_are_those_of_the_public_commands():
    assert compose(["algorithm=fql", "task=puzzle-3x3-play-singletask-task2-v0"]).head.distill_weight == 1000
    door = compose(["algorithm=fql", "task=door-human-v1"])
    assert (door.head.distill_weight, door.critic.q_agg) == (30_000, "min")
    pen = compose(["task=pen-cloned-v1"])
    assert (pen.policy.bc_weight, pen.policy.num_candidates, pen.head.time_steps) == (10_000, 5, 100)
    iql = compose(["algorithm=iql", f"task={CUBE}"])
    assert (iql.policy.inverse_temperature, iql.critic.hidden_dims) == (0.3, (256,) * 4)
    rebrac = compose(["algorithm=rebrac", "task=cube-single-play-singletask-v0"])
    assert (rebrac.policy.bc_weight, rebrac.critic.penalty_weight) == (1.0, 0.0)


def test_fql_is_tuned_on_every_task_of_the_paper():
    rows = [row for task in PAPER for row in tuned_rows(task.name, "fql") if row["when"] == "always"]
    assert sum(row["key"] == "head.distill_weight" for row in rows) == 73
    assert sum(row["key"] == "critic.q_agg" for row in rows) == 12 + 10  # adroit, antmaze-large and antmaze-giant


def test_an_online_phase_has_values_of_its_own():
    given = ["algorithm=fql", f"task={HUMANOID}"]
    assert compose(given).head.distill_weight == 30
    assert compose([*given, "trainer.online_steps=1000"]).head.distill_weight == 100
    assert compose([*given, "trainer.online_steps=1000", "head.distill_weight=7"]).head.distill_weight == 7


def test_a_source_that_disagrees_is_recorded_and_not_used():
    task = "humanoidmaze-large-navigate-singletask-task1-v0"
    rows = [row for row in tuned_rows(task, "meanflow_ql") if row["key"] == "policy.bc_weight"]
    assert [(row["value"], row["when"]) for row in rows] == [("10000", "always"), ("6000", "never")]
    assert "policy.bc_weight=6000" not in tuned_overrides("meanflow_ql", task, online=True)


def test_every_row_is_of_a_task_and_an_algorithm_and_fits_them():
    rows = list(csv.DictReader((declarations() / "tuned.csv").open()))
    assert {row["when"] for row in rows} == {"always", "online", "never"}
    assert {row["task"] for row in rows} <= {task.name for task in PAPER}
    assert {row["algorithm"] for row in rows} <= set(recipe_names())
    for algorithm in {row["algorithm"] for row in rows}:
        for key, value in sorted({(row["key"], row["value"]) for row in rows if row["algorithm"] == algorithm}):
            compose([f"algorithm={algorithm}", f"{key}={value}"])
    used = Counter((row["algorithm"], row["task"], row["key"], row["when"]) for row in rows if row["when"] != "never")
    assert set(used.values()) == {1}


# Lengths


RECIPE = "about: {}\ntrainer: {steps: 77}\npresets: {small: {trainer: {eval_every: 5}}}\n"


def lengths(*overrides):
    trainer = compose(overrides).trainer
    return trainer.steps, trainer.eval_every, trainer.eval_episodes


def test_the_published_lengths_stand_below_everything_else(tmp_path):
    (tmp_path / "own.yaml").write_text(RECIPE)
    own = f"algorithm={tmp_path / 'own.yaml'}"
    assert lengths("task=pen-human-v1") == (500_000, 100_000, 50)
    assert lengths("task=scene-play-singletask-v0") == (1_000_000, 100_000, 50)
    assert lengths("task=pen-human-v1", "trainer.steps=9", "trainer.eval_episodes=3") == (9, 100_000, 3)
    assert lengths("task=pen-human-v1", "trainer={eval_every: 0}") == (500_000, 0, 50)
    assert lengths(own, "task=pen-human-v1") == (77, 100_000, 50)
    assert lengths(own, "task=pen-human-v1", "preset=small") == (77, 5, 50)


def test_other_presets_have_lengths_of_their_own():
    assert lengths("task=pen-human-v1", "preset=small") == lengths("preset=small")
    assert lengths("task=pen-human-v1", "preset=smoke") == lengths("preset=smoke")


def test_a_tuned_length_stands_above_the_published_one(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "declarations", lambda kind="algorithms": tmp_path)
    (tmp_path / "own.yaml").write_text("about: {}\n")
    rows = "own,pen-human-v1,trainer.steps,300,always,x\nown,pen-human-v1,trainer.steps,600,online,x\n"
    (tmp_path / "tuned.csv").write_text(f"algorithm,task,key,value,when,source\n{rows}")
    assert lengths("algorithm=own", "task=pen-human-v1") == (300, 100_000, 50)
    assert lengths("algorithm=own", "task=pen-human-v1", "trainer.online_steps=1")[0] == 600


def test_an_online_phase_follows_a_million_updates():
    assert lengths("task=pen-human-v1", "trainer.online_steps=1000000")[0] == 1_000_000
    assert lengths("task=pen-human-v1", "trainer.online_steps=1000000", "trainer.steps=0")[0] == 0


# What is on this machine


def test_data_are_looked_for_where_the_loaders_look(tmp_path, monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    pen = get_task("pen-human-v1")
    assert data_path(pen) == tmp_path / "pen-human-v1.hdf5"
    assert data_path(get_task("antmaze-umaze-v2")).name.startswith("Ant_maze_u-maze_")
    (tmp_path / "antmaze-umaze-v2.hdf5").touch()
    assert data_path(get_task("antmaze-umaze-v2")) == tmp_path / "antmaze-umaze-v2.hdf5"
    assert data_path(get_task(CUBE), tmp_path) == tmp_path / "cube-double-play-v0.npz"
    (tmp_path / "cube-double-play-v0").mkdir()  # of numbered files
    assert data_path(get_task(CUBE), tmp_path) == tmp_path / "cube-double-play-v0"
    assert data_path(get_task(CUBE)) == Path("~/.ogbench/data/cube-double-play-v0.npz").expanduser()
    assert not task_facts(pen)["data_here"]
    (tmp_path / "pen-human-v1.hdf5").touch()
    assert task_facts(pen)["data_here"] and task_facts(pen)["path"] == str(tmp_path / "pen-human-v1.hdf5")
    assert {row["name"] for row in task_rows() if row["data_here"]} >= {"pen-human-v1", "antmaze-umaze-v2"}


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(availability, "_installed", lambda package: package in ("ogbench", "mujoco", "gymnasium"))
    assert missing_for_scoring(get_task(CUBE)) is None
    assert missing_for_scoring(get_task("antmaze-umaze-v2")) is None
    assert missing_for_scoring(get_task("hopper-medium-v2")) is None
    assert missing_for_scoring(get_task("pen-human-v1")) == "gymnasium_robotics"
    assert "d4rl" in str(missing_for_scoring(get_task("kitchen-mixed-v0")))
    monkeypatch.setattr(availability, "_installed", lambda package: False)
    assert missing_for_scoring(get_task(CUBE)) == "ogbench, mujoco"


def test_the_catalogue_imports_neither_torch_nor_a_simulator():
    code = (
        "import sys; from genpolicy.catalogue import task_facts, task_rows; from genpolicy.data import get_task;"
        "assert len(task_rows(paper=True)) == 73 and task_facts(get_task('pen-human-v1'));"
        "assert not {'torch', 'gymnasium', 'ogbench', 'mujoco', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
