import functools
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from runners.aggregates import check, estimate, interval, iqm, mean, profile, widened


def loop_iqm(values):
    """Sort, drop a quarter from either end, add up what is left."""
    ordered = sorted(values)
    cut = len(ordered) // 4
    kept = ordered[cut : len(ordered) - cut]
    return math.fsum(kept) / len(kept)


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (3, 2), (5, 10), (10, 50), (7, 3)])
def test_iqm_is_the_trimmed_mean(shape):
    rng = np.random.default_rng(sum(shape))
    for _ in range(20):
        scores = rng.normal(size=shape) ** 3
        assert abs(iqm(scores) - stats.trim_mean(scores, 0.25, axis=None)) < 1e-12
        assert abs(iqm(scores) - loop_iqm(scores.ravel().tolist())) < 1e-12


def test_closed_forms():
    scores = np.arange(12.0).reshape(3, 4)
    assert mean(scores) == 5.5 and iqm(scores) == 5.5
    scores[0, 0] = -1e6  # an outlier is trimmed away
    assert iqm(scores) == 5.5
    nearly = np.ones((4, 5))
    nearly[0] = 0.0
    assert iqm(nearly) == 1.0 and mean(nearly) == 0.75  # the ceiling: one seed of four failed
    batch = np.stack([scores, scores + 1.0])
    assert iqm(batch).tolist() == [5.5, 6.5] and mean(batch).shape == (2,)


def test_profile_counts_what_is_above():
    scores = np.array([[0.0, 0.5], [0.5, 1.0]])
    thresholds = np.array([-1.0, 0.0, 0.5, 0.9, 1.0])
    assert profile(scores, thresholds).tolist() == [1.0, 0.75, 0.25, 0.25, 0.0]
    rng = np.random.default_rng(0)
    batch = rng.uniform(size=(3, 4, 5))
    expected = [[np.mean(one > t) for t in thresholds] for one in batch]
    np.testing.assert_allclose(profile(batch, thresholds), expected, atol=1e-12)


def test_bootstrap_of_three_seeds_by_enumeration():
    """All 27 resamples of three seeds, tasks drawn with them: the draws cover exactly these."""
    scores = np.array([[0.1, 0.4], [0.2, 0.9], [0.7, 0.3]])
    means = sorted(scores[list(rows)].mean() for rows in itertools.product(range(3), repeat=3))
    low, high = interval(scores, level=1 - 1e-9)
    assert low == pytest.approx(means[0], abs=1e-12) and high == pytest.approx(means[-1], abs=1e-12)
    low, high = interval(scores, level=0.5, by_task=False, resamples=200_000)
    tail = widened(0.5, 3) / 2
    expected = np.quantile(means, [tail, 1 - tail], method="inverted_cdf")
    assert [low, high] == pytest.approx(expected, abs=1e-9)


def test_mean_of_one_axis_or_two_is_the_same():
    scores = np.random.default_rng(3).normal(size=(6, 4))
    slow = interval(scores, lambda one: one.mean((-2, -1)))
    assert interval(scores) == pytest.approx(slow, abs=1e-12)


def test_drawing_by_task_keeps_the_strata():
    """Each task's scores stay its own: with one score a task, nothing varies."""
    scores = np.tile(np.arange(5.0), (4, 1))
    assert interval(scores, by_task=True) == pytest.approx((2.0, 2.0), abs=1e-12)
    assert interval(scores, iqm) == pytest.approx((2.0, 2.0), abs=1e-12)


def test_width_of_a_normal_sample():
    """Mean, many seeds: 1.96 s / sqrt(n), whichever way is drawn."""
    scores = np.random.default_rng(1).normal(size=(400, 1))
    expected = 2 * 1.96 * scores.std() / 20
    for by_task in (False, True):
        low, high = interval(scores, by_task=by_task, resamples=4000)
        assert high - low == pytest.approx(expected, rel=0.06)


def test_widened_percentiles():
    assert widened(0.05, 10_000) == pytest.approx(0.05, rel=1e-2)
    reach = math.sqrt(10 / 9) * stats.t.ppf(0.975, 9)
    assert widened(0.05, 10) == pytest.approx(2 * stats.norm.cdf(-reach), rel=1e-12)
    assert all(widened(0.05, n) < widened(0.05, n + 1) for n in range(2, 30))


def coverage(statistic, seeds, tasks, shared, runs=600, **arguments):
    """How often the interval holds 0, the truth; seeds share a part of their luck over tasks."""
    rng, hits = np.random.default_rng(7), 0
    base = np.linspace(-1.0, 1.0, tasks) if tasks > 1 else np.zeros(1)
    for _ in range(runs):
        luck = rng.normal(size=(seeds, 1)) * shared**0.5
        own = rng.normal(size=(seeds, tasks)) * (1 - shared) ** 0.5
        low, high = interval(base + luck + own, statistic, resamples=500, **arguments)
        hits += low <= 0.0 <= high
    return hits / runs


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_coverage_of_the_mean_is_95_percent(shared):
    assert coverage(mean, seeds=10, tasks=10, shared=shared) == pytest.approx(0.95, abs=0.02)


def test_coverage_of_the_iqm_is_95_percent():
    rate = coverage(iqm, seeds=10, tasks=5, shared=0.5, runs=500)
    assert rate == pytest.approx(0.95, abs=0.02)


def test_drawing_by_task_covers_only_if_tasks_are_independent():
    rate = functools.partial(coverage, mean, seeds=10, tasks=10, by_task=True, runs=300)
    assert rate(shared=0.0) > 0.91 and rate(shared=0.5) < 0.7


def test_one_seed_has_no_interval():
    found = estimate(np.array([[0.3, 0.5]]))
    assert found.value == 0.4 and math.isnan(found.low) and math.isnan(found.high)
    assert found.seeds == 1


def test_the_same_draws_give_the_same_interval():
    scores = np.random.default_rng(5).normal(size=(5, 3))
    assert interval(scores) == interval(scores) != interval(scores, seed=1)


@pytest.mark.parametrize("scores", [np.zeros(3), np.zeros((0, 2)), np.array([[np.nan]])])
def test_bad_scores_are_refused(scores):
    with pytest.raises(ValueError, match="scores must be finite and"):
        check(scores)


def test_bad_level():
    with pytest.raises(ValueError, match="level 1.0"):
        interval(np.zeros((3, 1)), level=1.0)
