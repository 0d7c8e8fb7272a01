"""The neuromodulated layer and policy."""

import math

import pytest
import torch
from torch.func import grad, vmap

from networks.neuromodulated import GATES, NeuromodulatedLinear, NeuromodulatedPolicy

SIZES = {  # observation, context, width, action, modulators
    "navigation": ((2, 5, 100, 2, 4), "gaussian", 12_540),
    "half-cheetah": ((20, 50, 200, 6, 32), "gaussian", 77_516),
    "ML1": ((39, 50, 200, 4, 32), "gaussian", 81_520),
    "ML45": ((39, 100, 200, 4, 32), "gaussian", 93_120),
    "CT-graph 2": ((17, 5, 200, 3, 8), "categorical", 50_795),
    "CT-graph 3": ((33, 10, 300, 3, 16), "categorical", 120_123),
    "CT-graph 4": ((65, 20, 600, 3, 32), "categorical", 475_587),
}


def build(gate: str) -> NeuromodulatedLinear:
    torch.manual_seed(0)
    layer = NeuromodulatedLinear(4, 6, num_modulators=3, gate=gate).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def rows() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(20, 4).double()


@pytest.mark.parametrize("name", SIZES)
def test_invariant_4_parameter_counts(name):
    (observation, context, width, action, modulators), distribution, count = SIZES[name]
    policy = NeuromodulatedPolicy(
        observation,
        action,
        num_context=context,
        hidden=(width, width),
        num_modulators=modulators,
        distribution=distribution,
    )
    assert sum(p.numel() for p in policy.parameters()) == count


@pytest.mark.parametrize("gate", GATES)
def test_invariant_5_gates_by_hand(gate):
    layer, x = build(gate), rows()
    seen = layer(x).detach()
    for row in range(20):
        m = [
            max(0.0, float(w @ x[row] + b)) for w, b in zip(*weights(layer.modulators), strict=True)
        ]
        for unit in range(6):
            w, b = (t[unit] for t in weights(layer.gates))
            g = math.tanh(sum(float(w[i]) * m[i] for i in range(3)) + float(b))
            s = g if gate == "soft" else (1.0 if g >= 0 else -1.0)
            w, b = (t[unit] for t in weights(layer.standard))
            assert float(seen[row, unit]) == pytest.approx(float(w @ x[row] + b) * s, abs=1e-12)
    signal = layer.signal(x)
    if gate == "soft":
        assert (signal.abs() < 1).all()
    else:
        assert set(signal.unique().tolist()) == {-1.0, 1.0}


def weights(linear):
    return linear.weight.detach(), linear.bias.detach()


@pytest.mark.parametrize("gate", ["hard", "hard_ste"])
def test_invariant_5_a_gate_of_zero_is_open(gate):
    policy = NeuromodulatedPolicy(3, 2, num_context=1, gate=gate)
    zero = torch.zeros(2, 4)  # with the zero biases that policies start with, g = 0
    assert (policy.layers[0].signal(zero) == 1.0).all()


@pytest.mark.parametrize("gate", GATES)
def test_invariant_5_which_gates_train_their_modulators(gate):
    layer, x = build(gate), rows()
    layer(x).square().mean().backward()
    modulators = [*layer.modulators.parameters(), *layer.gates.parameters()]
    moved = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in modulators]
    assert not any(moved) if gate == "hard" else all(moved)
    assert layer.standard.weight.grad.abs().sum() > 0


def test_invariant_5_hard_gates_have_the_gradient_zero_under_torch_func():
    layer, x = build("hard"), rows()
    named = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters):
        return torch.func.functional_call(layer, parameters, (x,)).square().mean()

    gradient = grad(loss)(named)
    for name, value in gradient.items():
        assert (value == 0).all() != name.startswith("standard")


def test_the_straight_through_gate_has_the_derivative_of_tanh():
    hard, soft, x = build("hard_ste"), build("soft"), rows()
    seen, expected = (vmap(grad(lambda row, f=f: f.signal(row).sum()))(x) for f in (hard, soft))
    torch.testing.assert_close(seen, expected)


def test_soft_gates_vanish_with_their_input():
    layer = NeuromodulatedPolicy(3, 2, num_context=1, gate="soft").layers[0]
    x = torch.zeros(1, 4, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert (y == 0).all() and (x.grad == 0).all()


def test_the_gate_multiplies_before_the_activation():
    torch.manual_seed(0)
    policy = NeuromodulatedPolicy(3, 2, num_context=4, hidden=(8, 7), gate="hard").double()
    observation, context = torch.randn(5, 3).double(), torch.randn(4).double()
    x = torch.cat((observation, context.expand(5, 4)), -1)
    for layer in policy.layers:
        z = x @ layer.standard.weight.T + layer.standard.bias
        m = (x @ layer.modulators.weight.T + layer.modulators.bias).relu()
        g = m @ layer.gates.weight.T + layer.gates.bias
        x = (z * torch.where(g >= 0, 1, -1)).relu()
    expected = x @ policy.last.weight.T + policy.last.bias
    torch.testing.assert_close(policy(observation, context).mean, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gate", GATES)
def test_representations_tell_drive_modulators_and_gates(gate):
    torch.manual_seed(0)
    options = {"num_context": 4, "hidden": (8, 7), "num_modulators": 3, "gate": gate}
    policy = NeuromodulatedPolicy(3, 2, **options).double()
    observation, context = torch.randn(2, 5, 3).double(), torch.randn(4).double()
    told = policy.representations(observation, context)
    x = torch.cat((observation, context.expand(2, 5, 4)), -1)
    for number, (layer, width) in enumerate(zip(policy.layers, (8, 7), strict=True), 1):
        parts = {name: told.pop(f"layer_{number}/{name}") for name in layer.parts(x)}
        assert {name: part.shape[-1] for name, part in parts.items()} == {
            "drive": width,
            "modulators": 3,
            "gates": width,
        }
        modulators = (x @ layer.modulators.weight.T + layer.modulators.bias).relu()
        torch.testing.assert_close(parts["modulators"], modulators)
        torch.testing.assert_close(
            parts["drive"], x @ layer.standard.weight.T + layer.standard.bias
        )
        torch.testing.assert_close(parts["gates"], layer.signal(x))
        x = told.pop(f"layer_{number}/output")
        assert torch.equal(x, (parts["drive"] * parts["gates"]).relu())
    assert set(told) == {"head/mean", "head/std"}


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="gate.*'sigmoid'"):
        NeuromodulatedPolicy(3, 2, gate="sigmoid")
    with pytest.raises(ValueError, match="num_modulators.*0"):
        NeuromodulatedPolicy(3, 2, num_modulators=0)
