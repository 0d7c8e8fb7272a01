"""PEARL's context encoder."""

import copy
import math

import pytest
import torch
from tensordict import TensorDict
from torch.func import functional_call, grad, vmap
from torch.nn.functional import softplus

from networks.set_encoder import SetEncoder

D, A, L = 4, 2, 3
BOTH = pytest.mark.parametrize("bottleneck", [True, False])


def build(**options):
    torch.manual_seed(0)
    encoder = SetEncoder(D, A, **({"latent_dim": L, "hidden": (8, 7)} | options)).double()
    for p in encoder.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return encoder


def context(*shape, mask=None):
    after = {"observation": torch.randn(*shape, D), "reward": torch.randn(*shape, 1)}
    td = {
        "observation": torch.randn(*shape, D),
        "action": torch.randn(*shape, A),
        "next": TensorDict(after, shape),
    }
    td = TensorDict(td, shape).double()
    return td if mask is None else td.set("mask", mask)


@pytest.mark.parametrize(
    ("sizes", "options", "count"),
    [
        ((20, 6), {}, 88_010),  # cheetah: 27 * 200 + 200, 2 * 40200, 200 * 10 + 10
        ((2, 2), {}, 83_610),
        ((17, 6), {"next_observation": True}, 90_810),  # walker, with o'
        ((20, 6), {"bottleneck": False}, 87_005),
        ((39, 4), {"latent_dim": 7}, 92_214),  # ML1
    ],
)
def test_parameter_counts(sizes, options, count):
    encoder = SetEncoder(*sizes, **options)
    assert sum(p.numel() for p in encoder.parameters()) == count


def test_initial_values():
    layers = SetEncoder(20, 6).layers.linears()
    for layer in layers[:-1]:
        bound = 1 / math.sqrt(layer.out_features)
        assert 0.9 * bound < layer.weight.abs().max() <= bound and (layer.bias == 0.1).all()
    for p in (layers[-1].weight, layers[-1].bias):
        assert 0.002 < p.abs().max() <= 0.003


@BOTH
@pytest.mark.parametrize("next_observation", [True, False])
def test_a_loop_over_tasks_and_transitions(bottleneck, next_observation):
    mask = torch.rand(3, 5) < 0.6
    mask[0], mask[1] = False, True
    td = context(3, 5, mask=mask)
    encoders = [build(bottleneck=bottleneck, next_observation=next_observation) for _ in range(2)]
    fast, slow = encoders
    posterior = fast(td)
    weight = torch.randn(2, 3, L).double()
    (posterior.mean * weight[0] + posterior.variance * weight[1]).sum().backward()
    total = torch.zeros(()).double()
    for task in range(3):
        precision, weighted, number = torch.zeros(L).double(), torch.zeros(L).double(), 0
        for step in range(5):
            if not mask[task, step]:
                continue
            after = td["next"][task, step]
            row = [td["observation"][task, step], td["action"][task, step], after["reward"]]
            x = torch.cat(row + [after["observation"]] * next_observation)
            for layer in slow.layers.linears()[:-1]:
                x = (layer.weight @ x + layer.bias).clamp(min=0)
            last = slow.layers.linears()[-1]
            x = last.weight @ x + last.bias
            number += 1
            if bottleneck:
                v = softplus(x[L:]).clamp(min=1e-7)
                precision, weighted = precision + 1 / v, weighted + x[:L] / v
            else:
                weighted = weighted + x
        if bottleneck:
            v = 1 / precision if number else torch.ones(L).double()
            m = v * weighted
        else:
            m, v = weighted / max(number, 1), torch.zeros(L).double()
        torch.testing.assert_close(posterior.mean[task], m, atol=1e-10, rtol=0)
        torch.testing.assert_close(posterior.variance[task], v, atol=1e-10, rtol=0)
        total = total + (m * weight[0, task] + v * weight[1, task]).sum()
    total.backward()
    for one, two in zip(fast.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-10, rtol=1e-10)


@BOTH
def test_invariant_1_order_does_not_matter_and_padding_neither(bottleneck):
    encoder, td = build(bottleneck=bottleneck), context(3, 6)
    before = encoder(td)
    padded = torch.cat((td[:, torch.randperm(6)], torch.full_like(td, torch.nan)), 1)
    mask = torch.arange(12).expand(3, 12) < 6
    padded["mask"] = mask
    encoder.zero_grad()
    after = encoder(padded)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(old, new, atol=1e-10, rtol=0)
    (after.mean + after.variance).sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_invariant_1_a_transition_more_never_adds_variance():
    encoder, td = build(), context(3, 6)
    variances = [encoder(td[:, :number]).variance for number in range(1, 7)]
    for before, after in zip(variances[:-1], variances[1:], strict=True):
        assert (after <= before).all()


@BOTH
def test_no_transition_gives_the_prior(bottleneck):
    encoder = build(bottleneck=bottleneck)
    prior = encoder.prior(4)
    empty = encoder(context(4, 0)), encoder(context(4, 5, mask=torch.zeros(4, 5).bool()))
    for posterior in empty:
        for got, expected in zip(posterior, prior, strict=True):
            assert torch.equal(got, expected)
    assert (prior.mean == 0).all() and (prior.variance == (1 if bottleneck else 0)).all()
    assert (encoder.divergence(prior) == 0).all()
    z = encoder.sample(prior)
    assert z.shape == (4, L) and (z == 0).all() != bottleneck


def test_without_the_bottleneck_nothing_is_drawn():
    encoder, td = build(bottleneck=False), context(4, 5)
    state = torch.get_rng_state()
    posterior = encoder(td)
    assert torch.equal(encoder.sample(posterior), posterior.mean)
    assert torch.equal(state, torch.get_rng_state())
    assert (encoder.divergence(posterior) == 0).all()


def test_invariant_2_divergence():
    encoder, td = build(), context(4, 5)
    posterior = encoder(td)
    torch.testing.assert_close(encoder.divergence(posterior), posterior.kl_to_standard())
    encoder.divergence(posterior).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_functional_copied_compiled_and_saved():
    encoder, td = build(), context(4, 5, mask=torch.rand(4, 5) < 0.7)
    expected = encoder(td)
    twin = build(init="fan_in")
    twin.load_state_dict(encoder.state_dict())
    weights = {name: p.detach() for name, p in encoder.named_parameters()}
    made = [
        twin(td),
        copy.deepcopy(encoder)(td),
        functional_call(build(), weights, (td,)),
        torch.compile(encoder, backend="aot_eager", fullgraph=True)(td),
    ]
    for posterior in made:
        for got, want in zip(posterior, expected, strict=True):
            torch.testing.assert_close(got, want)
    stack = {name: torch.stack((p, 2 * p)) for name, p in weights.items()}

    def loss(weights, td):
        return functional_call(encoder, weights, (td,)).mean.square().sum()

    both = vmap(grad(loss), (0, None))(stack, td)
    alone = grad(loss)({name: 2 * p for name, p in weights.items()}, td)
    for name, gradient in alone.items():
        torch.testing.assert_close(both[name][1], gradient, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim.*0"),
        ({"hidden": (8, 0)}, "0"),
        ({"init": "zeros"}, "init.*'zeros'"),
    ],
)
def test_errors_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        SetEncoder(D, A, **options)
    with pytest.raises(ValueError, match="observation_dim.*0"):
        SetEncoder(0, A)
