"""Trunks that read a latent, and the doors in front of them."""

import copy
import math

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from networks.actor import Actor
from networks.critic import Critic
from networks.latent_mlp import LatentMLP
from networks.neuromodulated import NeuromodulatedLinear
from networks.neuromodulated_mlp import NeuromodulatedMLP

D, A, L, N, B = 4, 2, 3, 5, 6


class Foreign(LatentMLP):
    """A trunk that does not compute with stacked weights itself."""

    stackable = False


class ForeignNeuromodulated(NeuromodulatedMLP):
    """Likewise."""

    stackable = False


TRUNKS = pytest.mark.parametrize("kind", [LatentMLP, NeuromodulatedMLP])


def make(kind, **options):
    def trunk(inputs, outputs, latent_dim):
        return kind(inputs, outputs, latent_dim, hidden=(8, 7), **options).double()

    return trunk


def build(kind, seed=0, **options):
    torch.manual_seed(seed)
    trunk = make(kind, **options)(D, A, L)
    for p in trunk.parameters():
        nn.init.normal_(p, std=0.5)
    return trunk


def batch():
    torch.manual_seed(1)
    td = {"observation": torch.randn(N, B, D), "action": torch.randn(N, B, A)}
    latent = torch.randn(N, 1, L).expand(N, B, L)
    return TensorDict(td | {"latent": latent}, [N, B]).double()


def by_hand(trunk, x):
    if isinstance(trunk, LatentMLP):
        *hidden, last = trunk.linears()
    else:
        hidden, last = trunk.layers, trunk.last
    for layer in hidden:
        if isinstance(layer, NeuromodulatedLinear):
            m = (layer.modulators.weight @ x + layer.modulators.bias).clamp(min=0)
            g = layer.gates.weight @ m + layer.gates.bias
            gate = torch.tanh(g) if layer.gate == "soft" else torch.where(g >= 0, 1.0, -1.0)
            x = ((layer.standard.weight @ x + layer.standard.bias) * gate).clamp(min=0)
        else:
            x = (layer.weight @ x + layer.bias).clamp(min=0)
    return last.weight @ x + last.bias


def test_parameter_counts():
    def count(kind, *sizes):
        return sum(p.numel() for p in kind(*sizes).parameters())

    assert count(LatentMLP, 26, 1, 5) == 190_501  # PEARL's Q on the cheetah
    assert count(LatentMLP, 20, 1, 5) == 188_701  # V
    assert count(LatentMLP, 20, 12, 5) == 192_012  # the policy
    assert count(NeuromodulatedMLP, 39, 8, 7) == 247_576  # ML1
    assert count(NeuromodulatedMLP, 20, 12, 5) == 241_808  # the cheetah's policy


@pytest.mark.parametrize("bound", [1e-3, 3e-3])
def test_initial_values(bound):
    torch.manual_seed(0)
    plain = LatentMLP(20, 12, 5, last_bound=bound)
    modulated = NeuromodulatedMLP(20, 12, 5, last_bound=bound)
    linears = [module for module in modulated.layers.modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 9 and {layer.out_features for layer in linears} == {32, 300}
    for layer in (*plain.linears()[:-1], *linears):
        width = 1 / math.sqrt(layer.out_features)
        assert 0.9 * width < layer.weight.abs().max() <= width and (layer.bias == 0.1).all()
    for layer in (plain.linears()[-1], modulated.last):
        for p in (layer.weight, layer.bias):
            assert 0.8 * bound < p.abs().max() <= bound


def test_the_bound_is_for_inits_that_have_one():
    torch.manual_seed(0)
    weight = LatentMLP(20, 12, 5, init="xavier", last_bound=1e-3).linears()[-1].weight
    assert weight.abs().max() > 0.05


@pytest.mark.parametrize(
    ("kind", "options"),
    [(LatentMLP, {}), *((NeuromodulatedMLP, {"gate": gate}) for gate in ("soft", "hard"))],
)
def test_values_and_gradients_by_a_loop(kind, options):
    fast, slow, td = build(kind, **options), build(kind, **options), batch()
    latents = [td["latent"][:, :1].clone().requires_grad_() for _ in range(2)]
    seen = fast(td["observation"], latents[0])  # one latent for the rows of a task
    weight = torch.randn(N, B, A).double()
    (seen * weight).sum().backward()
    for n in range(N):
        for b in range(B):
            y = by_hand(slow, torch.cat((td["observation"][n, b], latents[1][n, 0])))
            torch.testing.assert_close(seen[n, b], y, atol=1e-10, rtol=0)
            (y * weight[n, b]).sum().backward()
    torch.testing.assert_close(latents[0].grad, latents[1].grad, atol=1e-10, rtol=1e-10)
    assert latents[0].grad.abs().sum() > 0
    for one, two in zip(fast.parameters(), slow.parameters(), strict=True):
        a, b = (torch.zeros_like(p) if p.grad is None else p.grad for p in (one, two))
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)
    flat = fast(td["observation"].flatten(0, 1), td["latent"].flatten(0, 1))
    torch.testing.assert_close(flat.view(N, B, A), seen)


