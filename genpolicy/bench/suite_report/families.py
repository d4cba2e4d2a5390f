"""Scores of several tasks put together."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from genpolicy.bench.statistics import (
    AGGREGATES,
    aggregate,
    bootstrap_seed,
    mean_over_tasks,
    performance_profile,
    probability_of_improvement,
)
from genpolicy.bench.suite_report.loading import Study
from genpolicy.bench.suite_report.records import Configuration, Difference, Family, Group

Groups = Mapping[tuple[str, Configuration], Group]


def find_families(
    study: Study,
    tasks: Sequence[str],
    configurations: Sequence[Configuration],
    groups: Groups,
    baselines: Mapping[Configuration, Configuration | None],
) -> Iterator[Family]:
    """The families of a study's tasks, with all their numbers; tasks whose metric has no common scale are in none.

    Args:
        study: whose name the bootstraps are seeded by.
        tasks: in their order.
        configurations: in their order.
        groups: the scores.
        baselines: what each configuration is compared with.
    """
    metrics = {task: group.metric for (task, _), group in groups.items()}
    names: dict[str, list[str]] = {}
    for task in tasks:
        metric = metrics[task]
        names.setdefault("score" if metric.name in ("success", "score") else metric.name, []).append(task)
    for name, members in names.items():
        metric = metrics[members[0]]
        if len(members) < 2 or (metric.target is None and not metric.is_ratio):
            continue
        scale = {task: metrics[task].target or _typical(task, groups) for task in members}
        if any(not value for value in scale.values()):
            continue
        family = Family(
            name,
            tuple(members),
            "score (0 to 100)" if name == "score" else f"{metric.label}, typical run of the task = 1",
            metric.higher_is_better,
            100.0 if name == "score" else 1.0,
            1 if name == "score" else 2,
            {task: float(value) for task, value in scale.items() if value},
            metric.target is not None,
            incomplete=tuple(one for one in configurations if not all(_has(groups, task, one) for task in members)),
        )
        _fill(family, study, configurations, groups, baselines)
        yield family


def _typical(task: str, groups: Groups) -> float | None:
    """The median score of all runs on a task: a unit for metrics that have no target."""
    values = np.concatenate([group.values for (name, _), group in groups.items() if name == task])
    return float(np.median(values)) if len(values) else None


def _has(groups: Groups, task: str, one: Configuration) -> bool:
    return (task, one) in groups and bool(groups[task, one].scores)


def _fill(
    family: Family,
    study: Study,
    configurations: Sequence[Configuration],
    groups: Groups,
    baselines: Mapping[Configuration, Configuration | None],
) -> None:
    complete = [one for one in configurations if one not in family.incomplete]
    scores = {one: [groups[task, one].values / family.scale[task] for task in family.tasks] for one in complete}
    if not scores:
        return
    everything = np.concatenate([np.concatenate(rows) for rows in scores.values()])
    thresholds = np.linspace(min(0.0, everything.min()), max(1.0, everything.max()), 41)
    better = family.higher_is_better
    for one, rows in scores.items():
        family.aggregates[one] = {
            statistic: aggregate(rows, statistic, seed=bootstrap_seed(study.name, family.name, statistic, one.levels))
            for statistic in AGGREGATES
            if family.has_target or statistic != "optimality_gap"
        }
        seed = bootstrap_seed(study.name, family.name, "profile", one.levels)
        family.profiles[one] = performance_profile(rows, thresholds, seed=seed, higher_is_better=better)
        base = baselines[one]
        if base is None or base not in scores:
            continue
        family.differences[one] = _over_tasks(family, groups, one, base)
        seed = bootstrap_seed(study.name, family.name, "improvement", one.levels)
        family.improvement[one] = probability_of_improvement(rows, scores[base], seed=seed, higher_is_better=better)


def _over_tasks(family: Family, groups: Groups, one: Configuration, base: Configuration) -> Difference:
    rows = []
    for task in family.tasks:
        ours, theirs = groups[task, one].scores, groups[task, base].scores
        rows.append([(ours[seed] - theirs[seed]) / family.scale[task] for seed in sorted(ours.keys() & theirs.keys())])
    seeds = min(map(len, rows))
    estimate = mean_over_tasks([np.array(row) for row in rows]) if seeds else None
    return Difference(estimate, seeds, family.higher_is_better)
