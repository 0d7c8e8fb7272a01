"""The closed forms against torch.distributions, and under torch.func."""

import pytest
import torch
from torch.func import grad, jvp, vmap

from networks.policy_distributions import Categorical, DiagonalGaussian


def gaussian(*lead: int) -> DiagonalGaussian:
    shape = (*lead, 3)
    return DiagonalGaussian(torch.randn(shape).double(), 0.5 * torch.randn(shape).double())


def categorical(*lead: int) -> Categorical:
    return Categorical(torch.randn(*lead, 4).double())


def reference(made):
    if isinstance(made, Categorical):
        return torch.distributions.Categorical(logits=made.logits)
    return torch.distributions.Normal(made.mean, made.log_std.exp())


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_log_probabilities():
    made = gaussian(5, 2)
    action = torch.randn(5, 2, 3).double()
    expected = reference(made).log_prob(action).sum(-1)
    torch.testing.assert_close(made.log_prob(action), expected, rtol=1e-12, atol=1e-12)
    choice = categorical(5, 2)
    number = torch.randint(4, (5, 2))
    expected = reference(choice).log_prob(number)
    torch.testing.assert_close(choice.log_prob(number), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [gaussian, categorical])
def test_divergence_is_new_from_old(make):
    new, old = make(5, 2), make(5, 2)
    expected = torch.distributions.kl_divergence(reference(new), reference(old))
    seen = new.kl(old)
    assert seen.shape == ((5, 2, 3) if make is gaussian else (5, 2, 1))
    torch.testing.assert_close(seen, expected.reshape(seen.shape), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(seen, old.kl(new))
    assert (new.kl(new) == 0).all()


def test_small_divergences_keep_their_digits_in_single_precision():
    old = DiagonalGaussian(torch.zeros(1), torch.zeros(1))
    new = DiagonalGaussian(torch.full((1,), 1e-4), torch.full((1,), 1e-4))
    double = [DiagonalGaussian(*(t.double() for t in each)) for each in (new, old)]
    torch.testing.assert_close(new.kl(old).double(), double[0].kl(double[1]), rtol=1e-3, atol=0)


def test_samples_have_the_moments():
    made = DiagonalGaussian(
        torch.tensor([0.5, -1.0]).expand(50_000, 2), torch.tensor([-1.0, 0.5]).expand(50_000, 2)
    )
    drawn = made.sample()
    torch.testing.assert_close(drawn.mean(0), made.mean[0], atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.std(0), made.log_std[0].exp(), atol=0.03, rtol=0)
    choice = Categorical(torch.tensor([0.0, 1.0, -2.0]).expand(50_000, 3))
    drawn = choice.sample()
    assert drawn.dtype == torch.int64 and drawn.shape == (50_000,)
    shares = drawn.bincount(minlength=3) / 50_000
    torch.testing.assert_close(shares, choice.logits[0].softmax(-1), atol=0.01, rtol=0)


def test_modes():
    made, choice = gaussian(5), categorical(5)
    assert torch.equal(made.mode(), made.mean)
    assert torch.equal(choice.mode(), reference(choice).probs.argmax(-1))


@pytest.mark.parametrize("make", [gaussian, categorical])
def test_under_vmap_grad_and_jvp(make):
    new, old = make(4, 2), make(4, 2)
    kind = type(new)
    action = old.sample()
    for one, args in ((kind.log_prob, (new, action)), (kind.kl, (new, old))):
        torch.testing.assert_close(vmap(one)(*args), one(*args))

    def loss(made):
        return (made.log_prob(action).exp() + made.kl(old).sum(-1)).sum()

    gradient, direction = grad(loss)(new), make(4, 2)
    _, slope = jvp(loss, (new,), (direction,))
    assert isinstance(gradient, kind)
    expected = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
    torch.testing.assert_close(slope, expected)
    step = 1e-6
    moved = [
        loss(kind(*(t + sign * step * d for t, d in zip(new, direction, strict=True))))
        for sign in (1, -1)
    ]
    torch.testing.assert_close((moved[0] - moved[1]) / (2 * step), slope, rtol=1e-7, atol=1e-7)
