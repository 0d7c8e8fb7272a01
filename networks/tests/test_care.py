"""Tests of CARE's encoder; the numbers are those of its list of invariants."""

import copy
import functools
import math

import pytest
import torch
from torch.nn.functional import linear, relu

from networks.care import CareEncoder
from networks.task_encoder import TaskEncoder
from networks.task_text import DESCRIPTIONS

NAMES = ["reach-v3", "push-v3", "door-open-v3"]
T, B, IN, WIDTH = 3, 5, 4, 6
FORMS = [
    {},
    {"detach_context": True},
    {"num_experts": 1},
    {"selection": "gate"},
    {"selection": "gate", "detach_context": False, "num_experts": 3},
    {"selection": "ensemble"},
    {"attention": "dot_product"},
    {"attention": "dot_product", "detach_context": False},
    {"attention": "dot_product", "selection": "gate"},
    {"actor_attention": "frozen_random"},
    {"actor_attention": "frozen_random", "selection": "gate"},
]
forms = pytest.mark.parametrize("form", FORMS, ids=str)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def fresh(**options):
    factory = functools.partial(TaskEncoder, code_dim=WIDTH, hidden=7)
    options = {"task_encoder": factory, "width": WIDTH, **options}
    return CareEncoder(IN, NAMES, **options)


def small(**options):
    """A fresh encoder with biases that are not zero, so that no two logits are ever equal."""
    encoder = fresh(**options)
    for name, value in encoder.state_dict().items():
        if name.endswith("bias") or "bias_" in name:
            value.normal_(std=0.5)
    return encoder


def inputs(dtype=torch.float32):
    return torch.randn(T, B, IN, dtype=dtype), torch.arange(T)[:, None].expand(T, B)


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


def run(layers, x):
    """Linear layers with ReLUs between them."""
    *hidden, last = layers
    for layer in hidden:
        x = relu(linear(x, layer.weight, layer.bias))
    return linear(x, last.weight, last.bias)


def by_hand(encoder, form, x, code, actor=False):
    """Weights [k] and output of one row, expert by expert."""
    experts, k = encoder.experts, encoder.num_experts
    z = []
    for j in range(k):
        hidden = relu(linear(x, experts.weight_0[j], experts.bias_0[j]))
        z.append(linear(hidden, experts.weight_1[j], experts.bias_1[j]))
    gate, dot = form.get("selection") == "gate", form.get("attention") == "dot_product"
    context = code.detach() if form.get("detach_context", gate or dot) else code
    if form.get("selection") == "ensemble":
        alpha = [torch.tensor(1 / k, dtype=x.dtype)] * k
    else:
        if dot:
            scores = [torch.dot(z[j], context) for j in range(k)]
        else:
            frozen = actor and form.get("actor_attention") == "frozen_random"
            attention = encoder.actor_attention if frozen else encoder.attention
            scores = list(run(attention.layers, context))
        alpha = [score.exp() / sum(other.exp() for other in scores) for score in scores]
        if gate:
            kept = sorted(range(k), key=lambda j: -float(alpha[j].detach()))[:2]
            total = sum(alpha[j] for j in kept)
            alpha = [alpha[j] / total if j in kept else alpha[j] * 0 for j in range(k)]
    f = sum(alpha[j] * z[j] for j in range(k))
    if dot:
        f = run(encoder.mixed.layers, f)
    return torch.stack(alpha), torch.cat((f, code))


@pytest.mark.parametrize(
    ("observation_dim", "options", "count"),
    [
        (12, {}, 18_104),
        (39, {}, 23_504),
        (12, {"actor_attention": "frozen_random"}, 18_104),
        (39, {"num_experts": 6}, 6 * (40 * 50 + 51 * 50) + 5_100 + 51 * 6),
        (39, {"selection": "ensemble"}, 4 * (40 * 50 + 51 * 50)),
        (39, {"attention": "dot_product"}, 4 * (40 * 50 + 51 * 50) + 5_100),
    ],
)
def test_parameter_counts(observation_dim, options, count):
    encoder = CareEncoder(observation_dim, NAMES, task_encoder=TaskEncoder, **options)
    assert size(encoder) - size(encoder.task_encoder) == count
    assert size(encoder.task_encoder) == 89_600
    assert encoder.out_features == 100


def test_parameter_count_of_the_small_configuration():
    factory = functools.partial(TaskEncoder, code_dim=32, hidden=32)
    encoder = CareEncoder(39, NAMES, task_encoder=factory, num_experts=2, width=32)
    assert size(encoder) - size(encoder.task_encoder) == 6_850
    assert encoder.out_features == 64


def test_initialisation():
    encoder = CareEncoder(39, NAMES, task_encoder=TaskEncoder)
    for name, parameter in encoder.named_parameters():
        if "bias" in name:
            assert bool((parameter == 0).all()), name
        else:
            bound = math.sqrt(6 / sum(parameter.shape[-2:]))
            slices = parameter.detach().abs().reshape(-1, *parameter.shape[-2:]).amax((1, 2))
            assert bool(((slices > 0.9 * bound) & (slices <= bound)).all()), name


