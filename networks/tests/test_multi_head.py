"""Tests of the multi-head perceptron."""

import pytest
import torch

from networks.multi_head import MultiHeadMLP


@pytest.mark.parametrize(
    ("in_features", "out_features", "expected"),
    [(39, 8, 372_880), (43, 1, 346_410), (9, 8, 360_880), (13, 1, 334_410)],
)
def test_parameter_counts(in_features, out_features, expected):
    network = MultiHeadMLP(in_features, out_features, 10)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_invariant_30_heads():
    tasks, outputs = 3, 2
    network = MultiHeadMLP(4, outputs, tasks, hidden=(8, 8))
    x, task = torch.randn(20, 4), torch.randint(tasks, (20,))
    features = network.features(x, task)
    last = network.layers[-1]
    for row in range(20):
        for output in range(outputs):
            unit = output * tasks + task[row]
            value = features[row] @ last.weight[unit] + last.bias[unit]
            torch.testing.assert_close(network(x, task)[row, output], value)
    grouped = torch.randn(tasks, 5, 4)
    ids = torch.arange(tasks)[:, None].expand(tasks, 5)
    torch.testing.assert_close(
        network(grouped, ids), network(grouped.view(15, 4), ids.reshape(15)).view(tasks, 5, outputs)
    )


@pytest.mark.parametrize("grouped", [True, False])
def test_invariant_30_task_loss_touches_only_its_head(grouped):
    tasks, outputs = 3, 2
    network = MultiHeadMLP(4, outputs, tasks, hidden=(8, 8))
    x, ids = torch.randn(tasks, 5, 4), torch.arange(tasks)[:, None].expand(tasks, 5)
    if grouped:
        loss = network(x, ids)[1].square().sum()
    else:
        loss = network(x[1], ids[1]).square().sum()
    loss.backward()
    last = network.layers[-1]
    for gradient in (last.weight.grad.abs().sum(1), last.bias.grad.abs()):
        gradient = gradient.view(outputs, tasks)
        assert (gradient[:, 1] > 0).all()
        assert (gradient[:, [0, 2]] == 0).all()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_errors():
    with pytest.raises(ValueError, match="out_features"):
        MultiHeadMLP(4, 0, 2)
    with pytest.raises(ValueError, match="num_tasks"):
        MultiHeadMLP(4, 2, 0)
    network = MultiHeadMLP(4, 2, 3, hidden=(8,))
    with pytest.raises(ValueError, match="3 groups"):
        network(torch.randn(2, 5, 4), torch.zeros(2, 5, dtype=torch.long))
