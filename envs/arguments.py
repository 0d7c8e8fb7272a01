"""Checks of constructor arguments: ValueError naming the argument and the value got."""

import math


def check_whole(argument: str, value: object, low: int, high: float = math.inf) -> None:
    """A whole number of at least `low`, and at most `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        most = "" if high == math.inf else f" and at most {high}"
        raise ValueError(
            f"{argument} must be a whole number of at least {low}{most}, got {value!r}"
        )


def check_number(argument: str, value: object, low: float = -math.inf) -> None:
    """A finite number of at least `low`."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or value < low:  # type: ignore[arg-type,operator]
        least = "" if low == -math.inf else f" of at least {low:g}"
        raise ValueError(f"{argument} must be a number{least}, got {value!r}")
