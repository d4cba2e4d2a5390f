"""How far a suite is, as a table."""

import json
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from genpolicy.bench.workspace import Workspace, key_of, names_in

SHOWN_FAILURES = 5


def status_view(workspace: Workspace) -> RenderableType:
    """Jobs by suite or task, what runs now, and what failed; a failed job's error is read, no other file of a job."""
    status = workspace.status()
    return Group(_counts(workspace, set(status.running)), *_running(workspace, status.running), *_failures(workspace))


def _counts(workspace: Workspace, running: set[str]) -> Table:
    settings = workspace.settings
    finished, failed = workspace.finished(), names_in(workspace.failed)
    groups: dict[str, list[int]] = {}
    lines = workspace.plan_lines()
    by_suite = len({_quoted(line, 1) for line in lines}) > 1
    seen: set[tuple[str, str]] = set()
    for line in lines:
        key, group = key_of(line), _quoted(line, 1 if by_suite else 3)
        if (group, key) in seen:
            continue
        seen.add((group, key))
        row = groups.setdefault(group, [0] * 6)
        row[0] += 1
        if key in finished:
            row[2 if key in failed else 1] += 1
        else:
            row[4 if key in running else 3 if key in failed else 5] += 1
    title = f"{settings['suite']}: {workspace.path}"
    table = Table("suite" if by_suite else "task", title=title, title_justify="left")
    for column in ("jobs", "completed", "diverged", "failed", "running", "waiting"):
        table.add_column(column, justify="right")
    for group, row in groups.items():
        note = "" if group not in settings["missing"] else " (no data)"
        table.add_row(Text(group + note), *map(_number, row))
    if len(groups) > 1:
        table.add_section()
        table.add_row("all", *(_number(sum(row[index] for row in groups.values())) for index in range(6)))
    return table


def _running(workspace: Workspace, keys: tuple[str, ...]) -> list[RenderableType]:
    if not keys:
        return []
    table = Table("running", "task", "levels", "seed", "step", title_justify="left")
    for key in keys:
        row = workspace.row(key)
        levels = ", ".join(f"{factor}={level}" for factor, level in row["levels"].items())
        table.add_row(*map(Text, (key, row["task"], levels, str(row["seed"]), _step(workspace.runs / key))))
    return [table]


def _failures(workspace: Workspace) -> list[RenderableType]:
    shown: list[RenderableType] = []
    failures = workspace.failures()
    for key, record in list(failures.items())[:SHOWN_FAILURES]:
        times = f" after {record['attempts']} attempts" if record["attempts"] > 1 else ""
        shown.append(Text(f"{key} {record['state']}{times}: {record['error']}", style="red"))
    if len(failures) > SHOWN_FAILURES:
        shown.append(Text(f"and {len(failures) - SHOWN_FAILURES} more in {workspace.failed}", style="red"))
    return shown


def _step(run: Path) -> str:
    try:
        status: dict[str, Any] = json.loads((run / "status.json").read_bytes())
        return f"{status['step']:,}"
    except (OSError, ValueError, KeyError):
        return "begins"


def _quoted(line: bytes, number: int) -> str:
    """The value of one of the first four keys of a line of the plan, all of them text."""
    return line.split(b'"', 16)[4 * number + 3].decode()


def _number(count: int) -> str:
    return f"{count:,}" if count else ""
