"""Tests of PTSL's network; invariants bear the numbers of its list."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import linear, relu

from networks.critic import Critic
from networks.projected import INITS, PROJECTIONS, RESIDUALS, ProjectedMLP
from networks.projected_layer import ProjectedLayer

T, B, IN, OUT = 3, 6, 5, 2
COMBINATIONS = [(p, r) for p in PROJECTIONS for r in RESIDUALS]
combinations = pytest.mark.parametrize(("projection", "residual"), COMBINATIONS)


def build(out=OUT, tasks=T, **options):
    return ProjectedMLP(IN, out, tasks, **{"hidden": (12, 12, 12), "rank": 2, **options})


def inputs(tasks=T, rows=B):
    """Grouped rows, and the same ones flat and shuffled."""
    x, task = torch.randn(tasks, rows, IN), torch.arange(tasks)[:, None].expand(tasks, rows)
    order = torch.randperm(tasks * rows)
    return x, task, x.reshape(-1, IN)[order], task.reshape(-1)[order], order


def fill_(network, scale=0.5):
    """Give every parameter a random value, the zeros of an initialisation too."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))
    return network


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def plain(network, x):
    """The perceptron of the shared weights alone."""
    layers = network.projected_layers()
    for layer in layers[:-1]:
        x = relu(linear(x, layer.weight, layer.bias))
    return linear(x, layers[-1].weight, layers[-1].bias)


def by_loop(network, x, task):
    """One row at a time, from the equations."""
    rows = []
    for h, t in zip(x, task.tolist(), strict=True):
        z_before = r_before = None
        for layer, down, up in zip(
            network.projected_layers(), network.downs(), network.ups(), strict=True
        ):
            z = h if down is None else down @ h
            u = z
            if z_before is not None and network.residual == "sum":
                u = z + z_before + r_before
            if z_before is not None and network.residual == "linear":
                a = network.mixing
                u = a[0] * z + a[1] * z_before + a[2] * r_before
            if z_before is not None and network.residual == "project":
                u = network.mixing @ torch.cat((z, z_before, r_before))
            r = layer.task_weight[t] @ u + layer.task_bias[t]
            h = layer.weight @ h + layer.bias + (r if up is None else up @ r)
            if layer is not network.projected_layers()[-1]:
                h = h.clamp(min=0)
            z_before, r_before = z, r
        rows.append(h)
    return torch.stack(rows)


def formula(inputs, outputs, tasks, width, depth, rank, projection, residual):
    """The count of the paper's code, where every projection but the last layer's U is used."""
    trunk = inputs * width + width + (depth - 1) * (width**2 + width) + width * outputs + outputs
    shared = projection == "shared"
    projections = inputs * rank + (2 if shared else 2 * depth) * width * rank
    own = tasks * depth * (rank**2 + rank) + tasks * (rank * outputs + outputs)
    return trunk + projections + own + {"linear": 3, "project": 3 * rank**2}.get(residual, 0)


# Width, depth, rank, projection, residual, tasks; parameters of the actor and of one critic; total
# with observations of 12 and 39 numbers: three encoders, the actor, four critics, temperatures.
TABLE = [
    (326, 3, 50, "shared", "none", 10, 366_926, 362_571, 1_871_532, 1_887_732),
    (326, 3, 50, "shared", "sum", 10, 366_926, 362_571, 1_871_532, 1_887_732),
    (326, 3, 50, "shared", "linear", 10, 366_929, 362_574, 1_871_547, 1_887_747),
    (321, 3, 50, "shared", "project", 10, 366_901, 362_561, 1_871_467, 1_887_667),
    (321, 3, 50, "shared", "none", 10, 359_401, 355_061, 1_833_967, 1_850_167),
    (400, 2, 50, "shared", "none", 10, 304_088, 299_511, 1_556_454, 1_572_654),
    (400, 2, 50, "independent", "none", 10, 344_088, 339_511, 1_756_454, 1_772_654),
    (326, 3, 50, "shared", "none", 50, 689_246, 670_611, 3_426_052, 3_442_252),
    (400, 2, 50, "shared", "none", 50, 524_408, 505_551, 2_600_974, 2_617_174),
    (325, 3, 32, "shared", "none", 50, 442_933, 430_529, 2_219_411, 2_235_611),
    (274, 3, 32, "shared", "none", 50, 372_910, 360_659, 1_869_908, 1_886_108),
]


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_invariant_1_counts_of_the_table(row):
    width, depth, rank, projection, residual, tasks, actor, critic, total_12, total_39 = row
    options = {"rank": rank, "projection": projection, "residual": residual}
    for sizes, expected in (((100, 8), actor), ((104, 1), critic)):
        network = ProjectedMLP(*sizes, tasks, hidden=(width,) * depth, **options)
        assert count(network) == expected
        assert formula(*sizes, tasks, width, depth, rank, projection, residual) == expected
    for encoder, total in ((18_104, total_12), (23_504, total_39)):
        assert 3 * encoder + actor + 4 * critic + tasks == total


