"""The catalogue of tasks as plain values: rows for a list, everything known of one task; neither torch nor gym."""

import dataclasses
from pathlib import Path
from typing import Any

from genpolicy.data.availability import data_path, missing_for_scoring
from genpolicy.data.published import published_scores
from genpolicy.data.tasks import Task, list_tasks
from genpolicy.recipes import tuned_rows


def task_rows(*, paper: bool = False) -> list[dict[str, Any]]:
    """One row per task.

    Args:
        paper: only the 73 tasks of the FQL paper.

    Returns:
        Name, what it is, data, environment, discount, metric, updates of a published run, whether it is one of the
        73, whether its data are on this machine, and what is missing to score a policy here (None if nothing).
    """
    return [
        {
            "name": task.name,
            "summary": task.summary,
            "dataset": task.dataset,
            "environment": task.environment,
            "discount": task.discount,
            "metric": task.metric,
            "updates": task.protocol.updates,
            "in_paper": task.in_paper,
            "data_here": data_path(task).exists(),
            "missing_for_scoring": missing_for_scoring(task),
        }
        for task in list_tasks()
        if task.in_paper or not paper
    ]


def task_facts(task: Task, directory: str | Path | None = None) -> dict[str, Any]:
    """Everything that is known of a task without opening its data.

    Args:
        task: a task of OGBench's or D4RL's.
        directory: where named datasets are; default: the source's own directory.

    Returns:
        The fields of `Task`, with ``task`` for its name, and

        - ``urls``: where the official files are
        - ``path``, ``data_here``: where its data are or would be, and whether they are there
        - ``missing_for_scoring``: packages, or None
        - ``tuned``: rows of ``algorithms/tuned.csv``, those that no run uses included
        - ``published``: the fields of `PublishedScore` of each published score
    """
    path = data_path(task, directory)
    fields = dataclasses.asdict(task)
    return {
        "task": fields.pop("name"),
        **fields,
        "urls": list(task.urls),
        "path": str(path),
        "data_here": path.exists(),
        "missing_for_scoring": missing_for_scoring(task),
        "tuned": tuned_rows(task.alias_of or task.name),
        "published": [dataclasses.asdict(score) for score in published_scores(task)],
    }