@forms
def test_equals_a_loop_over_rows_and_experts(form):
    encoder = small(**form).double()
    x, task = inputs(torch.float64)
    code = encoder.code(task)
    for actor, method in ((False, encoder), (True, encoder.for_actor)):
        rows = [
            by_hand(encoder, form, x[t, b], code[t, b], actor) for t in range(T) for b in range(B)
        ]
        wanted = torch.stack([row for _, row in rows]).view(T, B, -1)
        got = method(x, code)
        torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0)
        if not actor:
            alpha = torch.stack([weights for weights, _ in rows]).view(T, B, -1)
            torch.testing.assert_close(encoder.weights(x, code), alpha, atol=1e-10, rtol=0)
        factor, parameters = torch.randn_like(got), list(encoder.parameters())
        options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        one = torch.autograd.grad((factor * got).sum(), parameters, **options)
        other = torch.autograd.grad((factor * wanted).sum(), parameters, **options)
        for mine, plain in zip(one, other, strict=True):
            torch.testing.assert_close(mine, plain, atol=1e-10, rtol=0)


@forms
def test_leading_dimensions(form):
    encoder = small(**form).double()
    x, task = inputs(torch.float64)
    code = encoder.code(task)
    for method in (encoder, encoder.for_actor):
        y = method(x, code)
        assert y.shape == (T, B, encoder.out_features)
        flat = method(x.reshape(-1, IN), code.reshape(-1, WIDTH))
        torch.testing.assert_close(flat.view_as(y), y, atol=1e-12, rtol=0)
        order = torch.randperm(T * B)
        mixed = method(x.reshape(-1, IN)[order], encoder.code(task.reshape(-1)[order]))
        torch.testing.assert_close(mixed, flat[order], atol=1e-12, rtol=0)
        torch.testing.assert_close(method(x[1, 2], code[1, 2]), y[1, 2], atol=1e-12, rtol=0)
        deep = method(x[:, None, :, None], code[:, None, :, None])
        torch.testing.assert_close(deep[:, 0, :, 0], y, atol=1e-12, rtol=0)
        torch.testing.assert_close(method(x, encoder.code(task[:, :1])), y, atol=1e-12, rtol=0)
    alpha = encoder.weights(x, code)
    torch.testing.assert_close(encoder.weights(x, code[:, :1]), alpha, atol=1e-12, rtol=0)


@forms
def test_invariant_9_weights(form):
    encoder = small(**form)
    x, task = inputs()
    alpha = encoder.weights(x, encoder.code(task))
    assert alpha.shape == (T, B, encoder.num_experts)
    torch.testing.assert_close(alpha.sum(-1), torch.ones(T, B))
    used = 2 if form.get("selection") == "gate" else encoder.num_experts
    assert bool(((alpha > 0).sum(-1) == used).all())
    per_state = form.get("attention") == "dot_product"
    assert torch.allclose(alpha[:, :1].expand_as(alpha), alpha) != per_state


def test_invariant_9_output():
    encoder = CareEncoder(39, list(DESCRIPTIONS), task_encoder=TaskEncoder)
    code = encoder.code(torch.randint(50, (7,)))
    y = encoder(torch.randn(7, 39), code)
    assert y.shape == (7, 100)
    assert torch.equal(y[:, 50:], code)


@pytest.mark.parametrize("form", [{}, {"selection": "ensemble"}], ids=str)
def test_invariant_9_one_expert_is_the_mixture(form):
    encoder = small(num_experts=1, **form)
    x, task = inputs()
    z = encoder.experts(x)
    torch.testing.assert_close(encoder(x, encoder.code(task))[..., :WIDTH], z[0])


@pytest.mark.parametrize("form", [{}, {"actor_attention": "frozen_random"}], ids=str)
def test_invariant_9_equal_logits_give_the_mean(form):
    encoder, x = small(**form), torch.randn(B, IN)
    code = encoder.code(torch.zeros(B, dtype=torch.long))
    mean = encoder.experts(x).mean(0)
    with torch.no_grad():
        encoder.attention.layers[-1].weight.zero_()
        encoder.attention.layers[-1].bias.fill_(0.7)
    torch.testing.assert_close(encoder(x, code)[:, :WIDTH], mean)
    ensemble = small(selection="ensemble")
    ensemble.load_state_dict(encoder.state_dict(), strict=False)
    torch.testing.assert_close(ensemble(x, code)[:, :WIDTH], mean)


