"""The encoder of TIGR and CEMRL, put together."""

import copy
from functools import partial

import gin
import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from networks.gru_mixture import GRUMixtureEncoder
from networks.latent_gaussian import product_of_gaussians
from networks.mixture import SELECTIONS
from networks.mixture_heads import SeparateHeads
from networks.mixture_prior import MixturePrior
from networks.time_merge import TimeMerge
from networks.window_backbones import PerceptronBackbone, TransformerBackbone

D, A, T, K, L = 4, 2, 6, 3, 2
CEMRL = {
    "backbone": PerceptronBackbone,
    "head": SeparateHeads,
    "merge": partial(TimeMerge, logits="mean_prob"),
    "prior": partial(MixturePrior, kind="class_index"),
    "scale": "std",
    "selection": "argmax",
}
KINDS = {
    "tigr": {},
    "tigr masked": {"mask_padding": True},
    "tigr steps": {"backbone": PerceptronBackbone, "merge": partial(TimeMerge, gaussians="net")},
    "transformer": {"backbone": partial(TransformerBackbone, feed_forward=16)},
    "flat": {"backbone": partial(PerceptronBackbone, per_step=False)},
    "cemrl": CEMRL,
    "cemrl masked": CEMRL | {"mask_padding": True},
    "cemrl learned": CEMRL
    | {
        "prior": partial(MixturePrior, kind="learned"),
        "merge": partial(TimeMerge, logits="mlp"),
    },
    "individual": CEMRL | {"merge": partial(TimeMerge, logits="per_step_argmax")},
}
ALL = pytest.mark.parametrize("kind", KINDS)


def build(kind="tigr", seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"length": T, "latent_dim": L, "num_components": K, "complexity": 1.0}
    encoder = GRUMixtureEncoder(D, A, **(sizes | KINDS[kind] | options)).double().eval()
    for p in encoder.parameters():
        nn.init.normal_(p, std=0.5)
    return encoder


def windows(*shape, seed=1):
    torch.manual_seed(seed)
    lead = (*shape, T)
    number = torch.randint(0, T + 1, shape)
    mask = torch.arange(T) >= T - number.unsqueeze(-1)
    after = {"observation": torch.randn(*lead, D), "reward": torch.randn(*lead, 1)}
    td = {"observation": torch.randn(*lead, D), "action": torch.randn(*lead, A), "next": after}
    made = TensorDict({**td, "next": TensorDict(after, lead)}, lead).double()
    return (made * mask.view(*lead)).set("mask", mask)


def test_parameter_counts():
    def count(*sizes, **options):
        return sum(p.numel() for p in GRUMixtureEncoder(*sizes, **options).parameters())

    assert count(20, 6) == 200_220 + 87_556  # cheetah-8: H = 235
    assert count(29, 8, latent_dim=9, num_components=9) == 406_020 + 170_016  # ant-9: H = 335
    options = CEMRL | {"length": 10, "num_components": 2, "latent_dim": 1, "complexity": 10.0}
    assert count(20, 6, **options) == 465_300 + 2_826  # H = 470


def test_gin_reaches_the_parts():
    gin.parse_config(
        """
        GRUMixtureEncoder.backbone = @PerceptronBackbone
        PerceptronBackbone.per_step = False
        MixturePrior.kind = 'learned'
        """
    )
    encoder = GRUMixtureEncoder(D, A, length=T)
    assert encoder.merge is None and encoder.backbone.layers.linears()[0].in_features == T * 11
    assert encoder.prior.kind == "learned"


@ALL
def test_shapes_of_any_batch(kind):
    encoder, td = build(kind), windows(3, 2)
    together = encoder(td)
    shapes = [tuple(x.shape) for x in together]
    assert shapes == [(3, 2, K, L), (3, 2, K, L), (3, 2, K)]
    assert encoder.divergence(together).shape == (3, 2, K)
    for sample in (True, False):
        assert encoder.latent(together, sample).shape == (3, 2, L)
    for i in range(3):
        for whole, part in zip(together, encoder(td[i]), strict=True):
            torch.testing.assert_close(whole[i], part, atol=1e-10, rtol=0)
        for whole, part in zip(together, encoder(td[i, 0]), strict=True):
            torch.testing.assert_close(whole[i, 0], part, atol=1e-10, rtol=0)


@ALL
def test_gradients_reach_every_parameter(kind):
    encoder, td = build(kind), windows(8)
    made = encoder(td)
    loss = encoder.latent(made, True).square().sum() + encoder.divergence(made).sum()
    (loss + cross_entropy(made.logits, torch.arange(8) % K)).backward()
    for name, p in encoder.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


