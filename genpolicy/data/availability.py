"""Which tasks can be trained and scored on this machine: looks for files and packages, and imports none of them."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from genpolicy.data.d4rl_catalogue import DATASETS, find_file
from genpolicy.data.tasks import Task

_LOCOMOTION = ("hopper", "halfcheetah", "walker2d")


def data_path(task: Task, directory: str | Path | None = None) -> Path:
    """Where the training data of a task are or would be: a file, or a folder if they are many files.

    Args:
        task: a task of OGBench's or D4RL's.
        directory: where named datasets are; default ``~/.ogbench/data``, for D4RL's ``~/.d4rl/datasets``.
    """
    if task.dataset in DATASETS:
        return find_file(DATASETS[task.dataset], directory)
    folder = Path(directory or "~/.ogbench/data").expanduser().absolute()
    file = folder / f"{task.dataset}.npz"
    places = (file, folder / task.dataset, folder / f"{task.dataset}.store")
    return next((path for path in places if path.exists()), file)


def missing_for_scoring(task: Task) -> str | None:
    """The packages that are missing to score a policy on a task, or None."""
    family, _, name = task.environment.partition("/")
    if task.environment == "d4rl/kitchen":
        return "the legacy d4rl package (data.backend=d4rl)"
    if family == "d4rl-legacy":
        wanted = ("d4rl", "gym", "mujoco_py")
    elif family == "d4rl" and not name.startswith("antmaze"):
        wanted = ("gymnasium" if name in _LOCOMOTION else "gymnasium_robotics", "mujoco")
    else:
        wanted = ("ogbench", "mujoco")
    return ", ".join(package for package in wanted if not _installed(package)) or None


@cache
def _installed(package: str) -> bool:
    return find_spec(package) is not None
