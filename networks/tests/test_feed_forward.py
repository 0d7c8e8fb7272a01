"""Tests of the plain layers."""

import copy
import math

import pytest
import torch
from torch.nn.functional import linear

from networks.feed_forward import FeedForward, frozen, init_xavier_


def test_equals_the_formula():
    network = FeedForward((4, 6, 5, 3)).double()
    x = torch.randn(2, 7, 4, dtype=torch.float64)
    one, two, three = network.layers
    y = linear(x, one.weight, one.bias).relu()
    y = linear(y, two.weight, two.bias).relu()
    y = linear(y, three.weight, three.bias)
    torch.testing.assert_close(network(x), y, atol=1e-12, rtol=0)
    assert (y < 0).any()


def test_initialisation():
    network = FeedForward((30, 70, 20))
    for layer, (wide, tall) in zip(network.layers, ((30, 70), (70, 20)), strict=True):
        bound = math.sqrt(6 / (wide + tall))
        assert bool((layer.bias == 0).all())
        assert 0.95 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert float(layer.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_a_stack_is_drawn_slice_by_slice():
    weight, bias = torch.empty(8, 40, 20), torch.ones(8, 40)
    init_xavier_(weight, bias)
    bound = math.sqrt(6 / 60)
    assert bool((bias == 0).all())
    assert bool((weight.abs().amax((1, 2)) > 0.95 * bound).all())
    assert float(weight.abs().max()) <= bound
    assert not torch.equal(weight[0], weight[1])


def test_frozen_keeps_values_and_trains_nothing():
    network = FeedForward((4, 6, 3))
    x = torch.randn(5, 4, requires_grad=True)
    before, names = network(x).detach(), set(network.state_dict())
    parameters = list(network.parameters())
    assert frozen(network) is network
    assert not list(network.parameters())
    assert set(network.state_dict()) == names
    y = network(x)
    assert torch.equal(y, before)
    y.sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in parameters)
    with torch.no_grad():
        parameters[0].zero_()
    assert torch.equal(network(x), before)
    y = copy.deepcopy(network).double()(x.detach().double())
    torch.testing.assert_close(y.float(), before)


def test_last_layer_is_single_precision_under_autocast():
    network = FeedForward((4, 6, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert network(torch.randn(5, 4)).dtype == torch.float32


def test_errors():
    with pytest.raises(ValueError, match="widths"):
        FeedForward((4,))
    with pytest.raises(ValueError, match=r"widths\[1\] must be at least 1, got 0"):
        FeedForward((4, 0, 3))
