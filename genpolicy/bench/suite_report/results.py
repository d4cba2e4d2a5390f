"""The tables of results: scores, differences, aggregates, costs, published references."""

from genpolicy.bench.suite_report.metrics import Metric
from genpolicy.bench.suite_report.published import published_cell, shows_published
from genpolicy.bench.suite_report.records import Analysis, Configuration, Difference, Family, Group
from genpolicy.bench.suite_report.tables import NOTHING, Cell, Column, Row, Table, interval, number

INTERVAL = "95% interval"
SEEDS = Column("seeds", True, "Number of training runs with different random seeds behind the row.", "seeds")


def score_tables(analysis: Analysis) -> list[Table]:
    """A table for each metric: mean over seeds with interval, and the difference to the baseline."""
    metrics = dict.fromkeys(group.metric for group in analysis.groups.values())
    return [_score_table(analysis, metric, alone=len(metrics) == 1) for metric in metrics]


def _score_table(analysis: Analysis, metric: Metric, *, alone: bool) -> Table:
    compared, published = bool(analysis.differences), bool(shows_published(analysis.study))
    columns = [
        *task_columns(analysis),
        *factor_columns(analysis),
        Column(f"{metric.label}, {INTERVAL}", True, f"Mean over seeds: {metric.meaning}.", "mean", ends=True),
    ]
    if compared:
        help = "Mean of the differences, seed by seed."
        columns.append(Column(f"minus baseline, {INTERVAL}", True, help, "difference", ends=True))
        columns.append(Column("statement", False, "Whether the interval of the difference excludes zero."))
    columns += [SEEDS, Column("by seed", False, "The score of each seed.")]
    if published:
        help = "Mean ± standard deviation as published, with another budget and other data."
        columns.append(Column("published, other budget", False, help))
    rows = []
    for task in analysis.tasks:
        for one in analysis.configurations:
            group = analysis.groups.get((task, one))
            if group is None or group.metric != metric:
                continue
            cells = [*task_cells(analysis, task), *level_cells(analysis, one), _mean_cell(group)]
            if compared:
                cells += _difference_cells(analysis, group)
            cells += _seed_cells(group)
            if published:
                cells.append(published_cell(group))
            rows.append(Row(tuple(cells), dict(one.levels) | {"task": task}))
    where = analysis.tasks[0] if len(analysis.tasks) == 1 else "one task"
    note = (
        f"Each row is one configuration on {where}: {metric.meaning}. {describe_seeds(analysis)} A diverged run "
        f"counts as the worst value ({_worst(metric)}) and is named."
    )
    title = "Scores on each task" if alone else f"Scores on each task: {metric.label}"
    return Table("scores" if alone else f"scores-{metric.name}", title, note, tuple(columns), tuple(rows))


def describe_seeds(analysis: Analysis) -> str:
    """A sentence with the numbers of seeds."""
    fewest, most = analysis.seeds.start, analysis.seeds.stop - 1
    if most == 0:
        return "No run has ended yet."
    count = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"Seeds per row: {count}."


def _worst(metric: Metric) -> str:
    if metric.worst is None:
        return "the worst of any run on the task"
    value = f"{metric.worst * metric.display:g}"
    return value if metric.is_share else f"{value}, or the worst of any run on the task"


def task_columns(analysis: Analysis) -> list[Column]:
    """A column for the task, if there are several."""
    return [Column("task")] if len(analysis.tasks) > 1 else []


def task_cells(analysis: Analysis, task: str) -> list[Cell]:
    """What goes into `task_columns`."""
    return [Cell(task)] if len(analysis.tasks) > 1 else []


def factor_columns(analysis: Analysis) -> list[Column]:
    """A column for each factor."""
    names = dict.fromkeys(factor for one in analysis.configurations for factor, _ in one.levels)
    return [Column(factor.replace("_", " "), False, "", factor) for factor in names] or [Column("configuration")]


def level_cells(analysis: Analysis, one: Configuration) -> list[Cell]:
    """What goes into `factor_columns`."""
    names = dict.fromkeys(factor for each in analysis.configurations for factor, _ in each.levels)
    return [Cell(one.level(factor) or NOTHING) for factor in names] or [Cell(one.label)]


def _mean_cell(group: Group) -> Cell:
    if group.mean is None:
        return Cell("no result", "", tone="muted")
    return interval(group.mean.scaled(group.metric.display), group.metric.digits)


