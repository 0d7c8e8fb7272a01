"""Gaussians over latents, their products and divergences."""

import pytest
import torch

from networks.latent_gaussian import LatentGaussian, product_of_gaussians, standard_gaussian


def factors(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    mean = torch.randn(*shape, generator=draw, dtype=torch.float64)
    return mean, torch.rand(*shape, generator=draw, dtype=torch.float64) + 0.1


def test_invariant_1_equal_factors_and_values_by_hand():
    mean, variance = torch.full((7, 3), 1.5), torch.full((7, 3), 0.7)
    product = product_of_gaussians(mean, variance)
    torch.testing.assert_close(product.mean, mean[0])
    torch.testing.assert_close(product.variance, variance[0] / 7)
    product = product_of_gaussians(torch.tensor([[0.0], [2.0]]), torch.ones(2, 1))
    assert product.mean.item() == 1.0 and product.variance.item() == 0.5


def test_invariant_1_a_permutation_changes_nothing():
    mean, variance = factors(4, 9, 3)
    order = torch.randperm(9)
    one = product_of_gaussians(mean, variance)
    two = product_of_gaussians(mean[:, order], variance[:, order])
    for old, new in zip(one, two, strict=True):
        torch.testing.assert_close(old, new, atol=1e-10, rtol=0)


def test_invariant_1_a_factor_more_never_adds_variance():
    mean, variance = factors(4, 9, 3)
    before = None
    for number in range(1, 10):
        product = product_of_gaussians(mean[:, :number], variance[:, :number])
        assert before is None or (product.variance <= before).all()
        before = product.variance


def test_invariant_1_no_variance_is_clamped():
    mean, variance = factors(2, 5, 3)
    mean.requires_grad_()
    product = product_of_gaussians(mean, torch.zeros_like(variance))
    torch.testing.assert_close(product.variance, torch.full((2, 3), 1e-7 / 5).double())
    product.mean.sum().backward()
    assert product.mean.isfinite().all() and mean.grad.isfinite().all()


def test_a_mask_leaves_factors_out_as_a_loop_does():
    mean, variance = factors(6, 5, 3)
    mask = torch.rand(6, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[0], mask[1] = False, True
    leaves = [mean.clone().requires_grad_(), variance.clone().requires_grad_()]
    product = product_of_gaussians(*leaves, mask)
    weight = torch.randn(6, 3, dtype=torch.float64)
    ((product.mean + product.variance) * weight).sum().backward()
    slow = [mean.clone().requires_grad_(), variance.clone().requires_grad_()]
    for row in range(6):
        kept = mask[row].nonzero().flatten().tolist()
        precision = sum((1 / slow[1][row, c] for c in kept), torch.zeros(3).double())
        if not kept:
            assert torch.equal(product.mean[row], torch.zeros(3).double())
            assert torch.equal(product.variance[row], torch.ones(3).double())
            continue
        v = 1 / precision
        m = v * sum(slow[0][row, c] / slow[1][row, c] for c in kept)
        torch.testing.assert_close(product.mean[row], m, atol=1e-10, rtol=0)
        torch.testing.assert_close(product.variance[row], v, atol=1e-10, rtol=0)
        ((m + v) * weight[row]).sum().backward()
    for fast, plain in zip(leaves, slow, strict=True):
        torch.testing.assert_close(fast.grad, plain.grad, atol=1e-10, rtol=0)


def test_no_factor_at_all_is_the_standard_gaussian():
    product = product_of_gaussians(torch.zeros(2, 0, 3), torch.zeros(2, 0, 3))
    for got, expected in zip(product, standard_gaussian(torch.empty(2, 3)), strict=True):
        assert torch.equal(got, expected)


def test_invariant_2_the_divergence_is_that_of_samples():
    torch.manual_seed(0)
    q = LatentGaussian(torch.tensor([0.5, -1.0]).double(), torch.tensor([0.3, 2.0]).double())
    p = LatentGaussian(torch.tensor([-0.2, 0.4]).double(), torch.tensor([0.8, 1.5]).double())
    z = LatentGaussian(*(x.expand(200_000, 2) for x in q)).sample()

    def log_prob(g):
        return torch.distributions.Normal(g.mean, g.variance.sqrt()).log_prob(z).sum(-1)

    standard = standard_gaussian(q.mean)
    for other, closed in ((standard, q.kl_to_standard()), (p, q.kl(p))):
        drawn = (log_prob(q) - log_prob(other)).mean()
        torch.testing.assert_close(closed, drawn, rtol=0.02, atol=0)
    torch.testing.assert_close(q.kl(standard), q.kl_to_standard(), atol=1e-12, rtol=0)


def test_invariant_2_zero_for_the_prior_and_double_for_twice_the_tasks():
    prior = standard_gaussian(torch.empty(3, 5).double())
    assert torch.equal(prior.kl_to_standard(), torch.zeros(3).double())
    q = LatentGaussian(*factors(3, 5))
    twice = LatentGaussian(*(torch.cat((x, x)) for x in q))
    assert twice.kl_to_standard().sum().item() == pytest.approx(2 * q.kl_to_standard().sum().item())
    assert (q.kl_to_standard() >= 0).all() and (q.kl(prior) >= 0).all()


def test_samples_have_the_pathwise_gradient():
    torch.manual_seed(0)
    mean, variance = (x.requires_grad_() for x in factors(100_000, 2))
    z = LatentGaussian(mean, variance).sample()
    noise = ((z - mean) / variance.sqrt()).detach()
    assert noise.mean(0).abs().max() < 0.02 and (noise.var(0) - 1).abs().max() < 0.02
    z.sum().backward()
    assert (mean.grad == 1).all()
    torch.testing.assert_close(variance.grad, noise / (2 * variance.sqrt()))