@pytest.mark.parametrize(
    ("tasks", "total_12", "total_39"), [(10, 1_871_534, 1_887_734), (50, 1_871_574, 1_887_774)]
)
def test_invariant_1_counts_of_care(tasks, total_12, total_39):
    def trunk(inputs, outputs):
        sizes = (inputs, 400, 400, 400, outputs)
        return sum(a * b + b for a, b in zip(sizes, sizes[1:], strict=False))

    assert (trunk(100, 8), trunk(104, 1)) == (364_408, 363_201)
    for observation, total in ((12, total_12), (39, total_39)):
        encoder = 4 * (51 * 50 + 50 * observation + 50) + 5100 + 51 * 4
        assert 3 * encoder + 364_408 + 4 * 363_201 + tasks == total


@combinations
def test_invariant_1_formula_for_every_option(projection, residual):
    network = ProjectedMLP(
        40, 3, 5, hidden=(32,) * 4, rank=8, projection=projection, residual=residual
    )
    assert count(network) == formula(40, 3, 5, 32, 4, 8, projection, residual)
    smoke = (
        ProjectedMLP(64, 8, 3, hidden=(64, 64), rank=8),
        ProjectedMLP(68, 1, 3, hidden=(64, 64), rank=8),
    )
    assert [count(network) for network in smoke] == [11_024, 10_668]


