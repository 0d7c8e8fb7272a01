"""Tests of the shared perceptron and its initialisers."""

import math

import pytest
import torch

from networks.mlp import MLP, init_hidden_, init_last_


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("in_features", "out_features", "expected"),
    [(39, 8, 344_008), (43, 1, 342_801), (9, 8, 332_008), (13, 1, 330_801)],
)
def test_parameter_counts(in_features, out_features, expected):
    assert count(MLP(in_features, out_features, 10)) == expected


@pytest.mark.parametrize(("init", "bound"), [("soft_module", 1 / 8), ("fan_in", 1 / 4)])
def test_initialisers(init, bound):
    layer = torch.nn.Linear(16, 64)
    init_hidden_(layer, init)
    assert layer.weight.abs().max() <= bound and layer.weight.abs().max() > 0.9 * bound
    assert torch.equal(layer.bias, torch.full((64,), 0.1))
    init_last_(layer)
    assert layer.weight.abs().max() <= 0.003 and layer.bias.abs().max() <= 0.003
    assert layer.bias.abs().max() > 0.002
    network = MLP(14, 3, 2, hidden=(64,), init=init)
    assert network.layers[0].weight.abs().max() > 0.9 * bound
    assert network.layers[1].weight.abs().max() <= 0.003


def test_value_by_hand_and_grouping():
    network = MLP(1, 1, 2, hidden=(2,))
    with torch.no_grad():
        network.layers[0].weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.0, 0.5]]))
        network.layers[1].weight.copy_(torch.tensor([[1.0, 10.0]]))
        network.layers[1].bias.fill_(0.5)
    x, task = torch.tensor([[1.0], [-2.0]]), torch.tensor([0, 1])
    # task 0: relu(1 + 2 + .1), relu(-1 + 0 + .1); task 1: relu(-2 + 3 + .1), relu(2 + .5 + .1)
    expected = torch.tensor([[3.1 + 0.5], [1.1 + 26.0 + 0.5]])
    torch.testing.assert_close(network(x, task), expected)
    torch.testing.assert_close(network(x.view(2, 1, 1), task.view(2, 1)), expected.view(2, 1, 1))


def test_without_the_one_hot_tasks_are_alike():
    network = MLP(3, 2, 5, hidden=(7,), one_hot=False)
    assert sum(p.numel() for p in network.parameters()) == 3 * 7 + 7 + 7 * 2 + 2
    x = torch.randn(4, 3)
    assert torch.equal(network(x, torch.zeros(4).long()), network(x, torch.arange(4)))


def test_counts_of_the_blind_mt_sac_of_mtrl():
    sizes = [(39, 8)] + [(43, 1)] * 4  # the policy, and two critics with their targets
    made = [MLP(i, o, 10, hidden=(400, 400, 400), one_hot=False, init="xavier") for i, o in sizes]
    temperatures = 10
    count = sum(p.numel() for network in made for p in network.parameters())
    assert count + temperatures == 1_695_222


def test_initialisers_of_whole_networks():
    torch.manual_seed(0)
    xavier = MLP(30, 20, 2, hidden=(50,), init="xavier", one_hot=False)
    for layer in xavier.linears():
        bound = math.sqrt(6 / sum(layer.weight.shape))
        assert 0.9 * bound < layer.weight.abs().max() <= bound and not layer.bias.any()
    plain = MLP(30, 20, 2, hidden=(50,), init="torch", one_hot=False)
    for layer in plain.linears():
        bound = 1 / math.sqrt(layer.in_features)
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert 0.8 * bound < layer.bias.abs().max() <= bound


def test_gradients_reach_every_parameter():
    network = MLP(3, 2, 2, hidden=(16, 16))
    network(torch.randn(2, 8, 3), torch.arange(2)[:, None].expand(2, 8)).square().sum().backward()
    for parameter in network.parameters():
        assert parameter.grad.abs().sum() > 0 and math.isfinite(parameter.grad.sum())


@pytest.mark.parametrize(
    ("name", "arguments", "options"),
    [
        ("in_features", (0, 1, 1), {}),
        ("out_features", (1, 0, 1), {}),
        ("num_tasks", (1, 1, 0), {}),
        ("hidden", (1, 1, 1), {"hidden": ()}),
        ("hidden", (1, 1, 1), {"hidden": (4, 0)}),
        ("init", (1, 1, 1), {"init": "zeros"}),
    ],
)
def test_errors_name_the_argument(name, arguments, options):
    with pytest.raises(ValueError, match=name):
        MLP(*arguments, **options)
