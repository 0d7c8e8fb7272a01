"""Tests of Soft Modularization's network; 29 is a number of the list of its invariants."""

import copy
import math

import pytest
import torch
from tensordict import TensorDict
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import linear

from networks.actor import Actor
from networks.critic import Critic
from networks.mlp import MLP
from networks.soft_modular import SoftModularMLP

T, B, IN, OUT = 3, 5, 4, 2
SMALL = {"module_width": 6, "embedding_width": 8, "gating_width": 7}
DEEP = {"num_layers": 4, "num_modules": 3}
FORMS = [{}, {"num_modules": 3}, {"num_layers": 3}, DEEP, {"num_modules": 1, "num_layers": 3}]


class Foreign(SoftModularMLP):
    """The same network, called through vmap."""

    stackable = False


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def build(kind=SoftModularMLP, sizes=(IN, OUT, T), **options):
    """A network whose weights are large enough for every part of it to show."""
    network = kind(*sizes, **{**SMALL, **options})
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return network


def inputs(dtype=torch.float32):
    return torch.randn(T, B, IN, dtype=dtype), torch.arange(T)[:, None].expand(T, B)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def by_hand(network, x, task):
    """One row and one module after the other."""
    n = network.num_modules
    layers = len(network.banks)

    def apply(layer, value):
        return linear(value, layer.weight, layer.bias)

    def module(level, j, value):
        return network.banks[level].weight[j] @ value + network.banks[level].bias[j]

    rows = []
    for row, t in zip(x, task.tolist(), strict=True):
        h = apply(network.state_out, apply(network.state_in, row).relu())
        e = network.task.weight[:, t] + network.task.bias
        g = apply(network.gate_out, apply(network.gate_in, (e * h).relu()).relu())
        weights = []
        for level in range(layers):
            read = g
            if level:
                read = apply(network.conditions[level - 1], torch.cat(weights)) * g
            logits = apply(network.routers[level], read.relu())
            groups = logits.split(n)
            weights.append(torch.cat([group.exp() / group.exp().sum() for group in groups]))
        values = [module(0, j, h.relu()) for j in range(n)]
        for level in range(1, layers):
            w = weights[level - 1]
            read = [sum(w[j * n + i] * values[i] for i in range(n)).relu() for j in range(n)]
            values = [module(level, j, read[j]) for j in range(n)]
        v = weights[-1]
        rows.append(apply(network.last, sum(v[j] * values[j] for j in range(n)).relu()))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("num_tasks", "state", "options", "actor", "critic"),
    [
        (10, 9, {}, 679_022, 678_823),
        (10, 9, {"num_layers": 4, "num_modules": 4, "module_width": 128}, 780_444, 781_141),
        (10, 39, {}, 691_022, 690_823),
        (10, 39, {"num_layers": 4, "num_modules": 4, "module_width": 128}, 792_444, 793_141),
        (50, 39, {}, 707_022, 706_823),
        (50, 39, {"num_layers": 4, "num_modules": 4, "module_width": 128}, 808_444, 809_141),
    ],
)
def test_invariant_29_parameter_counts(num_tasks, state, options, actor, critic):
    assert count(SoftModularMLP(state, 8, num_tasks, **options)) == actor
    assert count(SoftModularMLP(state + 4, 1, num_tasks, **options)) == critic


@pytest.mark.parametrize("options", FORMS)
def test_invariant_29_routing_sums_to_one(options):
    network = build(**options)
    n = network.num_modules
    *routes, mixture = network.routing(*inputs())
    assert len(routes) == len(network.banks) - 1
    assert mixture.shape == (T, B, n)
    torch.testing.assert_close(mixture.sum(-1), torch.ones(T, B))
    for route in routes:
        assert route.shape == (T, B, n, n)
        assert (route >= 0).all()
        torch.testing.assert_close(route.sum(-1), torch.ones(T, B, n))
        assert n == 1 or not torch.allclose(route.sum(-2), torch.ones(T, B, n))


@pytest.mark.parametrize("num_layers", [2, 4])
def test_invariant_29_one_module_is_a_plain_perceptron(num_layers):
    network = build(num_modules=1, num_layers=num_layers)
    plain = MLP(IN, OUT, T, hidden=(8, 8) + (6,) * num_layers)
    pairs = [(network.state_in, 0), (network.state_out, 1), (network.last, -1)]
    pairs += [(bank, 2 + index) for index, bank in enumerate(network.banks)]
    with torch.no_grad():
        plain.layers[0].weight.zero_()  # the one-hot does not count
        for layer, index in pairs:
            weight, bias = plain.layers[index].weight, plain.layers[index].bias
            weight[:, : layer.weight.shape[-1]] = layer.weight.view(weight.shape[0], -1)
            bias.copy_(layer.bias.view(-1))
    x, task = inputs()
    torch.testing.assert_close(network(x, task), plain(x, task))


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("num_layers", [2, 3])
def test_invariant_29_equal_modules_are_one_module(num_layers, uniform):
    network = build(num_modules=3, num_layers=num_layers).double()
    single = build(num_modules=1, num_layers=num_layers).double()
    with torch.no_grad():
        for bank, one in zip(network.banks, single.banks, strict=True):
            bank.weight.copy_(one.weight)
            bank.bias.copy_(one.bias)
        for name in ("state_in", "state_out", "last"):
            getattr(single, name).load_state_dict(getattr(network, name).state_dict())
        if uniform:
            for router in network.routers:
                router.weight.zero_()
                router.bias.zero_()
    x, task = inputs(torch.float64)
    for weights in network.routing(x, task):
        assert uniform == torch.allclose(weights, torch.full_like(weights, 1 / 3))
    torch.testing.assert_close(network(x, task), single(x, task), atol=1e-10, rtol=0)