@combinations
def test_invariant_2_without_corrections_it_is_the_plain_perceptron(projection, residual):
    x, task, *_ = inputs()
    options = {"projection": projection, "residual": residual}
    network = build(**options)
    torch.testing.assert_close(network(x, task), plain(network, x), atol=1e-6, rtol=0)
    for silent in ("up", "task"):
        network = fill_(build(**options))
        layers = network.projected_layers()
        with torch.no_grad():
            if silent == "up":
                for up in network.ups()[:-1]:
                    up.zero_()
            for layer in layers if silent == "task" else layers[-1:]:
                layer.task_weight.zero_()
                layer.task_bias.zero_()
        torch.testing.assert_close(network(x, task), plain(network, x), atol=1e-6, rtol=0)
        with torch.no_grad():
            layers[-1].task_bias[1] += 1.0
        change = network(x, task) - plain(network, x)
        torch.testing.assert_close(change[1], torch.ones(B, OUT), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("projection", "residual", "options"),
    [
        *((*pair, more) for pair in COMBINATIONS for more in ({}, {"out": 9}, {"hidden": (12,)})),
        *((projection, "none", {"tasks": 1}) for projection in PROJECTIONS),
        ("independent", "none", {"hidden": (12, 3, 7), "rank": 3}),
    ],
)
def test_invariant_3_grouped_equals_flat_equals_loop(projection, residual, options):
    network = fill_(build(**options, projection=projection, residual=residual)).double()
    x, task, rows, ids, order = inputs(tasks=network.num_tasks)
    x, rows = x.double().requires_grad_(), rows.double().requires_grad_()
    probe = torch.randn(rows.shape[0], network.out_features, dtype=torch.float64)
    shape = (*x.shape[:2], -1)
    flat_x = x.reshape(-1, IN)
    runs = {
        "loop": by_loop(network, flat_x, task.reshape(-1)),
        "grouped": network(x, task).reshape(-1, network.out_features),
        "flat": network(flat_x, task.reshape(-1)),
    }
    assert network(x, task).shape == (*x.shape[:2], network.out_features)
    weights = [x, *network.parameters()]
    wanted = torch.autograd.grad(runs["loop"], weights, probe)
    for name in ("grouped", "flat"):
        torch.testing.assert_close(runs[name], runs["loop"], atol=1e-10, rtol=0)
        for got, gradient in zip(
            torch.autograd.grad(runs[name], weights, probe), wanted, strict=True
        ):
            torch.testing.assert_close(got, gradient, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(network(rows, ids), runs["loop"][order], atol=1e-10, rtol=0)
    one = network(x[-1, 0], task[-1, 0])
    torch.testing.assert_close(one, runs["loop"].view(shape)[-1, 0], atol=1e-10, rtol=0)


@pytest.mark.parametrize("grouped", [True, False])
@combinations
def test_invariant_4_tasks_do_not_touch_each_other(projection, residual, grouped):
    network = fill_(build(projection=projection, residual=residual))
    x, task, rows, ids, _ = inputs()
    x, task = (x, task) if grouped else (rows, ids)
    before = network(x, task).detach()
    changed = copy.deepcopy(network)
    with torch.no_grad():
        for layer in changed.projected_layers():
            layer.task_weight[1] += 0.3
            layer.task_bias[1] += 0.3
    different = (changed(x, task) != before).any(-1)
    assert torch.equal(different, task == 1)
    network(x, task)[task != 1].square().sum().backward()
    for layer in network.projected_layers():
        for gradient in (layer.task_weight.grad, layer.task_bias.grad):
            assert (gradient[1] == 0).all()
            assert (gradient[[0, 2]] != 0).flatten(1).any(1).all()
    if not grouped:
        network.zero_grad()
        network(x[task != 1], task[task != 1]).square().sum().backward()
        assert all((layer.task_weight.grad[1] == 0).all() for layer in network.projected_layers())


def test_invariant_5_shared_projections_are_one_parameter():
    network = fill_(build())
    assert all(up is network.up for up in network.ups()[:-1]) and network.ups()[-1] is None
    assert all(down is network.down for down in network.downs()[1:])
    assert network.downs()[0] is network.projected_layers()[0].down is not network.down
    named = [name for name in network.state_dict() if name.split(".")[-1] in ("down", "up")]
    assert sorted(named) == ["down", "layers.0.down", "up"]
    x, task, *_ = inputs()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    network(x, task).square().sum().backward()
    optimizer.step()
    assert len({id(up) for up in network.ups()[:-1]}) == 1
    assert len({id(down) for down in network.downs()[1:]}) == 1


def test_invariant_5_independent_projections_are_distinct():
    network = build(projection="independent")
    assert network.up is None and network.down is None
    downs, ups = network.downs(), network.ups()
    assert len({id(parameter) for parameter in (*downs, *ups[:-1])}) == 7
    assert None not in downs and None not in ups[:-1] and ups[-1] is None


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_invariant_6_which_projections_are_left_out(projection):
    def used(tasks):
        network = ProjectedMLP(100, 8, tasks, hidden=(400, 400), rank=50, projection=projection)
        return [
            [matrix is not None for matrix in matrices]
            for matrices in (network.downs(), network.ups())
        ]

    assert used(10) == [[True, True, True], [True, True, False]]
    downs, ups = used(1)
    assert downs == ([False, True, True] if projection == "shared" else [False] * 3)
    assert ups == [True, True, False]


def test_invariant_6_the_rule_counts_parameters():
    for wide, tall, tasks, rank in torch.randint(1, 30, (200, 4)).tolist():
        layer = ProjectedLayer(wide, tall, tasks, rank=rank)
        saves = wide * rank + tasks * (rank + 1) * rank <= tasks * (wide + 1) * rank
        assert (layer.down is not None) == saves
        p = rank if saves else wide
        saves = tall * rank + tasks * (p + 1) * rank <= tasks * (p + 1) * tall
        assert (layer.up is not None) == saves
        assert layer.task_weight.shape == (tasks, rank if saves else tall, p)
    equal, above = (ProjectedLayer(100, 1, 2, rank=rank).down for rank in (50, 51))
    assert equal is not None and above is None


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_invariant_7_sum_is_linear_is_project(projection, monkeypatch):
    networks = {residual: build(projection=projection, residual=residual) for residual in RESIDUALS}
    filled = fill_(networks["none"]).state_dict()
    for residual, network in networks.items():
        network.load_state_dict(filled, strict=False)
        with torch.no_grad():
            if residual == "linear":
                torch.testing.assert_close(network.mixing, torch.full((3,), 1 / 3))
                network.mixing.fill_(1.0)
            if residual == "project":
                assert network.mixing.shape == (2, 6)
                network.mixing.copy_(torch.cat([torch.eye(2)] * 3, 1))
    first = []
    combine = ProjectedLayer.combine

    def record(layer, x, r, up):
        y = combine(layer, x, r, up)
        if any(layer is network.layers[0] for network in networks.values()):
            first.append(y)
        return y

    monkeypatch.setattr(ProjectedLayer, "combine", record)
    x, task, *_ = inputs()
    results = {residual: network(x, task) for residual, network in networks.items()}
    torch.testing.assert_close(results["linear"], results["sum"])
    torch.testing.assert_close(results["project"], results["sum"])
    assert not torch.allclose(results["none"], results["sum"])
    assert len(first) == 4 and all(torch.equal(y, first[0]) for y in first)


def moved(network, steps):
    """The step at which each parameter first moved, 0 for never."""
    x, task, *_ = inputs(rows=16)
    target = torch.randn(T, 16, network.out_features)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    start = {name: p.detach().clone() for name, p in network.named_parameters()}
    when = dict.fromkeys(start, 0)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        (network(x, task) - target).square().mean().backward()
        optimizer.step()
        for name, parameter in network.named_parameters():
            if not when[name] and not torch.equal(parameter, start[name]):
                when[name] = step
    return when


@pytest.mark.parametrize("out", [OUT, 9])
@combinations
def test_invariant_8_every_parameter_learns(projection, residual, out):
    network = build(out, projection=projection, residual=residual)
    assert (network.ups()[-1] is not None) == (out == 9)
    x, task, *_ = inputs()
    torch.testing.assert_close(network(x, task), plain(network, x), atol=1e-6, rtol=0)
    assert 0 not in moved(network, 5).values()


def test_invariant_8_unprojected_layers_learn_too():
    network = build(hidden=(2, 2), rank=4, projection="independent")
    assert network.downs() == [None] * 3 and network.ups() == [None] * 3
    x, task, *_ = inputs()
    torch.testing.assert_close(network(x, task), plain(network, x))
    with torch.no_grad():
        for layer in network.projected_layers():
            layer.bias.fill_(0.5)  # two units each: none may be dead
    assert 0 not in moved(network, 5).values()


@combinations
def test_invariant_8_what_the_reference_never_trains(projection, residual):
    """The finding of the review: as published, these combinations train no correction."""
    network = build(projection=projection, residual=residual, init="reference")
    when = moved(network, 12)
    dead = {name for name, step in when.items() if step == 0}
    task_parts = {
        name for name in when if name.split(".")[-1] not in ("weight", "bias") or name == "mixing"
    }
    if residual == "project":
        assert dead == task_parts - {"layers.3.task_bias"}
    elif projection == "independent" and residual == "none":
        alive = {"layers.3.down", "layers.3.task_weight", "layers.3.task_bias"}
        assert dead == task_parts - alive
    else:
        assert not dead
    if projection == "shared" and residual == "none":
        assert (when["down"], when["up"], when["layers.0.down"]) == (1, 2, 3)


@pytest.mark.parametrize("init", INITS)
def test_initial_values(init):
    network = ProjectedMLP(100, 8, 10, init=init, residual="project")
    layers = network.projected_layers()
    for layer in layers:
        bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
        assert 0.98 * bound < layer.weight.abs().max() <= bound
        assert (layer.bias == 0).all() and (layer.task_bias == 0).all()
    assert (network.up == 0).all()
    deviations = [layer.task_weight.std().item() for layer in layers]
    if init == "reference":
        assert deviations == pytest.approx([1.0] * 4, rel=0.06)
        assert all((p == 0).all() for p in (network.down, layers[0].down, network.mixing))
    else:
        assert deviations[:-1] == pytest.approx([50**-0.5] * 3, rel=0.03) and deviations[-1] == 0
        assert network.down.abs().max() <= (6 / 376) ** 0.5 and network.down.std() > 0.05
        assert layers[0].down.abs().max() <= (6 / 150) ** 0.5 and layers[0].down.std() > 0.1
        assert torch.equal(network.mixing[:, :50], torch.eye(50))
        assert (network.mixing[:, 50:] == 0).all()


def test_value_by_hand():
    network = ProjectedMLP(2, 1, 2, hidden=(2,), rank=1, residual="sum")
    hidden, last = network.projected_layers()
    with torch.no_grad():
        hidden.weight.copy_(torch.eye(2))
        hidden.bias.copy_(torch.tensor([0.5, -10.0]))
        hidden.down.copy_(torch.tensor([[1.0, -1.0]]))
        hidden.task_weight.copy_(torch.tensor([2.0, 3.0]).view(2, 1, 1))
        hidden.task_bias.copy_(torch.tensor([[0.0], [1.0]]))
        network.up.copy_(torch.tensor([[1.0], [4.0]]))
        network.down.copy_(torch.tensor([[0.5, 1.0]]))
        last.weight.copy_(torch.tensor([[1.0, 1.0]]))
        last.bias.fill_(0.25)
        last.task_weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1))
        last.task_bias.copy_(torch.tensor([[0.0], [2.0]]))
    # x = (3, 1): z = 2. Task 0: r = 4, h = relu(3 + .5 + 4, 1 - 10 + 16) = (7.5, 7);
    # z' = 3.75 + 7 = 10.75, u = 10.75 + 2 + 4 = 16.75, y = 14.5 + .25 + 16.75 = 31.5.
    # Task 1: r = 7, h = (10.5, 19), z' = 24.25, u = 33.25, y = 29.5 + .25 - 33.25 + 2 = -1.5.
    x = torch.tensor([[3.0, 1.0], [3.0, 1.0]])
    expected = torch.tensor([[31.5], [-1.5]])
    torch.testing.assert_close(network(x, torch.tensor([0, 1])), expected)
    grouped = network(x.view(2, 1, 2), torch.tensor([[0], [1]]))
    torch.testing.assert_close(grouped, expected.view(2, 1, 1))


