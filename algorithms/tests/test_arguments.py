"""Tests of the checks of learners' arguments."""

import math

import pytest

from algorithms.arguments import (
    check_choice,
    check_discount,
    check_not_negative,
    check_positive,
    check_smoothing,
)

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (check_positive, [1e-9, 1, 1e9], [0.0, -1.0, INF, NAN]),
        (check_not_negative, [0, 0.5, 1e9], [-1e-9, INF, NAN]),
        (check_smoothing, [1e-9, 1.0], [0.0, 1.1, NAN]),
    ],
)
def test_ranges(check, good, bad):
    for number in good:
        check("Owner", first=0.5, second=number)
    for number in bad:
        with pytest.raises(ValueError, match=rf"^Owner\.second must .*, got {number}$"):
            check("Owner", first=0.5, second=number)


def test_discount():
    check_discount("Owner", 0.0)
    check_discount("Owner", 0.999)
    for number in (-0.1, 1.0, NAN):
        with pytest.raises(ValueError, match=rf"^Owner\.discount must lie .*, got {number}$"):
            check_discount("Owner", number)


def test_choice():
    check_choice("Owner", "mode", None, (None, "sum"))
    with pytest.raises(ValueError, match=r"^Owner\.mode must be one of \('sum',\), got 'mean'$"):
        check_choice("Owner", "mode", "mean", ("sum",))
