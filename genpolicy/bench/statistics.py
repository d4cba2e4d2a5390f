"""What can be said of scores of a few seeds: intervals, aggregates over tasks, profiles, paired differences.

The aggregates are those of Agarwal et al., *Deep Reinforcement Learning at the Edge of the Statistical Precipice*
(NeurIPS 2021, arXiv:2108.13264), with M tasks and the scores of task m in a row of seeds x_m1 ... x_mN:

    interquartile mean (IQM)    mean of the middle half of all x_mn
    median, mean                over tasks, of each task's mean over seeds
    optimality gap              mean over tasks and seeds of max(target - x_mn, 0)
    performance profile         F(tau) = 1/M sum_m 1/N sum_n [x_mn > tau]
    probability of improvement  1/M sum_m 1/(N K) sum_nk S(x_mn, y_mk),  S = 1 if x > y, 1/2 if equal, 0 if less

Their intervals are percentile intervals of a stratified bootstrap: seeds are drawn again within each task, tasks are
kept. They speak of other seeds on these tasks, not of other tasks.

**Why not rliable.** Its formulas are one line each on SciPy (`scipy.stats.trim_mean`, `scipy.stats.bootstrap` with one
sample per task), and its release 1.2.0 cannot be installed beside the rest: through ``arch`` it does not import beside
pandas 3, and its bootstrap draws from NumPy's global generator, so that an interval depends on what was computed
before it. Here every bootstrap has a generator of its own, seeded by what it is the interval of (`bootstrap_seed`).

**Why Student's t for one task.** A task has 2 to 10 seeds. The percentile bootstrap of so few values is too narrow
(nominal 95%, it covers the mean of 2 normal values in 50% of cases, of 3 in 75%, 5 in 82%, 8 in 89%); Student's t
keeps its level, also for success rates over 50 episodes. Wilson's interval is for the episodes of one trained agent
and says nothing of other seeds; it stands in only where seeds of a success rate show no spread at all (all 0 or all
1), from which t would wrongly conclude certainty. One seed has no interval. Differences to a baseline take t as well,
on differences paired by seed; the mean of them over tasks takes Welch and Satterthwaite's degrees of freedom, since a
bootstrap within tasks has the same weakness (80% instead of 95% for 5 tasks with 3 seeds), and statements rest on
these intervals.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from genpolicy.bench.intervals import mean_interval, share_interval
from genpolicy.errors import ConfigError

LEVEL = 0.95
"""Of all intervals."""
RESAMPLES = 2000
"""Of a bootstrap; an end then moves by some 1.5% of the interval's width from one seed of the bootstrap to another."""

Samples = Sequence[NDArray]
"""The scores of a configuration: for each task those of its seeds, (N_m,); numbers of seeds may differ."""


@dataclass(frozen=True)
class Estimate:
    """A number and its interval."""

    value: float
    low: float | None = None
    """Lower end; None where there are too few seeds for an interval."""
    high: float | None = None

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval."""
        return self.low is not None

    def excludes(self, value: float) -> bool:
        """Whether there is an interval and `value` lies outside it."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high

    def scaled(self, factor: float) -> "Estimate":
        """The same in another unit; factor > 0."""
        ends = [None if end is None else end * factor for end in (self.low, self.high)]
        return Estimate(self.value * factor, *ends)


# One task


def task_mean(values: Sequence[float] | NDArray, *, share_of: int | None = None) -> Estimate:
    """Mean over the seeds of one task, with Student's t interval.

    Args:
        values: (N,) a score per seed.
        share_of: for a success rate the episodes of each seed; the interval is then kept in [0, 1], and seeds without
            any spread get Wilson's over all their episodes.

    Returns:
        The mean; no interval for one seed, nor for equal values that are not shares.
    """
    values = _finite(values)
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean)
    if np.ptp(values) == 0:
        if share_of is None:
            return Estimate(mean)
        trials = share_of * len(values)
        return Estimate(mean, *share_interval(round(mean * trials), trials, LEVEL))
    low, high = mean_interval(values, LEVEL)
    return Estimate(mean, low, high) if share_of is None else Estimate(mean, max(low, 0.0), min(high, 1.0))