@ALL
def test_invariant_6_a_window_of_zeros_is_finite(kind):
    encoder, td = build(kind), windows(4)
    td = torch.zeros_like(td)
    made = encoder(td)
    z = encoder.latent(made, True)
    loss = z.abs().sum(-1) + encoder.divergence(made).sum(-1)
    loss = loss + made.logits.logsumexp(-1)
    assert loss.isfinite().all() and (encoder.divergence(made) >= 0).all()
    assert (encoder.divergence(made) >= 0).all()
    loss.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("selection", SELECTIONS)
def test_selection(selection):
    encoder = build(selection=selection)
    made = encoder(windows(5))
    for sample in (True, False):
        torch.manual_seed(3)
        seen = encoder.latent(made, sample)
        torch.manual_seed(3)
        assert torch.equal(seen, made.latent(selection, sample))


def test_padding_counts_unless_masked():
    td, dirty = windows(6), windows(6)
    for key in ("observation", "action", ("next", "reward"), ("next", "observation")):
        dirty[key][~td["mask"]] = torch.nan  # what lies on padding is never seen
    for kind in KINDS:
        for one, two in zip(build(kind)(td), build(kind)(dirty), strict=True):
            assert torch.equal(one, two)
    short = td[:, 1:].clone()
    assert not td["mask"][:, 0].all()
    for kind in ("tigr", "cemrl"):
        masked, seen = build(f"{kind} masked"), build(kind)
        weights = dict(masked.state_dict())
        shorter = build(f"{kind} masked", length=T - 1)
        shorter.load_state_dict(weights)
        unmasked = build(kind, length=T - 1)
        unmasked.load_state_dict(weights)
        rows = ~td["mask"][:, 0]
        # a step of padding more or less: no difference with a mask, one without
        torch.testing.assert_close(masked(td).mean[rows], shorter(short).mean[rows])
        assert not torch.allclose(seen(td).mean[rows], unmasked(short).mean[rows])


def test_masked_windows_without_a_step_are_the_prior_of_cemrl():
    encoder, td = build("cemrl masked"), windows(3)
    td["mask"][:] = False
    made = encoder(td)
    assert (made.mean == 0).all() and (made.variance == 1 + 1e-8).all()
    torch.testing.assert_close(made.weights(), torch.full((3, K), 1 / K).double())


def test_steps_are_what_is_merged():
    encoder, td = build("individual", scale="variance"), windows(5)
    (steps, own), made = encoder.steps(td), encoder(td)
    assert steps.mean.shape == (5, T, K, L)
    torch.testing.assert_close(made.logits, steps.logits.log_softmax(-1).sum(1))
    choice = steps.component()
    picked = [
        torch.stack([x[b, t, choice[b, t]] for t in range(T)]) for b in range(5) for x in steps[:2]
    ]
    for b in range(5):
        mean, variance = product_of_gaussians(picked[2 * b], picked[2 * b + 1])
        torch.testing.assert_close(made.mean[b], mean.expand(K, L), atol=1e-6, rtol=0)
        torch.testing.assert_close(made.variance[b], variance.expand(K, L), atol=1e-6, rtol=0)
        for k in range(K):
            mean, variance = product_of_gaussians(steps.mean[b, :, k], steps.variance[b, :, k])
            torch.testing.assert_close(own.mean[b, k], mean, atol=1e-6, rtol=0)
            torch.testing.assert_close(own.variance[b, k], variance, atol=1e-6, rtol=0)
    assert not torch.allclose(own.mean[:, 0], own.mean[:, 1])
    with pytest.raises(ValueError, match="GRUBackbone"):
        build().steps(td)


@ALL
def test_functional_copied_and_saved(kind):
    encoder, td = build(kind), windows(5)
    expected, twin, other = encoder(td), build(kind, seed=2), build(kind, seed=3)
    twin.load_state_dict(encoder.state_dict())
    weights = {name: p.detach() for name, p in encoder.named_parameters()}
    for made in (twin(td), copy.deepcopy(encoder)(td), functional_call(other, weights, (td,))):
        for one, two in zip(made, expected, strict=True):
            torch.testing.assert_close(one, two, atol=1e-10, rtol=0)


def test_compiles_without_a_recurrence():
    encoder, td = build("cemrl masked"), windows(5)
    compiled = torch.compile(encoder, backend="aot_eager", fullgraph=True)
    for one, two in zip(compiled(td), encoder(td), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "precision"}, "scale.*'precision'"),
        ({"selection": "best"}, "selection.*'best'"),
        ({"complexity": 0.01}, "complexity.*0.01"),
        ({"num_components": 0}, "num_components.*0"),
        (
            {"backbone": PerceptronBackbone, "merge": partial(TimeMerge, logits="linear")},
            "'linear'.*JointHead",
        ),
    ],
)
def test_errors_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        GRUMixtureEncoder(D, A, **options)
