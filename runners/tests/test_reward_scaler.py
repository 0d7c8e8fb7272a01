"""The running scale of rewards against numbers worked out by hand and a plain loop."""

import math

import pytest
import torch

from runners.reward_scaler import RewardScaler


def fed(scaler, rewards, valid=None):
    """What comes back for `rewards` `[steps][tasks]`."""
    rewards = torch.tensor(rewards, dtype=torch.float64).unsqueeze(2)
    valid = torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid
    return torch.stack([scaler(*step).squeeze(1) for step in zip(rewards, valid, strict=True)])


def test_invariant_15_a_hand_computed_sequence():
    """m: 1, 0.5, 1.75; v: 1, 0.625, 1.09375: the mean moves first, and is not taken off."""
    scaler = RewardScaler(1, rate=0.5)
    got = fed(scaler, [[2.0], [0.0], [3.0]]).squeeze(1).tolist()
    expected = [2.0 / (1.0 + 1e-8), 0.0, 3.0 / (math.sqrt(1.09375) + 1e-8)]
    assert got == pytest.approx(expected, abs=1e-12)
    assert scaler.scale.item() == pytest.approx(math.sqrt(1.09375) + 1e-8, abs=1e-12)


def test_invariant_15_the_first_step_at_the_papers_rate():
    """m = 0.01, v = 0.999 + 0.001 * 9.99^2."""
    got = fed(RewardScaler(1), [[10.0]]).item()
    assert got == pytest.approx(10.0 / (math.sqrt(0.999 + 0.0998001) + 1e-8), abs=1e-12)


def test_invariant_15_one_update_per_valid_step_and_task():
    """Against a loop; a task whose step is not valid stays as it was."""
    rate, epsilon = 0.02, 1e-3
    scaler = RewardScaler(3, rate=rate, epsilon=epsilon)
    draw = torch.Generator().manual_seed(0)
    rewards = torch.randn(200, 3, generator=draw, dtype=torch.float64) * torch.tensor([1, 5, 90])
    valid = torch.rand(200, 3, generator=draw) < 0.7
    got = fed(scaler, rewards.tolist(), valid.unsqueeze(2))
    for task in range(3):
        m, v = 0.0, 1.0
        for step in range(200):
            r = rewards[step, task].item()
            if not valid[step, task]:
                continue
            m = (1 - rate) * m + rate * r
            v = (1 - rate) * v + rate * (r - m) ** 2
            assert abs(got[step, task].item() - r / (math.sqrt(v) + epsilon)) < 1e-10
        assert abs(scaler.scale[task].item() - math.sqrt(v) - epsilon) < 1e-10


def test_nothing_of_an_invalid_step_enters_and_single_precision_stays():
    scaler = RewardScaler(2)
    reward = torch.tensor([[math.nan], [1.0]])
    got = scaler(reward, torch.tensor([[False], [True]]))
    assert got.dtype == torch.float32 and got.shape == (2, 1) and reward[1] == 1.0
    assert torch.isfinite(scaler.scale).all() and got[1].isfinite()


def test_the_scale_settles_on_the_standard_deviation():
    scaler = RewardScaler(2, rate=0.01)
    draw = torch.Generator().manual_seed(0)
    rewards = torch.randn(5000, 2, generator=draw) * torch.tensor([3.0, 0.1]) + 4.0
    fed(scaler, rewards.tolist())
    torch.testing.assert_close(scaler.scale, torch.tensor([3.0, 0.1]).double(), rtol=0.2, atol=0.0)


def test_state_round_trip():
    one, two = RewardScaler(2), RewardScaler(2)
    fed(one, [[1.0, 2.0], [3.0, -4.0]])
    state = one.state_dict()
    two.load_state_dict(state)
    more = [[5.0, 6.0], [7.0, 8.0]]
    assert torch.equal(fed(one, more), fed(two, more))
    three = RewardScaler(2)
    three.load_state_dict(state)
    assert torch.equal(fed(three, more), fed(RewardScaler(2), [[1.0, 2.0], [3.0, -4.0], *more])[2:])


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_tasks": 0},
        {"rate": 0.0},
        {"rate": 1.0},
        {"epsilon": 0.0},
        {"epsilon": math.inf},
        {"epsilon": math.nan},
    ],
    ids=str,
)
def test_values_out_of_range(wrong):
    with pytest.raises(ValueError, match=f"RewardScaler.{next(iter(wrong))}"):
        RewardScaler(**{"num_tasks": 2, **wrong})
