"""What an analysis consists of: configurations, their groups of seeds, differences, families of tasks."""

from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray

from genpolicy.bench.statistics import Estimate, Profile, task_mean
from genpolicy.bench.suite_report.loading import Levels, Run, Study
from genpolicy.bench.suite_report.metrics import Metric

SUPPORTED, UNSUPPORTED = "supported", "not supported by the intervals"


@dataclass(frozen=True)
class Configuration:
    """A combination of levels: a row of the tables."""

    levels: Levels
    label: str
    """Short: its levels."""
    description: str
    """In a sentence: its levels with their factors, if there are several factors."""

    def level(self, factor: str) -> str | None:
        """The level of a factor; None if the combination does not name it."""
        return dict(self.levels).get(factor)


@dataclass(frozen=True)
class Group:
    """The seeds of one configuration on one task."""

    task: str
    configuration: Configuration
    metric: Metric
    scores: dict[int, float]
    """By seed; a diverged run has the metric's worst value."""
    diverged: tuple[int, ...]
    """Seeds."""
    planned: int
    """Number of seeds that were to be run."""
    runs: tuple[Run, ...]

    @property
    def values(self) -> NDArray:
        """The scores in the order of the seeds, (N,)."""
        return np.array([self.scores[seed] for seed in sorted(self.scores)])

    @property
    def episodes(self) -> int | None:
        """Episodes behind each seed's score if it is a share of them."""
        counts = [run["episodes"] for run in self.runs if run.get("episodes")]
        return min(counts) if self.metric.is_share and counts else None

    @property
    def mean(self) -> Estimate | None:
        """Over seeds; None without a result."""
        return task_mean(self.values, share_of=self.episodes) if self.scores else None

    def typical(self, name: str) -> float | None:
        """Median over the seeds of a measured cost."""
        values = [float(run[name]) for run in self.runs if run.get(name) is not None]
        return median(values) if values else None


@dataclass(frozen=True)
class Difference:
    """A configuration minus its baseline."""

    estimate: Estimate | None
    """In the metric's unit, or on the common scale over tasks; None without a common seed or task."""
    seeds: int
    """Seeds (per task) that both have."""
    higher_is_better: bool

    @property
    def verdict(self) -> str:
        """What the interval says."""
        if self.estimate is None:
            return "no common seeds"
        if not self.estimate.has_interval:
            return "too few seeds for an interval" if self.seeds < 2 else "no spread: not decided"
        if not self.estimate.excludes(0.0):
            return UNSUPPORTED
        return f"{SUPPORTED}: {'better' if self.is_better else 'worse'}"

    @property
    def is_supported(self) -> bool:
        """Whether the interval excludes zero."""
        return self.verdict.startswith(f"{SUPPORTED}:")

    @property
    def is_better(self) -> bool:
        """Whether the difference points to the better side, supported or not."""
        return self.estimate is not None and (self.estimate.value > 0) == self.higher_is_better


@dataclass(frozen=True)
class Family:
    """Tasks whose scores can be put on one scale, and what follows for all of them together."""

    name: str
    tasks: tuple[str, ...]
    label: str
    """Of the common scale, with its unit."""
    higher_is_better: bool
    display: float
    digits: int
    scale: dict[str, float]
    """By task: the score that counts as 1."""
    has_target: bool
    aggregates: dict[Configuration, dict[str, Estimate]] = field(default_factory=dict)
    """Only of configurations with a result on every task."""
    profiles: dict[Configuration, Profile] = field(default_factory=dict)
    differences: dict[Configuration, Difference] = field(default_factory=dict)
    improvement: dict[Configuration, Estimate] = field(default_factory=dict)
    incomplete: tuple[Configuration, ...] = ()


@dataclass(frozen=True)
class Analysis:
    """All numbers of a study."""

    study: Study
    tasks: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    groups: dict[tuple[str, Configuration], Group]
    baselines: dict[Configuration, Configuration | None]
    """What each configuration is compared with; None for a baseline itself, or where there is none."""
    differences: dict[tuple[str, Configuration], Difference]
    families: tuple[Family, ...]

    @property
    def seeds(self) -> range:
        """Fewest and most seeds of a group with results, as ``range(fewest, most + 1)``."""
        counts = [len(group.scores) for group in self.groups.values() if group.scores] or [0]
        return range(min(counts), max(counts) + 1)
