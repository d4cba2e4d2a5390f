"""Drawing of a report's figures."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from genpolicy.bench.statistics import Estimate
from genpolicy.bench.suite_report.records import Analysis, Configuration, Family, Group

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
"""After Okabe and Ito; readable on white and on dark grey with any colour vision."""
MARKERS, LINES = "osD^vP*X", ("-", "--", ":", "-.")
OURS, BASELINE, SEEDS = COLOURS[0], COLOURS[1], "#888888"
BANDS = 6
"""Profiles with bands in one picture; more hide one another."""


def groups_of(analysis: Analysis, task: str) -> list[Group]:
    """The groups of a task, in the order of the configurations."""
    return [analysis.groups[task, one] for one in analysis.configurations if (task, one) in analysis.groups]


def _is_baseline(analysis: Analysis, one: Configuration) -> bool:
    return one in analysis.baselines.values()


def _new(columns: int, rows: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    return figure, list(panels.flat)


# Scores


def draw_scores(analysis: Analysis, tasks: Sequence[str]) -> Figure:
    """A panel per task, a line per configuration: mean with interval, seeds below."""
    most = max(len(groups_of(analysis, task)) for task in tasks)
    columns = min(3, len(tasks))
    figure, panels = _new(columns, -(-len(tasks) // columns), 4.4, 0.9 + 0.27 * most)
    for panel in panels[len(tasks) :]:
        panel.set_axis_off()
    for panel, task in zip(panels, tasks, strict=False):
        groups = groups_of(analysis, task)
        for place, group in enumerate(groups):
            _score_line(panel, group, place, BASELINE if _is_baseline(analysis, group.configuration) else OURS)
        panel.set_yticks(range(len(groups)), [group.configuration.label for group in groups])
        panel.set_ylim(len(groups) - 0.4, -0.5)
        direction = "" if groups[0].metric.higher_is_better else " (lower is better)"
        panel.set_xlabel(groups[0].metric.label + direction)
        panel.set_title(task, fontsize=9)
        panel.grid(axis="x", alpha=0.3)
    return figure


def _score_line(panel: Axes, group: Group, place: int, colour: str) -> None:
    mean, unit = group.mean, group.metric.display
    if mean is None:
        panel.text(0.02, place, "no result", transform=panel.get_yaxis_transform(), va="center", fontsize=8)
        return
    ended = [group.scores[seed] * unit for seed in sorted(group.scores) if seed not in group.diverged]
    below = place + 0.26
    panel.scatter(ended, [below] * len(ended), color=SEEDS, s=8, zorder=2)
    panel.scatter(
        [group.scores[seed] * unit for seed in group.diverged],
        [below] * len(group.diverged),
        color=SEEDS,
        s=22,
        marker="x",
        zorder=2,
    )
    _estimate(panel, mean.scaled(unit), place, colour)


def _estimate(panel: Axes, shown: Estimate, place: float, colour: str) -> None:
    if shown.low is not None and shown.high is not None:
        panel.plot([shown.low, shown.high], [place, place], color=colour, linewidth=2, solid_capstyle="butt", zorder=3)
    panel.scatter([shown.value], [place], color=colour, s=30, zorder=4)


# All tasks together


def draw_aggregates(analysis: Analysis, family: Family) -> Figure:
    """A panel per statistic, a line per configuration."""
    names = {"iqm": "IQM", "median": "median", "mean": "mean", "optimality_gap": "optimality gap\n(lower is better)"}
    statistics = [name for name in names if any(name in row for row in family.aggregates.values())]
    figure, panels = _new(len(statistics), 1, 2.3, 1.0 + 0.27 * len(family.aggregates))
    figure.set_figwidth(figure.get_figwidth() + 1.2)
    for number, (panel, statistic) in enumerate(zip(panels, statistics, strict=True)):
        for place, (one, row) in enumerate(family.aggregates.items()):
            colour = BASELINE if _is_baseline(analysis, one) else OURS
            _estimate(panel, row[statistic].scaled(family.display), place, colour)
        labels = [one.label if number == 0 else "" for one in family.aggregates]
        panel.set_yticks(range(len(labels)), labels)
        panel.set_ylim(len(labels) - 0.5, -0.5)
        panel.set_title(names[statistic], fontsize=9)
        panel.grid(axis="x", alpha=0.3)
    figure.supxlabel(family.label + ("" if family.higher_is_better else ", lower is better"), fontsize=9)
    return figure


def draw_profiles(analysis: Analysis, family: Family) -> Figure:
    """A curve per configuration."""
    columns = 2 if len(family.profiles) < 9 else 3
    figure, (panel,) = _new(1, 1, 5.6, 2.9 + _legend_height(len(family.profiles), columns))
    for one, profile in family.profiles.items():
        colour, _, line = _look(analysis, one)
        thresholds = profile.thresholds * family.display
        panel.plot(thresholds, profile.share, line, color=colour, label=one.label, linewidth=1.6)
        if len(family.profiles) <= BANDS and profile.low is not None and profile.high is not None:
            panel.fill_between(thresholds, profile.low, profile.high, color=colour, alpha=0.15, linewidth=0)
    panel.set_xlabel(f"threshold: {family.label}")
    panel.set_ylabel("share of runs " + ("above" if family.higher_is_better else "below"))
    panel.set_ylim(-0.02, 1.02)
    panel.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    return figure


def _look(analysis: Analysis, one: Configuration) -> tuple[str, str, str]:
    """Colour, marker and line of a configuration, the same in every picture."""
    place = analysis.configurations.index(one)
    return COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], LINES[place // len(COLOURS) % len(LINES)]


# Quality and cost


def _passes(group: Group) -> float | None:
    steps = group.typical("evaluations_per_action")
    return None if steps is None else steps * (group.typical("candidates") or 1)


def costs_differ(analysis: Analysis) -> bool:
    """Whether configurations need different numbers of passes for an action."""
    return len({_passes(group) for group in analysis.groups.values()} - {None}) > 1


def draw_quality(analysis: Analysis, task: str) -> Figure:
    """Score of each configuration on a task, against passes of the network and against milliseconds."""
    costs = {
        "network evaluations per action": _passes,
        "milliseconds per action": lambda group: group.typical("act_milliseconds"),
    }
    groups = [group for group in groups_of(analysis, task) if group.scores]
    costs = {label: cost for label, cost in costs.items() if any(cost(group) is not None for group in groups)}
    columns = 2 if len(groups) < 9 else 3
    figure, panels = _new(len(costs), 1, 3.2, 2.9 + _legend_height(len(groups), columns))
    for panel, (label, cost) in zip(panels, costs.items(), strict=True):
        for group in groups:
            place, mean = cost(group), group.mean
            if place is None or mean is None:
                continue
            shown, (colour, marker, _) = mean.scaled(group.metric.display), _look(analysis, group.configuration)
            if shown.low is not None and shown.high is not None:
                panel.plot([place, place], [shown.low, shown.high], color=colour, linewidth=1.2, alpha=0.6)
            first = panel is panels[0]
            panel.scatter(
                [place],
                [shown.value],
                color=colour,
                marker=marker,
                s=34,
                zorder=3,
                label=group.configuration.label if first else None,
            )
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.margins(x=0.15)
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(groups[0].metric.label + ("" if groups[0].metric.higher_is_better else "\n(lower is better)"))
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    return figure


def _legend_height(entries: int, columns: int) -> float:
    return 0.2 + 0.17 * -(-entries // columns)