def _seed_cells(group: Group) -> list[Cell]:
    count = f"{len(group.scores)}"
    if len(group.scores) < group.planned:
        count += f" of {group.planned}"
    if group.diverged:
        count += f", {len(group.diverged)} diverged"
    by_seed = ", ".join(
        "diverged" if seed in group.diverged else number(score * group.metric.display, group.metric.digits).text
        for seed, score in sorted(group.scores.items())
    )
    return [Cell(count, len(group.scores)), Cell(by_seed or NOTHING)]


def _difference_cells(analysis: Analysis, group: Group) -> list[Cell]:
    difference = analysis.differences.get((group.task, group.configuration))
    if difference is None:
        return [interval(None), _role(analysis, group.configuration)]
    if not group.scores:
        return [interval(None), Cell("no result", tone="muted")]
    return verdict_cells(difference, group.metric.display, group.metric.digits)


def _role(analysis: Analysis, one: Configuration) -> Cell:
    return Cell("baseline" if one in analysis.baselines.values() else NOTHING, tone="muted")


def verdict_cells(difference: Difference, display: float, digits: int) -> list[Cell]:
    """A difference with its interval, and what that supports."""
    shown = None if difference.estimate is None else difference.estimate.scaled(display)
    tone = ("good" if difference.is_better else "bad") if difference.is_supported else "muted"
    return [interval(shown, digits, sign=True), Cell(difference.verdict, tone=tone)]


# Across tasks


def aggregate_table(analysis: Analysis, family: Family) -> Table:
    """One number for all tasks, by four statistics, with the comparison to the baseline."""
    helps = {
        "iqm": "Interquartile mean: the mean of the middle half of all runs.",
        "median": "The median over tasks of each task's mean.",
        "mean": "The mean over tasks of each task's mean.",
        "optimality_gap": "How far runs stay below the target on average; lower is better.",
    }
    statistics = [name for name in helps if family.has_target or name != "optimality_gap"]
    titles = {"iqm": "IQM", "optimality_gap": "optimality gap"}
    columns = [*factor_columns(analysis)]
    for name in statistics:
        help = f"{helps[name]} Interval: stratified bootstrap over seeds."
        columns.append(Column(f"{titles.get(name, name)}, {INTERVAL}", True, help, name, ends=True))
    if family.differences:
        help = "Mean over tasks of the differences, seed by seed; Student's t with Welch-Satterthwaite's freedom."
        columns.append(Column(f"minus baseline, {INTERVAL}", True, help, "difference", ends=True))
        columns.append(Column("statement", False, "Whether the interval of the difference excludes zero."))
        help = "Probability that a run beats one of the baseline's on the same task; stratified bootstrap."
        columns.append(Column(f"better than baseline, {INTERVAL}", True, help, "improvement", ends=True))
    columns.append(SEEDS)
    rows = [_aggregate_row(analysis, family, one, statistics) for one in family.aggregates]
    note = (
        f"{len(family.tasks)} tasks together, on the scale: {family.label}. {describe_seeds(analysis)} The bootstrap's "
        "intervals hold for other seeds on these tasks, and come out too narrow with fewer than about 8 seeds; the "
        "statement therefore rests on the t interval of the paired differences."
    )
    if family.incomplete:
        names = ", ".join(one.label for one in family.incomplete)
        note += f" Left out, because a task has no result: {names}."
    name = "aggregates" if len(analysis.families) == 1 else f"aggregates-{family.name}"
    return Table(name, "All tasks together", note, tuple(columns), tuple(rows))


def _aggregate_row(analysis: Analysis, family: Family, one: Configuration, statistics: list[str]) -> Row:
    cells = level_cells(analysis, one)
    cells += [interval(family.aggregates[one][name].scaled(family.display), family.digits) for name in statistics]
    if family.differences:
        difference, improvement = family.differences.get(one), family.improvement.get(one)
        if difference is None:
            cells += [interval(None), _role(analysis, one)]
        else:
            cells += verdict_cells(difference, family.display, family.digits)
        cells.append(interval(improvement, 2))
    counts = [len(analysis.groups[task, one].scores) for task in family.tasks]
    text = f"{counts[0]}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    cells.append(Cell(f"{text} per task", min(counts)))
    return Row(tuple(cells), dict(one.levels))
