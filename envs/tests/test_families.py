from functools import partial

import numpy as np
import pytest

from envs.families import disc, exponents, factors, fixed, repeated, signs, spaced, split, uniform

COUNTS = (10, 5)


def stream(seed=1337):
    return np.random.RandomState(seed)


def test_uniform_is_one_draw_that_is_split():
    train, test = uniform((0.0, 3.0), (100, 30), stream())
    assert train.shape == (100, 1) and test.shape == (30, 1)
    assert np.array_equal(np.concatenate([train, test])[:, 0], stream().uniform(0, 3, 130))
    assert not set(train[:, 0]) & set(test[:, 0])


def test_invariant_3_spaced_has_both_ends_and_disjoint_splits():
    train, test = spaced((1.0, 5.0), COUNTS, stream())
    values = np.concatenate([train, test])[:, 0]
    assert len(train) == 10 and len(test) == 5
    assert np.allclose(np.sort(values), np.linspace(1, 5, 15))
    assert not np.array_equal(np.sort(values), values)
    assert not np.array_equal(spaced((1.0, 5.0), COUNTS, stream(1))[0], train)
    assert np.array_equal(spaced((1.0, 5.0), COUNTS, stream())[0], train)


def test_spaced_on_an_axis():
    train, test = partial(spaced, axis=1, width=2)((-3.0, -1.0), COUNTS, stream())
    assert train.shape == (10, 2) and test.shape == (5, 2)
    assert not train[:, 0].any() and (train[:, 1] <= -1).all() and (test[:, 1] >= -3).all()


def test_disc_is_even_and_uniform_in_angle():
    train, test = disc((0.0, 3.0), (3000, 1000), stream())
    points = np.concatenate([train, test])
    radius = np.linalg.norm(points, axis=1)
    assert points.shape == (4000, 2) and radius.max() <= 3
    assert abs((radius < 1.5).mean() - 0.25) < 0.03
    assert np.abs(points.mean(0)).max() < 0.1


def test_repeated_and_signs():
    assert repeated((-1.0, -1.0), (2, 1), stream())[0].tolist() == [[-1.0], [-1.0]]
    train, test = signs((0.0, 0.0), (4, 3), stream())
    assert train[:, 0].tolist() == [-1, -1, 1, 1] and test[:, 0].tolist() == [-1, 1, 1]


def test_factors_and_exponents():
    train, test = factors((-7.0, 7.0), (4000, 10), stream())
    assert 0.0585 < train.min() < 0.07 and 15 < train.max() < 17.1 and len(test) == 10
    assert abs(np.median(np.log(train))) < 0.15
    train, test = exponents(4)((-3.0, 3.0), (3, 2), stream())
    assert np.array_equal(np.concatenate([train, test]), stream().uniform(-3, 3, (5, 4)))


def test_fixed_lists():
    train, test = fixed([1.0, -1.0])((0.0, 0.0), (0, 0), stream())
    assert train.tolist() == test.tolist() == [[1.0], [-1.0]]
    train, test = fixed(np.eye(4)[:3], np.eye(4)[3:])((0.0, 0.0), (0, 0), stream())
    assert train.shape == (3, 4) and test.tolist() == [[0, 0, 0, 1]]


def test_split():
    first, second = split(np.arange(6.0)[:, None], (4, 2))
    assert first[:, 0].tolist() == [0, 1, 2, 3] and second[:, 0].tolist() == [4, 5]


def test_invariant_11_numpys_global_generator_is_left_alone():
    np.random.seed(3)
    expected = np.random.random(4)
    np.random.seed(3)
    for draw in (uniform, spaced, disc, factors, exponents(3), signs):
        draw((0.5, 1.0), COUNTS, stream())
    assert np.array_equal(np.random.random(4), expected)


@pytest.mark.parametrize("draw", [uniform, spaced, disc, factors, exponents(3)])
def test_more_test_tasks_do_not_change_the_counts(draw):
    train, test = draw((1.0, 2.0), (7, 0), stream())
    assert len(train) == 7 and len(test) == 0
