"""Tests of the active dendrites network; the numbers are those of its list of invariants."""

import copy
from functools import partial

import pytest
import torch
from tensordict import TensorDict
from torch.func import functional_call

from networks.actor import Actor
from networks.critic import Critic
from networks.dendrites import Dendrites
from networks.dendritic import DendriticMLP
from networks.k_winners import KWinners
from networks.task_context import TaskContext

T, B, IN, OUT, S = 3, 5, 6, 2, 4
IDS = torch.arange(T)[:, None].expand(T, B)
EYE = torch.eye(T, dtype=torch.float64)
KEPT = partial(TaskContext, preprocess="k_winners", width=8)
VARIANTS = {
    "published": {},
    "both_layers": {"layers_modulated": (0, 1)},
    "relu": {"percent_on": None},
    "all_in_input": {"input_source": "input_and_one_hot"},
    "all_in_context": {"context": partial(TaskContext, source="input_and_one_hot")},
    "context_relu": {"context": partial(TaskContext, preprocess="relu", width=7)},
    "context_k_winners": {"context": KEPT},
    "unsigned": {"dendrites": partial(Dendrites, num_segments=S, gating="unsigned_abs_max")},
    "biasing": {"dendrites": partial(Dendrites, num_segments=S, gating="biasing", bias=True)},
    "one_segment": {"dendrites": partial(Dendrites, num_segments=1, gating="one_segment")},
    "sparse_segments": {"dendrites": partial(Dendrites, num_segments=S, sparsity=0.4)},
    "frozen": {"dendrites": partial(Dendrites, num_segments=S, frozen=True)},
    "boosted": {"winners": partial(KWinners, boost_strength=1.0, boost_decay=0.9)},
    "no_dendrites": {"layers_modulated": ()},
    "one_layer": {"hidden": (12,), "layers_modulated": (0,)},
}
variants = pytest.mark.parametrize("name", VARIANTS)


def build(name="published", out=OUT, wide=IN, tasks=T, **options):
    defaults = {"hidden": (12, 8), "weight_sparsity": 0.5}
    defaults["dendrites"] = partial(Dendrites, num_segments=S)
    return DendriticMLP(wide, out, tasks, **{**defaults, **VARIANTS[name], **options}).double()


def inputs():
    return torch.randn(T, B, IN, dtype=torch.float64, requires_grad=True)


def first_winners(values, k):
    values = values.detach().tolist()
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    return torch.tensor([float(i in order) for i in range(len(values))], dtype=torch.float64)


def by_hand(network, x, task):
    """A loop over tasks, rows, layers and units."""
    results = []
    for t in range(T):
        for row, task_id in zip(x[t], task[t], strict=True):
            one_hot = EYE[task_id]
            h = row
            if network.input_source == "input_and_one_hot":
                h = torch.cat((row, one_hot))
            for index, layer in enumerate(network.layers):
                y = (layer.weight * layer.mask) @ h + layer.bias
                if index == len(network.layers) - 1:
                    break
                if str(index) in network.dendrites:
                    c = one_hot
                    if network.context.source == "input_and_one_hot":
                        c = torch.cat((row, one_hot))
                    if network.context.linear is not None:
                        c = network.context.linear.weight @ c + network.context.linear.bias
                        if network.context.activation is None:
                            c = c.relu()
                        else:
                            c = c * first_winners(c, network.context.activation.k)
                    y = modulated(network.dendrites[str(index)], y, c)
                activation = network.activations[index]
                if isinstance(activation, KWinners):
                    boost = torch.exp(-activation.boost_strength * activation.duty_cycle)
                    h = y * first_winners(y.detach() * boost, activation.k)
                else:
                    h = y.relu()
            results.append(y)
    return torch.stack(results).view(T, B, -1)


def modulated(dendrites, y, c):
    values = []
    for u, drive in enumerate(y):
        d = (dendrites.weight[u] * dendrites.mask[u]) @ c
        if dendrites.bias is not None:
            d = d + dendrites.bias[u]
        if dendrites.gating == "signed_abs_max":
            values.append(drive * torch.sigmoid(d[d.detach().abs().argmax()]))
        elif dendrites.gating == "unsigned_abs_max":
            values.append(drive * torch.sigmoid(d.abs().max()))
        elif dendrites.gating == "biasing":
            values.append(drive + d.max())
        else:
            values.append(drive * torch.sigmoid(d[0]))
    return torch.stack(values)


def with_gradients(network, y, *others):
    leaves = [*others, *network.parameters()]
    return y, *torch.autograd.grad(y.sub(1).square().sum(), leaves)


