import numpy as np
import pytest

from envs.changes import LocationChange, TimedChange


def strikes(change, places, seed=0):
    rng = np.random.default_rng(seed)
    clock = change.begin(rng)
    return [change.strikes(clock, place, rng) for place in places]


def test_invariant_5_a_timed_change_after_exactly_80_steps():
    struck = np.flatnonzero(strikes(TimedChange(), [0.0] * 560))
    assert struck.tolist() == [80, 160, 240, 320, 400, 480]  # 7 segments


def test_a_probability_waits_on_after_the_steps():
    lengths = []
    for seed in range(400):
        struck = np.flatnonzero(strikes(TimedChange(steps=101, probability=0.1), [0.0] * 400, seed))
        lengths += np.diff([0, *struck]).tolist()
    lengths = np.array(lengths) - 101
    assert lengths.min() == 0
    assert lengths.mean() == pytest.approx(9.0, rel=0.1)  # of a geometric distribution


def test_invariant_5_marks_grow_by_their_distance_and_a_random_part():
    change, rng = LocationChange(distance=10.0, interval=2.0), np.random.default_rng(0)
    draws = iter(np.random.default_rng(0).random(20))
    clock = change.begin(rng)
    ahead, behind = 10 + 2 * next(draws), -10 - 2 * next(draws)
    assert clock == {"ahead": ahead, "behind": behind}
    assert change.strikes(clock, ahead, rng) == 0  # on the mark, not behind it
    assert change.strikes(clock, ahead + 0.01, rng) == 1
    ahead += 10 + 2 * next(draws)
    assert clock == {"ahead": ahead, "behind": behind}
    assert change.strikes(clock, ahead - 0.01, rng) == 0
    assert change.strikes(clock, behind - 0.01, rng) == -1
    behind -= 10 + 2 * next(draws)
    assert clock == {"ahead": pytest.approx(ahead), "behind": pytest.approx(behind)}


def test_marks_are_drawn_anew_each_time():
    rng = np.random.default_rng(0)
    marks = np.array([list(LocationChange(interval=2.0).begin(rng).values()) for _ in range(500)])
    assert 10 <= marks[:, 0].min() < 10.05 and 11.95 < marks[:, 0].max() <= 12
    assert -12 <= marks[:, 1].min() and marks[:, 1].max() <= -10
    assert abs(np.corrcoef(marks.T)[0, 1]) < 0.15


@pytest.mark.parametrize(
    ("kind", "arguments", "word"),
    [
        (TimedChange, {"steps": 0}, "steps"),
        (TimedChange, {"steps": 1.5}, "steps"),
        (TimedChange, {"probability": -0.1}, "probability"),
        (TimedChange, {"probability": 1.1}, "probability"),
        (LocationChange, {"distance": -1.0}, "distance"),
        (LocationChange, {"interval": "2"}, "interval"),
    ],
)
def test_bad_arguments_name_themselves(kind, arguments, word):
    with pytest.raises(ValueError, match=word):
        kind(**arguments)