@combinations
def test_stack_of_critics_equals_separate_networks(projection, residual):
    def trunk(i, o, t):
        options = {"projection": projection, "residual": residual}
        return fill_(ProjectedMLP(i, o, t, hidden=(12, 12), rank=2, **options)).double()

    torch.manual_seed(3)
    critic = Critic(3, 2, T, trunk=trunk)
    torch.manual_seed(3)
    separate = [trunk(5, 1, T) for _ in range(2)]
    assert critic.trunk.stack_dims == 1 and separate[0].stack_dims == 0
    x, task, rows, ids, order = inputs()
    x, rows = x.double(), rows.double()
    expected = torch.cat([network(x, task) for network in separate], -1)
    value = critic.values(x, task, {})
    flat = critic.values(rows, ids, {})
    assert value.shape == (T, B, 2)
    torch.testing.assert_close(value, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(flat, expected.view(-1, 2)[order], atol=1e-10, rtol=0)
    (value.square().sum() + flat.square().sum()).backward()
    (2 * expected.square().sum()).backward()
    for name, stacked in critic.trunk.named_parameters():
        gradients = torch.stack([dict(n.named_parameters())[name].grad for n in separate])
        torch.testing.assert_close(stacked.grad, gradients, atol=1e-10, rtol=1e-10)


@combinations
def test_copy_state_dict_and_functional_calls(projection, residual):
    options = {"projection": projection, "residual": residual}
    networks = [fill_(build(**options)) for _ in range(2)]
    x, task, rows, ids, _ = inputs()
    other = build(**options)
    other.load_state_dict(networks[0].state_dict())
    parameters, _ = stack_module_state(networks)
    for view in ((x, task), (rows, ids)):
        y = networks[0](*view)
        assert torch.equal(copy.deepcopy(networks[0])(*view), y)
        assert torch.equal(other(*view), y)
        both = vmap(lambda p, view=view: functional_call(networks[0], p, view))(parameters)
        torch.testing.assert_close(both[0], y)
        torch.testing.assert_close(both[1], networks[1](*view))


@pytest.mark.parametrize(("projection", "residual"), [COMBINATIONS[3], COMBINATIONS[6]])
def test_compiles_as_one_graph(projection, residual):
    torch._dynamo.reset()
    critic = Critic(
        3,
        2,
        T,
        trunk=lambda *sizes: fill_(
            ProjectedMLP(*sizes, hidden=(12, 12), rank=2, projection=projection, residual=residual)
        ),
    )
    x, task, rows, ids, _ = inputs()
    view = (x, task) if projection == "shared" else (rows, ids)
    compiled = torch.compile(critic.values, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*view, {}), critic.values(*view, {}))


