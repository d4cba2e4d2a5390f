"""Which figures a report has, and their captions."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from matplotlib.figure import Figure

from genpolicy.bench.suite_report.plots import (
    BANDS,
    costs_differ,
    draw_aggregates,
    draw_profiles,
    draw_quality,
    draw_scores,
    groups_of,
)
from genpolicy.bench.suite_report.records import Analysis, Family

DRAWN = 12
"""Tasks of a combined picture; a page draws each task by itself."""


@dataclass(frozen=True)
class Picture:
    """A figure that can be drawn again, with its caption."""

    id: str
    title: str
    caption: str
    """What is drawn, with the number of seeds."""
    draw: Callable[[], Figure]
    task: str | None = None
    """Set if it shows one task of a combined picture."""


def pictures(analysis: Analysis, seeds: str) -> list[Picture]:
    """Pictures to be saved as files: scores, aggregates, profiles, quality and cost.

    Args:
        analysis: the numbers.
        seeds: a sentence with the number of seeds, for the captions.
    """
    found = []
    tasks = [task for task in analysis.tasks if _with_results(analysis, task)]
    for part in range(0, len(tasks), DRAWN):
        chosen, name = tasks[part : part + DRAWN], "scores" if len(tasks) <= DRAWN else f"scores-{part // DRAWN + 1}"
        found.append(
            Picture(name, "Scores on each task", _scores_caption(seeds), lambda t=chosen: draw_scores(analysis, t))
        )
    for family in (family for family in analysis.families if family.aggregates):
        suffix = "" if len(analysis.families) == 1 else f"-{family.name}"
        found += _family_pictures(analysis, family, seeds, suffix)
    if costs_differ(analysis):
        caption = (
            "Each point is a configuration: mean score over seeds with its 95% interval, against the network "
            "evaluations that one action takes (candidates included) and against the measured time per action. To the "
            f"left is cheaper; {'up' if _higher(analysis) else 'down'} is better. {seeds}"
        )
        for task in tasks[:DRAWN]:
            name = "quality-cost" if len(tasks) == 1 else f"quality-cost-{task}"
            title = f"Quality against the cost of an action: {task}"
            found.append(Picture(name, title, caption, lambda t=task: draw_quality(analysis, t), task))
    return found


def task_pictures(analysis: Analysis, seeds: str) -> list[Picture]:
    """The scores of one task each, for the page."""
    return [
        Picture(f"scores-{task}", task, _scores_caption(seeds), lambda t=task: draw_scores(analysis, [t]), task)
        for task in analysis.tasks
        if _with_results(analysis, task)
    ]


def _family_pictures(analysis: Analysis, family: Family, seeds: str, suffix: str) -> Iterator[Picture]:
    caption = (
        f"{len(family.tasks)} tasks together ({family.label}), with 95% stratified bootstrap intervals over seeds, "
        f"which come out too narrow with few seeds. {seeds}"
    )
    yield Picture(f"aggregates{suffix}", "All tasks together", caption, lambda: draw_aggregates(analysis, family))
    bands = "with 95% pointwise bands" if len(family.profiles) <= BANDS else "without bands, as they would hide it"
    side = "above" if family.higher_is_better else "below"
    caption = (
        f"Performance profile: the share of runs whose score lies {side} the threshold, tasks weighing the same, "
        f"{bands}. A curve that is higher everywhere is better. {seeds}"
    )
    yield Picture(f"profile{suffix}", "Performance profile", caption, lambda: draw_profiles(analysis, family))


def _scores_caption(seeds: str) -> str:
    return (
        "Large points: mean over seeds with its 95% interval (Student's t); below, in grey: single seeds, crosses for "
        f"diverged ones at the worst value. Orange: the baseline. {seeds}"
    )


def _with_results(analysis: Analysis, task: str) -> bool:
    return any(group.scores for group in groups_of(analysis, task))


def _higher(analysis: Analysis) -> bool:
    return all(group.metric.higher_is_better for group in analysis.groups.values())
