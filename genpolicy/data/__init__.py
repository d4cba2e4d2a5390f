"""Datasets of transitions: what tasks there are, where their data come from, and how batches are drawn.

Names are imported on first use, so that simulator processes that only need a task do not import torch.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from genpolicy.data.tasks import Task, get_task, list_tasks
from genpolicy.errors import ConfigError
from genpolicy.lazy import lazy_attributes

if TYPE_CHECKING:
    from genpolicy.data._description import describe
    from genpolicy.data.convert import convert_dataset
    from genpolicy.data.dataset import BatchSampler, TransitionDataset
    from genpolicy.data.files import Report, check_file, load_file
    from genpolicy.data.published import PublishedScore, published_scores

__all__ = [
    "BatchSampler",
    "PublishedScore",
    "Report",
    "Task",
    "TransitionDataset",
    "check_file",
    "convert_dataset",
    "describe",
    "get_task",
    "list_tasks",
    "load_dataset",
    "load_file",
    "published_scores",
]


def load_dataset(
    task: Task | str, directory: str | Path | None = None, *, path: str | Path | None = None, download: bool = True
) -> "tuple[TransitionDataset, TransitionDataset | None]":
    """Load the training and the validation split of a task.

    Args:
        task: a task or its name.
        directory: where the files are or go; ``~`` is expanded; default: the source's own directory.
        path: the file (Minari: folder) to read in place of the task's own (with OGBench its ``-val`` file is the
            validation split, and a folder of numbered files may be given).
        download: whether to download a dataset that is absent.

    Returns:
        The training split, and the validation split or None if there is none.

    Raises:
        ConfigError: if no task has that name, its source is unknown, or a package that reads it is not installed.
        DataError: if the data are absent, damaged or do not fit the task.
    """
    from genpolicy.data import d4rl, files, minari, ogbench

    task = get_task(task) if isinstance(task, str) else task
    if task.source == "d4rl":
        return d4rl.load(task, directory=directory, path=path, download=download)
    if task.source == "d4rl-legacy":
        return d4rl.load_legacy(task, directory=directory, path=path, download=download)
    if task.source == "minari":
        return minari.load(task, directory=directory, path=path, download=download)
    if task.source == "file":
        return files.load(task)
    if task.source != "ogbench":
        raise ConfigError(
            f"Task '{task.name}' has source '{task.source}'; known: ogbench, d4rl, d4rl-legacy, minari, file."
        )
    return ogbench.load(task, directory=directory, path=path, download=download)


__getattr__ = lazy_attributes(
    __name__,
    {
        "BatchSampler": "genpolicy.data.dataset",
        "PublishedScore": "genpolicy.data.published",
        "Report": "genpolicy.data.files",
        "TransitionDataset": "genpolicy.data.dataset",
        "check_file": "genpolicy.data.files",
        "convert_dataset": "genpolicy.data.convert",
        "describe": "genpolicy.data._description",
        "load_file": "genpolicy.data.files",
        "published_scores": "genpolicy.data.published",
    },
)
