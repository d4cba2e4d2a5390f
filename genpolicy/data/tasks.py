"""The tasks that an agent can be trained and scored on: a dataset, an environment and the published protocol.

**OGBench.** Names are OGBench's own: ``<environment>-<dataset type>-singletask-task<n>-v0``, and without ``-task<n>``
the default task of that environment. Each of the 82 datasets published with OGBench 1.2 for them, 47 with state
observations and 35 with pixels (``visual-...``), gives five tasks and the alias. Discounts follow the FQL paper
(arXiv:2502.02538): 0.995 for antmaze-giant, humanoidmaze and antsoccer, 0.99 elsewhere; environments that the paper
leaves out take 0.99.

**D4RL.** Names are D4RL's own: antmaze-v2, Adroit-v1, locomotion-v2 and kitchen-v0; the discount is 0.99. Where
D4RL's environment exists on today's MuJoCo the metric is D4RL's normalised score; `Task.difference` says what is not
as in D4RL.

**The 73 tasks** of the FQL paper, `Task.in_paper`, are those of its appendix E.1: 50 of OGBench's with states, 5 with
pixels, 6 of D4RL's antmaze and 12 of its Adroit. Other tasks take the protocol that the paper has for their kind.
"""

import dataclasses
from dataclasses import dataclass

from genpolicy.data.d4rl_catalogue import DATASETS, D4RLDataset
from genpolicy.errors import ConfigError, suggest


@dataclass(frozen=True)
class Protocol:
    """How the FQL paper (arXiv:2502.02538, appendix B) makes a number of a run: the mean of some evaluations."""

    updates: int
    """Offline updates of a run."""
    evaluations: tuple[int, ...]
    """The evaluations that are averaged, by their update."""
    episodes: int = 50
    """Episodes of one evaluation."""
    eval_every: int = 100_000
    """Updates between two evaluations."""
    seeds: int = 8
    """Runs that a published mean and deviation are over."""
    online: tuple[int, int] | None = (1_000_000, 2_000_000)
    """Offline-to-online: the steps at which the offline and the online phase end, each scored by the evaluation there;
    None where nothing is published."""

    def lengths(self, *, online: bool = False) -> dict[str, int]:
        """What it sets in the trainer's configuration.

        Args:
            online: whether the run has an online phase; its length is the run's own choice.
        """
        steps = self.online[0] if online and self.online else self.updates
        return {"steps": steps, "eval_every": self.eval_every, "eval_episodes": self.episodes}


OGBENCH_SERVER = "https://rail.eecs.berkeley.edu/datasets/ogbench"
"""Where OGBench's downloader fetches datasets."""

_OGBENCH_PROTOCOL = Protocol(1_000_000, (800_000, 900_000, 1_000_000))
_PIXEL_PROTOCOL = Protocol(500_000, (300_000, 400_000, 500_000), seeds=4, online=None)
_D4RL_PROTOCOL = Protocol(500_000, (500_000,))


@dataclass(frozen=True)
class Task:
    """One offline-RL problem."""

    name: str
    """What users write, for example ``cube-single-play-singletask-task1-v0``."""
    source: str
    """The loader of its data (``ogbench`` or ``d4rl``)."""
    dataset: str
    """The name of its data, for example ``cube-single-play-v0``."""
    environment: str
    """The Gymnasium id of its simulator, for example ``cube-single-singletask-task1-v0``."""
    discount: float
    """The published discount factor of one environment step."""
    metric: str
    """What its scores measure: ``success``, the share of episodes that reach the goal, or ``score``, the normalised
    return."""
    summary: str
    """One line for people."""
    protocol: Protocol
    """How published scores were measured."""
    alias_of: str | None = None
    """The numbered task that a name without a number stands for; None for numbered tasks."""
    reference_returns: tuple[float, float] | None = None
    """The returns that score 0 and 100; None if there is no normalised score."""
    difference: str | None = None
    """In what the environment differs from the one that published scores were measured in; None if in nothing."""
    pixels: bool = False
    """Whether observations are images, uint8 (64, 64, 3), instead of vectors."""
    in_paper: bool = False
    """Whether it is one of the 73 tasks of the FQL paper; a default task's numbered twin is, the alias is not."""

    @property
    def urls(self) -> tuple[str, ...]:
        """Where the official files of its data are; nothing for data that no loader of ours downloads."""
        if self.source == "ogbench":
            return tuple(f"{OGBENCH_SERVER}/{self.dataset}{split}.npz" for split in ("", "-val"))
        return (DATASETS[self.dataset].url,) if self.dataset in DATASETS else ()


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
_WITH_PIXELS = ("antmaze", "humanoidmaze", "cube", "scene", "puzzle")
# Of the FQL paper's datasets, all five tasks with states and task 1 with pixels.
_MANIPULATION_IN_PAPER = ("cube-single-play", "cube-double-play", "scene-play", "puzzle-3x3-play", "puzzle-4x4-play")
_STATES_IN_PAPER = (
    "antmaze-large-navigate",
    "antmaze-giant-navigate",
    "humanoidmaze-medium-navigate",
    "humanoidmaze-large-navigate",
    "antsoccer-arena-navigate",
    *_MANIPULATION_IN_PAPER,
)
_PIXELS_IN_PAPER = tuple(f"visual-{name}" for name in _MANIPULATION_IN_PAPER)


