"""From runs to numbers: scores per task, differences to the baseline, aggregates over tasks."""

import numpy as np

from genpolicy.bench.statistics import paired_difference
from genpolicy.bench.suite_report.families import find_families
from genpolicy.bench.suite_report.loading import Levels, Run, Study
from genpolicy.bench.suite_report.metrics import Metric, get_metric
from genpolicy.bench.suite_report.records import Analysis, Configuration, Difference, Group
from genpolicy.data.tasks import get_task
from genpolicy.errors import GenpolicyError


def analyse(study: Study) -> Analysis:
    """Compute everything that a report shows."""
    configurations = _configurations(study)
    by_levels = {configuration.levels: configuration for configuration in configurations}
    tasks = tuple(dict.fromkeys(job["task"] for job in study.planned))
    groups = _group(study, by_levels)
    baselines = {one: _baseline(one, study, by_levels) for one in configurations}
    differences = {
        (task, one): _difference(groups[task, one], groups[task, base])
        for (task, one) in groups
        if (base := baselines[one]) is not None and (task, base) in groups
    }
    families = tuple(find_families(study, tasks, configurations, groups, baselines))
    return Analysis(study, tasks, configurations, groups, baselines, differences, families)


def levels_of(job: Run) -> Levels:
    """The levels of a job in the order of the suite."""
    return tuple(job["levels"].items())


def _configurations(study: Study) -> tuple[Configuration, ...]:
    """Those planned, in the order of the declared levels."""
    found = dict.fromkeys(levels_of(job) for job in study.planned)
    used: dict[str, dict[str | None, None]] = {}
    for levels in found:
        for factor, level in levels:
            used.setdefault(factor, {})[level] = None
    varying = {factor for factor, names in used.items() if len(names) > 1} or set(used)
    order = {factor: list(levels) for factor, levels in study.suite.factors.items()}

    def place(levels: Levels) -> list[int]:
        chosen = dict(levels)
        return [names.index(chosen[f]) if chosen.get(f) in names else len(names) for f, names in order.items()]

    return tuple(_named(levels, varying, study.name) for levels in sorted(found, key=place))


def _named(levels: Levels, varying: set[str], suite: str) -> Configuration:
    chosen = [(factor, level) for factor, level in levels if factor in varying]
    label = " · ".join(level for _, level in chosen) or suite
    described = ", ".join(f"{factor.replace('_', ' ')} = {level}" for factor, level in chosen)
    return Configuration(levels, label, described if len(chosen) > 1 else label)


def _group(study: Study, by_levels: dict[Levels, Configuration]) -> dict[tuple[str, Configuration], Group]:
    planned: dict[tuple[str, Configuration], int] = {}
    for job in study.planned:
        name = job["task"], by_levels[levels_of(job)]
        planned[name] = planned.get(name, 0) + 1
    runs: dict[tuple[str, Configuration], list[Run]] = {name: [] for name in planned}
    observed: dict[str, list[float]] = {}
    for run in study.runs:
        runs[run["task"], by_levels[levels_of(run)]].append(run)
        if _is_finite(run):
            observed.setdefault(run["task"], []).append(float(run["score"]))
    metrics = {run["task"]: get_metric(run["metric"]) for run in study.runs}
    groups = {}
    for (task, one), chosen in runs.items():
        metric = metrics.get(task) or _declared_metric(study, task)
        failure = metric.failure(observed.get(task, ()))
        scores = {int(run["seed"]): float(run["score"]) if _is_finite(run) else failure for run in chosen}
        scores = {seed: score for seed, score in scores.items() if score is not None}
        diverged = tuple(sorted(int(run["seed"]) for run in chosen if not _is_finite(run)))
        groups[task, one] = Group(task, one, metric, scores, diverged, planned[task, one], tuple(chosen))
    return groups


def _declared_metric(study: Study, task: str) -> Metric:
    """The metric of a task without any result yet."""
    if study.suite.kind == "toy":
        return get_metric("W2" if task.startswith("cloning/") else "return")
    if study.suite.metric != "task":
        return get_metric(study.suite.metric)
    try:
        return get_metric(get_task(task).metric)
    except GenpolicyError:  # a Minari dataset that is not on this machine
        return get_metric("return")


def _is_finite(run: Run) -> bool:
    return run["state"] == "completed" and run.get("score") is not None and np.isfinite(float(run["score"]))


def _baseline(one: Configuration, study: Study, by_levels: dict[Levels, Configuration]) -> Configuration | None:
    """The same combination with the baseline's levels in place of its own."""
    wanted = tuple((factor, study.suite.baseline.get(factor, level)) for factor, level in one.levels)
    found = by_levels.get(wanted) if study.suite.baseline else None
    return None if found == one else found


def _difference(ours: Group, theirs: Group) -> Difference:
    episodes = ours.episodes if ours.episodes == theirs.episodes else None
    estimate = paired_difference(ours.scores, theirs.scores, share_of=episodes)
    return Difference(estimate, len(ours.scores.keys() & theirs.scores.keys()), ours.metric.higher_is_better)
