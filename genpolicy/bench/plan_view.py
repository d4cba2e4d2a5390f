"""What ``genpolicy bench plan`` and ``run`` print."""

from collections import Counter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from genpolicy.bench.estimates import Costs, identity
from genpolicy.bench.executors.local import available_cores
from genpolicy.bench.jobs import Job
from genpolicy.bench.runner import Outcome
from genpolicy.bench.suite import Suite

SHOWN_CELLS = 40


def print_plan(
    console: Console, suite: Suite, jobs: list[Job], finished: set[str], costs: Costs, workers: int | None
) -> None:
    """Print the first cells of a plan, what is finished, what it will cost, and what has no data."""
    keys = Counter(identity(job.cell) for job in jobs)
    table = Table("task", "levels", "seeds", "each", "estimate", title=suite.title, title_justify="left")
    cells = {identity(job.cell): job.cell for job in jobs}
    for key in list(cells)[:SHOWN_CELLS]:
        levels = ", ".join(f"{factor}={level}" for factor, level in key[2])
        cost = costs[key]
        table.add_row(*map(Text, (key[1], levels, str(keys[key]), in_words(cost.seconds), cost.how)))
    console.print(table, width=None if console.is_terminal else 160)
    if len(cells) > SHOWN_CELLS:
        console.print(f"and {len(cells) - SHOWN_CELLS:,} more (--json prints every job)")
    distinct = {job.key: job for job in jobs}
    missing = {job.task: job.cell.source.missing for job in jobs if job.cell.source.missing}
    left = [job for key, job in distinct.items() if key not in finished]
    without = sum(job.task in missing for job in left)
    shared = len(jobs) - len(distinct)
    console.print(
        f"{len(distinct):,} jobs{f' ({shared:,} more are the same as one of them)' if shared else ''}: "
        f"{len(distinct.keys() & finished):,} finished, {len(left):,} to run"
        f"{f', {without:,} of them as soon as there is data' if without else ''}.",
        highlight=False,
    )
    seconds, workers = sum(costs[identity(job.cell)].seconds for job in left), workers or available_cores()
    how = Counter(costs[identity(job.cell)].how for job in left)
    console.print(
        f"about {in_words(seconds)} of computing, {in_words(seconds / workers)} with {workers} at the same time; "
        f"estimates: {', '.join(f'{count:,} {name}' for name, count in how.items()) or 'none'}",
        highlight=False,
        soft_wrap=True,
    )
    for task, way in missing.items():
        console.print(f"no data for {task}: {way}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def print_outcome(console: Console, outcome: Outcome) -> None:
    """Print what a run came to."""
    status = outcome.status
    console.print(
        f"{status.completed + status.diverged:,} of {status.jobs:,} jobs have a result ({outcome.ran:,} new"
        f"{f', {status.diverged:,} diverged' if status.diverged else ''}): {outcome.path}",
        highlight=False,
        soft_wrap=True,
    )
    for key, error in outcome.failures.items():
        console.print(f"{key} failed: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    for task, way in outcome.missing.items():
        console.print(f"not run on {task}: {way}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def in_words(seconds: float) -> str:
    """A length of time as people say it."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
