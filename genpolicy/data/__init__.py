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
    from genpolicy.data.dataset import BatchSampler, TransitionDataset

__all__ = [
    "BatchSampler",
    "Task",
    "TransitionDataset",
    "describe",
    "get_task",
    "list_tasks",
    "load_dataset",
]


def load_dataset(
    task: Task | str, directory: str | Path | None = None, *, download: bool = True
) -> "tuple[TransitionDataset, TransitionDataset | None]":
    """Load the training and the validation split of a task.

    Args:
        task: a task or its name.
        directory: where the files are or go; ``~`` is expanded; default: the source's own directory.
        download: whether to download a dataset that is absent.

    Returns:
        The training split, and the validation split or None if there is none.

    Raises:
        ConfigError: if no task has that name, or its source is unknown.
        DataError: if the data are absent, damaged or do not fit the task.
    """
    from genpolicy.data import ogbench

    sources = {"ogbench": ogbench.load}
    task = get_task(task) if isinstance(task, str) else task
    if task.source not in sources:
        raise ConfigError(f"Task '{task.name}' has source '{task.source}'; known: {', '.join(sources)}.")
    return sources[task.source](task, directory=directory, download=download)


__getattr__ = lazy_attributes(
    __name__,
    {
        "BatchSampler": "genpolicy.data.dataset",
        "TransitionDataset": "genpolicy.data.dataset",
        "describe": "genpolicy.data._description",
    },
)
