"""Values by hand, from closed forms, and from enumerating every resample."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from genpolicy.bench.statistics import (
    Estimate,
    aggregate,
    bootstrap_seed,
    mean_over_tasks,
    paired_difference,
    performance_profile,
    probability_of_improvement,
    task_mean,
)
from genpolicy.errors import ConfigError

Z2 = stats.norm.ppf(0.975) ** 2
TWO_TASKS = [np.array([0.0, 1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0, 7.0])]


def ends(estimate):
    return estimate.low, estimate.high


# One task


def test_interval_of_three_seeds_is_students():
    estimate = task_mean([1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)  # t_0.975 with 2 degrees of freedom; the deviation is 1
    assert estimate.value == 2.0
    assert ends(estimate) == pytest.approx((2 - half, 2 + half))


def test_one_seed_has_no_interval():
    assert task_mean([0.3]) == Estimate(0.3)
    assert not task_mean([0.3], share_of=50).has_interval
    assert paired_difference({0: 1.0}, {0: 0.0}) == Estimate(1.0)


def test_success_rates_stay_between_zero_and_one():
    low, high = ends(task_mean([0.0, 0.02, 0.3], share_of=50))
    assert low == 0.0
    assert high < 1.0


def test_seeds_that_all_fail_get_wilsons_interval_over_their_episodes():
    assert ends(task_mean([0.0] * 4, share_of=20)) == pytest.approx((0.0, Z2 / (80 + Z2)))


def test_equal_values_that_are_no_shares_have_no_interval():
    assert task_mean([2.5, 2.5]) == Estimate(2.5)


def test_seeds_are_paired():
    # The seeds differ by 10 from one another and by 1 +- 0.1 from the baseline: only pairing shows it.
    ours, theirs = {0: 1.0, 1: 11.1, 2: 20.9, 7: 99.0}, {0: 0.0, 1: 10.0, 2: 20.0, 8: 0.0}
    estimate = paired_difference(ours, theirs)
    assert estimate is not None
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # of 1, 1.1, 0.9
    assert estimate.value == pytest.approx(1.0)
    assert ends(estimate) == pytest.approx((1 - half, 1 + half))
    assert estimate.excludes(0.0)


def test_no_common_seed_is_no_difference():
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_success_rates_that_differ_without_spread_get_newcombes_interval():
    estimate = paired_difference(dict.fromkeys(range(4), 1.0), dict.fromkeys(range(4), 0.0), share_of=20)
    assert estimate is not None
    far = math.sqrt(2) * Z2 / (80 + Z2)  # both Wilson intervals reach Z2 / (n + Z2) inwards
    assert estimate.value == 1.0
    assert ends(estimate) == pytest.approx((1 - far, 1.0))


def test_two_seeds_that_never_succeed_support_no_difference():
    estimate = paired_difference({0: 0.05, 1: 0.05}, {0: 0.0, 1: 0.0}, share_of=20)
    assert estimate is not None
    assert not estimate.excludes(0.0)


# Across tasks: values


def test_interquartile_mean_is_the_mean_of_the_middle_half():
    assert aggregate(TWO_TASKS, "iqm", seed=0, resamples=10).value == pytest.approx((2 + 3 + 4 + 5) / 4)
    # 5 runs: a quarter is 1.25, so that one run goes at either end, as in `scipy.stats.trim_mean`
    assert aggregate([np.array([0.0, 1.0, 2.0, 9.0, 90.0])], "iqm", seed=0, resamples=10).value == pytest.approx(4.0)


def test_median_and_mean_are_over_the_tasks_means():
    tasks = [np.array([0.0, 1.0]), np.array([2.0, 4.0]), np.array([100.0, 200.0, 300.0])]
    assert aggregate(tasks, "median", seed=0, resamples=10).value == pytest.approx(3.0)
    assert aggregate(tasks, "mean", seed=0, resamples=10).value == pytest.approx((0.5 + 3.0 + 200.0) / 3)


def test_optimality_gap_does_not_count_what_exceeds_the_target():
    tasks = [np.array([0.5, 3.0]), np.array([0.0, 1.0])]
    assert aggregate(tasks, "optimality_gap", seed=0, resamples=10).value == pytest.approx((0.25 + 0.5) / 2)


def test_improvement_counts_pairs_and_ties_by_half():
    first, second = [np.array([1.0, 2.0]), np.array([0.0, 0.0])], [np.array([0.0, 2.0]), np.array([1.0, 5.0])]
    # first task: 1>0, 1<2, 2>0, 2=2: 2.5 of 4; second: 0 of 4
    assert probability_of_improvement(first, second, seed=0, resamples=10).value == pytest.approx(0.625 / 2)
    lower = probability_of_improvement(first, second, seed=0, higher_is_better=False, resamples=10)
    assert lower.value == pytest.approx(1 - 0.625 / 2)


def test_improvement_is_the_mann_whitney_statistic_over_the_pairs():
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=7), rng.normal(size=5)
    expected = stats.mannwhitneyu(first, second).statistic / 35
    assert probability_of_improvement([first], [second], seed=0, resamples=10).value == pytest.approx(expected)


def test_profile_is_the_share_of_runs_above_the_threshold_with_equal_weight_of_tasks():
    tasks = [np.array([0.0, 1.0]), np.array([0.5, 0.5, 2.0, 2.0])]
    profile = performance_profile(tasks, np.array([-1.0, 0.0, 0.5, 1.5, 2.0]), seed=0, resamples=50)
    assert profile.share == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])  # "above" is strict
    assert profile.low is not None
    assert profile.high is not None
    assert (profile.low <= profile.share).all()
    assert (profile.share <= profile.high).all()
    below = performance_profile(tasks, np.array([0.5]), seed=0, higher_is_better=False, resamples=50)
    assert below.share == pytest.approx([0.25])


# Across tasks: intervals


def test_mean_over_two_tasks_is_welchs_interval():
    rng = np.random.default_rng(5)
    first, second = rng.normal(1, 0.1, size=4), rng.normal(2, 1.0, size=6)
    # (a + b) / 2 is half the difference of a and -b, for which SciPy has the interval
    expected = stats.ttest_ind(first, -second, equal_var=False).confidence_interval()
    estimate = mean_over_tasks([first, second])
    assert estimate.value == pytest.approx((first.mean() + second.mean()) / 2)
    assert ends(estimate) == pytest.approx((expected.low / 2, expected.high / 2))


def test_mean_over_one_task_is_students_interval():
    values = np.array([1.0, 2.0, 4.0])
    assert ends(mean_over_tasks([values])) == pytest.approx(ends(task_mean(values)))


def test_differences_over_tasks_without_seeds_or_spread_have_no_interval():
    assert not mean_over_tasks([np.array([1.0]), np.array([1.0, 2.0])]).has_interval
    assert not mean_over_tasks([np.array([1.0, 1.0])]).has_interval


@pytest.mark.parametrize("statistic", ["iqm", "median", "mean"])
def test_bootstrap_comes_to_the_quantiles_of_all_resamples(statistic):
    tasks = [np.array([0.0, 1.0, 5.0]), np.array([2.0, 2.5, 9.0])]
    resamples = [np.array(list(itertools.product(task, repeat=3))) for task in tasks]
    values = []
    for ours, theirs in itertools.product(*resamples):
        pooled, means = np.sort([*ours, *theirs]), (ours.mean(), theirs.mean())
        values.append({"iqm": pooled[1:-1].mean(), "median": np.median(means), "mean": np.mean(means)}[statistic])
    estimate = aggregate(tasks, statistic, seed=1, resamples=20_000)
    # 729 resamples of equal chance; the distribution is discrete, a step at its ends is up to a third of a unit.
    assert ends(estimate) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=0.34)


def test_bootstrap_keeps_the_tasks():
    # Drawn from all runs at once, the mean would lie between 0 and 1; within tasks nothing varies.
    estimate = aggregate([np.zeros(4), np.ones(4)], "mean", seed=0, resamples=100)
    assert ends(estimate) == (0.5, 0.5)


def test_bootstrap_of_one_seed_has_no_interval():
    tasks = [np.array([0.3]), np.array([0.1, 0.2])]
    assert not aggregate(tasks, "iqm", seed=0).has_interval
    assert not probability_of_improvement(tasks, tasks, seed=0).has_interval
    assert performance_profile(tasks, np.array([0.2]), seed=0).low is None


def test_bootstrap_depends_on_its_own_seed_alone():
    tasks = [np.random.default_rng(0).normal(size=5) for _ in range(3)]
    first = aggregate(tasks, "iqm", seed=1, resamples=200)
    np.random.seed(0)
    np.random.random(100)
    assert aggregate(tasks, "iqm", seed=1, resamples=200) == first
    assert aggregate(tasks, "iqm", seed=2, resamples=200) != first


def test_seed_of_a_bootstrap_is_the_same_everywhere():
    # The first four bytes of the SHA-256 of b"a\0b"
    assert bootstrap_seed("a", "b") == 0x59B271AE
    assert bootstrap_seed("a", "b") != bootstrap_seed("ab")


def test_intervals_of_few_seeds_cover_the_truth():
    rng = np.random.default_rng(0)
    trials, covered = 600, 0
    for _ in range(trials):
        rates = rng.beta(4, 6, size=4)  # the agents of four seeds differ
        covered += not task_mean(rng.binomial(50, rates) / 50, share_of=50).excludes(0.4)
    # 95% of 600 has a standard deviation of 0.9%; three of them
    assert covered / trials > 0.95 - 0.027


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ConfigError, match="worst value"):
        task_mean([0.1, math.nan])
    with pytest.raises(ConfigError, match="at least one"):
        task_mean([])
    with pytest.raises(ConfigError, match="iqm"):
        aggregate(TWO_TASKS, "trimmed", seed=0)
    with pytest.raises(ConfigError, match="same tasks"):
        probability_of_improvement(TWO_TASKS, TWO_TASKS[:1], seed=0)