@pytest.mark.parametrize("out", [OUT, 9])
def test_autocast_keeps_the_last_layer_in_single_precision(out):
    layer = fill_(ProjectedLayer(12, out, T, rank=2, last=True))
    assert (layer.up is not None) == (out == 9)
    h, z, ids = torch.randn(T * B, 12), torch.randn(T * B, 2), torch.arange(T).repeat_interleave(B)
    expected = layer.combine(h, layer.correct(z, ids), layer.up)
    network = fill_(build(out))
    x, task, *_ = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        for groups in (None, ids):
            y = layer.combine(h, layer.correct(z, groups), layer.up)
            torch.testing.assert_close(y, expected)
        rounded = network(x, task)
    error = (rounded - network(x, task)).abs().mean()
    assert rounded.dtype == torch.float32 and 0 < error < 0.05 * network(x, task).abs().mean()


def test_toy_tasks_that_differ_by_a_low_rank():
    """Three maps y = (S + U W_t D) x with corrections of rank 2, fitted with and without tasks."""
    torch.manual_seed(2)
    shared, down, up = torch.randn(4, 6) / 6**0.5, torch.randn(2, 6) / 6**0.5, torch.randn(4, 2)
    maps = shared + up @ torch.randn(3, 2, 2) @ down
    blind_error = (maps - maps.mean(0)).square().sum((1, 2)).mean() / 4  # of the best single map
    task = torch.arange(3)[:, None].expand(3, 32)
    ptsl = ProjectedMLP(6, 4, 3, hidden=(64,), rank=2)
    perceptron = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 4))

    def fit(forward, parameters, steps=600):
        optimizer = torch.optim.Adam(parameters, lr=0.04, fused=True)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            x = torch.randn(3, 32, 6)
            loss = (forward(x) - x @ maps.mT).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
        with torch.no_grad():
            errors = [forward(x) - x @ maps.mT for x in torch.randn(20, 3, 32, 6)]
        return torch.stack(errors).square().mean()

    assert fit(lambda x: ptsl(x, task), ptsl.parameters()) < 1e-3
    assert fit(perceptron, perceptron.parameters(), 200) > 0.8 * blind_error > 0.1