def _ogbench() -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    for pixels in (False, True):
        for family, variants, kinds, default, discount, goal in _FAMILIES:
            if pixels and family not in _WITH_PIXELS:
                continue
            for variant in variants.split() or [""]:
                environment = f"{'visual-' if pixels else ''}{family}{'-' if variant else ''}{variant}"
                for kind in kinds.split():
                    for number in (None, 1, 2, 3, 4, 5):
                        task = _ogbench_task(environment, kind, number, default, discount, goal.format(variant), pixels)
                        tasks[task.name] = task
    return tasks


def _ogbench_task(
    environment: str, kind: str, number: int | None, default: int, discount: float, goal: str, pixels: bool
) -> Task:
    data = f"{environment}-{kind}"
    suffix = "singletask-v0" if number is None else f"singletask-task{number}-v0"
    title = f"default task (task {default})" if number is None else f"task {number}"
    in_paper = (number == 1 and data in _PIXELS_IN_PAPER) or (number is not None and data in _STATES_IN_PAPER)
    return Task(
        name=f"{data}-{suffix}",
        source="ogbench",
        dataset=f"{data}-v0",
        environment=f"{environment}-{suffix}",
        discount=discount,
        metric="success",
        summary=f"{goal}; {title}, '{kind}' data{', pixels' if pixels else ''}",
        protocol=_PIXEL_PROTOCOL if pixels else _OGBENCH_PROTOCOL,
        alias_of=None if number else f"{data}-singletask-task{default}-v0",
        pixels=pixels,
        in_paper=in_paper,
    )


_ENGINE = "D4RL measured on MuJoCo 2.0 with mujoco-py, here it is the installed MuJoCo"

# family: what is to be done, what differs
_D4RL_FAMILIES: dict[str, tuple[str, str]] = {
    "antmaze": (
        "quadruped to a goal in a maze",
        f"the ant is OGBench's copy of D4RL's, and its success is not presented as a D4RL score; {_ENGINE}",
    ),
    "pen": ("hand turns a pen to a given orientation", _ENGINE),
    "hammer": ("hand drives a nail in with a hammer", _ENGINE),
    "door": ("hand unlatches and opens a door", _ENGINE),
    "relocate": ("hand carries a ball to a given place", _ENGINE),
    "hopper": ("one leg hops forward", f"Gymnasium's Hopper-v4, which has the rules of gym's v2; {_ENGINE}"),
    "halfcheetah": (
        "planar cheetah runs",
        f"Gymnasium's HalfCheetah-v4, which has the rules of gym's v2; {_ENGINE}",
    ),
    "walker2d": ("two legs walk", f"Gymnasium's Walker2d-v4, which has the rules of gym's v2; {_ENGINE}"),
    "kitchen": (
        "robot arm does four chores in a kitchen",
        "there is none: FrankaKitchen of gymnasium-robotics observes other numbers (59) than D4RL's (60)",
    ),
}


def _d4rl_task(dataset: D4RLDataset) -> Task:
    goal, difference = _D4RL_FAMILIES[dataset.family]
    kind = dataset.name.removeprefix(f"{dataset.family}-").rpartition("-")[0]
    scored = dataset.family != "antmaze"
    environment = dataset.family if scored else f"antmaze-{kind.partition('-')[0]}"
    return Task(
        name=dataset.name,
        source="d4rl",
        dataset=dataset.name,
        environment=f"d4rl/{environment}",
        discount=0.99,
        metric="score" if scored else "success",
        summary=f"{goal}; D4RL's '{kind}' data",
        protocol=_D4RL_PROTOCOL,
        reference_returns=dataset.reference_returns if scored else None,
        difference=difference,
        in_paper=dataset.family in ("antmaze", "pen", "door", "hammer", "relocate"),
    )


_TASKS = _ogbench() | {name: _d4rl_task(dataset) for name, dataset in DATASETS.items()}


def get_task(name: str) -> Task:
    """Return the task called `name`; ``minari:ID`` and ``minari:FOLDER`` make one for any Minari dataset.

    Raises:
        ConfigError: if there is no such task; the message gives the nearest names.
        DataError: if the metadata of a Minari dataset cannot be read.
    """
    if name in _TASKS:
        return _TASKS[name]
    if name.startswith("minari:"):
        from genpolicy.data.minari_metadata import make_task

        return make_task(name)
    raise ConfigError(
        f"Unknown task '{name}'.{suggest(name, _TASKS)} "
        f"{len(_TASKS)} tasks are known; `genpolicy list tasks` prints them."
    )


def with_legacy_d4rl(task: Task) -> Task:
    """The same task with data and environment of an installed ``d4rl`` package.

    Raises:
        ConfigError: if the task is not one of D4RL's.
    """
    if task.dataset not in DATASETS:
        raise ConfigError(
            f"data.backend=d4rl is for D4RL's tasks; '{task.name}' is one of {task.source}. Leave data.backend out."
        )
    return dataclasses.replace(
        task,
        source="d4rl-legacy",
        environment=f"d4rl-legacy/{task.dataset}",
        metric="score",
        reference_returns=DATASETS[task.dataset].reference_returns,
        difference=None,
    )


def list_tasks() -> list[Task]:
    """Return every known task, OGBench's first, by dataset; a default task comes before the numbered ones."""
    return list(_TASKS.values())