@pytest.mark.parametrize("options", FORMS)
def test_equals_a_loop_over_rows_and_modules(options):
    network = build(**options).double()
    x, task = inputs(torch.float64)
    results = []
    for compute in (network, lambda *rows: by_hand(network, *rows)):
        rows = x.reshape(-1, IN).clone().requires_grad_()
        y = compute(rows, task.reshape(-1))
        parameters = dict(network.named_parameters())
        weight = torch.arange(1.0, y.numel() + 1, dtype=y.dtype).view_as(y)
        gradients = torch.autograd.grad((weight * y.sin()).sum(), [rows, *parameters.values()])
        results.append([y, *gradients])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("options", [{}, DEEP])
def test_grouped_flat_and_permuted_rows_agree(options):
    network = build(**options).double()
    x, task = inputs(torch.float64)
    y = network(x, task)
    assert y.shape == (T, B, OUT)
    order = torch.randperm(T * B)
    rows, ids = x.reshape(-1, IN)[order], task.reshape(-1)[order]
    torch.testing.assert_close(network(rows, ids), y.reshape(-1, OUT)[order], atol=1e-12, rtol=0)
    torch.testing.assert_close(network(x[1, 0], task[1, 0]), y[1, 0], atol=1e-12, rtol=0)
    routes = zip(network.routing(x, task), network.routing(rows, ids), strict=True)
    for grouped, flat in routes:
        torch.testing.assert_close(grouped.flatten(0, 1)[order], flat, atol=1e-12, rtol=0)


def test_a_task_moves_its_own_column_only():
    network = build()
    x, task = inputs()
    network(x, task)[1].square().sum().backward()
    columns = network.task.weight.grad.abs().sum(0)
    assert columns[1] > 0 and (columns[[0, 2]] == 0).all()
    before = network(x, task)
    with torch.no_grad():
        network.task.weight[:, 1] += 1.0
    changed = (network(x, task) != before).flatten(1).any(1)
    assert changed.tolist() == [False, True, False]


@pytest.mark.parametrize("kind", [SoftModularMLP, Foreign])
@pytest.mark.parametrize("options", [{}, DEEP])
def test_stack_equals_separate_networks(kind, options):
    separate = [build(sizes=(IN + 2, 1, T), **options).double() for _ in range(2)]
    twins = iter([kind(IN + 2, 1, T, **SMALL, **options).double() for _ in range(2)])
    critic = Critic(IN, 2, T, trunk=lambda *sizes: next(twins))
    critic.trunk.load_state_dict(stack_module_state(separate)[0])
    observation, task = inputs(torch.float64)
    action = torch.randn(T, B, 2, dtype=torch.float64)
    td = TensorDict({"observation": observation, "action": action, "task_id": task}, [T, B])
    x = torch.cat((observation, action), -1)
    expected = torch.cat([network(x, task) for network in separate], -1)
    value = critic(td)["state_action_value"]
    torch.testing.assert_close(value, expected, atol=1e-10, rtol=0)
    rows = critic(td.select("observation", "action", "task_id").reshape(-1))
    flat = rows["state_action_value"].view(T, B, 2)
    torch.testing.assert_close(flat, expected, atol=1e-10, rtol=0)
    value.sin().sum().backward()
    expected.sin().sum().backward()
    for name, stacked in critic.trunk.named_parameters():
        gradients = torch.stack([dict(n.named_parameters())[name].grad for n in separate])
        torch.testing.assert_close(stacked.grad, gradients, atol=1e-10, rtol=1e-10)
        assert stacked.grad.is_contiguous()  # as fused optimizers need it


@pytest.mark.parametrize("options", [{}, DEEP])
def test_gradient_reaches_every_parameter_from_the_start(options):
    network = SoftModularMLP(IN, OUT, T, **options, module_width=32, gating_width=32)
    network(*inputs()).sub(1).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().sum() > 0, name
    assert (network.task.weight.grad.abs().sum(0) > 0).all()
    for bank in network.banks:
        assert (bank.weight.grad.abs().flatten(1).sum(1) > 0).all()


