import subprocess
import sys

import gymnasium
import ogbench
import ogbench.utils
import pytest

from genpolicy.data import Task, get_task, list_tasks
from genpolicy.errors import ConfigError


def ogbench_tasks() -> list[Task]:
    return [task for task in list_tasks() if task.source == "ogbench"]


def test_a_numbered_task_has_the_published_names_and_discount():
    task = get_task("antmaze-giant-stitch-singletask-task3-v0")
    assert (task.dataset, task.environment) == (
        "antmaze-giant-stitch-v0",
        "antmaze-giant-singletask-task3-v0",
    )
    assert (task.source, task.discount, task.metric) == ("ogbench", 0.995, "success")
    assert task.alias_of is None


def test_the_default_task_is_a_task_of_its_own():
    task = get_task("scene-play-singletask-v0")
    assert isinstance(task, Task)
    assert (task.dataset, task.environment) == ("scene-play-v0", "scene-singletask-v0")
    assert task.alias_of == "scene-play-singletask-task2-v0"


@pytest.mark.parametrize(
    ("name", "discount"),
    [
        ("antmaze-large-navigate-singletask-v0", 0.99),
        ("humanoidmaze-medium-navigate-singletask-v0", 0.995),
        ("antsoccer-arena-navigate-singletask-task4-v0", 0.995),
        ("cube-double-play-singletask-v0", 0.99),
        ("puzzle-4x4-play-singletask-v0", 0.99),
    ],
)
def test_discounts_are_those_of_the_fql_paper(name, discount):
    assert get_task(name).discount == discount


def test_every_published_dataset_has_five_tasks_and_an_alias():
    tasks = ogbench_tasks()
    assert len({task.name for task in tasks}) == len(tasks) == 6 * 82
    assert len({task.dataset for task in tasks}) == 82
    assert len({task.dataset for task in tasks if task.pixels}) == 35
    assert all(get_task(task.name) is task for task in tasks)
    assert all(get_task(task.alias_of).dataset == task.dataset for task in tasks if task.alias_of)


def test_tasks_cover_the_environments_of_ogbench_that_have_a_dataset():
    registered = {name for name in gymnasium.registry if "singletask" in name}
    without = ("cube-octuple", "humanoidmaze-teleport", "visual-humanoidmaze-teleport")
    unpublished = {name for name in registered if name.startswith(without)}
    assert {task.environment for task in ogbench_tasks()} == registered - unpublished


def test_ogbench_derives_the_same_environment_and_dataset_from_a_name(monkeypatch):
    class Derived(Exception):
        pass

    made = []

    def download_datasets(names, directory):
        raise Derived(*names)

    monkeypatch.setattr(ogbench.utils.gymnasium, "make", lambda name: made.append(name))
    monkeypatch.setattr(ogbench.utils, "download_datasets", download_datasets)
    for task in ogbench_tasks():
        with pytest.raises(Derived) as derived:
            ogbench.make_env_and_datasets(task.name)
        assert (made.pop(), *derived.value.args) == (task.environment, task.dataset)


@pytest.mark.parametrize(
    "name",
    [
        "pointmaze-large-stitch",
        "antmaze-giant-navigate",
        "humanoidmaze-giant-stitch",
        "antsoccer-medium-stitch",
        "cube-triple-noisy",
        "scene-noisy",
        "puzzle-3x3-play",
        "puzzle-4x6-play",
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_alias_names_the_default_task_of_its_environment(name):
    task = get_task(f"{name}-singletask-v0")
    env = gymnasium.make(task.environment, disable_env_checker=True)
    number = env.unwrapped._reward_task_id
    env.close()
    assert task.alias_of == f"{name}-singletask-task{number}-v0"


def test_an_unknown_name_is_answered_with_the_nearest_one():
    with pytest.raises(ConfigError, match="Did you mean 'cube-single-play-singletask-v0'") as error:
        get_task("cube-single-pla-singletask-v0")
    assert "cube-single-pla-singletask-v0" in str(error.value)
    assert "genpolicy list tasks" in str(error.value)


def test_a_pixel_task_has_the_protocol_of_pixels():
    task = get_task("visual-antmaze-giant-stitch-singletask-v0")
    assert task.pixels and not get_task("antmaze-giant-stitch-singletask-v0").pixels
    assert (task.dataset, task.environment) == ("visual-antmaze-giant-stitch-v0", "visual-antmaze-giant-singletask-v0")
    assert (task.discount, task.alias_of) == (0.995, "visual-antmaze-giant-stitch-singletask-task1-v0")
    assert (task.protocol.updates, task.protocol.seeds, task.protocol.online) == (500_000, 4, None)


def test_a_data_file_has_an_address():
    assert get_task("scene-play-singletask-v0").urls == tuple(
        f"{ogbench.utils.DATASET_URL}/scene-play-v0{split}.npz" for split in ("", "-val")
    )
    (url,) = get_task("antmaze-umaze-v2").urls
    assert url.startswith("http://rail.eecs.berkeley.edu/datasets/offline_rl/") and url.endswith("_sparse_fixed.hdf5")


def test_the_protocol_gives_a_run_its_lengths():
    d4rl = get_task("pen-human-v1").protocol
    assert d4rl.lengths() == {"steps": 500_000, "eval_every": 100_000, "eval_episodes": 50}
    assert d4rl.lengths(online=True)["steps"] == 1_000_000
    assert get_task("visual-scene-play-singletask-task1-v0").protocol.lengths(online=True)["steps"] == 500_000


def test_importing_the_data_modules_imports_neither_a_simulator_nor_for_tasks_torch():
    code = (
        "import sys, genpolicy.data; genpolicy.data.get_task('scene-play-singletask-v0');"
        "assert 'torch' not in sys.modules;"
        "import genpolicy.data.ogbench, genpolicy.data._description;"
        "assert not {'ogbench', 'mujoco', 'gymnasium'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
