"""Statistics over seeds and tasks: mean, interquartile mean, profiles, bootstrap intervals.

Interquartile means, profiles and stratified bootstrap intervals are those that Agarwal et al.,
"Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264), advise.
The widening for few seeds is in Hesterberg, "What Teachers Should Know About the Bootstrap" (arXiv
1411.5279).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Scores = NDArray[np.float64]
"""`[seeds, tasks]`; statistics take further axes in front."""
Statistic = Callable[[Scores], Any]
"""From `[*, seeds, tasks]` to `[*]`, or `[*, values]`."""

TRIMMED = 0.25
"""Share that the interquartile mean leaves out at either end."""
CHUNK = 2**21
"""Scores that are resampled at a time."""
FEW = 5
"""Seeds below which no interval holds what it says."""


class Estimate(NamedTuple):
    """A figure, its interval (nan if there is one seed) and how many seeds it is from."""

    value: float
    low: float
    high: float
    seeds: int


def mean(scores: Scores) -> Scores:
    """The mean over seeds and tasks."""
    result: Scores = scores.mean((-2, -1))
    return result


def iqm(scores: Scores) -> Scores:
    """The mean of the middle half of all scores, seeds and tasks together.

    With m scores floor(m / 4) are left out at either end, as in scipy's `trim_mean`. Near a ceiling
    it says less than the mean: it is 1 as soon as three quarters of the scores are.
    """
    flat = scores.reshape(*scores.shape[:-2], -1)
    size = flat.shape[-1]
    cut = int(TRIMMED * size)
    parted = np.partition(flat, (cut, size - cut - 1), axis=-1)
    result: Scores = parted[..., cut : size - cut].mean(-1)
    return result


def profile(scores: Scores, thresholds: NDArray[np.float64]) -> Scores:
    """The share of all scores above each threshold, `[*, thresholds]`."""
    flat = np.sort(scores.reshape(-1, scores.shape[-2] * scores.shape[-1]), axis=-1)
    below = np.stack([np.searchsorted(row, thresholds, side="right") for row in flat])
    shares: Scores = 1.0 - below / flat.shape[-1]
    return shares.reshape(*scores.shape[:-2], len(thresholds))


def interval(
    scores: Scores,
    statistic: Statistic = mean,
    *,
    level: float = 0.95,
    by_task: bool = False,
    resamples: int = 5_000,
    seed: int = 0,
) -> tuple[Any, Any]:
    """Lower and upper bound of the statistic by a stratified percentile bootstrap over seeds.

    Every resample holds as many scores of each task as there are seeds. There are two ways to draw:

    1. A seed's tasks go together, for one agent learnt them all, so that its luck is shared. The
       percentiles are those of `widened`, for a resample of n seeds varies less than n seeds do.
    2. `by_task`: the seeds of each task are drawn by themselves, and the percentiles are plain, as
       in Agarwal et al.: right if each task had agents of its own, too narrow if not.

    Args:
        scores: `[seeds, tasks]`.
        statistic: one value or several.
        level: share of such intervals that are to hold the true value.
        by_task: the second way.
        resamples: how many are drawn.
        seed: of the draws.

    Returns:
        nan if there is one seed only.

    Raises:
        ValueError: for scores of another shape or not finite, or a value out of range.
    """
    check(scores)
    if not 0.0 < level < 1.0 or resamples < 1:
        raise ValueError(f"interval: level {level!r} or resamples {resamples!r} is out of range")
    seeds = len(scores)
    if seeds == 1:
        nothing = np.full_like(statistic(scores), np.nan)
        return nothing[()], nothing[()]
    if statistic is mean and not by_task:
        scores = scores.mean(1, keepdims=True)  # the same, with less to draw
    values = np.concatenate(
        [statistic(part) for part in _resampled(scores, by_task, resamples, seed)]
    )
    tail = (1.0 - level if by_task else widened(1.0 - level, seeds)) / 2.0
    low, high = np.quantile(values, (tail, 1.0 - tail), axis=0)
    return low, high


def widened(tails: float, seeds: int) -> float:
    """The share outside to ask of percentiles, so that both errors of few seeds are made good.

    A bootstrap of n normal values has the deviation s sqrt((n - 1) / n) / sqrt(n) and the tails of
    a normal distribution, where s / sqrt(n) and those of Student's t are right.
    """
    reach = np.sqrt(seeds / (seeds - 1)) * stats.t.ppf(1.0 - tails / 2.0, seeds - 1)
    return float(2.0 * stats.norm.cdf(-reach))


def estimate(scores: Scores, statistic: Statistic = mean, *, by_task: bool = False) -> Estimate:
    """The statistic of scores `[seeds, tasks]` with its 95 % interval.

    Raises:
        ValueError: as `interval`.
    """
    low, high = interval(scores, statistic, by_task=by_task)
    return Estimate(float(statistic(scores)), float(low), float(high), len(scores))


def check(scores: Scores) -> None:
    """Raise ValueError for anything but finite scores `[seeds, tasks]`, one of each at least."""
    if scores.ndim != 2 or 0 in scores.shape or not np.isfinite(scores).all():
        raise ValueError(
            f"scores must be finite and [seeds, tasks], got {scores.shape} with "
            f"{int((~np.isfinite(scores)).sum())} not finite"
        )


def _resampled(scores: Scores, by_task: bool, resamples: int, seed: int) -> Iterator[Scores]:
    generator = np.random.default_rng(seed)
    seeds, tasks = scores.shape
    size = max(1, CHUNK // scores.size)
    for start in range(0, resamples, size):
        count = min(size, resamples - start)
        if by_task:
            drawn = generator.integers(seeds, size=(count, seeds, tasks))
            yield np.take_along_axis(scores[None], drawn, 1)
        else:
            yield scores[generator.integers(seeds, size=(count, seeds))]
