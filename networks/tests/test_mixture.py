"""Mixtures of Gaussians over a latent."""

import pytest
import torch

from networks.mixture import SELECTIONS, GaussianMixture, pick


def mixture(*shape, components=4, latent=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    options = {"generator": draw, "dtype": torch.float64}
    mean = torch.randn(*shape, components, latent, **options)
    variance = torch.rand(*shape, components, latent, **options) + 0.1
    return GaussianMixture(mean, variance, torch.randn(*shape, components, **options))


def test_invariant_4_weights_sum_to_one():
    made = mixture(5, 6)
    torch.testing.assert_close(made.weights().sum(-1), torch.ones(5, 6).double())
    assert torch.equal(made.component(), made.weights().argmax(-1))


@pytest.mark.parametrize("selection", SELECTIONS)
def test_invariant_4_a_one_hot_takes_its_mean(selection):
    made = mixture(7)
    sure = torch.full((7, 4), -50.0).double()
    choice = torch.arange(7) % 4
    sure[torch.arange(7), choice] = 50.0
    z = made._replace(logits=sure).latent(selection)
    torch.testing.assert_close(z, made.mean[torch.arange(7), choice], atol=1e-12, rtol=0)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_invariant_4_a_single_component_is_its_mean(selection):
    made = mixture(7, components=1)
    assert torch.equal(made.latent(selection), made.mean[:, 0])


def test_selections_by_a_loop():
    made = mixture(5, 2)
    gamma = made.logits.softmax(-1)
    for i in range(5):
        for j in range(2):
            convex = sum(gamma[i, j, k] * made.mean[i, j, k] for k in range(4))
            torch.testing.assert_close(made.latent("convex")[i, j], convex)
            best = made.mean[i, j, int(made.logits[i, j].argmax())]
            assert torch.equal(made.latent("argmax")[i, j], best)
    assert torch.equal(pick(made.mean, torch.full((5, 2), 2)), made.mean[:, :, 2])


def test_drawn_components_have_their_probability():
    torch.manual_seed(0)
    made = mixture(1)
    many = GaussianMixture(*(x.expand(50_000, *x.shape[1:]) for x in made))
    z = many.latent("drawn")
    count = (z.unsqueeze(1) == made.mean).all(-1).sum(0)
    assert count.sum() == 50_000
    torch.testing.assert_close(count.double() / 50_000, made.weights()[0], atol=0.01, rtol=0)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_samples_have_the_pathwise_gradient(selection):
    torch.manual_seed(0)
    made = GaussianMixture(*(x.requires_grad_() for x in mixture(50_000, components=2)))
    made.latent(selection, sample=True).sum().backward()
    for field in made[:2]:
        assert (field.grad != 0).any()
    assert (made.logits.grad is not None) == (selection == "convex")
    share = made.weights() if selection == "convex" else (made.mean.grad != 0).double()[..., 0]
    torch.testing.assert_close(made.mean.grad, share.unsqueeze(-1).expand_as(made.mean))
    assert made.variance.grad.mean().abs() < 0.05


def test_means_are_used_when_nothing_is_sampled():
    made, state = mixture(5), torch.get_rng_state()
    assert torch.equal(made.latent("convex"), made.latent("convex"))
    assert torch.equal(state, torch.get_rng_state())
