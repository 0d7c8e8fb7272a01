"""Tests of MTRL's soft modularization; 11 is a number of the list of its invariants."""

import copy
import math

import pytest
import torch
from tensordict import TensorDict
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import linear

from networks.critic import Critic
from networks.small_soft_modular import SmallSoftModularMLP

T, B, F, A, OUT = 3, 5, 4, 2, 2
SMALL = {"features": F, "width": 6}
FORMS = [{}, {"num_modules": 2}, {"num_layers": 4, "num_modules": 3}, {"num_modules": 1}]


class Foreign(SmallSoftModularMLP):
    """The same network, called through vmap."""

    stackable = False


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def build(kind=SmallSoftModularMLP, action_dim=A, out_features=OUT, **options):
    """A network whose weights are large enough for every part of it to show."""
    network = kind(2 * F + action_dim, out_features, T, **{**SMALL, **options})
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return network


def inputs(dtype=torch.float32, action_dim=A):
    x = torch.randn(T, B, 2 * F + action_dim, dtype=dtype)
    return x, torch.arange(T)[:, None].expand(T, B)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def apply(layer, value):
    return linear(value, layer.weight, layer.bias)


def by_hand(network, x):
    """One row and one module after the other."""
    n, layers = network.num_modules, len(network.banks)

    def module(level, j, value):
        return network.banks[level].weight[j] @ value + network.banks[level].bias[j]

    rows = []
    for row in x:
        f, code, action = row[:F], row[F : 2 * F], row[2 * F :]
        if len(action):
            f = apply(network.projection, torch.cat((f, action)))
        entry = apply(network.entry, f * code)
        values, read, logits = [], [f] * n, None
        for level in range(layers):
            values = [module(level, j, read[j]) for j in range(n)]
            if level + 1 == layers:
                break
            gate = entry if level == 0 else apply(network.conditions[level - 1], logits) * entry
            logits = apply(network.routers[level], gate.relu())
            w = [group.exp() / group.exp().sum() for group in logits.split(n)]
            read = [sum(w[j][i] * values[i].relu() for i in range(n)) for j in range(n)]
        rows.append(sum(values) / n)
    return torch.stack(rows)


def test_parameter_counts():
    actor, critic = SmallSoftModularMLP(100, 8, 10), SmallSoftModularMLP(104, 1, 10)
    for network, modules in ((actor, 76_968), (critic, 67_812)):
        assert count(network.banks) == modules
        assert count(network.entry) + count(network.routers) == 21_858
        assert len(network.conditions) == 0
    assert actor.projection is None and count(actor) == 76_968 + 21_858
    assert count(critic.projection) == 2_750 and count(critic) == 67_812 + 21_858 + 2_750
    for width, total in ((326, 485_766), (400, 589_588)):
        actor = count(SmallSoftModularMLP(100, 8, 10, width=width))
        critic = count(SmallSoftModularMLP(104, 1, 10, width=width))
        encoders, temperatures = 3 * 5_750, 10
        assert actor + 4 * critic + encoders + temperatures == total  # two critics, two targets


@pytest.mark.parametrize("options", FORMS)
def test_invariant_11_routing_sums_to_one(options):
    network = build(**options)
    n = network.num_modules
    routes = network.routing(*inputs())
    assert len(routes) == len(network.banks) - 1
    for route in routes:
        assert route.shape == (T, B, n, n)
        assert (route >= 0).all()
        torch.testing.assert_close(route.sum(-1), torch.ones(T, B, n))
        assert n == 1 or not torch.allclose(route.sum(-2), torch.ones(T, B, n))


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("num_layers", [2, 3])
def test_invariant_11_equal_modules_are_one_module(num_layers, uniform):
    network = build(num_layers=num_layers).double()
    single = build(num_modules=1, num_layers=num_layers).double()
    with torch.no_grad():
        single.projection.load_state_dict(network.projection.state_dict())
        for bank, one in zip(network.banks, single.banks, strict=True):
            bank.weight.copy_(one.weight)
            bank.bias.copy_(one.bias)
        if uniform:
            for router in network.routers:
                router.weight.zero_()
                router.bias.zero_()
    x, task = inputs(torch.float64)
    for weights in network.routing(x, task):
        assert uniform == torch.allclose(weights, torch.full_like(weights, 1 / 4))
    torch.testing.assert_close(network(x, task), single(x, task), atol=1e-10, rtol=0)


