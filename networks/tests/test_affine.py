"""Tests of the affine map of one network or a stack of them."""

import pytest
import torch
from torch.nn.functional import linear, relu

from networks.affine import SharedLinear, affine


@pytest.mark.parametrize("activate", [False, True])
@pytest.mark.parametrize("stack", [(), (2,), (2, 3)])
@pytest.mark.parametrize("rows", [(), (5,), (4, 5)])
def test_equals_a_loop_over_networks(stack, rows, activate):
    x = torch.randn(*stack, *rows, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(*stack, 6, 7, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(*stack, 6, dtype=torch.float64, requires_grad=True)

    def loop(x, weight, bias):
        flat = zip(
            x.reshape(-1, *rows, 7), weight.reshape(-1, 6, 7), bias.reshape(-1, 6), strict=True
        )
        y = torch.stack([linear(*each) for each in flat]).reshape(*stack, *rows, 6)
        return relu(y) if activate else y

    y = affine(x, weight, bias, relu=activate)
    torch.testing.assert_close(y, loop(x, weight, bias))
    upstream = torch.randn_like(y)
    expected = torch.autograd.grad(loop(x, weight, bias), (x, weight, bias), upstream)
    got = torch.autograd.grad(y, (x, weight, bias), upstream)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_one_bias_for_the_whole_stack_and_inputs_stay():
    x, weight, bias = torch.randn(3, 4, 5), torch.randn(3, 6, 5), torch.randn(6)
    before = x.clone()
    y = affine(x, weight, bias, relu=True)
    assert torch.equal(x, before)
    for t in range(3):
        torch.testing.assert_close(y[t], relu(linear(x[t], weight[t], bias)))


@pytest.mark.parametrize("kind", ["of all rows", "of each row"])
def test_shared_inputs_are_the_last_ones(kind):
    layer = SharedLinear(7, 6).double()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    shape = (3,) if kind == "of all rows" else (5, 3)
    shared = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    whole = linear(torch.cat((x, shared.expand(5, 3)), 1), layer.weight, layer.bias)
    y = layer(x, shared)
    torch.testing.assert_close(y, whole)
    torch.testing.assert_close(layer(torch.cat((x, shared.expand(5, 3)), 1)), whole)
    inputs, upstream = (x, shared, layer.weight, layer.bias), torch.randn_like(y)
    expected = torch.autograd.grad(whole, inputs, upstream)
    for a, b in zip(torch.autograd.grad(y, inputs, upstream), expected, strict=True):
        torch.testing.assert_close(a, b)
