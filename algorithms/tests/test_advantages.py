"""Returns, advantages and weighted means against loops over episodes of their own lengths."""

import pytest
import torch

from algorithms.advantages import (
    discounted_sums,
    generalized_advantages,
    normalized,
    returns_to_go,
    weighted_mean,
)

TASKS, EPISODES, TIME = 3, 4, 9


@pytest.fixture
def data():
    """Rewards, values and mask `[tasks, episodes, time]`; rubbish on the padding."""
    torch.manual_seed(0)
    lengths = torch.randint(1, TIME + 1, (TASKS, EPISODES))
    lengths[0, 0], lengths[0, 1] = TIME, 1
    mask = torch.arange(TIME) < lengths[..., None]
    reward, value = torch.randn(2, TASKS, EPISODES, TIME, dtype=torch.float64)
    return reward, value, mask


def episodes(mask):
    for task in range(TASKS):
        for episode in range(EPISODES):
            yield task, episode, int(mask[task, episode].sum())


@pytest.mark.parametrize("discount", [0.0, 0.95, 1.0])
def test_invariant_7_returns_of_a_padded_batch_are_those_of_each_episode(data, discount):
    reward, _, mask = data
    seen = returns_to_go(reward, mask, discount)
    for task, episode, length in episodes(mask):
        expected = 0.0
        for t in reversed(range(length)):
            expected = float(reward[task, episode, t]) + discount * expected
            assert float(seen[task, episode, t]) == pytest.approx(expected, abs=1e-12)
    assert (seen[~mask] == 0).all()


@pytest.mark.parametrize("gae_lambda", [0.0, 0.8, 1.0])
def test_advantages_are_those_of_the_recursion(data, gae_lambda):
    reward, value, mask = data
    seen = generalized_advantages(reward, value, mask, 0.95, gae_lambda)
    for task, episode, length in episodes(mask):
        advantage = following = 0.0
        for t in reversed(range(length)):
            now = float(value[task, episode, t])
            delta = float(reward[task, episode, t]) + 0.95 * following - now
            advantage = delta + 0.95 * gae_lambda * advantage
            following = now
            assert float(seen[task, episode, t]) == pytest.approx(advantage, abs=1e-12)
    assert (seen[~mask] == 0).all()


def test_invariant_7_with_lambda_one_advantages_are_returns_less_values(data):
    reward, value, mask = data
    seen = generalized_advantages(reward, value, mask, 0.95, 1.0)
    expected = returns_to_go(reward, mask, 0.95) - value
    torch.testing.assert_close(seen[mask], expected[mask], rtol=1e-12, atol=1e-12)


def test_invariant_8_normalised_advantages_have_mean_0_and_deviation_1(data):
    advantage, _, mask = data
    seen = normalized(advantage, mask)
    for task in range(TASKS):
        valid = seen[task][mask[task]]
        assert float(valid.mean()) == pytest.approx(0.0, abs=1e-12)
        assert float(valid.std(correction=0)) == pytest.approx(1.0, abs=1e-7)
        raw = advantage[task][mask[task]]
        padding = -raw.mean() / (raw.std(correction=0) + 1e-8)
        torch.testing.assert_close(
            seen[task][~mask[task]], padding.expand(int((~mask[task]).sum()))
        )


def test_advantages_without_any_reward_stay_zero():
    mask = torch.ones(1, 2, 3, dtype=torch.bool)
    assert (normalized(torch.zeros(1, 2, 3), mask) == 0).all()


def test_a_task_without_steps_has_no_advantages(data):
    advantage, _, mask = data
    expected = normalized(advantage, mask)
    mask[0] = False
    seen = normalized(advantage, mask)
    assert (seen[0] == 0).all()
    assert torch.equal(seen[1:], expected[1:])


def test_invariant_9_weighted_means_ignore_padding_and_length(data):
    values, _, mask = data
    seen = weighted_mean(values, mask)
    for task in range(TASKS):
        each = [values[task, e][mask[task, e]].mean() for e in range(EPISODES)]
        torch.testing.assert_close(seen[task], torch.stack(each).mean(), rtol=1e-12, atol=1e-12)
    wider = torch.cat((values, torch.full((TASKS, EPISODES, 5), 7.0)), -1)
    longer = torch.cat((mask, torch.zeros(TASKS, EPISODES, 5, dtype=torch.bool)), -1)
    torch.testing.assert_close(weighted_mean(wider, longer), seen)
    twice = weighted_mean(values.repeat(1, 2, 1), mask.repeat(1, 2, 1))
    torch.testing.assert_close(twice, seen)
    ones = torch.ones_like(values)
    ones[:, 0] = 5.0  # one episode of four
    torch.testing.assert_close(weighted_mean(ones, mask), torch.full((TASKS,), 2.0).double())


def test_discounted_sums_in_single_precision():
    torch.manual_seed(0)
    values = torch.randn(5, 200)
    double = discounted_sums(values.double(), 0.95)
    torch.testing.assert_close(discounted_sums(values, 0.95).double(), double, rtol=0, atol=2e-5)