def test_value_by_hand():
    sizes = {"module_width": 1, "embedding_width": 1, "gating_width": 1}
    network = SoftModularMLP(1, 1, 2, **sizes).double()
    three, four = math.log(3.0), math.log(4.0)
    values = {
        "state_in": ([[1.0]], [0.0]),
        "state_out": ([[1.0]], [0.0]),
        "task": ([[1.0, 3.0]], [0.0]),
        "gate_in": ([[0.5]], [0.0]),
        "gate_out": ([[1.0]], [-1.0]),
        "routers.0": ([[0.0], [three / 2], [0.0], [0.0]], [0.0] * 4),
        "conditions.0": ([[0.0, 0.0, 1.0, 0.0]], [0.0]),
        "routers.1": ([[0.0], [four]], [0.0, 0.0]),
        "banks.0": ([[[1.0]], [[-1.0]]], [[0.0], [1.0]]),
        "banks.1": ([[[1.0]], [[4.0]]], [[1.0], [0.0]]),
        "last": ([[10.0]], [0.5]),
    }
    tensors = {}
    for name, (weight, bias) in values.items():
        tensors[f"{name}.weight"] = torch.tensor(weight, dtype=torch.float64)
        tensors[f"{name}.bias"] = torch.tensor(bias, dtype=torch.float64)
    network.load_state_dict(tensors)
    x = torch.tensor([[2.0], [2.0]], dtype=torch.float64)
    # Modules 2 and -2 + 1 in either task. Task 0: g = 0.5 * 2 - 1 = 0, so all weights are 1/2, both
    # targets read 0.5, their modules give 1.5 and 2. Task 1: g = 0.5 * 6 - 1 = 2, so the first
    # weights are [1/4, 3/4], [1/2, 1/2], the targets read relu(0.5 - 0.75) and 0.5, their modules
    # give 1 and 2; the gate is 2 * 1/2, and v = [1/5, 4/5].
    expected = torch.tensor([[17.5 + 0.5], [18.0 + 0.5]], dtype=torch.float64)
    torch.testing.assert_close(network(x, torch.tensor([0, 1])), expected)
    route, mixture = network.routing(x, torch.tensor([0, 1]))
    torch.testing.assert_close(route[1].tolist(), [[0.25, 0.75], [0.5, 0.5]])
    torch.testing.assert_close(mixture[1].tolist(), [0.2, 0.8])


def test_initialisation():
    network = SoftModularMLP(IN, OUT, T, num_layers=3, num_modules=2)
    hidden = [network.state_in, network.state_out, network.task, network.gate_in]
    hidden += [network.gate_out, *network.conditions]
    slices = [(layer.weight, layer.bias) for layer in hidden]
    for bank in network.banks:
        slices += list(zip(bank.weight, bank.bias, strict=True))
    for weight, bias in slices:
        bound = 1 / math.sqrt(weight.shape[0])
        assert 0.95 * bound < weight.abs().max() <= bound
        assert torch.equal(bias, torch.full_like(bias, 0.1))
    for layer in (*network.routers, network.last):
        assert 0.0027 < layer.weight.abs().max() <= 0.003
        assert 0.0 < layer.bias.abs().max() <= 0.003
    assert not torch.equal(network.banks[0].weight[0], network.banks[0].weight[1])


def test_functional_copied_and_compiled():
    network, other = build(num_layers=3), build(num_layers=3)
    x, task = inputs()
    y = network(x, task)
    assert torch.equal(copy.deepcopy(network)(x, task), y)
    parameters, _ = stack_module_state([network, other])
    both = vmap(lambda p: functional_call(other, p, (x, task)))(parameters)
    torch.testing.assert_close(both[0], y)
    torch.testing.assert_close(functional_call(other, network.state_dict(), (x, task)), y)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(x, task), y)
    whole = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(whole(x, task), y)


def test_head_is_of_single_precision_under_autocast():
    network = build()
    x, task = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        y = network(x, task)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, network(x, task), atol=0.2, rtol=0.2)


def test_under_the_actor():
    actor = Actor(IN, 1, T, trunk=lambda *sizes: SoftModularMLP(*sizes, **SMALL))
    x, task = inputs()
    td = actor(TensorDict({"observation": x, "task_id": task}, [T, B]), explore=False)
    assert td["action"].shape == (T, B, 1)


@pytest.mark.parametrize(
    ("name", "sizes", "options"),
    [
        ("in_features", (0, 1, 1), {}),
        ("out_features", (1, 0, 1), {}),
        ("num_tasks", (1, 1, 0), {}),
        *((name, (1, 1, 1), {name: 0}) for name in ("num_modules", "module_width")),
        *((name, (1, 1, 1), {name: 0}) for name in ("embedding_width", "gating_width")),
        ("num_layers", (1, 1, 1), {"num_layers": 1}),
    ],
)
def test_errors_name_the_argument(name, sizes, options):
    value = options.get(name, 0)
    with pytest.raises(ValueError, match=rf"{name} must be at least \d, got {value}"):
        SoftModularMLP(*sizes, **options)
