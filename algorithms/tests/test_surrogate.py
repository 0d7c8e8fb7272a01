"""The surrogate loss, its gradient and the curvature of its divergence."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from algorithms.surrogate import Surrogate

TASKS, EPISODES, TIME, ACTIONS = 3, 4, 5, 2


class Normal(NamedTuple):
    mean: Tensor
    log_std: Tensor

    def log_prob(self, action):
        normal = torch.distributions.Normal(self.mean, self.log_std.exp(), validate_args=False)
        return normal.log_prob(action).sum(-1)

    def kl(self, old):
        return torch.distributions.kl_divergence(
            *(torch.distributions.Normal(d.mean, d.log_std.exp()) for d in (self, old))
        )


@pytest.fixture
def data():
    torch.manual_seed(0)
    mask = torch.arange(TIME) < torch.randint(1, TIME + 1, (TASKS, EPISODES, 1))
    action = torch.randn(TASKS, EPISODES, TIME, ACTIONS, dtype=torch.float64)
    x = torch.randn(TASKS, EPISODES, TIME, 3, dtype=torch.float64)
    return x, action, torch.randn(mask.shape, dtype=torch.float64), mask


def policies(x):
    """A nonlinear map of eight parameters; the deviations are the same at all steps."""

    def at(theta):
        mean = torch.tanh(x @ theta[:6].view(3, ACTIONS)) * theta[:6].sum()
        return Normal(mean, theta[6:].expand_as(mean))

    return at


def build(data, kl_reduce="mean"):
    x, action, advantage, mask = data
    theta = torch.randn(8, dtype=torch.float64) * 0.3
    return Surrogate(policies(x), theta, action, advantage, mask, kl_reduce), theta


def derivative(function, theta, step=1e-6):
    columns = []
    for unit in torch.eye(len(theta), dtype=theta.dtype):
        columns.append((function(theta + step * unit) - function(theta - step * unit)) / (2 * step))
    return torch.stack(columns)


@pytest.mark.parametrize("kl_reduce", ["mean", "sum"])
def test_loss_and_divergence_are_those_of_a_loop(data, kl_reduce):
    x, action, advantage, mask = data
    problem, theta = build(data, kl_reduce)
    other = theta + 0.1
    loss, kl = problem.evaluate(other)
    new, old = policies(x)(other), policies(x)(theta)
    losses, divergences = [], []
    for i in range(TASKS):
        for b in range(EPISODES):
            steps = [t for t in range(TIME) if mask[i, b, t]]
            ratio = (new.log_prob(action) - old.log_prob(action)).exp()[i, b]
            losses.append(sum(-ratio[t] * advantage[i, b, t] for t in steps) / len(steps))
            each = sum(new.kl(old)[i, b, t].sum() for t in steps) / len(steps)
            divergences.append(each / (ACTIONS if kl_reduce == "mean" else 1))
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    torch.testing.assert_close(kl, torch.stack(divergences).mean())


def test_invariant_12_at_the_old_policies(data):
    problem, theta = build(data)
    loss, kl = problem.evaluate(theta)
    torch.testing.assert_close(loss, problem.loss)
    assert kl.abs() < 1e-15
    slope = torch.func.grad(lambda t: problem.evaluate(t)[1])(theta)
    assert slope.abs().max() < 1e-7
    _, _, advantage, mask = data
    plain = [
        advantage[i, b][mask[i, b]].mean() for i in range(TASKS) for b in range(EPISODES)
    ]  # ratios are one
    torch.testing.assert_close(problem.loss, -torch.stack(plain).mean())


def test_the_gradient_is_that_of_the_loss(data):
    problem, theta = build(data)
    expected = derivative(lambda t: problem.evaluate(t)[0], theta)
    torch.testing.assert_close(problem.gradient, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kl_reduce", ["mean", "sum"])
def test_invariant_13_the_curvature_is_the_hessian_of_the_divergence(data, kl_reduce):
    problem, theta = build(data, kl_reduce)
    columns = torch.stack([problem.curvature(unit) for unit in torch.eye(8).double()])
    torch.testing.assert_close(columns, columns.T, rtol=1e-10, atol=1e-12)
    assert torch.linalg.eigvalsh(columns).min() > -1e-12
    slope = torch.func.grad(lambda t: problem.evaluate(t)[1])
    torch.testing.assert_close(columns, derivative(slope, theta), rtol=1e-6, atol=1e-7)
    double = torch.func.jacrev(slope)(theta)
    torch.testing.assert_close(columns, double, rtol=1e-8, atol=1e-10)