@pytest.mark.parametrize(
    ("message", "arguments", "options"),
    [
        ("in_features", (0, 1, 2), {}),
        ("out_features", (1, 0, 2), {}),
        ("num_tasks", (1, 1, 0), {}),
        ("rank", (1, 1, 2), {"rank": 0}),
        ("hidden", (1, 1, 2), {"hidden": ()}),
        ("hidden", (1, 1, 2), {"hidden": (4, 0)}),
        ("hidden must be equal .*independent", (1, 1, 2), {"hidden": (4, 5)}),
        ("projection", (1, 1, 2), {"projection": "both"}),
        ("residual", (1, 1, 2), {"residual": "product"}),
        ("init", (1, 1, 2), {"init": "zero"}),
        ("layer 1, 39 to 326 .* lower rank", (39, 8, 10), {"residual": "sum"}),
        (
            "layer 1, 100 to 326 .* num_tasks = 1 and rank = 50; set residual",
            (100, 8, 1),
            {"residual": "linear"},
        ),
        (
            "layer 2, 400 to 16 .* lower rank",
            (100, 8, 10),
            {"hidden": (400, 16), "projection": "independent", "residual": "project"},
        ),
    ],
)
def test_errors_name_the_argument(message, arguments, options):
    with pytest.raises(ValueError, match=message):
        ProjectedMLP(*arguments, **options)


def test_input_errors():
    network = build()
    x, task, *_ = inputs()
    with pytest.raises(ValueError, match="x must be"):
        network(x[:2], task[:2])
    with pytest.raises(ValueError, match="x must be"):
        network(x[None], task[None])
    unequal = build(hidden=(12, 9), projection="independent")
    assert unequal(x, task).shape == (T, B, OUT)
