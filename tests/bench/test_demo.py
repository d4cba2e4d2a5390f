import numpy as np
import pytest

from genpolicy.bench.demo import summarise
from genpolicy.bench.intervals import mean_interval, share_interval


def test_share_interval_is_wilsons() -> None:
    """By hand: centre (p + z^2/2n) / (1 + z^2/n), half-width z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n)."""
    z, n, p = 1.959964, 20, 0.3
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5 / (1 + z**2 / n)
    assert share_interval(6, 20) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert share_interval(0, 100) == pytest.approx((0.0, 0.0369935), abs=1e-6)


def test_mean_interval_is_students() -> None:
    """Three values 1, 2, 3: mean 2, deviation 1, t(0.975, 2) = 4.302653."""
    half = 4.302653 / 3**0.5
    assert mean_interval(np.array([1.0, 2.0, 3.0])) == pytest.approx((2 - half, 2 + half), abs=1e-5)
    assert mean_interval(np.array([5.0])) == (5.0, 5.0)


def test_summary_pools_the_episodes_of_all_seeds() -> None:
    def score(success: float, episodes: int, mean_return: float) -> dict:
        return {"episodes": episodes, "metrics": {"success": {"mean": success}, "return": {"mean": mean_return}}}

    (row,) = summarise({"ours": [score(1.0, 30, -10.0), score(0.5, 10, -30.0)]})
    assert (row["success"], row["episodes"], row["by_seed"], row["return"]) == (35 / 40, 40, [1.0, 0.5], -20.0)
    assert (row["low"], row["high"]) == share_interval(35, 40)