def assert_all_close(results, *others, atol=1e-10):
    for other in others:
        for got, expected in zip(results, other, strict=True):
            torch.testing.assert_close(got, expected, atol=atol, rtol=0)


def contexts_of(network, x, task):
    """Explicit contexts, which go the way of the product for each row."""
    raw = network.context.raw(x, task)
    return EYE[task] if raw is None else raw


@variants
def test_invariant_01_matches_a_loop_over_tasks_rows_and_units(name):
    network, x = build(name), inputs()
    if name == "boosted":
        for activation in network.activations:
            activation.duty_cycle.copy_(torch.rand(activation.num_units))
    network.eval()
    expected = with_gradients(network, by_hand(network, x, IDS), x)
    assert_all_close(with_gradients(network, network(x, IDS), x), expected)
    order = torch.randperm(T * B)
    flat = network(x.reshape(-1, IN)[order], IDS.reshape(-1)[order])
    y = torch.empty_like(flat).index_copy(0, order, flat).view(T, B, OUT)
    assert_all_close(with_gradients(network, y, x), expected)
    torch.testing.assert_close(network(x[1, 2], IDS[1, 2]), expected[0][1, 2])


@variants
def test_invariant_07_table_equals_products_for_each_row(name):
    network, x = build(name), inputs()
    if network.context is None:
        pytest.skip("there are no contexts")
    context = contexts_of(network, x, IDS)
    table = with_gradients(network, network(x, IDS), x)
    network = copy_with_state(network, name)
    product = with_gradients(network, network(x, IDS, context), x)
    assert_all_close(table, product, atol=1e-12)


def copy_with_state(network, name):
    fresh = build(name)
    fresh.load_state_dict(network.state_dict())
    for activation in fresh.activations:
        if isinstance(activation, KWinners):
            activation.duty_cycle.zero_()  # as it was before the first pass
    return fresh


def test_invariant_07_gates_do_not_depend_on_the_state():
    network = build()
    gates = network.gates(inputs(), IDS)["1"]
    assert gates.shape == (T, 1, 8)
    assert torch.equal(gates, network.gates(inputs(), IDS)["1"])
    rows = network.gates(inputs().flatten(0, 1), IDS.reshape(-1))["1"]
    assert torch.equal(rows.view(T, B, 8), gates.expand(T, B, 8))
    per_row = network.gates(inputs(), IDS, EYE[IDS])["1"]
    assert per_row.shape == (T, B, 8)
    torch.testing.assert_close(per_row, gates.expand(T, B, 8), atol=1e-12, rtol=0)


@pytest.mark.parametrize("grouped", [True, False])
def test_invariant_08_other_tasks_segments_get_no_gradient(grouped):
    network, x = build(), inputs()
    if grouped:
        loss = network(x, IDS)[1].square().sum()
    else:
        loss = network(x[1], IDS[1]).square().sum()
    loss.backward()
    gradient = network.dendrites["1"].weight.grad
    assert (gradient[..., [0, 2]] == 0).all() and (gradient[..., 1] != 0).any()


def test_invariant_09_frozen_segments_and_the_rest_trains():
    network, x = build("frozen"), inputs()
    before = network.dendrites["1"].weight.clone()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    network(x, IDS).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())
    optimizer.step()
    assert torch.equal(network.dendrites["1"].weight, before)
    critic = Critic(IN - 2, 2, T, trunk=partial(build_plain, **VARIANTS["frozen"]))
    assert not any("dendrites" in parameter for parameter, _ in critic.named_parameters())


def build_plain(wide, out, tasks, **options):
    """For the doors, in single precision."""
    defaults = {"hidden": (12, 8), "weight_sparsity": 0.5}
    defaults["dendrites"] = partial(Dendrites, num_segments=S)
    return DendriticMLP(wide, out, tasks, **{**defaults, **options})


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", [torch.optim.Adam, partial(torch.optim.SGD, momentum=0.9)])
def test_invariants_16_and_17_masks_hold_while_the_network_and_its_target_move(kind, fused):
    network = build("sparse_segments").float()
    target = copy.deepcopy(network).requires_grad_(False)
    before = copy.deepcopy(network)
    optimizer = kind(network.parameters(), lr=0.02, fused=fused)
    for _ in range(20):
        optimizer.zero_grad()
        network(torch.randn(T, B, IN), IDS).sub(1).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(target.parameters()), list(network.parameters()), 0.1)
    names = [name for name, _ in network.named_buffers() if name.endswith("mask")]
    assert len(names) == 4
    for name in names:
        owner = name.rpartition(".")[0]
        mask, old = network.get_buffer(name), before.get_parameter(f"{owner}.weight")
        assert torch.equal(mask, before.get_buffer(name))
        assert torch.equal(mask, target.get_buffer(name))
        for module in (network, target):
            weight = module.get_parameter(f"{owner}.weight")
            assert (weight[~mask] == 0).all() and (weight[mask] != old[mask]).any()


