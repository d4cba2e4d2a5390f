"""In words: what the intervals support, and what a reader must be warned of."""

from collections.abc import Iterator

from genpolicy.bench.suite_report.data_facts import data_facts
from genpolicy.bench.suite_report.records import Analysis, Configuration, Difference, Family, Group
from genpolicy.bench.suite_report.tables import number
from genpolicy.data.tasks import get_task
from genpolicy.errors import GenpolicyError

FEW_SEEDS = 5
NAMED = 8
"""Findings that are written out; the others are counted."""


def conclude(analysis: Analysis) -> list[str]:
    """Sentences on what the intervals support and what they leave open."""
    if not any(group.scores for group in analysis.groups.values()):
        return ["No run has ended yet: there is nothing to conclude."]
    sentences: list[str] = []
    covered: set[str] = set()
    for family in analysis.families:
        if family.differences:
            sentences += _over_tasks(analysis, family)
            covered.update(family.tasks)
    for task in analysis.tasks:
        if task not in covered:
            sentences += _on_task(analysis, task)
    tests = sum(one.estimate is not None and one.estimate.has_interval for one in analysis.differences.values())
    if covered and tests:
        sentences += _by_task(analysis, covered)
    if tests > 1:
        sentences.append(
            f"{tests} comparisons on single tasks were made, each with a 95% interval: among that many, about "
            f"{max(1, round(0.05 * tests))} would look supported by luck alone even if nothing differed."
        )
    if not analysis.differences:
        sentences.append("The suite names no baseline with results, so that differences were not tested.")
    return sentences


def _over_tasks(analysis: Analysis, family: Family) -> Iterator[str]:
    where = f"Over the {len(family.tasks)} tasks together"
    yield from _findings(analysis, family.differences, where, family.display, family.digits, _unit(family.name))


def _on_task(analysis: Analysis, task: str) -> Iterator[str]:
    groups = [analysis.groups[task, one] for one in analysis.configurations if (task, one) in analysis.groups]
    chosen = {one: found for (name, one), found in analysis.differences.items() if name == task}
    if chosen:
        metric = groups[0].metric
        unit = _unit("score" if metric.is_share else metric.name)
        yield from _findings(analysis, chosen, f"On {task}", metric.display, metric.digits, unit)
    else:
        yield from _best(task, groups)


def _unit(name: str) -> str:
    return " points" if name == "score" else ""


def _findings(
    analysis: Analysis,
    differences: dict[Configuration, Difference],
    where: str,
    display: float,
    digits: int,
    unit: str,
) -> Iterator[str]:
    if not any(found.estimate is not None and found.estimate.has_interval for found in differences.values()):
        yield f"{where}, differences have no intervals (too few seeds), so that nothing can be concluded."
        return
    supported = {one: found for one, found in differences.items() if found.is_supported}
    ranked = sorted(
        supported.items(),
        key=lambda item: (not item[1].is_better, -abs(item[1].estimate.value if item[1].estimate else 0.0)),
    )
    for one, found in ranked[:NAMED]:
        base, estimate = analysis.baselines[one], found.estimate
        assert base is not None and estimate is not None
        shown = estimate.scaled(display)
        verb = "better" if found.is_better else "worse"
        size, low, high = (number(value, digits).text for value in (abs(shown.value), shown.low, shown.high))
        yield (
            f"{where}, {one.description} is {verb} than {base.description} by {size}{unit} (95% interval of the "
            f"difference: {low} to {high})."
        )
    if len(ranked) > NAMED:
        yield f"{where}, {len(ranked) - NAMED} further differences are supported; see the table."
    open_ = len(differences) - len(supported)
    if open_ and supported:
        plural = "differences are" if open_ > 1 else "difference is"
        yield (
            f"{where}, the other {open_} {plural} not supported by the intervals: neither a gain nor a loss is shown, "
            "nor that there is none."
        )
    elif open_:
        yield (
            f"{where}, no difference to the baseline is supported by the intervals: with this budget and these seeds "
            "nothing can be said to be better or worse, nor to be equal."
        )


