"""The table of costs."""

from genpolicy.bench.suite_report.records import Analysis, Configuration
from genpolicy.bench.suite_report.results import (
    SEEDS,
    describe_seeds,
    factor_columns,
    level_cells,
    task_cells,
    task_columns,
)
from genpolicy.bench.suite_report.tables import Cell, Column, Row, Table, number


def cost_table(analysis: Analysis) -> Table:
    """What each configuration costs to train and to act with, beside its score."""
    metric = next(iter(analysis.groups.values())).metric if analysis.groups else None
    columns = (
        *task_columns(analysis),
        *factor_columns(analysis),
        Column("score", True, "Mean over seeds, in the unit of the task's metric."),
        Column("network evaluations per action", True, "Forward passes to generate one action."),
        Column("candidates", True, "Actions generated, of which the best is taken."),
        Column("actions per decision", True, "Length of the action chunk."),
        Column("ms per action", True, "Median time to choose an action for one observation."),
        Column("updates / s", True, "Training speed."),
        Column("minutes per run", True, "Wall time of a run, or of its group of seeds, evaluation included."),
        Column("evaluations, %", True, "Share of the training's wall time that went into evaluations."),
        Column("policy parameters", True),
        Column("critic parameters", True),
        SEEDS,
    )
    rows = []
    for (task, one), group in sorted(analysis.groups.items(), key=lambda item: _place(analysis, *item[0])):
        if not group.runs:
            continue
        mean, seconds, evaluating = group.mean, group.typical("seconds"), group.typical("evaluation_share")
        cells = [
            *task_cells(analysis, task),
            *level_cells(analysis, one),
            number(None if mean is None else mean.value * group.metric.display, group.metric.digits),
            *(number(group.typical(name), 0) for name in ("evaluations_per_action", "candidates", "action_chunk")),
            number(group.typical("act_milliseconds"), 2),
            number(group.typical("updates_per_second"), 0),
            number(None if seconds is None else seconds / 60, 1),
            number(None if evaluating is None else 100 * evaluating, 0),
            *(number(group.typical(name), 0) for name in ("policy_parameters", "critic_parameters")),
            Cell(f"{len(group.runs)}", len(group.runs)),
        ]
        rows.append(Row(tuple(cells), dict(one.levels) | {"task": task}))
    note = (
        "Medians over seeds. Times depend on the machine and on what else ran there; compare them roughly, and only "
        f"within this table. {_groups(analysis)}{describe_seeds(analysis) if metric else ''}"
    )
    return Table("costs", "What quality costs", note, columns, tuple(rows))


def _groups(analysis: Analysis) -> str:
    if all(run.get("together", 1) == 1 for run in analysis.study.runs):
        return ""
    return "Runs that were trained together share the minutes, and each did so many updates a second. "


def _place(analysis: Analysis, task: str, one: Configuration) -> tuple[int, int]:
    return analysis.tasks.index(task), analysis.configurations.index(one)
