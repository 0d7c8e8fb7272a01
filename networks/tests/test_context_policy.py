"""The context policy: its size, its context, its behaviour under torch.func."""

import copy
import math

import gin
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from networks.context_policy import LOG_STD_MIN, ContextPolicy
from networks.neuromodulated import NeuromodulatedPolicy

SIZES = {  # observation, context, width, action
    "navigation": ((2, 5, 100, 2), "gaussian", 11_104),
    "half-cheetah": ((20, 50, 200, 6), "gaussian", 55_612),
    "ML1": ((39, 50, 200, 4), "gaussian", 59_008),
    "ML45": ((39, 100, 200, 4), "gaussian", 69_008),
    "ML45 large": ((39, 100, 250, 4), "gaussian", 98_758),
    "CT-graph 2": ((17, 5, 200, 3), "categorical", 45_403),
    "CT-graph 3": ((33, 10, 300, 3), "categorical", 104_403),
    "CT-graph 4": ((65, 20, 600, 3), "categorical", 414_003),
    "CT-graph 4 large": ((65, 20, 647, 3), "categorical", 476_842),
}
KINDS = pytest.mark.parametrize("kind", [ContextPolicy, NeuromodulatedPolicy])
DISTRIBUTIONS = pytest.mark.parametrize("distribution", ["gaussian", "categorical"])


def build(kind=ContextPolicy, **options):
    torch.manual_seed(0)
    options = {"num_context": 4, "hidden": (8, 7), "activation": "tanh"} | options
    if kind is NeuromodulatedPolicy:
        options = {"gate": "soft", "num_modulators": 3} | options
    return kind(3, 2, **options).double()


@pytest.mark.parametrize("name", SIZES)
def test_invariant_4_parameter_counts(name):
    (observation, context, width, action), distribution, count = SIZES[name]
    policy = ContextPolicy(
        observation,
        action,
        num_context=context,
        hidden=(width, width),
        distribution=distribution,
    )
    assert sum(p.numel() for p in policy.parameters()) == count


@KINDS
def test_invariant_4_initial_values(kind):
    policy = build(kind, hidden=(60, 50))
    for module in policy.modules():
        if isinstance(module, nn.Linear):
            bound = math.sqrt(6.0 / (module.in_features + module.out_features))
            assert (module.bias == 0).all()
            assert 0.9 * bound < module.weight.abs().max() <= bound
    x = torch.randn(5, 3).double()
    assert (policy(x, torch.zeros(4).double()).log_std.exp() == 1.0).all()


@KINDS
@DISTRIBUTIONS
def test_invariant_3_zero_context_hides_its_columns(kind, distribution):
    policy = build(kind, distribution=distribution)
    x, zero = torch.randn(5, 3).double(), torch.zeros(4).double()
    before = policy(x, zero)
    with torch.no_grad():
        for layer in policy.layers[0].modules():
            if isinstance(layer, nn.Linear) and layer.in_features == 7:
                layer.weight[:, 3:] = torch.randn(4).double()
    for old, new in zip(before, policy(x, zero), strict=True):
        assert torch.equal(old, new)
    assert not torch.equal(before[0], policy(x, zero + 1.0)[0])


def test_layers_by_hand():
    policy = build(activation="relu")
    observation, context = torch.randn(6, 3).double(), torch.randn(4).double()
    seen = policy(observation, context)
    for row in range(6):
        x = torch.cat((observation[row], context))
        for layer in policy.layers:
            x = (layer.weight @ x + layer.bias).clamp(min=0.0)
        mean = policy.last.weight @ x + policy.last.bias
        torch.testing.assert_close(seen.mean[row], mean, rtol=1e-12, atol=1e-12)
        assert torch.equal(seen.log_std[row], policy.log_std)


@KINDS
@DISTRIBUTIONS
def test_contexts_broadcast_over_the_rows_of_a_task(kind, distribution):
    policy = build(kind, distribution=distribution)
    observation, context = torch.randn(2, 5, 6, 3).double(), torch.randn(2, 1, 1, 4).double()
    whole = policy(observation, context)
    for task in range(2):
        for episode in range(5):
            one = policy(observation[task, episode], context[task, 0, 0])
            for field, expected in zip(whole, one, strict=True):
                assert field.shape == (2, 5, 6, 2)
                torch.testing.assert_close(field[task, episode], expected)