def masks_of(network):
    return {n: b for n, b in network.named_buffers() if n.endswith("mask")}


def test_invariant_18_masks_follow_the_seed():
    networks = [build("sparse_segments", mask_seed=seed) for seed in (3, 3, 4)]
    first, second, third = map(masks_of, networks)
    for name, mask in first.items():
        assert torch.equal(mask, second[name]) and not torch.equal(mask, third[name])
    weights = [network.linears()[0].weight for network in networks]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(masks_of(build())["layers.0.mask"], masks_of(build())["layers.0.mask"])


def test_invariants_18_and_28_state_travels():
    network, x = build("boosted"), inputs()
    network(x, IDS)
    network.end_iteration()
    fresh = build("boosted")
    fresh.load_state_dict(network.state_dict())
    for twin in (fresh, copy.deepcopy(network)):
        original = copy.deepcopy(network)
        for _ in range(3):
            assert torch.equal(twin(x, IDS), original(x, IDS))
        for name, value in original.state_dict().items():
            assert torch.equal(twin.state_dict()[name], value)
    names = set(network.state_dict())
    assert {"layers.2.mask", "activations.1.duty_cycle", "activations.0.rows_seen"} <= names


@pytest.mark.parametrize(("wide", "first"), [(39, 0.1688), (43, 0.1607)])
def test_invariant_19_published_bounds(wide, first):
    network = DendriticMLP(wide, 1, 10)
    layers = network.linears()
    bounds = [layer.weight.abs().max().item() for layer in layers]
    # The largest of many uniform draws lies a little below the bound.
    for bound, expected in zip(bounds, (first, 0.0398, 0.0398), strict=True):
        assert 0.985 * expected < bound <= expected + 5e-5
    assert network.dendrites["1"].weight.abs().max().item() == pytest.approx(0.3162, abs=1e-4)
    relu = DendriticMLP(wide, 1, 10, hidden=(50, 50), percent_on=None)
    assert relu.linears()[1].weight.abs().max() <= 1 / (0.9 * 50) ** 0.5


def test_invariant_20_losers_get_no_gradient():
    network, x = build(weight_sparsity=0.0), inputs()
    seen = {}
    network.activations[1].register_forward_hook(lambda m, i, o: seen.update(out=o))
    y = network(x[0, :1], IDS[0, :1])
    y.sum().backward()
    lost = seen["out"][0] == 0
    assert lost.sum() == 6
    for gradient in (
        network.layers[1].weight.grad,
        network.layers[1].bias.grad,
        network.dendrites["1"].weight.grad,
    ):
        gradient = gradient.flatten(1) if gradient.dim() > 1 else gradient[:, None]
        assert (gradient[lost] == 0).all() and (gradient[~lost] != 0).any(-1).all()
    d = network.dendrites["1"].segments(EYE[:1])[0]
    winner = d.abs().argmax(-1)
    for u in range(8):
        for s in range(S):
            moved = (network.dendrites["1"].weight.grad[u, s] != 0).any()
            assert moved == (s == winner[u] and not lost[u])


def test_invariant_21_an_unmodulated_layer_is_the_same_for_all_tasks():
    network, x = build(), inputs()[0]
    seen = []
    for activation in network.activations:
        activation.register_forward_hook(lambda m, i, o: seen.append(o))
    network(x, IDS[0])
    network(x, IDS[1])
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[1], seen[3])


@pytest.mark.parametrize("name", ["both_layers", "all_in_context"])
def test_invariant_22_finite_differences(name):
    network, x = build(name, hidden=(8, 5)).eval(), inputs()[:, :2].detach().requires_grad_()
    names = [parameter for parameter, _ in network.named_parameters()]

    def function(x, *values):
        return functional_call(network, dict(zip(names, values, strict=True)), (x, IDS[:, :2]))

    assert torch.autograd.gradcheck(function, (x, *network.parameters()))


def test_invariant_23_the_task_enters_through_the_segments_alone():
    network, x = build(), inputs()
    other = (IDS + 1) % T
    flat = x.reshape(-1, IN)
    assert not torch.equal(network(flat, IDS.reshape(-1)), network(flat, other.reshape(-1)))
    with torch.no_grad():
        network.dendrites["1"].weight.zero_()
    assert torch.equal(network(flat, IDS.reshape(-1)), network(flat, other.reshape(-1)))


