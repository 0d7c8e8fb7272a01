"""Tests of the masked perceptron; the numbers are those of MUST's list of invariants."""

import copy

import pytest
import torch
from torch.nn.functional import linear, relu

from networks.actor import Actor
from networks.masked import MaskedMLP
from networks.mlp import MLP

T, B, IN, OUT = 3, 6, 4, 2


def build(**options):
    return MaskedMLP(IN, OUT, T, **{"hidden": (9, 7), **options})


def inputs():
    return torch.randn(T, B, IN), torch.arange(T)[:, None].expand(T, B)


def random_masks(network, share=0.5):
    return [(torch.rand(T, *shape) < share).float() for shape in network.mask_shapes]


def by_hand(network, x, task, masks):
    """A loop over tasks with two-dimensional masks."""
    x = network.join(x, task)
    rows = []
    for t in range(T):
        h = x[t]
        for index, layer in enumerate(network.linears()):
            weight = layer.weight
            if network.granularity == "weight" and index < len(masks):
                weight = weight * masks[index][t]
            h = linear(h, weight, layer.bias)
            if index < 2:
                h = relu(h)
                if network.granularity == "neuron":
                    h = h * masks[index][t]
        rows.append(h)
    return torch.stack(rows)


@pytest.mark.parametrize("granularity", ["weight", "neuron"])
def test_invariant_03_ones_are_dense_and_zeros_leave_biases(granularity):
    network = build(granularity=granularity)
    x, task = inputs()
    torch.testing.assert_close(network(x, task), MLP.forward(network, x, task))
    zeros = [torch.zeros_like(mask) for mask in random_masks(network)]
    y = network(x, task, zeros)
    torch.testing.assert_close(y, network.layers[-1].bias.expand_as(y))