@pytest.mark.parametrize("action_dim", [0, A])
@pytest.mark.parametrize("num_layers", [2, 4])
def test_invariant_11_one_module_is_a_plain_perceptron(num_layers, action_dim):
    network = build(num_modules=1, num_layers=num_layers, action_dim=action_dim).double()
    x, task = inputs(torch.float64, action_dim)
    y = x[..., :F]
    if action_dim:
        y = apply(network.projection, torch.cat((y, x[..., 2 * F :]), -1))
    for bank in network.banks:
        y = linear(y.relu() if bank is not network.banks[0] else y, bank.weight[0], bank.bias[0])
    torch.testing.assert_close(network(x, task), y, atol=1e-10, rtol=0)


def test_invariant_11_output_is_the_mean_over_modules():
    network = build().double()
    x, task = inputs(torch.float64)
    y = network(x, task)
    outputs = []
    for j in range(4):
        only = copy.deepcopy(network)
        with torch.no_grad():
            for i in set(range(4)) - {j}:
                only.banks[-1].weight[i] = 0.0
                only.banks[-1].bias[i] = 0.0
        outputs.append(4 * only(x, task))
    torch.testing.assert_close(torch.stack(outputs).mean(0), y, atol=1e-10, rtol=0)
    assert not torch.allclose(outputs[0], outputs[1])


@pytest.mark.parametrize("action_dim", [0, A])
@pytest.mark.parametrize("options", FORMS)
def test_equals_a_loop_over_rows_and_modules(options, action_dim):
    network = build(action_dim=action_dim, **options).double()
    x, task = inputs(torch.float64, action_dim)
    results = []
    for compute in (lambda rows: network(rows, task.reshape(-1)), lambda r: by_hand(network, r)):
        rows = x.reshape(T * B, -1).clone().requires_grad_()
        y = compute(rows)
        weight = torch.arange(1.0, y.numel() + 1, dtype=y.dtype).view_as(y)
        wanted = [rows, *network.parameters()]
        results.append([y, *torch.autograd.grad((weight * y.sin()).sum(), wanted)])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-10, rtol=1e-10)


def test_grouped_flat_and_permuted_rows_agree():
    network = build(num_layers=3).double()
    x, task = inputs(torch.float64)
    y = network(x, task)
    assert y.shape == (T, B, OUT)
    order = torch.randperm(T * B)
    rows, ids = x.reshape(T * B, -1)[order], task.reshape(-1)[order]
    torch.testing.assert_close(network(rows, ids), y.reshape(-1, OUT)[order], atol=1e-12, rtol=0)
    torch.testing.assert_close(network(x[1, 0], task[1, 0]), y[1, 0], atol=1e-12, rtol=0)
    for grouped, flat in zip(network.routing(x, task), network.routing(rows, ids), strict=True):
        torch.testing.assert_close(grouped.flatten(0, 1)[order], flat, atol=1e-12, rtol=0)


def test_task_ids_are_not_read():
    network = build()
    x, task = inputs()
    assert torch.equal(network(x, task), network(x, task.flip(0)))


@pytest.mark.parametrize("kind", [SmallSoftModularMLP, Foreign])
@pytest.mark.parametrize("options", [{}, {"num_layers": 3}])
def test_stack_equals_separate_networks(kind, options):
    separate = [build(out_features=1, **options).double() for _ in range(2)]
    twins = iter([build(kind, out_features=1, **options).double() for _ in range(2)])
    critic = Critic(2 * F, A, T, trunk=lambda *sizes: next(twins))
    critic.trunk.load_state_dict(stack_module_state(separate)[0])
    x, task = inputs(torch.float64)
    observation, action = x.split((2 * F, A), -1)
    td = TensorDict({"observation": observation, "action": action, "task_id": task}, [T, B])
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