@forms
def test_invariant_10_the_critics_loss_reaches_everything_trained(form):
    encoder = small(**form)
    x, task = inputs()
    encoder(x, encoder.code(task)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        moved = float(parameter.grad.abs().sum()) > 0
        alone = encoder.num_experts == 1 and name.startswith("attention")  # alpha is always 1
        assert moved != alone, name
    assert not any(buffer.requires_grad for buffer in encoder.buffers())


@forms
def test_invariant_10_detached_context_gets_no_gradient_from_the_attention(form):
    encoder = small(**form)
    x, task = inputs()
    code = encoder.code(task).detach().requires_grad_()
    features = encoder(x, code)[..., :WIDTH]
    (reached,) = torch.autograd.grad(
        features.square().sum(), code, allow_unused=True, materialize_grads=True
    )
    reads = form.get("selection") != "ensemble" and encoder.num_experts > 1
    cut = form.get("selection") == "gate" or form.get("attention") == "dot_product"
    cut = form.get("detach_context", cut)
    assert bool(reached.abs().sum() > 0) == (reads and not cut)
    (always,) = torch.autograd.grad(encoder(x, code)[..., WIDTH:].sum(), code)
    torch.testing.assert_close(always, torch.ones_like(code))


def test_invariant_10_training_leaves_table_and_frozen_attention():
    encoder = small(actor_attention="frozen_random")
    x, task = inputs()
    fixed = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    trained = {name: value.detach().clone() for name, value in encoder.named_parameters()}
    assert "task_encoder.table" in fixed
    assert {name.split(".")[0] for name in fixed} == {"task_encoder", "actor_attention"}
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    for _ in range(5):
        code = encoder.code(task)
        loss = encoder(x, code).square().mean() + encoder.for_actor(x, code).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(torch.equal(fixed[name], buffer) for name, buffer in encoder.named_buffers())
    assert not any(torch.equal(trained[name], value) for name, value in encoder.named_parameters())


def test_frozen_attention_ties_the_experts_alone():
    torch.manual_seed(0)
    shared = fresh()
    torch.manual_seed(0)
    frozen = fresh(actor_attention="frozen_random")
    for (name, one), (_, other) in zip(
        shared.named_parameters(), frozen.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name
    x, task = inputs()
    code = frozen.code(task)
    assert torch.equal(shared(x, code), frozen(x, code))
    assert torch.equal(shared.for_actor(x, code), shared(x, code))
    policy = frozen.for_actor(x, code).detach()
    assert not torch.allclose(policy, frozen(x, code))
    with torch.no_grad():
        frozen.attention.layers[-1].bias[0] += 1.0
        assert torch.equal(frozen.for_actor(x, code), policy)
        frozen.experts.bias_1[0] += 1.0
        assert not torch.allclose(frozen.for_actor(x, code), policy)


@forms
def test_copies_and_states(form):
    encoder = small(**form)
    x, task = inputs()

    def both(network, x, task):
        code = network.code(task)
        return network(x, code), network.for_actor(x, code)

    y = both(encoder, x, task)
    clone, other = copy.deepcopy(encoder), small(**form)
    assert not torch.equal(both(other, x, task)[1], y[1])
    other.load_state_dict(encoder.state_dict())
    for network in (clone, other):
        for got, wanted in zip(both(network, x, task), y, strict=True):
            assert torch.equal(got, wanted)
    parameters = {name: value.detach() for name, value in encoder.named_parameters()}
    code = encoder.code(task)
    assert torch.equal(torch.func.functional_call(encoder, parameters, (x, code)), y[0])


@pytest.mark.parametrize("form", [FORMS[0], FORMS[5], FORMS[6], FORMS[9]], ids=str)
def test_single_precision_comes_out_of_autocast(form):
    encoder = small(**form)
    x, task = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder.for_actor(x, encoder.code(task))
    assert half.dtype == torch.float32
    whole = encoder.for_actor(x, encoder.code(task))
    torch.testing.assert_close(half, whole, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("form", [FORMS[6], FORMS[10]], ids=str)
def test_compiles(form):
    encoder = small(**form)
    x, task = inputs()
    code = encoder.code(task).detach()
    compiled = torch.compile(encoder.for_actor, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, code), encoder.for_actor(x, code))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_experts": 0}, "num_experts must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"attention": "mlp"}, "attention must be one of .* got 'mlp'"),
        ({"selection": "hard"}, "selection must be one of .* got 'hard'"),
        ({"actor_attention": "own"}, "actor_attention must be one of .* got 'own'"),
        ({"selection": "gate", "num_experts": 1}, "num_experts must be at least 2"),
        ({"selection": "ensemble", "attention": "dot_product"}, "has no attention"),
        ({"selection": "ensemble", "actor_attention": "frozen_random"}, "has no attention"),
        ({"selection": "ensemble", "detach_context": False}, "has no attention"),
        ({"attention": "dot_product", "actor_attention": "frozen_random"}, "no weights"),
        ({"attention": "dot_product", "width": 9}, "code_dim 6 and width 9"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
