"""When OGBench's single-task environments look whether the goal is reached.

In a dataset the reward of a row is that of the row's own state s, in every version of OGBench. An environment steps
from s to s'. Until 1.1 it gave the reward, termination and success of s'; since 1.2.0 it gives those of s, to agree
with the data (OGBench's change log and caveats). Published results were measured with 1.1: ``post``, of the state
after the action. With ``pre``, of the state before it, an episode goes on for one step after the goal, and a goal that
is reached with the last step of the time limit does not count.
"""

import dataclasses
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from genpolicy.data.tasks import Task

_POST = "ogbench-post/"


def with_success_timing(task: "Task", timing: Literal["post", "pre"]) -> "Task":
    """The same task with an environment that judges the state after the action (``post``) or before it (``pre``).

    Tasks that are not OGBench's have rules of their own and are returned as they are.
    """
    if task.source != "ogbench":
        return task
    environment, _ = registered(task.environment)
    return dataclasses.replace(task, environment=f"{_POST}{environment}" if timing == "post" else environment)


def registered(environment: str) -> tuple[str, dict[str, str]]:
    """The gymnasium id that a task's environment is registered under, and the options to make it with."""
    if environment.startswith(_POST):
        return environment.removeprefix(_POST), {"success_timing": "post"}
    return environment, {}