@pytest.mark.parametrize(
    "options", [{}, {"mask_output_layer": False}, {"granularity": "neuron"}, {"hidden": (5, 5)}]
)
def test_invariant_04_batched_equals_loop(options):
    network = build(**options)
    x, task = inputs()
    masks = random_masks(network)
    expected = by_hand(network, x, task, masks)
    torch.testing.assert_close(network(x, task, masks), expected, atol=1e-5, rtol=0)
    network.commit(masks)
    torch.testing.assert_close(network(x, task), expected, atol=1e-5, rtol=0)
    last = network.hidden_activations(x, task)[-1]  # the output layer, by hand, gives the output
    weight = network.layers[-1].weight.expand(T, -1, -1)
    if len(network.mask_shapes) == len(network.layers):
        weight = weight * masks[-1]
    output = torch.einsum("tri,toi->tro", last, weight) + network.layers[-1].bias
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)
    shuffled = torch.randperm(T * B)
    rows, ids = x.reshape(-1, IN)[shuffled], task.reshape(-1)[shuffled]
    wanted = expected.reshape(-1, OUT)[shuffled]
    torch.testing.assert_close(network(rows, ids), wanted, atol=1e-5, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(network(x, task), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(network(rows, ids), wanted, atol=1e-5, rtol=0)
        torch.testing.assert_close(network(x[:, 0], task[:, 0]), expected[:, 0], atol=1e-5, rtol=0)
        torch.testing.assert_close(network(x[1, 0], task[1, 0]), expected[1, 0], atol=1e-5, rtol=0)


def test_invariant_05_masked_weights_get_no_gradient():
    network = build()
    x, task = inputs()
    masks = random_masks(network)
    for t in range(T):
        network.zero_grad()
        network(x, task, masks)[t].square().sum().backward()
        for layer, mask in zip(network.linears(), masks, strict=True):
            assert (layer.weight.grad[mask[t] == 0] == 0).all()
    network.zero_grad()
    before = [layer.weight.detach().clone() for layer in network.linears()]
    network(x, task, masks).square().sum().backward()
    torch.optim.Adam(network.parameters(), lr=0.1, fused=True).step()
    for layer, mask, old in zip(network.linears(), masks, before, strict=True):
        unused = mask.sum(0) == 0
        assert unused.any()
        assert (layer.weight.grad[unused] == 0).all()
        assert torch.equal(layer.weight[unused], old[unused])
        assert not torch.equal(layer.weight, old)


def test_invariant_06_biases_always_learn():
    network = build()
    x, task = inputs()
    for share in (1.0, 0.0):
        for t in range(T):
            network.zero_grad()
            network(x, task, random_masks(network, share))[t].sum().backward()
            last = network.linears()[-1]
            torch.testing.assert_close(last.bias.grad, torch.full((OUT,), float(B)))
    network.zero_grad()
    network(x, task, random_masks(network, 0.8)).square().sum().backward()
    assert all(layer.bias.grad.shape == layer.bias.shape for layer in network.linears())
    assert all(layer.bias.grad.abs().sum() > 0 for layer in network.linears())


@pytest.mark.parametrize("no_grad", [True, False])
def test_invariant_07_masks_off_and_on(no_grad):
    network = build()
    x, task = inputs()
    weights = [layer.weight.detach().clone() for layer in network.linears()]
    masks = random_masks(network)
    with torch.set_grad_enabled(not no_grad):
        dense = network(x, task)
        network.commit(masks)
        first = network(x, task)
        assert not torch.allclose(first, dense)
        network.commit([torch.ones_like(mask) for mask in masks])
        assert torch.equal(network(x, task), dense)
        network.commit(masks)
        assert torch.equal(network(x, task), first)
    for layer, weight in zip(network.linears(), weights, strict=True):
        assert torch.equal(layer.weight, weight)


def test_invariant_08_no_pruning_is_the_plain_network():
    x, task = inputs()
    networks = []
    for kind in (MLP, MaskedMLP):
        torch.manual_seed(5)
        networks.append(kind(IN, OUT, T, hidden=(9, 7)))
    for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(a, b)
    optimizers = [torch.optim.Adam(n.parameters(), lr=1e-2, fused=True) for n in networks]
    for _ in range(5):
        losses = [network(x, task).sub(1).square().mean() for network in networks]
        torch.testing.assert_close(losses[0], losses[1])
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_invariant_09_neuron_mask_deletes_the_unit():
    network = build(granularity="neuron")
    assert network.mask_shapes == ((9,), (7,))
    x, task = inputs()
    masks = [torch.ones(T, 9), torch.ones(T, 7)]
    masks[0][:, 4] = 0
    smaller = MLP(IN, OUT, T, hidden=(8, 7))
    keep = [unit for unit in range(9) if unit != 4]
    with torch.no_grad():
        smaller.layers[0].weight.copy_(network.layers[0].weight[keep])
        smaller.layers[0].bias.copy_(network.layers[0].bias[keep])
        smaller.layers[1].weight.copy_(network.layers[1].weight[:, keep])
        smaller.layers[1].bias.copy_(network.layers[1].bias)
        smaller.layers[2].load_state_dict(network.layers[2].state_dict())
    torch.testing.assert_close(network(x, task, masks), smaller(x, task))


def test_cached_weights_follow_every_change():
    network = build()
    x, task = inputs()
    network.commit(random_masks(network))

    @torch.no_grad()
    def check():
        expected = by_hand(network, x, task, network.committed())
        torch.testing.assert_close(network(x, task), expected)

    check()
    for options in ({"fused": True}, {"foreach": True}):
        network(x, task).square().sum().backward()
        torch.optim.Adam(network.parameters(), lr=0.1, **options).step()
        check()
    network.load_state_dict(build().state_dict())
    check()
    network.commit(random_masks(network))
    check()
    network.mask_0.copy_(torch.rand(network.mask_0.shape) < 0.3)
    check()
    network.double()
    x = x.double()
    check()
    functional = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    with torch.no_grad():
        first = torch.func.functional_call(network, functional, (x, task))
    assert not torch.allclose(first, network(x, task))
    check()


def test_vmapped_rows_of_weights():
    networks = [build() for _ in range(2)]
    for network in networks:
        network.commit(random_masks(network))
    parameters, buffers = torch.func.stack_module_state(networks)
    x, task = inputs()
    with torch.no_grad():
        y = torch.func.vmap(
            lambda p, b: torch.func.functional_call(networks[0], (p, b), (x, task))
        )(parameters, buffers)
        for index, network in enumerate(networks):
            torch.testing.assert_close(y[index], network(x, task))


def test_vmapped_tasks():
    network = build()
    network.commit(random_masks(network))
    x, task = torch.randn(5, T, IN), torch.stack([torch.randperm(T) for _ in range(5)])
    with torch.no_grad():
        y = torch.func.vmap(network)(x, task)
        for index in range(5):
            torch.testing.assert_close(y[index], network(x[index], task[index]))


def test_copy_and_state_dict_keep_masks():
    network = build()
    network.commit(random_masks(network))
    x, task = inputs()
    with torch.no_grad():
        y = network(x, task)
        assert torch.equal(copy.deepcopy(network)(x, task), y)
        other = build()
        other(x, task)
        other.load_state_dict(network.state_dict())
        assert torch.equal(other(x, task), y)
    assert {"mask_0", "mask_1", "mask_2"} < set(network.state_dict())
    assert all(mask.dtype == torch.bool for mask in network.committed())


def test_one_task_and_gin_factory():
    actor = Actor(4, 2, 1, trunk=MaskedMLP)
    assert actor.mask_shapes == ((400, 5), (400, 400), (400, 400), (4, 400))


@pytest.mark.parametrize(
    ("name", "options"), [("granularity", {"granularity": "layer"}), ("hidden", {"hidden": []})]
)
def test_errors_name_the_argument(name, options):
    with pytest.raises(ValueError, match=name):
        build(**options)


def test_input_errors():
    network = build()
    x, task = inputs()
    with pytest.raises(ValueError, match="x must be"):
        network(x[:2], task[:2])
    with pytest.raises(ValueError, match="x must be"):
        network(x[None], task[None])
    with pytest.raises(ValueError, match="masks"):
        network(x, task, random_masks(network)[:1])
    with pytest.raises(ValueError, match="masks"):
        network.commit([torch.ones(1)])
