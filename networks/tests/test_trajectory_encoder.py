"""Tests of the trajectory encoder."""

import math

import pytest
import torch

from networks.trajectory_encoder import TrajectoryEncoder, gaussian_log_prob


def trajectories(n=4, length=9, width=3):
    return torch.randn(n, length, width), torch.ones(n, length, dtype=torch.bool)


def test_equals_the_backward_direction_of_a_bidirectional_lstm():
    encoder = TrajectoryEncoder(3, width=5)
    reference = torch.nn.LSTM(3, 5, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for name, parameter in encoder.lstm.named_parameters():
            getattr(reference, name + "_reverse").copy_(parameter)
    observation, mask = trajectories()
    expected = reference(observation)[0][..., 5:].mean(1)
    torch.testing.assert_close(encoder(observation, mask), expected)


def test_invariant_16_tasks_do_not_mix():
    encoder = TrajectoryEncoder(3, width=5)
    observation, mask = trajectories()
    before = encoder(observation, mask)
    observation[2] += 1
    after = encoder(observation, mask)
    assert torch.equal(before[[0, 1, 3]], after[[0, 1, 3]])
    assert not torch.allclose(before[2], after[2])


def test_invariant_17_time_matters_and_padding_does_not():
    encoder = TrajectoryEncoder(3, width=5)
    observation, mask = trajectories()
    before = encoder(observation, mask)
    assert not torch.allclose(before, encoder(observation.flip(1), mask))
    for fill in (0.0, 1e3, float("nan")):
        padding = torch.full((4, 6, 3), fill)
        longer = torch.cat((observation, padding), 1)
        more = torch.cat((mask, torch.zeros(4, 6, dtype=torch.bool)), 1)
        torch.testing.assert_close(encoder(longer, more), before)
        encoder.zero_grad()
        encoder(longer, more).square().sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())
    uneven = mask.clone()
    uneven[1, 4:] = False
    short = encoder(observation[1:2, :4], mask[1:2, :4])
    torch.testing.assert_close(encoder(observation, uneven)[1:2], short)


def test_nothing_is_encoded_as_zeros():
    encoder = TrajectoryEncoder(3, width=5)
    observation, mask = trajectories()
    mask[0] = False
    encoding = encoder(observation, mask)
    assert (encoding[0] == 0).all() and (encoding[1] != 0).any()


def test_gaussian_log_prob():
    value, mean, std = torch.randn(5, 3), torch.randn(5, 3), torch.rand(5, 3) + 0.1
    expected = torch.distributions.Normal(mean, std).log_prob(value).sum(-1)
    torch.testing.assert_close(gaussian_log_prob(value, mean, std), expected)


def test_pretraining_learns_and_ignores_padding():
    torch.manual_seed(0)
    encoder = TrajectoryEncoder(2, width=8, latent_dim=3, pretrain_passes=30, pretrain_lr=1e-2)
    velocity = torch.randn(12, 1, 2)
    observation = torch.arange(8.0).view(1, 8, 1) * velocity * 0.1
    mask = torch.ones(12, 8, dtype=torch.bool)
    draws = torch.Generator()
    before = encoder.pretrain_loss(observation, mask, draws.manual_seed(1))
    longer = torch.cat((observation, torch.full((12, 3, 2), float("nan"))), 1)
    more = torch.cat((mask, torch.zeros(12, 3, dtype=torch.bool)), 1)
    again = encoder.pretrain_loss(longer, more, draws.manual_seed(1))
    torch.testing.assert_close(again, before)
    before.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())
    more[3] = False
    state = torch.get_rng_state()
    encoder.pretrain(longer, more, draws)
    assert torch.equal(torch.get_rng_state(), state)  # all draws are of `draws`
    assert encoder.pretrain_loss(observation, mask, draws) < before - 0.5
    assert all(parameter.grad is None for parameter in encoder.parameters())
    encoder.pretrain(longer, torch.zeros_like(more), draws)


def test_summary_is_the_mixture_moment():
    encoder = TrajectoryEncoder(2, width=4, pretrain_passes=1)
    observation = torch.randn(3, 5, 6, 2)
    mask = torch.ones(3, 5, 6, dtype=torch.bool)
    mask[1, 2:] = False
    mask[2] = False
    mean, std = encoder.summary(observation, mask)
    means, stds = encoder.posterior_of(encoder(observation[1, :2], mask[1, :2]))
    torch.testing.assert_close(mean[1], means.mean(0))
    variance = stds.square().mean(0) + means.var(0, unbiased=False)
    torch.testing.assert_close(std[1].square(), variance)
    assert (mean[2] == 0).all() and (std[2] == 1).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("width", {"width": 0}),
        ("latent_dim", {"latent_dim": 0}),
        ("pretrain_passes", {"pretrain_passes": -1}),
        ("pretrain_lr", {"pretrain_lr": 0.0}),
        ("pretrain_lr", {"pretrain_lr": math.inf}),
    ],
)
def test_errors_name_the_argument(name, options):
    with pytest.raises(ValueError, match=name):
        TrajectoryEncoder(3, **options)


def test_no_posterior_without_pretraining():
    with pytest.raises(ValueError, match="pretrain_passes"):
        TrajectoryEncoder(3, width=4).posterior_of(torch.zeros(1, 4))
