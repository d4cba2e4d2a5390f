"""The tasks that an agent can be trained and scored on: a dataset, an environment and the published discount.

Names are OGBench's own: ``<environment>-<dataset type>-singletask-task<n>-v0``, and without ``-task<n>`` the
default task of that environment. Each of the 47 state-based datasets published with OGBench 1.2 gives five
tasks and the alias. Discounts follow the FQL paper (arXiv:2502.02538): 0.995 for antmaze-giant, humanoidmaze
and antsoccer, 0.99 elsewhere; environments that the paper leaves out take 0.99.
"""

from dataclasses import dataclass

from genpolicy.errors import ConfigError, suggest


@dataclass(frozen=True)
class Task:
    """One offline-RL problem."""

    name: str
    """What users write, for example ``cube-single-play-singletask-task1-v0``."""
    source: str
    """The loader of its data (``ogbench``)."""
    dataset: str
    """The file stem of its data, for example ``cube-single-play-v0``."""
    environment: str
    """The Gymnasium id of its simulator, for example ``cube-single-singletask-task1-v0``."""
    discount: float
    """The published discount factor of one environment step."""
    metric: str
    """What its scores measure (``success``: share of episodes that reach the goal)."""
    summary: str
    """One line for people."""
    alias_of: str | None = None
    """The numbered task that a name without a number stands for; None for numbered tasks."""


# family, variants, dataset types, default task, discount, what is to be done
_FAMILIES: tuple[tuple[str, str, str, int, float, str], ...] = (
    (
        "pointmaze",
        "medium large giant teleport",
        "navigate stitch",
        1,
        0.99,
        "point mass to a goal, {} maze",
    ),
    (
        "antmaze",
        "medium large teleport",
        "navigate stitch explore",
        1,
        0.99,
        "quadruped to a goal, {} maze",
    ),
    ("antmaze", "giant", "navigate stitch", 1, 0.995, "quadruped to a goal, {} maze"),
    ("humanoidmaze", "medium large giant", "navigate stitch", 1, 0.995, "humanoid to a goal, {} maze"),
    ("antsoccer", "arena medium", "navigate stitch", 4, 0.995, "quadruped moves a ball to a goal, {} field"),
    ("cube", "single double triple quadruple", "play noisy", 2, 0.99, "robot arm arranges cubes ({})"),
    ("scene", "", "play noisy", 2, 0.99, "robot arm sets a cube, a drawer, a window and two buttons"),
    ("puzzle", "3x3 4x4", "play noisy", 4, 0.99, "robot arm solves a {} lights-out puzzle of buttons"),
    ("puzzle", "4x5 4x6", "play noisy", 2, 0.99, "robot arm solves a {} lights-out puzzle of buttons"),
)


def _build() -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    for family, variants, kinds, default, discount, goal in _FAMILIES:
        for variant in variants.split() or [""]:
            environment = f"{family}-{variant}" if variant else family
            for kind in kinds.split():
                for number in (None, 1, 2, 3, 4, 5):
                    suffix = "singletask-v0" if number is None else f"singletask-task{number}-v0"
                    title = f"default task (task {default})" if number is None else f"task {number}"
                    name = f"{environment}-{kind}-{suffix}"
                    tasks[name] = Task(
                        name=name,
                        source="ogbench",
                        dataset=f"{environment}-{kind}-v0",
                        environment=f"{environment}-{suffix}",
                        discount=discount,
                        metric="success",
                        summary=f"{goal.format(variant)}; {title}, '{kind}' data",
                        alias_of=None if number else f"{environment}-{kind}-singletask-task{default}-v0",
                    )
    return tasks


_TASKS = _build()


def get_task(name: str) -> Task:
    """Return the task called `name`.

    Raises:
        ConfigError: if there is no such task; the message gives the nearest names.
    """
    if name in _TASKS:
        return _TASKS[name]
    if name.startswith("visual-"):
        raise ConfigError(
            f"Task '{name}' has pixel observations, which are not supported yet. Use a task with state "
            f"observations.{suggest(name.removeprefix('visual-'), _TASKS)}"
        )
    raise ConfigError(
        f"Unknown task '{name}'.{suggest(name, _TASKS)} "
        f"{len(_TASKS)} tasks are known; `genpolicy list tasks` prints them."
    )


def list_tasks() -> list[Task]:
    """Return every known task, grouped by dataset; the default task comes before the numbered ones."""
    return list(_TASKS.values())
