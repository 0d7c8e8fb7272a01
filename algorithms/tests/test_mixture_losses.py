"""The loss terms of the encoder of TIGR and CEMRL."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from algorithms import mixture_losses as losses


class GaussianMixture(NamedTuple):
    mean: Tensor
    variance: Tensor
    logits: Tensor

    def weights(self):
        return self.logits.softmax(-1)


def divergence_of(made):
    """Of each component to N(0, I)."""
    return 0.5 * (made.mean**2 + made.variance - 1 - made.variance.log()).sum(-1)


def mixture(*shape, components=4, latent=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    options = {"generator": draw, "dtype": torch.float64}
    mean = torch.randn(*shape, components, latent, **options)
    variance = torch.rand(*shape, components, latent, **options) + 0.1
    return GaussianMixture(mean, variance, torch.randn(*shape, components, **options))


def test_invariant_4_a_single_component_has_no_choice_and_nothing_to_part():
    made = mixture(7, components=1)
    assert (losses.label_loss(made.logits, torch.zeros(7).long()) == 0).all()
    assert torch.equal(losses.separation(made), torch.zeros(7).double())


def test_invariant_5_value_by_hand():
    made = GaussianMixture(torch.tensor([[0.0], [2.0]]), torch.ones(2, 1), torch.zeros(2))
    assert losses.separation(made).item() == pytest.approx(0.25)


def test_invariant_5_relabelling_and_scale():
    made = mixture(6)
    before = losses.separation(made)
    order = torch.randperm(4)
    mixed = GaussianMixture(made.mean[:, order], made.variance[:, order], made.logits[:, order])
    torch.testing.assert_close(losses.separation(mixed), before)
    scaled = GaussianMixture(3 * made.mean, 9 * made.variance, made.logits)
    torch.testing.assert_close(losses.separation(scaled), before / 3, rtol=1e-6, atol=0)


def test_invariant_5_by_a_loop_with_gradients():
    fast = GaussianMixture(*(x.requires_grad_() for x in mixture(3)))
    slow = GaussianMixture(*(x.requires_grad_() for x in mixture(3)))
    seen = losses.separation(fast)
    seen.sum().backward()
    for row in range(3):
        total = 0.0
        for k in range(4):
            for d in range(3):
                apart = sum((slow.mean[row, k, d] - slow.mean[row, j, d]) ** 2 for j in range(4))
                total = total + 0.5 * slow.variance[row, k, d].sqrt() / (apart + 1e-8)
        torch.testing.assert_close(seen[row], total, atol=1e-10, rtol=1e-10)
        total.backward()
    for one, two in zip(fast[:2], slow[:2], strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-10, rtol=1e-10)


def test_separation_can_be_bounded():
    made = mixture(3)
    made.mean[0, 1] = made.mean[0, 0]  # two of four: the others still part them
    together = made._replace(mean=torch.zeros_like(made.mean).requires_grad_())
    assert (losses.separation(together) > 1e7).all()
    bounded = losses.separation(together, bound=1e3)
    assert (bounded == 1e3).all()
    bounded.sum().backward()
    assert (together.mean.grad == 0).all()
    assert torch.equal(losses.separation(made, bound=1e3), losses.separation(made))


def test_invariant_6_terms_are_never_negative():
    made = mixture(50)
    z = torch.randn(50, 3)
    assert torch.equal(losses.sparsity(z), z.abs().sum(-1)) and (losses.sparsity(z) >= 0).all()
    assert (losses.separation(made) >= 0).all()
    assert (losses.uniform_divergence(made.logits) >= 0).all()


def test_label_loss_is_the_cross_entropy_of_known_labels():
    made = mixture(6)
    label = torch.tensor([0, 3, 1, -1, 2, -1])
    seen = losses.label_loss(made.logits, label)
    for row in range(6):
        p = made.weights()[row, max(int(label[row]), 0)]
        expected = -p.log() if label[row] >= 0 else torch.zeros(()).double()
        torch.testing.assert_close(seen[row], expected, atol=1e-12, rtol=0)
    shaped = losses.label_loss(made.logits.view(2, 3, 4), label.view(2, 3))
    assert torch.equal(shaped.flatten(), seen)


def test_invariant_7_the_bound_of_a_single_component():
    made = mixture(6, components=1)
    nll, divergence = torch.rand(6, 1).double(), divergence_of(made)
    bound = losses.evidence_bound(nll, divergence, made.logits, alpha=0.3, beta=0.7)
    torch.testing.assert_close(bound, (-nll - 0.3 * divergence).squeeze(-1), atol=1e-12, rtol=0)


def test_invariant_7_a_uniform_choice_costs_nothing():
    uniform = torch.full((6, 5), 1.7).double()
    torch.testing.assert_close(
        losses.uniform_divergence(uniform), torch.zeros(6).double(), atol=1e-12, rtol=0
    )
    sure = torch.tensor([[100.0, 0.0, 0.0]]).double()
    assert losses.uniform_divergence(sure).item() == pytest.approx(math.log(3))


def test_invariant_7_the_bound_by_a_loop():
    made = mixture(6)
    nll, divergence = torch.rand(6, 4).double(), torch.rand(6, 4).double()
    bound = losses.evidence_bound(nll, divergence, made.logits, alpha=0.3, beta=0.7)
    for row in range(6):
        q = made.weights()[row]
        expected = sum(q[k] * (-nll[row, k] - 0.3 * divergence[row, k]) for k in range(4))
        expected -= 0.7 * sum(q[k] * (q[k] / 0.25).log() for k in range(4))
        torch.testing.assert_close(bound[row], expected, atol=1e-12, rtol=0)


def test_terms_pass_through_torch_func():
    made = mixture(5)

    def loss(mean, variance, logits):
        one = GaussianMixture(mean, variance, logits)
        terms = losses.separation(one) + losses.sparsity(logits.softmax(-1) @ mean)
        return terms + losses.label_loss(logits, torch.tensor(2)) + divergence_of(one).sum()

    together = vmap(grad(loss, (0, 1, 2)))(*made)
    for row in range(5):
        alone = grad(loss, (0, 1, 2))(*(x[row] for x in made))
        for one, two in zip(together, alone, strict=True):
            torch.testing.assert_close(one[row], two, atol=1e-10, rtol=1e-10)
