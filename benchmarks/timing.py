"""Timing several systems in turn, so that a noisy machine is noisy for all of them."""

import statistics
import time
from collections.abc import Callable


def medians_of(
    systems: dict[str, Callable[[], object]], rounds: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Milliseconds of each call, all in turn; the first two rounds warm up."""
    times: dict[str, list[float]] = {name: [] for name in systems}
    for round_ in range(rounds + 2):
        for name, call in systems.items():
            start = time.perf_counter()
            call()
            if round_ >= 2:
                times[name].append(1000.0 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}, times
