"""Tests of the squashed Gaussian."""

import torch

from networks.distributions import SquashedGaussian, log_one_minus_tanh_squared


def test_invariant_32_change_of_variables():
    loc = torch.tensor([[0.3, -0.5]], dtype=torch.float64)
    scale = torch.tensor([[0.7, 1.4]], dtype=torch.float64)
    policy = SquashedGaussian(loc, scale)
    u = torch.linspace(-2.99, 2.99, 41, dtype=torch.float64)
    u = torch.stack((u, u.flip(0)), -1)
    step = 1e-6
    slope = (torch.tanh(u + step) - torch.tanh(u - step)) / (2 * step)
    expected = (torch.distributions.Normal(loc, scale).log_prob(u) - slope.log()).sum(-1)
    torch.testing.assert_close(policy.log_prob(u), expected, atol=1e-6, rtol=1e-6)


def test_epsilon_is_that_of_published_code():
    """log N(u) - log(max(1 - a^2, 0) + 1e-6), by the formula; finite far out, with a gradient."""
    loc = torch.randn(50, 3, dtype=torch.float64, requires_grad=True)
    scale = torch.rand(50, 3, dtype=torch.float64) + 0.1
    policy = SquashedGaussian(loc, scale, epsilon=1e-6)
    u = 4.0 * torch.randn(50, 3, dtype=torch.float64)
    u[0] = torch.tensor([-60.0, 12.0, 60.0])
    gaussian = torch.distributions.Normal(loc, scale).log_prob(u)
    expected = gaussian - ((1.0 - torch.tanh(u) ** 2).clamp_min(0.0) + 1e-6).log()
    torch.testing.assert_close(policy.log_prob(u), expected.sum(-1))
    torch.manual_seed(0)
    action, log_prob = policy.rsample()
    log_prob.sum().backward()
    assert log_prob.isfinite().all() and loc.grad.isfinite().all()
    exact = SquashedGaussian(loc, scale)
    torch.manual_seed(0)
    same, other = exact.rsample()
    assert torch.equal(action, same) and (other > log_prob).all()


def test_density_integrates_to_one():
    policy = SquashedGaussian(torch.full((1,), 0.4), torch.full((1,), 0.6))
    action = torch.linspace(-0.99999, 0.99999, 200_001, dtype=torch.float64).unsqueeze(-1)
    density = policy.log_prob(torch.atanh(action)).exp()
    assert abs(density.mean() * 2 - 1) < 1e-3


def test_far_out_is_finite_with_gradient():
    u = torch.tensor([-60.0, -12.0, 12.0, 60.0], requires_grad=True)
    value = log_one_minus_tanh_squared(u)
    value.sum().backward()
    assert value.isfinite().all()
    torch.testing.assert_close(u.grad, torch.tensor([2.0, 2.0, -2.0, -2.0]))


def test_sample_matches_its_log_prob_and_moments():
    loc, scale = torch.randn(4, 3), torch.rand(4, 3) * 0.5 + 0.1
    policy = SquashedGaussian(loc, scale)
    torch.manual_seed(0)
    action, log_prob = policy.rsample()
    torch.manual_seed(0)
    u = loc + scale * torch.randn_like(loc)
    torch.testing.assert_close(action, torch.tanh(u))
    torch.testing.assert_close(log_prob, policy.log_prob(u), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(policy.mode, torch.tanh(loc))
