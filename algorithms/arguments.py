"""Checks of learners' arguments: ValueError naming the owner, the argument and the value got."""

import math
from collections.abc import Sequence


def check_positive(owner: str, **numbers: float) -> None:
    """Positive and finite numbers."""
    for name, number in numbers.items():
        if not 0.0 < number < math.inf:
            raise ValueError(f"{owner}.{name} must be positive and finite, got {number}")


def check_not_negative(owner: str, **numbers: float) -> None:
    """Finite numbers of at least 0."""
    for name, number in numbers.items():
        if not 0.0 <= number < math.inf:
            raise ValueError(f"{owner}.{name} must be finite and at least 0, got {number}")


def check_discount(owner: str, discount: float) -> None:
    """A discount factor of returns that never end."""
    if not 0.0 <= discount < 1.0:
        raise ValueError(f"{owner}.discount must lie in [0, 1), got {discount}")


def check_smoothing(owner: str, **shares: float) -> None:
    """Shares of an online network that enter its target at each step."""
    for name, share in shares.items():
        if not 0.0 < share <= 1.0:
            raise ValueError(f"{owner}.{name} must lie in (0, 1], got {share}")


def check_choice(owner: str, name: str, value: object, choices: Sequence[object]) -> None:
    """One of several values."""
    if value not in choices:
        raise ValueError(f"{owner}.{name} must be one of {tuple(choices)}, got {value!r}")
