"""The table of runs that go on in the environment: what the online phase adds to the offline one."""

from statistics import mean

from genpolicy.bench.statistics import paired_difference, task_mean
from genpolicy.bench.suite_report.loading import Run
from genpolicy.bench.suite_report.records import Analysis, Difference, Group
from genpolicy.bench.suite_report.results import (
    INTERVAL,
    SEEDS,
    describe_seeds,
    factor_columns,
    level_cells,
    task_cells,
    task_columns,
    verdict_cells,
)
from genpolicy.bench.suite_report.tables import Cell, Column, Row, Table, interval

PHASES = ("offline", "online")


def online_table(analysis: Analysis) -> Table | None:
    """Each configuration at the end of both phases, and the difference; None if no run has both."""
    rows = []
    for task in analysis.tasks:
        for one in analysis.configurations:
            group = analysis.groups.get((task, one))
            averaged = analysis.study.suite.protocol.averaged(task)
            ends = {} if group is None else _ends(group, averaged)
            if group is None or not ends:
                continue
            before, after = ({seed: scores[phase] for seed, scores in ends.items()} for phase in PHASES)
            metric, episodes = group.metric, group.episodes
            difference = Difference(
                paired_difference(after, before, share_of=episodes), len(ends), metric.higher_is_better
            )
            cells = [
                *task_cells(analysis, task),
                *level_cells(analysis, one),
                *(
                    interval(task_mean(list(end.values()), share_of=episodes).scaled(metric.display), metric.digits)
                    for end in (before, after)
                ),
                *verdict_cells(difference, metric.display, metric.digits),
                Cell(f"{len(ends)}", len(ends)),
            ]
            rows.append(Row(tuple(cells), dict(one.levels) | {"task": task}))
    if not rows:
        return None
    columns = (
        *task_columns(analysis),
        *factor_columns(analysis),
        Column(f"offline end, {INTERVAL}", True, "Mean over seeds, after the offline phase.", "before", ends=True),
        Column(f"online end, {INTERVAL}", True, "Mean over the same seeds at the end of the run.", "after", ends=True),
        Column(f"gain, {INTERVAL}", True, "Mean of the differences, seed by seed.", "gain", ends=True),
        Column("statement", False, "Whether the interval of the gain excludes zero."),
        SEEDS,
    )
    note = (
        "Runs that go on learning in the environment, at the end of both phases: the mean of each phase's last "
        "evaluations, as many as the suite's protocol takes if the phase has so many. A gain compares a run with "
        "itself, not with as many further updates on the dataset. Diverged runs are left out. "
        f"{describe_seeds(analysis)}"
    )
    return Table("online", "Before and after the online phase", note, columns, tuple(rows))


def _ends(group: Group, averaged: int) -> dict[int, dict[str, float]]:
    """The score of each phase by seed, of completed runs that have both phases."""
    found = {int(run["seed"]): _scores(run, averaged) for run in group.runs if run["state"] == "completed"}
    return {seed: scores for seed, scores in sorted(found.items()) if len(scores) == len(PHASES)}


def _scores(run: Run, averaged: int) -> dict[str, float]:
    scores = {
        phase: [float(one["score"]) for one in run["evaluations"] if one.get("phase") == phase] for phase in PHASES
    }
    return {phase: mean(values[-averaged:]) for phase, values in scores.items() if values}
