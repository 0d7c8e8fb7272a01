"""Tests of the layer of parallel modules."""

import pytest
import torch
from torch import nn

from networks.module_bank import ModuleBank, mixed

N, IN, OUT = 3, 4, 2


def fill(layer):
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)


def build():
    return ModuleBank(N, IN, OUT, initialise=fill).double()


def stacked(banks):
    """One bank whose weights carry a leading dimension."""
    stack = build()
    for name in ("weight", "bias"):
        values = torch.stack([getattr(bank, name).detach() for bank in banks])
        setattr(stack, name, nn.Parameter(values))
    return stack


@pytest.mark.parametrize("lead", [(), (5,), (3, 5)])
@pytest.mark.parametrize("relu", [False, True])
def test_each_module_is_a_linear_layer(lead, relu):
    bank = build()
    same = torch.randn(*lead, IN, dtype=torch.float64)
    own = torch.randn(*lead, N, IN, dtype=torch.float64)
    for j in range(N):
        expected = [same @ bank.weight[j].t() + bank.bias[j]]
        expected.append(own[..., j, :] @ bank.weight[j].t() + bank.bias[j])
        if relu:
            expected = [value.relu() for value in expected]
        torch.testing.assert_close(bank.shared(same, relu=relu)[..., j, :], expected[0])
        torch.testing.assert_close(bank(own, relu=relu)[..., j, :], expected[1])


@pytest.mark.parametrize("lead", [(5,), (3, 5)])
def test_a_stack_is_so_many_banks(lead):
    banks = [build() for _ in range(2)]
    stack = stacked(banks)
    same = torch.randn(2, *lead, IN, dtype=torch.float64)
    own = torch.randn(2, *lead, N, IN, dtype=torch.float64)
    for k, bank in enumerate(banks):
        torch.testing.assert_close(stack.shared(same)[k], bank.shared(same[k]))
        torch.testing.assert_close(stack(own)[k], bank(own[k]))


def test_mixed_is_a_weighted_sum():
    route, modules = torch.rand(6, 2, N), torch.randn(6, N, OUT)
    y = mixed(route, modules)
    assert y.shape == (6, 2, OUT)
    for row in range(6):
        for j in range(2):
            expected = sum(route[row, j, i] * modules[row, i] for i in range(N))
            torch.testing.assert_close(y[row, j], expected)


@pytest.mark.parametrize("lead", [(), (5,), (3, 5)])
@pytest.mark.parametrize("stack", [False, True])
def test_the_last_layer_may_come_before_the_mixing(stack, lead):
    bank = stacked([build(), build()]) if stack else build()
    lead = (2, *lead) if stack else lead
    route = torch.randn(*lead, N, N, dtype=torch.float64).softmax(-1).requires_grad_()
    x = torch.randn(*lead, N, IN, dtype=torch.float64, requires_grad=True)
    y, expected = bank.mean_of_mixed(route, x), bank(mixed(route, x)).mean(-2)
    torch.testing.assert_close(y, expected, atol=1e-10, rtol=0)
    weights, moved = torch.randn_like(y), (x, *bank.parameters())
    for got, wanted in zip(
        torch.autograd.grad((y * weights).sum(), moved),
        torch.autograd.grad((expected * weights).sum(), moved),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0)


def test_modules_are_initialised_one_after_the_other():
    seen = []

    def number(layer):
        assert (layer.in_features, layer.out_features) == (IN, OUT)
        nn.init.constant_(layer.weight, len(seen))
        nn.init.constant_(layer.bias, -len(seen))
        seen.append(layer)

    bank = ModuleBank(N, IN, OUT, initialise=number)
    assert bank.weight.shape == (N, OUT, IN) and bank.bias.shape == (N, OUT)
    for j in range(N):
        assert (bank.weight[j] == j).all() and (bank.bias[j] == -j).all()


@pytest.mark.parametrize("name", ["num_modules", "in_features", "out_features"])
def test_errors_name_the_argument(name):
    sizes = {"num_modules": N, "in_features": IN, "out_features": OUT, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        ModuleBank(**sizes, initialise=fill)
