"""A suite: what an ablation compares, on which tasks, with how many seeds, read from YAML and checked.

Suites are files of ``benchmarks/suites``, or files of your own. `genpolicy.bench.expansion` turns one into jobs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from genpolicy.data.tasks import get_task
from genpolicy.errors import ConfigError, suggest
from genpolicy.recipes import Tree, declarations, read_yaml

Levels = Mapping[str, str]
"""A level for each factor, or for some."""
Kind = Literal["train", "toy"]
"""What a job is: a training run, or one row of the toy study."""
Evaluations = Literal["last", "mean_of_last", "published"]
"""Which evaluations make a run's score; published: as the task's paper does."""
METRICS = ("task", "success", "score", "return")
"""What a suite can score runs by; task: the task's own metric."""


@dataclass(frozen=True)
class Protocol:
    """Which evaluations of a run make its score."""

    evaluations: Evaluations = "last"
    """``last``; ``mean_of_last``, the mean of `count`; ``published``, of as many as the task's protocol averages."""
    count: int = 1

    def averaged(self, task: str) -> int:
        """How many of the last evaluations are averaged on a task."""
        return len(get_task(task).protocol.evaluations) if self.evaluations == "published" else self.count


@dataclass(frozen=True)
class SuiteTask:
    """A task of a suite."""

    name: str
    overrides: tuple[str, ...] = ()
    """Of the jobs on this task, above the suite's base."""
    generate: int | None = None
    """Episodes to generate in place of the official data."""


@dataclass(frozen=True)
class Suite:
    """What is compared; made by `load_suite`, or `genpolicy.bench.suite_reading.read_suite`, which check it."""

    name: str
    title: str
    question: str
    kind: Kind = "train"
    tasks: tuple[SuiteTask, ...] = ()
    seeds: tuple[int, ...] = (0,)
    base: tuple[str, ...] = ()
    """Overrides of every job."""
    factors: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    """Factor -> level -> overrides."""
    combinations: tuple[Levels, ...] = ()
    """Cells beside the grid, or in its place; each names all factors."""
    grid: bool = True
    """Whether all combinations of levels are run."""
    exclude: tuple[Levels, ...] = ()
    """Partial cells that are left out of the grid; the key "task" may stand among the factors."""
    metric: str = "task"
    protocol: Protocol = Protocol()
    baseline: Levels = field(default_factory=dict)
    """The levels that others are compared with; may leave factors out."""
    references: tuple[str, ...] = ()
    study: Tree = field(default_factory=dict)
    """Of the kind toy: the toy study's own declaration."""
    included: tuple["Suite", ...] = ()
    declaration: Tree = field(default_factory=dict)
    """The plain values that it was read from; `read_suite` reads them again."""

    @property
    def parts(self) -> "tuple[Suite, ...]":
        """The suites that it includes, or itself alone."""
        return self.included or (self,)

    @cached_property
    def task_names(self) -> tuple[str, ...]:
        """The names of its tasks."""
        return tuple(task.name for task in self.tasks)


def suite_files() -> dict[str, Path]:
    """The shipped suites by name."""
    return {path.stem: path for path in sorted(declarations("suites").glob("*.yaml"))}


def find_suite(name: str) -> Path:
    """The file of a shipped suite, or of one of your own.

    Args:
        name: a name, or a path that ends in .yaml.

    Raises:
        ConfigError: for an unknown name (with the nearest ones), a file that is not there, and a file whose name is a
            shipped suite's but whose content is not.
    """
    shipped = suite_files()
    if not name.endswith((".yaml", ".yml")):
        if name not in shipped:
            raise ConfigError(
                f"Unknown suite '{name}'.{suggest(name, shipped)} Known: {', '.join(shipped) or 'none'}; "
                "or give the path of a suite that ends in .yaml."
            )
        return shipped[name]
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(f"There is no suite {path}.")
    ours = shipped.get(path.stem)
    if ours is not None and ours.read_bytes() != path.read_bytes():
        raise ConfigError(
            f"Two suites are called '{path.stem}': {path} and the library's {ours}. Rename yours; results of the two "
            "would be taken for one another."
        )
    return path


def load_suite(name: str, overrides: Sequence[str] = (), *, quick: bool = False) -> Suite:
    """Read and check a suite.

    Args:
        name: a name of `suite_files`, or a path that ends in .yaml.
        overrides: ``tasks=[a,b]``, ``seeds=4`` and ``factors.NAME=[level,level]`` restrict the suite; other
            ``key=value`` pairs go to every job's base.
        quick: lay the section ``quick`` over the rest.

    Raises:
        ConfigError: naming the file and what is wrong in it, or the override that does not fit.
    """
    from genpolicy.bench.suite_edits import edit, with_quick
    from genpolicy.bench.suite_reading import list_of_names, read_suite

    path = find_suite(name)
    tree = _read(path)
    parts = list_of_names(tree.get("include"), f"{path}: include")
    if parts:
        for key in tree:
            if key not in ("title", "question", "include"):
                raise ConfigError(
                    f"{path}: '{key}' cannot stand beside include. A suite of suites has no jobs of its own."
                )
        tree = {key: value for key, value in tree.items() if key != "include"}
        files = [find_suite(part) for part in parts]
        tree["parts"] = {file.stem: with_quick(_read(file), str(file)) for file in files}
        if len(tree["parts"]) < len(files):
            raise ConfigError(f"{path}: two of the suites in include have the same name.")
    elif quick:
        tree = with_quick(tree, str(path))
    tree = edit({key: value for key, value in tree.items() if key != "quick"}, overrides, str(path))
    return read_suite(path.stem, tree, str(path))


def _read(path: Path) -> Tree:
    return read_yaml(path.read_text(), str(path))
