"""Facts about the data that runs learned from, for readers of a report. Nothing is read but the results folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genpolicy.bench.suite_report.loading import Study
from genpolicy.data.generation.recipes import RECIPES, Recipe
from genpolicy.data.tasks import get_task
from genpolicy.errors import GenpolicyError


@dataclass(frozen=True)
class DataFacts:
    """The data of one task."""

    task: str
    about: str
    """What the task is."""
    dataset: str
    episodes: int | None
    """If they were generated: how many."""
    official_episodes: int | None
    steps: int | None
    """Rows of a generated episode."""
    checksums: tuple[str, ...]
    """SHA-256 of what the runs read; more than one if they read different data."""

    @property
    def is_smaller(self) -> bool:
        """Whether they are clearly fewer than the official ones."""
        return bool(self.episodes and self.official_episodes and self.episodes < 0.9 * self.official_episodes)

    @property
    def origin(self) -> str:
        """A sentence on where they are from and how large they are against the official ones."""
        if not self.checksums and self.episodes is None:
            return "No dataset: the runs draw from a known distribution, or learn online."
        if self.episodes is None:
            return "Read from a file with the official name; the checksum tells whether it is the official one."
        text = f"Generated with the published settings, not the official file: {self.episodes:,} episodes"
        text += f", {self.episodes * self.steps:,} steps" if self.steps else ""
        if not self.official_episodes:
            return f"{text}."
        official = f"{self.official_episodes:,} episodes"
        official += f", {self.official_episodes * self.steps:,} steps" if self.steps else ""
        share = 100 * self.episodes / self.official_episodes
        return f"{text}. The official dataset has {official}: this is {share:.3g}% of it."


def official_episodes(recipe: Recipe) -> int:
    """Training episodes of the published dataset (``data_gen_scripts/commands.sh`` of ``seohongpark/ogbench``)."""
    if recipe.behaviour == "stitch":
        return 5000
    sizes = {"pointmaze-giant": 500, "triple": 3000, "4x5": 3000, "quadruple": 5000, "4x6": 5000}
    return next((episodes for part, episodes in sizes.items() if part in recipe.scene), 1000)


def data_facts(study: Study) -> list[DataFacts]:
    """The data of each task."""
    found = []
    for task in dict.fromkeys(row["task"] for row in study.planned):
        recorded = study.data.get(task) or {}
        sums = {str(run["dataset_sha256"]) for run in study.runs if run["task"] == task and run.get("dataset_sha256")}
        if not sums and recorded.get("sha256"):
            sums = {recorded["sha256"]}
        found.append(_facts(study, task, recorded, tuple(sorted(sums))))
    return found


def _facts(study: Study, task: str, recorded: Mapping[str, Any], checksums: tuple[str, ...]) -> DataFacts:
    if study.suite.kind == "toy":
        return DataFacts(task, _toy_task(task), "samples of a known distribution", None, None, None, checksums)
    episodes, name = recorded.get("generated"), recorded.get("dataset")
    try:
        known = get_task(task)
    except GenpolicyError:  # a Minari dataset that is not on this machine
        return DataFacts(task, "", name or task, episodes, None, None, checksums)
    recipe = RECIPES.get(known.dataset)
    official, steps = (official_episodes(recipe), recipe.episode_steps) if recipe else (None, None)
    return DataFacts(task, known.summary, name or known.dataset, episodes, official, steps, checksums)


def _toy_task(task: str) -> str:
    part, _, problem = task.partition("/")
    if part == "cloning":
        return f"learn the two-dimensional density '{problem}' from samples"
    return f"follow the gradient of a known value ('{problem}') while staying near the data"