@pytest.mark.parametrize("num_layers", [2, 4])
@pytest.mark.parametrize("action_dim", [0, A])
def test_gradient_reaches_every_parameter_from_the_start(num_layers, action_dim):
    network = SmallSoftModularMLP(
        2 * F + action_dim, OUT, T, features=F, width=32, num_layers=num_layers
    )
    network(*inputs(action_dim=action_dim)).sub(1).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().sum() > 0, name
        assert parameter.grad.is_contiguous()
    for bank in network.banks:
        assert (bank.weight.grad.abs().flatten(1).sum(1) > 0).all()


def test_value_by_hand():
    network = SmallSoftModularMLP(3, 1, 1, features=1, width=1, num_modules=2).double()
    three = math.log(3.0)
    values = {
        "projection": ([[1.0, 0.5]], [-0.5]),
        "entry": ([[0.5]], [0.0]),
        "routers.0": ([[0.0], [three / 2], [0.0], [0.0]], [0.0] * 4),
        "banks.0": ([[[1.0]], [[-1.0]]], [[0.0], [0.0]]),
        "banks.1": ([[[4.0]], [[1.0]]], [[0.0], [-3.0]]),
    }
    tensors = {}
    for name, (weight, bias) in values.items():
        tensors[f"{name}.weight"] = torch.tensor(weight, dtype=torch.float64)
        tensors[f"{name}.bias"] = torch.tensor(bias, dtype=torch.float64)
    network.load_state_dict(tensors)
    # f = 1 + 0.5 * 3 - 0.5 = 2, e = 0.5 * 2 * 2 = 2, weights [1/4, 3/4], [1/2, 1/2]; the modules
    # give 2 and relu(-2) = 0, mixed to 0.5 and 1; then 4 * 0.5 = 2 and 1 - 3 = -2, not cut off.
    x, task = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64), torch.tensor([0])
    torch.testing.assert_close(network.routing(x, task)[0][0].tolist(), [[0.25, 0.75], [0.5, 0.5]])
    with torch.no_grad():
        network.banks[1].bias[0] = 1.0
    torch.testing.assert_close(network(x, task).item(), (3.0 - 2.0) / 2)


def test_initialisation():
    network = SmallSoftModularMLP(104, 8, 10, num_layers=3)
    layers = [network.projection, network.entry, *network.routers, *network.conditions]
    slices = [(layer.weight, layer.bias) for layer in layers]
    for bank in network.banks:
        slices += list(zip(bank.weight, bank.bias, strict=True))
    for weight, bias in slices:
        bound = math.sqrt(6 / sum(weight.shape))
        assert 0.95 * bound < weight.abs().max() <= bound
        assert (bias == 0).all()
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


def test_last_layer_is_of_single_precision_under_autocast():
    network = build()
    x, task = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        y = network(x, task)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, network(x, task), atol=0.2, rtol=0.2)


@pytest.mark.parametrize(
    ("name", "sizes", "options"),
    [
        ("out_features", (100, 0, 1), {}),
        ("num_tasks", (100, 1, 0), {}),
        *((name, (100, 1, 1), {name: 0}) for name in ("features", "width", "num_modules")),
        ("num_layers", (100, 1, 1), {"num_layers": 1}),
    ],
)
def test_errors_name_the_argument(name, sizes, options):
    value = options.get(name, 0)
    with pytest.raises(ValueError, match=rf"{name} must be at least \d, got {value}"):
        SmallSoftModularMLP(*sizes, **options)


def test_features_and_code_must_fit():
    with pytest.raises(ValueError, match="in_features must hold features and code, 100, got 99"):
        SmallSoftModularMLP(99, 1, 1)
