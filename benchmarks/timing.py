"""Timing several systems in turn, so that a noisy machine is noisy for all of them."""

import statistics
import time
from collections.abc import Callable


def medians_of(
    systems: dict[str, Callable[[], object]],
    rounds: int,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Milliseconds of each call, all in turn; the first `warmup` rounds do not count."""
    times: dict[str, list[float]] = {name: [] for name in systems}
    for round_ in range(rounds + warmup):
        for name, call in systems.items():
            start = clock()
            call()
            if round_ >= warmup:
                times[name].append(1000.0 * (clock() - start))
    return {name: statistics.median(values) for name, values in times.items()}, times
