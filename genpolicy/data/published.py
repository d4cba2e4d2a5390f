"""Published scores of the tasks, with their sources, from ``published_scores.csv`` and ``published_sources.csv``.

Numbers are per cent of episodes where the task's metric is success (D4RL's antmaze too), else D4RL's normalised score.
Nothing is merged: what two sources say of the same run stands in two rows.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from genpolicy.data.tasks import Task, get_task


@dataclass(frozen=True)
class PublishedScore:
    """One number of a table."""

    task: str
    """The numbered task; the environment and kind of data (``cube-double-play``) if the source names no task."""
    algorithm: str
    """As the source calls it."""
    setting: str
    """``offline`` (`Protocol.evaluations`), or of an offline-to-online run ``before online`` and ``after online``
    (`Protocol.online`)."""
    mean: float
    """Over seeds, in per cent or as a normalised score."""
    std: float | None
    """Standard deviation over seeds; None if the source has none."""
    kind: str
    """``published``, ``second-hand`` (a paper's number as somebody else quotes it) or ``rerun`` (not the authors')."""
    source: str
    """Where it stands."""


def published_scores(task: Task | str) -> list[PublishedScore]:
    """The published scores of a task, in the order of the sources; for a default task those of its numbered twin.

    Raises:
        ConfigError: if no task has that name.
    """
    task = get_task(task) if isinstance(task, str) else task
    names = dict.fromkeys((task.alias_of or task.name, task.dataset.removesuffix("-v0")))  # one name for D4RL's
    return [score for name in names for score in _by_task().get(name, [])]


@cache
def _by_task() -> dict[str, list[PublishedScore]]:
    sources = {row["source"]: row for row in _read("published_sources.csv")}
    found: dict[str, list[PublishedScore]] = {}
    for row in _read("published_scores.csv"):
        source = sources[row["source"]]
        score = PublishedScore(
            task=row["task"],
            algorithm=row["algorithm"],
            setting=row["setting"],
            mean=float(row["mean"]),
            std=float(row["std"]) if row["std"] else None,
            kind=source["kind"],
            source=source["citation"],
        )
        found.setdefault(score.task, []).append(score)
    return found


def _read(name: str) -> list[dict[str, str]]:
    with (files("genpolicy.data") / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))
