"""What a score measures: unit, direction, worst value, and the scale on which tasks are put together."""

from collections.abc import Iterable
from dataclasses import dataclass

from genpolicy.errors import ConfigError, suggest


@dataclass(frozen=True)
class Metric:
    """One kind of score."""

    name: str
    label: str
    """On axes and in headings, with its unit."""
    meaning: str
    """A sentence for a reader who has never seen it."""
    higher_is_better: bool = True
    display: float = 1.0
    """What a stored score is multiplied with to be shown."""
    digits: int = 3
    """After the point, as shown."""
    target: float | None = None
    """The stored score that counts as 1 when tasks are put together; None if there is none."""
    worst: float | None = None
    """The worst value; None where there is no bound."""
    is_ratio: bool = False
    """Without a target: whether tasks can be put together in units of the task's typical run."""

    @property
    def is_share(self) -> bool:
        """Whether a score is a share of episodes."""
        return self.name == "success"

    def failure(self, observed: Iterable[float]) -> float | None:
        """What a diverged run counts as: the worst value, or worse than that if a run on this task scored so.

        None if the metric has no bound and no run on the task ended well.

        Args:
            observed: scores of the runs on the same task that ended well.
        """
        pick = min if self.higher_is_better else max
        bounds = [] if self.worst is None else [self.worst]
        return pick([*bounds, *observed], default=None)


_ALL = (
    Metric(
        "success",
        "success rate (%)",
        "the share of test episodes in which the robot reached the goal, in per cent; 100 is best",
        display=100.0,
        digits=1,
        target=1.0,
        worst=0.0,
    ),
    Metric(
        "score",
        "normalised score",
        "the return of the test episodes on D4RL's scale, where 0 is a random policy and 100 an expert",
        digits=1,
        target=100.0,
        worst=0.0,
    ),
    Metric(
        "W2",
        "distance W2",
        "the 2-Wasserstein distance between what the policy generates and the true distribution, in units of the "
        "action; 0 is a perfect copy, lower is better",
        higher_is_better=False,
        is_ratio=True,
    ),
    Metric(
        "return",
        "return",
        "the sum of rewards of a test episode (in the toy study: the mean value of the generated actions); higher is "
        "better",
    ),
)
METRICS = {metric.name: metric for metric in _ALL}


def get_metric(name: str) -> Metric:
    """Return the metric called `name`.

    Raises:
        ConfigError: if there is none.
    """
    if name not in METRICS:
        raise ConfigError(f"Unknown metric '{name}'.{suggest(name, METRICS)} Known are {', '.join(METRICS)}.")
    return METRICS[name]