def _by_task(analysis: Analysis, tasks: set[str]) -> Iterator[str]:
    chosen = [found for (task, _), found in analysis.differences.items() if task in tasks]
    better = sum(found.is_supported and found.is_better for found in chosen)
    worse = sum(found.is_supported and not found.is_better for found in chosen)
    yield (
        f"Task by task, {better} of {len(chosen)} comparisons are supported as better than the baseline, {worse} as "
        f"worse, and {len(chosen) - better - worse} are not supported."
    )


def _best(task: str, groups: list[Group]) -> Iterator[str]:
    scored = [(group, group.mean) for group in groups if group.mean is not None]
    if len(scored) < 2:
        return
    sign = 1 if scored[0][0].metric.higher_is_better else -1
    group, mean = max(scored, key=lambda item: sign * item[1].value if item[1] else 0.0)
    assert mean is not None
    value = number(mean.value * group.metric.display, group.metric.digits).text
    best = f"{group.configuration.description} has the best mean ({group.metric.label}: {value})"
    yield f"On {task}, {best}; differences were not tested."


def warn(analysis: Analysis) -> list[str]:
    """What limits the conclusions, each in a sentence."""
    return [
        *_incomplete(analysis),
        *_code(analysis),
        *_vectorized(analysis),
        *_few_seeds(analysis),
        *_data(analysis),
        *_budget(analysis),
    ]


def _incomplete(analysis: Analysis) -> Iterator[str]:
    study = analysis.study
    if study.missing:
        yield (
            f"{len(study.missing)} of {len(study.planned)} jobs have no result yet; they are listed below. Numbers can "
            "change when they are in."
        )
    failed = [run for run in study.failed if run.get("state") != "diverged"]
    if failed:
        yield f"{len(failed)} jobs failed for other reasons than the method (see below) and are in no number."
    diverged = sum(len(group.diverged) for group in analysis.groups.values())
    if diverged:
        yield (
            f"{diverged} runs diverged (a quantity became infinite or not a number). They count with the worst value "
            "of the metric, since a method that diverges has failed."
        )


def _code(analysis: Analysis) -> Iterator[str]:
    versions = {_version(run) for run in analysis.study.runs}
    if len(versions) > 1:
        yield (
            f"The results are from {len(versions)} versions of the code ({', '.join(sorted(versions))}). Differences "
            "may come from the code; run again with --old-results rerun for one version."
        )


def _vectorized(analysis: Analysis) -> Iterator[str]:
    runs = analysis.study.runs
    together = [run["together"] for run in runs if run.get("together", 1) > 1]
    if together:
        yield (
            f"{len(together)} of {len(runs)} runs were trained in groups of up to {max(together)} seeds (--vectorize). "
            "A run of a group is the run of its seed but for rounding, which training amplifies: scores of single "
            "seeds may differ from those of a run alone."
        )


def _version(run: dict) -> str:
    code = run.get("code") or {}
    return " ".join(str(code[name]) for name in ("version", "digest") if code.get(name)) or "unknown"


def _few_seeds(analysis: Analysis) -> Iterator[str]:
    fewest = analysis.seeds.start
    if fewest == 1:
        yield "Some rows have one seed: no interval can be given for them, and no difference is supported."
    elif 1 < fewest < FEW_SEEDS:
        yield (
            f"Some rows have only {fewest} seeds: intervals are wide, bootstrap intervals over tasks come out too "
            "narrow, and only large differences can be seen."
        )


def _data(analysis: Analysis) -> Iterator[str]:
    facts = data_facts(analysis.study)
    smaller = [one for one in facts if one.is_smaller]
    if smaller:
        yield (
            f"On {len(smaller)} of {len(facts)} tasks the data were generated here and are fewer than the official "
            "ones: scores are not comparable with published ones."
        )
    mixed = [one.task for one in facts if len(one.checksums) > 1]
    if mixed:
        yield f"Runs on {', '.join(mixed)} read different data (several checksums): they are not comparable."


def _budget(analysis: Analysis) -> Iterator[str]:
    shares = []
    for run in analysis.study.runs if analysis.study.suite.kind == "train" else ():
        try:
            shares.append(run["updates"] / get_task(run["task"]).protocol.updates)
        except (GenpolicyError, KeyError, TypeError):  # no such task on this machine, or a run that diverged
            continue
    if shares and max(shares) < 0.9:
        yield (
            f"Runs have at most {100 * max(shares):.2g}% of the updates of the published protocol: what is best here "
            "need not be best with the full budget."
        )
