"""Parameters as one vector."""

import torch
from torch import nn
from torch.func import functional_call

from algorithms.flat_parameters import FlatParameters


def test_flat_parameters_round_trip():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    flat = FlatParameters(module)
    vector = flat.vector()
    assert vector.shape == (26,) and not vector.requires_grad
    named = flat.unflatten(vector)
    for name, parameter in module.named_parameters():
        assert torch.equal(named[name], parameter)
    before = vector.clone()
    flat.write(vector + 1.0)
    assert torch.equal(flat.vector(), before + 1.0)
    assert torch.equal(vector, before)  # a copy: it did not move along


def test_functional_calls_take_the_views():
    module = nn.Linear(3, 4)
    flat = FlatParameters(module)
    x = torch.randn(5, 3)
    doubled = functional_call(module, flat.unflatten(2.0 * flat.vector()), (x,))
    torch.testing.assert_close(doubled, 2.0 * module(x))
