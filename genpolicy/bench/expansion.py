"""From a suite to its jobs: grid, combinations, exclusions, tasks and seeds."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genpolicy.bench.datasets import Locator
from genpolicy.bench.jobs import Cell, Job
from genpolicy.bench.suite import Levels, Suite, SuiteTask
from genpolicy.config import RunConfig, compose, offline_steps
from genpolicy.data.tasks import get_task
from genpolicy.errors import ConfigError

_NOT_FOR_OVERRIDES = ("task", "seed", "seeds", "vectorize", "run_dir", "resume")


def expand(suite: Suite, locator: Locator) -> list[Job]:
    """All jobs of a suite; every cell's first seed comes before any cell's second.

    Args:
        suite: with its parts.
        locator: finds the data.

    Raises:
        ConfigError: for overrides that do not fit, naming suite, factor and level, and an empty grid.
    """
    cells = [(cell, part.seeds) for part in suite.parts for cell in cells_of(part, locator)]
    longest = max(len(seeds) for _, seeds in cells)
    return [Job(cell, seeds[turn]) for turn in range(longest) for cell, seeds in cells if turn < len(seeds)]


def cells_of(suite: Suite, locator: Locator) -> list[Cell]:
    """The cells of one suite, each task's together.

    Raises:
        ConfigError: as `expand`.
    """
    if suite.kind == "toy":
        from genpolicy.bench.toy_jobs import toy_cells

        return toy_cells(suite)
    cells = [
        _cell(suite, task, levels, locator)
        for task in suite.tasks
        for levels in _combinations(suite)
        if not _excluded(suite, task.name, levels)
    ]
    if not cells:
        raise ConfigError(f"Suite '{suite.name}' is empty: its exclusions leave nothing of the grid.")
    return cells


def job_of_row(suite: Suite, row: dict[str, Any], data: Path | None, generated: Path) -> Job:
    """Make a job again from its line of the plan.

    Args:
        suite: the whole suite.
        row: the line.
        data: directory of official data, see `Locator`.
        generated: directory of generated data.

    Raises:
        ConfigError: if the suite has no such job.
    """
    part = next((part for part in suite.parts if part.name == row["suite"]), None)
    if part is None or row["task"] not in part.task_names:
        raise ConfigError(f"Suite '{suite.name}' has no job on {row['task']} of '{row['suite']}'.")
    task = part.tasks[part.task_names.index(row["task"])]
    if part.kind == "toy":
        from genpolicy.bench.toy_jobs import toy_cell

        return Job(toy_cell(part, task.name, row["levels"]["variant"]), row["seed"])
    if any(level not in part.factors.get(factor, {}) for factor, level in row["levels"].items()):
        raise ConfigError(f"Suite '{part.name}' has no job {row['levels']}.")
    return Job(_cell(part, task, row["levels"], Locator(data, generated)), row["seed"])


def _combinations(suite: Suite) -> Iterator[Levels]:
    """The grid, and the combinations that are not in it."""
    seen = set()
    grid = (dict(zip(suite.factors, levels, strict=True)) for levels in itertools.product(*suite.factors.values()))
    for levels in itertools.chain(grid if suite.grid else (), suite.combinations):
        if (identity := tuple(levels.items())) not in seen:
            seen.add(identity)
            yield levels


def _excluded(suite: Suite, task: str, levels: Levels) -> bool:
    whole = {**levels, "task": task}
    return any(all(whole[factor] == level for factor, level in cell.items()) for cell in suite.exclude)


def _cell(suite: Suite, task: SuiteTask, levels: Levels, locator: Locator) -> Cell:
    own = [text for factor, level in levels.items() for text in suite.factors[factor][level]]
    overrides = (f"task={task.name}", *suite.base, *task.overrides, *own)
    try:
        config = compose(overrides)
    except ConfigError as error:
        raise _explained(suite, task, levels, error) from error
    if any(text.partition("=")[0] in _NOT_FOR_OVERRIDES for text in overrides[1:]):
        raise ConfigError(
            f"Suite '{suite.name}': {', '.join(_NOT_FOR_OVERRIDES)} are not for overrides; tasks and seeds have keys, "
            "and `genpolicy bench run --vectorize` trains seeds together."
        )
    metric = suite.metric if suite.metric != "task" else get_task(task.name).metric
    averaged = suite.protocol.averaged(task.name)
    _check_evaluations(suite, task.name, levels, config, averaged)
    source = locator.find(config, task)
    return Cell(suite.name, suite.kind, task.name, tuple(levels.items()), overrides, config, source, metric, averaged)


def _check_evaluations(suite: Suite, task: str, levels: Levels, config: RunConfig, averaged: int) -> None:
    there = len(evaluation_steps(config))
    if there < averaged:
        raise ConfigError(
            f"Suite '{suite.name}': the protocol averages {averaged} evaluations, but a run of {dict(levels)} on "
            f"{task} has {there}. Set trainer.eval_every."
        )


def evaluation_steps(config: RunConfig) -> list[int]:
    """The steps at which a run is evaluated."""
    every, offline = config.trainer.eval_every, offline_steps(config)
    total = offline + config.trainer.online_steps
    if every == 0:
        return []
    return sorted({*range(every, total + 1, every), offline, total} - {0})


def _explained(suite: Suite, task: SuiteTask, levels: Levels, error: ConfigError) -> ConfigError:
    """Find out whose override is refused."""
    base = (f"task={task.name}", *suite.base)
    for overrides, whose in (
        (base, "base"),
        ((*base, *task.overrides), f"task {task.name}"),
        *(
            ((*base, *task.overrides, *suite.factors[factor][level]), f"factor '{factor}', level '{level}'")
            for factor, level in levels.items()
        ),
    ):
        try:
            compose(overrides)
        except ConfigError as own:
            return ConfigError(f"Suite '{suite.name}', {whose}: {own}")
    together = ", ".join(f"{factor}={level}" for factor, level in levels.items())
    return ConfigError(
        f"Suite '{suite.name}': the levels {together} do not go together on {task.name}: {error} "
        "Leave them out by `exclude`."
    )
