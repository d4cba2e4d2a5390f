"""What must hold between the parts of a suite."""

from collections.abc import Mapping

from genpolicy.bench.suite import METRICS, Levels, Suite
from genpolicy.data.tasks import get_task
from genpolicy.errors import ConfigError, suggest

RESERVED = ("task", "seed")


def check_suite(suite: Suite, where: str) -> Suite:
    """Check a suite and return it, with combinations completed by the baseline's levels.

    Raises:
        ConfigError: naming file, factor and level.
    """
    if not suite.tasks:
        raise ConfigError(f"{where}: there are no tasks. Give tasks: [NAME, ...], or tasks: paper.")
    if suite.kind == "train":
        for task in suite.task_names:
            try:
                get_task(task)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from error
    if suite.metric not in METRICS:
        raise ConfigError(f"{where}: metric is {suite.metric!r}; allowed: {', '.join(METRICS)}.")
    if unknown := [name for name in suite.references if name != "published"]:
        raise ConfigError(f"{where}: references names {unknown[0]!r}; known: published.")
    for factor in suite.factors:
        if factor in RESERVED:
            raise ConfigError(f"{where}: a factor cannot be called '{factor}'; tasks and seeds have keys of their own.")
    _check_levels(suite, suite.baseline, f"{where}: baseline")
    for cell in suite.exclude:
        _check_levels(suite, cell, f"{where}: exclude", task=True)
        if not cell:
            raise ConfigError(f"{where}: exclude has an empty entry, which would exclude everything.")
    combinations = tuple(_completed(suite, cell, f"{where}: combinations") for cell in suite.combinations)
    return suite if combinations == suite.combinations else _with_combinations(suite, combinations)


def _check_levels(suite: Suite, cell: Levels, where: str, *, task: bool = False) -> None:
    for factor, level in cell.items():
        if factor == "task" and task:
            _check_name(level, suite.task_names, f"{where}: unknown task")
            continue
        _check_name(factor, suite.factors, f"{where}: unknown factor")
        _check_name(level, suite.factors[factor], f"{where}: factor '{factor}' has no level")


def _check_name(name: str, known: Mapping[str, object] | tuple[str, ...], problem: str) -> None:
    if name not in known:
        raise ConfigError(f"{problem} '{name}'.{suggest(name, known)} Known: {', '.join(known) or 'none'}.")


def _completed(suite: Suite, cell: Levels, where: str) -> Levels:
    _check_levels(suite, cell, where)
    whole = {**suite.baseline, **cell}
    if missing := [factor for factor in suite.factors if factor not in whole]:
        raise ConfigError(
            f"{where}: {dict(cell)} names no level of '{missing[0]}', and neither does the baseline. Name one."
        )
    return {factor: whole[factor] for factor in suite.factors}


def _with_combinations(suite: Suite, combinations: tuple[Levels, ...]) -> Suite:
    import dataclasses

    return dataclasses.replace(suite, combinations=combinations)