@KINDS
@DISTRIBUTIONS
def test_vmap_over_weights_equals_a_loop(kind, distribution):
    policies = [build(kind, distribution=distribution) for _ in range(3)]
    for policy in policies:
        for p in policy.parameters():
            nn.init.normal_(p)
    weights = {
        name: torch.stack([dict(policy.named_parameters())[name] for policy in policies])
        for name, _ in policies[0].named_parameters()
    }
    observation, context = torch.randn(3, 5, 3).double(), torch.randn(3, 4).double()

    def loss(weights, observation, context):
        made = functional_call(policies[0], weights, (observation, context))
        return made.log_prob(made.mode().detach()).sum() + made[0].square().sum()

    together = vmap(grad(loss))(weights, observation, context)
    for task, policy in enumerate(policies):
        own = {name: p.detach() for name, p in policy.named_parameters()}
        alone = grad(loss)(own, observation[task], context[task])
        for name, expected in alone.items():
            torch.testing.assert_close(together[name][task], expected, rtol=1e-10, atol=1e-10)


@KINDS
@DISTRIBUTIONS
def test_representations_are_those_of_the_forward_pass(kind, distribution):
    policy = build(kind, distribution=distribution)
    observation, context = torch.randn(2, 5, 6, 3).double(), torch.randn(2, 1, 1, 4).double()
    outputs = []
    for layer in policy.layers:
        layer.register_forward_hook(lambda _, x, y: outputs.append(y))
    made = policy(observation, context)
    told = policy.representations(observation, context)
    for number, (width, drive) in enumerate(zip((8, 7), outputs[:2], strict=True), 1):
        output = told[f"layer_{number}/output"]
        assert output.shape == (2, 5, 6, width)
        assert torch.equal(output.reshape(-1, width), torch.tanh(drive))
    if distribution == "categorical":
        assert torch.equal(told["head/logits"], made.logits)
    else:
        assert torch.equal(told["head/mean"], made.mean)
        assert torch.equal(told["head/std"], made.log_std.exp())
    names = {"layer_1/output", "layer_2/output"}
    names |= {"head/logits"} if distribution == "categorical" else {"head/mean", "head/std"}
    assert names <= set(told)
    assert kind is NeuromodulatedPolicy or names == set(told)


@KINDS
def test_without_context_it_is_the_policy_of_maml(kind):
    policy = build(kind, num_context=0)
    x = torch.randn(5, 3).double()
    assert policy(x, x.new_zeros(0)).mean.shape == (5, 2)
    linears = [m for m in policy.layers[0].modules() if isinstance(m, nn.Linear)]
    assert linears[0].in_features == 3


def test_log_std_has_a_floor_and_no_ceiling():
    policy, x = build(), torch.randn(5, 3).double()
    with torch.no_grad():
        policy.log_std.copy_(torch.tensor([-50.0, 50.0]))
    log_std = policy(x, torch.zeros(4).double()).log_std
    assert torch.equal(log_std[0], torch.tensor([LOG_STD_MIN, 50.0], dtype=torch.float64))
    assert policy.metrics()["policy/log_std"] == (LOG_STD_MIN + 50.0) / 2
    assert build(distribution="categorical").metrics() == {}


@KINDS
def test_the_context_is_no_part_of_the_state(kind):
    policy = build(kind)
    twin = build(kind)
    with torch.no_grad():
        for p in policy.parameters():
            p.normal_()
    twin.load_state_dict(copy.deepcopy(policy.state_dict()))
    assert set(policy.state_dict()) == {name for name, _ in policy.named_parameters()}
    x, context = torch.randn(5, 3).double(), torch.randn(4).double()
    assert torch.equal(policy(x, context).mean, twin(x, context).mean)
    assert torch.equal(policy(x, context).mean, copy.deepcopy(policy)(x, context).mean)


@KINDS
def test_compiles(kind):
    policy = build(kind)
    x, context = torch.randn(5, 3).double(), torch.randn(4).double()
    compiled = torch.compile(policy, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, context).mean, policy(x, context).mean)


def test_bindings_of_the_plain_policy_reach_the_other():
    gin.bind_parameter("ContextPolicy.hidden", (6, 5))
    gin.bind_parameter("NeuromodulatedPolicy.gate", "soft")
    policy = NeuromodulatedPolicy(3, 2, num_context=1)
    assert policy.last.in_features == 5 and policy.layers[0].gate == "soft"
    gin.clear_config()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_context": -1}, "num_context.*-1"),
        ({"hidden": ()}, "hidden"),
        ({"hidden": (8, 0)}, "hidden.*0"),
        ({"activation": "gelu"}, "activation.*'gelu'"),
        ({"distribution": "beta"}, "distribution.*'beta'"),
    ],
)
def test_errors_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        ContextPolicy(3, 2, **options)
    with pytest.raises(ValueError, match="observation_dim.*0"):
        ContextPolicy(0, 2)
