"""What a results folder holds, by suite: planned jobs, finished runs, failures, data."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from genpolicy.bench.suite import Suite, load_suite
from genpolicy.bench.workspace import Workspace
from genpolicy.errors import ConfigError

Run = dict[str, Any]
"""A row of the plan (key, suite, task, levels, seed), with its result if it has one."""
Levels = tuple[tuple[str, str], ...]
"""(factor, level) of each factor; in JSON a mapping."""


@dataclass(frozen=True)
class Study:
    """One suite's part of a results folder."""

    suite: Suite
    command: str
    """What makes the results, or those that are missing."""
    runs: tuple[Run, ...]
    """Finished and diverged ones, in the order of the plan."""
    planned: tuple[Run, ...]
    """Every row of the plan."""
    failed: tuple[Run, ...]
    """Rows whose job ended without a result, with state and error."""
    data: Mapping[str, Mapping[str, Any]]
    """By task: dataset, sha256, bytes, and generated (episodes or None)."""
    absent: Mapping[str, str]
    """By task: how to get its data, where they are missing."""

    @property
    def name(self) -> str:
        """Of the suite."""
        return self.suite.name

    @cached_property
    def missing(self) -> tuple[Run, ...]:
        """Planned rows that have neither a result nor a recorded failure, with the reason if it is known."""
        ended = {run["key"] for run in (*self.runs, *self.failed)}
        waiting = [row for row in self.planned if row["key"] not in ended]
        return tuple(row | {"error": self.absent.get(row["task"], "not run yet")} for row in waiting)


def load_studies(out: Path) -> dict[str, Study]:
    """Read a results folder.

    Args:
        out: the folder of `genpolicy bench run`.

    Returns:
        By name; more than one if the suite is a suite of suites.

    Raises:
        ConfigError: if it is no results folder, or a file in it cannot be read.
    """
    workspace = Workspace.open(out)
    settings, suite = workspace.settings, workspace.suite
    results, rows, failures = workspace.read_results(), list(workspace.rows()), workspace.failures()
    done = {run["key"] for run in results}
    failed = [row | failures[row["key"]] for row in rows if row["key"] in failures and row["key"] not in done]
    data, absent = workspace.data(), settings.get("missing") or {}
    command = command_of_suite(suite, out, settings, generate=any(facts["generated"] for facts in data.values()))
    studies = {}
    for part in suite.parts:
        ours = [tuple(one for one in group if one["suite"] == part.name) for group in (results, rows, failed)]
        studies[part.name] = Study(part, command, ours[0], ours[1], ours[2], data, absent)
    return studies


def command_of_suite(suite: Suite, out: Path, settings: Mapping[str, Any], *, generate: bool) -> str:
    """The command line of a results folder.

    Args:
        suite: as it was run.
        out: the folder.
        settings: of the plan; ``arguments`` are those of the command line, if they are recorded.
        generate: whether data are to be generated.
    """
    folder = f"{out.parent.name}/{out.name}" if out.is_absolute() else str(out)
    arguments, remark = settings.get("arguments"), ""
    if arguments is None:
        quick = not suite.included and suite.declaration == _shipped(suite.name, quick=True)
        arguments = ["--quick"] if quick else []
        if not quick and suite.declaration != _shipped(suite.name):
            remark = "  # with the changes recorded in suite.yaml"
    words = ["genpolicy", "bench", "run", suite.name, *map(str, arguments), "--out", folder]
    return shlex.join([*words, "--generate"] if generate else words) + remark


def _shipped(name: str, *, quick: bool = False) -> Any:
    try:
        return load_suite(name, quick=quick).declaration
    except ConfigError:  # a suite of the user's, or one without a miniature
        return None