@TRUNKS
def test_invariant_3_a_latent_without_gradient_gives_none(kind):
    trunk, td = build(kind), batch()
    latent = td["latent"].clone().requires_grad_()
    trunk(td["observation"], latent.detach()).sum().backward()
    assert latent.grad is None


@TRUNKS
def test_invariant_3_an_unread_latent_has_the_gradient_zero(kind):
    trunk, td = build(kind), batch()
    first = trunk.layers[0]
    columns = [m for m in first.modules() if isinstance(m, nn.Linear) and m.in_features == D + L]
    with torch.no_grad():
        for layer in columns:
            layer.weight[:, D:] = 0.0
    latent = td["latent"].clone().requires_grad_()
    trunk(td["observation"], latent).square().sum().backward()
    assert (latent.grad == 0).all()


@pytest.mark.parametrize("kind", [LatentMLP, Foreign, NeuromodulatedMLP, ForeignNeuromodulated])
def test_critics_of_a_latent_are_separate_networks(kind):
    torch.manual_seed(3)
    critic = Critic(D, A, L, trunk=make(kind), task_key="latent")
    torch.manual_seed(3)
    separate = [make(kind)(D + A, 1, L) for _ in range(2)]
    td = batch()
    x = torch.cat((td["observation"], td["action"]), -1)
    expected = torch.cat([network(x, td["latent"]) for network in separate], -1)
    value = critic(td.copy())["state_action_value"]
    torch.testing.assert_close(value, expected, atol=1e-12, rtol=1e-10)
    rows = critic(td.copy().reshape(-1))["state_action_value"]
    torch.testing.assert_close(rows.view(N, B, 2), expected, atol=1e-12, rtol=1e-10)
    value.square().sum().backward()
    expected.square().sum().backward()
    for name, stacked in critic.trunk.named_parameters():
        gradients = torch.stack([dict(n.named_parameters())[name].grad for n in separate])
        torch.testing.assert_close(stacked.grad, gradients, atol=1e-10, rtol=1e-9)


@TRUNKS
def test_the_policy_reads_a_latent(kind):
    torch.manual_seed(0)
    actor, td = Actor(D, A, L, trunk=make(kind), task_key="latent"), batch()
    seen = actor(td.copy(), explore=False)
    loc, s = actor.trunk(td["observation"], td["latent"]).chunk(2, -1)
    assert torch.equal(seen["loc"], loc) and torch.equal(seen["action"], loc.tanh())
    assert torch.equal(seen["scale"], s.clamp(-20, 2).exp())
    moved = td.copy()
    moved["latent"] = td["latent"] + 1.0
    assert not torch.equal(actor(moved, explore=False)["loc"], seen["loc"])


@TRUNKS
def test_functional_copied_compiled_and_saved(kind):
    trunk, td = build(kind), batch()
    inputs = (td["observation"], td["latent"])
    expected, twin, other = trunk(*inputs), build(kind, 2), build(kind, 3)
    twin.load_state_dict(trunk.state_dict())
    weights = {name: p.detach() for name, p in trunk.named_parameters()}
    for made in (
        twin(*inputs),
        copy.deepcopy(trunk)(*inputs),
        functional_call(other, weights, inputs),
        torch.compile(trunk, backend="aot_eager", fullgraph=True)(*inputs),
    ):
        torch.testing.assert_close(made, expected)
    stack, _ = stack_module_state([trunk, other])

    def loss(weights):
        return functional_call(trunk, weights, inputs).square().sum()

    both = vmap(grad(loss))(stack)
    alone = grad(loss)(weights)
    for name, gradient in alone.items():
        torch.testing.assert_close(both[name][0], gradient, atol=1e-10, rtol=1e-9)


@TRUNKS
def test_errors_name_the_argument(kind):
    for bad in (0.0, math.inf):
        with pytest.raises(ValueError, match=f"last_bound.*{bad}"):
            kind(D, A, L, last_bound=bad)
    with pytest.raises(ValueError, match="hidden"):
        kind(D, A, L, hidden=())
    with pytest.raises(ValueError, match="0"):
        kind(D, A, 0)
    if kind is NeuromodulatedMLP:
        with pytest.raises(ValueError, match="gate.*'sigmoid'"):
            kind(D, A, L, gate="sigmoid")