@pytest.mark.parametrize(
    ("wide", "out", "total", "not_zero"),
    [(39, 8, 8_257_208, 7_459_768), (43, 1, 8_248_801, 7_453_321)],
)
def test_invariant_27_parameter_counts(wide, out, total, not_zero):
    network = DendriticMLP(wide, out, 10)
    assert sum(p.numel() for p in network.parameters()) == total
    allowed = {name.replace("mask", "weight"): mask for name, mask in masks_of(network).items()}
    count = 0
    for name, parameter in network.named_parameters():
        mask = allowed.get(name, torch.ones_like(parameter))
        assert (parameter[mask == 0] == 0).all()
        count += int(mask.sum())
    assert count == not_zero
    assert [module.k for module in network.activations] == [700, 700]


def test_invariant_29_evaluation_changes_nothing():
    network, x = build("boosted"), inputs()
    network(x, IDS)
    before, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    network.eval()(x, IDS)
    with torch.no_grad():
        network.train()(x, IDS)
    constant = {name: p.detach() for name, p in network.named_parameters()}
    functional_call(network, constant, (x, IDS)).sum().backward()
    assert x.grad is not None
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(torch.get_rng_state(), random)


def test_invariant_30_what_hooks_see():
    network, x = build("both_layers"), inputs()
    seen = {}
    for index, activation in enumerate(network.activations):
        activation.register_forward_hook(lambda m, i, o, n=index: seen.update({n: o}))
    network(x, IDS)
    for index, units in enumerate((12, 8)):
        assert seen[index].shape == (T, B, units)
        used = (seen[index] != 0).double().flatten(0, 1)
        assert (used.sum(-1) == units // 4).all()
        overlap = used @ used.t() / units
        torch.testing.assert_close(overlap.diagonal(), torch.full((T * B,), 0.25).double())
        assert overlap.amin() >= 0 and overlap.amax() <= 0.25
        d = network.dendrites[str(index)].segments()
        assert d.shape == (T, units, S)
        winner = torch.nn.functional.one_hot(d.abs().argmax(-1), S).double()
        torch.testing.assert_close(winner.mean(0).sum(-1), torch.ones(units).double())
        assert network.dendrites[str(index)].gates().shape == (T, units)


def grouped():
    td = {"observation": torch.randn(T, B, IN), "action": torch.randn(T, B, 2), "task_id": IDS}
    return TensorDict(td, [T, B])


@variants
@pytest.mark.parametrize("flat", [False, True], ids=["grouped", "rows"])
def test_stacked_critics_are_single_networks(name, flat):
    singles = []

    def trunk(*sizes):
        singles.append(build_plain(*sizes, **VARIANTS[name]))
        return copy.deepcopy(singles[-1])

    critic, td = Critic(IN, 2, T, trunk=trunk), grouped()
    if flat:
        order = torch.randperm(T * B)
        td = td.reshape(-1)[order]
    for _ in range(2):
        values = critic(td)["state_action_value"]
        x = torch.cat((td["observation"], td["action"]), -1)
        own = torch.stack([single(x, td["task_id"]).squeeze(-1) for single in singles], -1)
        torch.testing.assert_close(values, own)
    for buffer, stacked in critic.trunk.named_buffers():
        expected = torch.stack([single.get_buffer(buffer) for single in singles])
        torch.testing.assert_close(stacked, expected)
    parameters = [dict(single.named_parameters()) for single in singles]
    values.square().sum().backward()
    own.square().sum().backward()
    for parameter, stacked in critic.trunk.named_parameters():
        expected = torch.stack([named[parameter].grad for named in parameters])
        torch.testing.assert_close(stacked.grad, expected, atol=1e-5, rtol=1e-4)


def test_the_losss_own_pass_alone_counts_in_sac():
    critic, td = Critic(IN, 2, T, trunk=build_plain), grouped()
    duty = critic.trunk.activations[1]
    td["action"].requires_grad_()
    constant = {name: p.detach() for name, p in critic.named_parameters()}
    value = functional_call(critic, constant, (td,))["state_action_value"]
    assert value.requires_grad and (duty.rows_seen == 0).all()
    copy.deepcopy(critic).requires_grad_(False)(td)
    assert (duty.rows_seen == 0).all()
    critic(td)
    assert duty.rows_seen.tolist() == [T * B, T * B]
    assert duty.duty_cycle.shape == (2, 8) and critic.trunk.layers[1].mask.shape == (2, 8, 12)


def test_the_actor_acts_and_learns():
    actor, td = Actor(IN, 2, T, trunk=build_plain), grouped()
    policy = actor(td)
    (policy["action_log_prob"].sum() + policy["action"].sum()).backward()
    assert all(p.grad.abs().sum() > 0 for p in actor.parameters())
    assert actor.trunk.activations[0].rows_seen == T * B
    with torch.no_grad():
        rows = td.reshape(-1)
        assert actor(rows, explore=False)["action"].shape == (T * B, 2)


def test_end_iteration_reaches_every_boosted_layer():
    critic = Critic(IN, 2, T, trunk=partial(build_plain, **VARIANTS["boosted"]))
    critic.trunk.end_iteration()
    for activation in critic.trunk.activations:
        torch.testing.assert_close(activation.boost_strength, torch.tensor([0.9, 0.9]))
    critic.trunk.activations[1].duty_cycle[1, 3] = torch.inf
    with pytest.raises(FloatingPointError):
        critic.trunk.end_iteration()


@pytest.mark.parametrize(("name", "flat"), [("boosted", False), ("all_in_context", True)])
def test_compiles(name, flat):
    network, x, task = build(name), inputs(), IDS
    if flat:
        x, task = x.reshape(-1, IN), task.reshape(-1)
    compiled = torch.compile(copy.deepcopy(network), backend="aot_eager", fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(compiled(x, task), network(x, task))
    for name, value in network.named_buffers():
        torch.testing.assert_close(compiled.get_buffer(name), value)


def test_prototypes_come_from_the_caller():
    network = build(context=partial(TaskContext, source="prototype"))
    x, prototypes = inputs(), torch.randn(T, 1, IN, dtype=torch.float64)
    y = network(x, IDS, prototypes)
    torch.testing.assert_close(y, network(x, IDS, prototypes.expand(T, B, IN)))
    rows = network(x.reshape(-1, IN), IDS.reshape(-1), prototypes.expand(T, B, IN).reshape(-1, IN))
    torch.testing.assert_close(y, rows.view(T, B, OUT))
    assert not torch.allclose(y, network(x, IDS, prototypes.flip(0)))
    with pytest.raises(ValueError, match="context must be given"):
        network(x, IDS)


def test_autocast_keeps_the_selection_exact_and_the_head_in_single_precision():
    network, x = build().float(), torch.randn(T, B, IN)
    seen = {}
    for index, activation in enumerate(network.activations):
        activation.register_forward_hook(lambda m, i, o, n=index: seen.update({n: o}))
    with torch.autocast("cpu", torch.bfloat16):
        y = network(x, IDS)
    assert seen[0].dtype is torch.bfloat16 and y.dtype is torch.float32
    for index, k in enumerate((3, 2)):
        assert (torch.count_nonzero(seen[index], -1) <= k).all()
    last = network.layers[-1]
    exact = torch.nn.functional.linear(seen[1].float(), last.weight, last.bias)
    torch.testing.assert_close(y, exact)
    y.sum().backward()
    assert all(p.grad.dtype is torch.float32 for p in network.parameters())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"hidden": ()}, "hidden .* got"),
        ({"hidden": (4, 0)}, "hidden .* got"),
        ({"layers_modulated": (2,)}, r"layers_modulated .* got \(2,\)"),
        ({"layers_modulated": (1, 1)}, r"layers_modulated .* got \(1, 1\)"),
        ({"layers_modulated": (-1,)}, r"layers_modulated .* got \(-1,\)"),
        ({"percent_on": 0.0}, "percent_on .* got 0.0"),
        ({"percent_on": None, "context": KEPT}, "preprocess must not be 'k_winners'"),
        ({"input_source": "one_hot"}, "input_source .* got 'one_hot'"),
        ({"weight_sparsity": 1.0}, "sparsity .* got 1.0"),
        ({"weight_init": "xavier"}, "init .* got 'xavier'"),
    ],
)
def test_errors(options, match):
    with pytest.raises(ValueError, match=match):
        build(**options)


def test_errors_of_sizes_and_groups():
    with pytest.raises(ValueError, match="num_tasks must be at least 1, got 0"):
        build(tasks=0)
    with pytest.raises(ValueError, match="needs 3 groups, got 2"):
        build()(inputs()[:2], IDS[:2])


@pytest.mark.parametrize("hidden", [(4, 64), (64, 4)])
def test_layers_without_a_winner_are_refused(hidden):
    with pytest.raises(ValueError, match=r"percent_on must leave a winner .*0.05 of 4 units"):
        DendriticMLP(5, 2, 3, hidden=hidden, percent_on=0.05)
