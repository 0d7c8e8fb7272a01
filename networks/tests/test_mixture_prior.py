"""The priors of a mixture's components."""

import math

import pytest
import torch

from networks.latent_gaussian import LatentGaussian
from networks.mixture_prior import KINDS, MixturePrior


def test_invariant_7_the_prior_by_class_index():
    prior = MixturePrior(4, 3, kind="class_index", scale=0.5).double()
    mean = torch.arange(4.0).double().unsqueeze(1).expand(4, 3)
    same = LatentGaussian(mean, torch.full((4, 3), 0.25).double())
    assert torch.equal(same.kl(prior()), torch.zeros(4).double())
    assert (LatentGaussian(mean + 1, same.variance).kl(prior()) == 3 * 4 / 2).all()


@pytest.mark.parametrize("kind", KINDS)
def test_priors(kind):
    torch.manual_seed(0)
    prior = MixturePrior(4, 3, kind=kind)
    twin = MixturePrior(4, 3, kind=kind)
    twin.load_state_dict(prior.state_dict())
    for one, two in zip(prior(), twin(), strict=True):
        assert torch.equal(one, two) and one.shape == (4, 3)
    assert (prior().variance > 0).all()
    assert sum(p.numel() for p in prior.parameters()) == (5 * 6 if kind == "learned" else 0)
    if kind != "learned":
        return
    weight, bias = prior.map.weight, prior.map.bias
    for k in range(4):
        raw = weight @ torch.eye(4)[k] + bias
        torch.testing.assert_close(prior().mean[k], raw[:3])
        torch.testing.assert_close(prior().variance[k], raw[3:].exp().add(1).log().square())
    (prior().mean.sum() + prior().variance.sum()).backward()
    assert (weight.grad != 0).all() and (bias.grad != 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "flat"}, "kind.*'flat'"),
        ({"scale": 0.0}, "scale.*0.0"),
        ({"scale": math.inf}, "scale.*inf"),
    ],
)
def test_errors_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        MixturePrior(4, 3, **options)
    with pytest.raises(ValueError, match="num_components.*0"):
        MixturePrior(0, 3)