def paired_difference(
    first: Mapping[int, float], second: Mapping[int, float], *, share_of: int | None = None
) -> Estimate | None:
    """Mean of first - second over the seeds that both have, with Student's t interval of the differences.

    Seeds are paired because a seed fixes initial weights, batches and evaluation episodes of both.

    Args:
        first: score by seed.
        second: of the baseline.
        share_of: for success rates the episodes of each seed. Differences without any spread then get Newcombe's
            interval (1998, method 10), made of the two Wilson intervals.

    Returns:
        The difference, without interval for one common seed or equal differences; None without a common seed.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    ours, theirs = (_finite([scores[seed] for seed in seeds]) for scores in (first, second))
    difference = ours - theirs
    mean = float(difference.mean())
    if len(seeds) < 2:
        return Estimate(mean)
    if np.ptp(difference) > 0:
        return Estimate(mean, *mean_interval(difference, LEVEL))
    if share_of is None:
        return Estimate(mean)
    (low, high), (other_low, other_high) = (_wilson(values, share_of) for values in (ours, theirs))
    p, q = float(ours.mean()), float(theirs.mean())
    return Estimate(mean, mean - math.hypot(p - low, other_high - q), mean + math.hypot(high - p, q - other_low))


def _wilson(values: NDArray, episodes: int) -> tuple[float, float]:
    trials = episodes * len(values)
    return share_interval(round(float(values.mean()) * trials), trials, LEVEL)


# Across tasks


def mean_over_tasks(differences: Samples) -> Estimate:
    """Mean over tasks of each task's mean, with a t interval: for paired differences on a common scale.

    The variance is 1/M^2 sum_m s_m^2 / N_m; the degrees of freedom are Welch and Satterthwaite's.

    Args:
        differences: for each task the differences of its seeds, (N_m,).

    Returns:
        The mean; no interval if a task has one seed only, or nothing varies.
    """
    rows = [_finite(row) for row in differences]
    value = float(np.mean([row.mean() for row in rows]))
    if min(map(len, rows)) < 2:
        return Estimate(value)
    variances = np.array([row.var(ddof=1) / len(row) for row in rows])
    total = float(variances.sum())
    if total == 0.0:
        return Estimate(value)
    freedom = total**2 / float(sum(variance**2 / (len(row) - 1) for variance, row in zip(variances, rows, strict=True)))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, freedom)) * math.sqrt(total) / len(rows)
    return Estimate(value, value - half, value + half)


def _iqm(*tasks: NDArray, axis: int = -1) -> NDArray:
    return stats.trim_mean(np.concatenate(tasks, axis=axis), 0.25, axis=axis)


def _median(*tasks: NDArray, axis: int = -1) -> NDArray:
    return np.median(_task_means(tasks, axis), axis=0)


def _mean(*tasks: NDArray, axis: int = -1) -> NDArray:
    return np.mean(_task_means(tasks, axis), axis=0)


def _optimality_gap(*tasks: NDArray, axis: int = -1) -> NDArray:
    return _mean(*(np.maximum(1.0 - task, 0.0) for task in tasks), axis=axis)


def _task_means(tasks: Samples, axis: int) -> NDArray:
    return np.stack([task.mean(axis=axis) for task in tasks])


AGGREGATES: dict[str, Callable[..., NDArray]] = {
    "iqm": _iqm,
    "median": _median,
    "mean": _mean,
    "optimality_gap": _optimality_gap,
}
"""By name; all take an array per task and `axis`. The optimality gap is to 1."""


def aggregate(scores: Samples, statistic: str, *, seed: int, resamples: int = RESAMPLES) -> Estimate:
    """One number for all tasks, with its stratified bootstrap interval.

    Args:
        scores: on a scale that tasks share, 1 being the target of the optimality gap.
        statistic: a name of `AGGREGATES`.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        The number; no interval if a task has one seed only.

    Raises:
        ConfigError: if there is no such statistic, or no score.
    """
    if statistic not in AGGREGATES:
        raise ConfigError(f"Unknown statistic '{statistic}'; choose one of {', '.join(AGGREGATES)}.")
    rows, function = [_finite(row) for row in scores], AGGREGATES[statistic]
    if not rows:
        raise ConfigError("There are no scores to aggregate; give those of at least one task.")
    return _bootstrap(rows, function, seed, resamples)


def probability_of_improvement(
    first: Samples, second: Samples, *, seed: int, higher_is_better: bool = True, resamples: int = RESAMPLES
) -> Estimate:
    """Chance that a run of the first is better than one of the second on the same task, ties by half, mean over tasks.

    It is the Mann-Whitney statistic of each task divided by the number of pairs. 1/2 is no difference.

    Args:
        first: scores by task.
        second: of the same tasks in the same order.
        seed: of the bootstrap, which draws seeds of both independently.
        higher_is_better: whether a greater score is an improvement.
        resamples: of the bootstrap.
    """
    count, sign = len(first), 1 if higher_is_better else -1
    rows = [sign * _finite(row) for row in (*first, *second)]
    if count == 0 or len(rows) != 2 * count:
        raise ConfigError(f"The scores of {count} and {len(second)} tasks cannot be compared; give the same tasks.")

    def statistic(*tasks: NDArray, axis: int = -1) -> NDArray:
        wins = []
        for ours, theirs in zip(tasks[:count], tasks[count:], strict=True):
            difference = ours[..., :, None] - theirs[..., None, :]
            wins.append(0.5 * (1.0 + np.sign(difference)).mean(axis=(-2, -1)))
        return np.mean(np.stack(wins), axis=0)

    return _bootstrap(rows, statistic, seed, resamples)


@dataclass(frozen=True)
class Profile:
    """A performance profile."""

    thresholds: NDArray
    share: NDArray
    """Of runs that are better than the threshold, tasks weighing the same."""
    low: NDArray | None
    """Lower edge of the pointwise band; None if a task has one seed only."""
    high: NDArray | None


def performance_profile(
    scores: Samples, thresholds: NDArray, *, seed: int, higher_is_better: bool = True, resamples: int = RESAMPLES
) -> Profile:
    """Share of runs that are better than each threshold, with pointwise stratified bootstrap bands.

    Args:
        scores: on a scale that tasks share.
        thresholds: (T,).
        seed: of the bootstrap; all thresholds see the same resamples.
        higher_is_better: whether better is above the threshold or below it.
        resamples: of the bootstrap.
    """
    sign = 1 if higher_is_better else -1
    better = [(sign * _finite(row) > sign * thresholds[:, None]).astype(float) for row in scores]
    share = _mean(*better)
    if min(row.shape[-1] for row in better) < 2:
        return Profile(thresholds, share, None, None)
    return Profile(thresholds, share, *_resampled_interval(better, _mean, seed, resamples))


def bootstrap_seed(*names: object) -> int:
    """A seed that depends only on what the bootstrap is for: the same on every machine, whatever else is computed."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, names)).encode()).digest()[:4], "big")


def _bootstrap(rows: Samples, statistic: Callable[..., NDArray], seed: int, resamples: int) -> Estimate:
    value = float(statistic(*rows, axis=-1))
    if min(map(len, rows)) < 2:
        return Estimate(value)
    low, high = _resampled_interval(rows, statistic, seed, resamples)
    return Estimate(value, float(low), float(high))


def _resampled_interval(rows: Samples, statistic: Callable[..., NDArray], seed: int, resamples: int) -> tuple[Any, Any]:
    """Ends of the percentile interval when the seeds, the last axis, are drawn anew within each task."""
    cells = sum(row.size for row in rows)
    interval = stats.bootstrap(
        rows,
        statistic,
        n_resamples=resamples,
        batch=max(1, 4_000_000 // cells),  # keeps the resamples of all tasks in some 30 MB
        vectorized=True,
        axis=-1,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return interval.low, interval.high


def _finite(values: Sequence[float] | NDArray) -> NDArray:
    array = np.asarray(values, dtype=float)
    if array.size == 0 or not np.isfinite(array).all():
        raise ConfigError(
            f"Statistics need at least one score and only finite ones, not {array.tolist()}; give a diverged run the "
            "worst value of its metric."
        )
    return array
