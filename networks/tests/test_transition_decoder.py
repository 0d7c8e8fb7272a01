"""The decoder of TIGR and CEMRL."""

import copy
import math

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torch.func import functional_call, grad, vmap

from networks.transition_decoder import TransitionDecoder

D, A, L = 4, 2, 3


def build(seed=0, **options):
    torch.manual_seed(seed)
    decoder = TransitionDecoder(D, A, L, **({"complexity": 1.0} | options)).double()
    for p in decoder.parameters():
        nn.init.normal_(p, std=0.5)
    return decoder


def context(*shape):
    torch.manual_seed(1)
    after = {"observation": torch.randn(*shape, D), "reward": torch.randn(*shape, 1)}
    td = {"observation": torch.randn(*shape, D), "action": torch.randn(*shape, A)}
    return TensorDict({**td, "next": TensorDict(after, shape)}, shape).double()


def test_parameter_counts():
    def counts(*sizes, **options):
        decoder = TransitionDecoder(*sizes, **options)
        parts = (decoder.state, decoder.reward)
        return tuple(sum(p.numel() for p in part.parameters()) for part in parts)

    assert counts(20, 6, 8) == (38_440, 49_641)  # TIGR on cheetah-8: 170, 170, 85
    cemrl = {"complexity": 10.0, "reward_hidden": (1.0, 1.0), "reconstructed": 8}
    assert counts(20, 6, 1, **cemrl) == (82_898, 81_001)  # 270, 270


def test_initial_values():
    decoder = TransitionDecoder(20, 6, 8)
    for part in (decoder.state, decoder.reward):
        for layer in part.linears()[:-1]:
            bound = 1 / math.sqrt(layer.out_features)
            assert 0.9 * bound < layer.weight.abs().max() <= bound and (layer.bias == 0.1).all()
        assert 0.0025 < part.linears()[-1].weight.abs().max() <= 0.003


@pytest.mark.parametrize("error", ["mean", "sum"])
@pytest.mark.parametrize("reconstructed", [None, 2, (3, 0, 1)])
def test_errors_by_a_loop(error, reconstructed):
    options = {"reconstructed": reconstructed, "state_error": error}
    fast, slow, td = build(**options), build(**options), context(3, 5)
    leaf = torch.randn(3, L).double()
    latents = [leaf.clone().requires_grad_() for _ in range(2)]
    state, reward = fast.errors(td, latents[0].unsqueeze(1))
    assert state.shape == reward.shape == (3, 5)
    weight = torch.randn(2, 3, 5).double()
    (state * weight[0] + reward * weight[1]).sum().backward()
    places = {None: range(D), 2: (0, 1)}.get(reconstructed, reconstructed)
    for b in range(3):
        for t in range(5):
            x = torch.cat((td["observation"][b, t], td["action"][b, t], latents[1][b]))
            made = []
            for part in (slow.state, slow.reward):
                y = x
                for layer in part.linears()[:-1]:
                    y = (layer.weight @ y + layer.bias).clamp(min=0)
                made.append(part.linears()[-1].weight @ y + part.linears()[-1].bias)
            after = td["next"][b, t]
            square = [(made[0][i] - after["observation"][d]) ** 2 for i, d in enumerate(places)]
            one = sum(square) / (len(square) if error == "mean" else 1)
            two = (made[1][0] - after["reward"][0]) ** 2
            torch.testing.assert_close(state[b, t], one, atol=1e-10, rtol=0)
            torch.testing.assert_close(reward[b, t], two, atol=1e-10, rtol=0)
            (one * weight[0, b, t] + two * weight[1, b, t]).backward()
    torch.testing.assert_close(latents[0].grad, latents[1].grad, atol=1e-10, rtol=1e-10)
    for one, two in zip(fast.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-10, rtol=1e-10)


def test_leading_dimensions_broadcast():
    """CEMRL decodes one transition with a latent of each component."""
    decoder, td = build(), context(5)
    latent = torch.randn(5, 6, L).double()
    state, reward = decoder.errors(td.unsqueeze(1), latent)
    made = decoder(td["observation"].unsqueeze(1), td["action"].unsqueeze(1), latent)
    assert state.shape == reward.shape == (5, 6)
    assert made.observation.shape == (5, 6, D) and made.reward.shape == (5, 6, 1)
    for k in range(6):
        one, two = decoder.errors(td, latent[:, k])
        torch.testing.assert_close(state[:, k], one)
        torch.testing.assert_close(reward[:, k], two)


def test_functional_copied_and_saved():
    decoder, td = build(), context(5)
    inputs = (td["observation"], td["action"], torch.randn(5, L).double())
    expected, twin, other = decoder(*inputs), build(2), build(3)
    twin.load_state_dict(decoder.state_dict())
    weights = {name: p.detach() for name, p in decoder.named_parameters()}
    for made in (
        twin(*inputs),
        copy.deepcopy(decoder)(*inputs),
        functional_call(other, weights, inputs),
    ):
        for one, two in zip(made, expected, strict=True):
            torch.testing.assert_close(one, two, atol=1e-12, rtol=0)

    def loss(observation, action, latent):
        return sum(x.square().sum() for x in decoder(observation, action, latent))

    together = vmap(grad(loss, 2))(*inputs)
    for row in range(5):
        alone = grad(loss, 2)(*(x[row] for x in inputs))
        torch.testing.assert_close(together[row], alone, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state_error": "max"}, "state_error.*'max'"),
        ({"reconstructed": 0}, "reconstructed.*0"),
        ({"reconstructed": 5}, "reconstructed.*5"),
        ({"reconstructed": (0, 4)}, "reconstructed.*4"),
        ({"reconstructed": (-1,)}, "reconstructed.*-1"),
        ({"complexity": 0.0}, "0"),
        ({"init": "zeros"}, "init.*'zeros'"),
    ],
)
def test_errors_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        TransitionDecoder(D, A, L, **options)
