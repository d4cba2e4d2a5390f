"""Confidence intervals of scores."""

import numpy as np
from scipy import stats


def share_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson interval of a share.

    Args:
        successes: how many of the trials succeeded.
        trials: number of trials.
        level: confidence level.

    Returns:
        Lower and upper end, in [0, 1].
    """
    interval = stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Student-t interval of a mean.

    Args:
        values: (n,) independent values; with n = 1 or without spread both ends are the mean.
        level: confidence level.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean
    half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean - half, mean + half
