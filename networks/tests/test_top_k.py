"""Tests of choosing k of N."""

from fractions import Fraction

import pytest
import torch

from networks.top_k import (
    gumbel_like,
    hard_top_k,
    keep_count,
    standardised,
    straight_through_top_k,
    swap_towards,
)

RATIOS = [0, 0.1, 0.5, 0.55, 0.7, 0.8, 0.95]


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("size", [1, 7, 161, 1600])
def test_invariant_01_exact_count(ratio, size):
    k = keep_count(size, ratio)
    exact = (1 - Fraction(str(ratio))) * size
    assert k == max(1, round(exact))
    scores = torch.randn(3, size)
    ties = torch.zeros(3, size)
    for values in (scores, ties, scores.round()):
        assert (hard_top_k(values, k)[0].sum(-1) == k).all()


def test_rounding():
    assert keep_count(1600, 0.55) == 720
    assert keep_count(1600, 0.55, "trunc") == 719
    assert keep_count(5, 0.5) == 2 and keep_count(7, 0.5) == 4
    assert keep_count(3, 0.95) == keep_count(3, 0.95, "trunc") == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("surrogate", ["sigmoid_k", "softmax", "identity"])
def test_invariant_02_exact_values(dtype, surrogate):
    scores = (torch.randn(4, 301) * 7).to(dtype).requires_grad_()
    mask = straight_through_top_k(scores, 77, surrogate)
    assert mask.dtype == dtype
    assert ((mask == 0) | (mask == 1)).all()
    assert ((mask == 1).sum(-1) == 77).all()
    (mask * torch.randn_like(mask)).sum().backward()
    assert scores.grad.abs().sum() > 0


def test_threshold_and_surrogate_gradients():
    scores = torch.tensor([[3.0, 0.0, 1.0, 2.0]], requires_grad=True)
    mask, threshold = hard_top_k(scores, 2)
    assert mask.tolist() == [[True, False, False, True]] and threshold.item() == 1.5
    assert hard_top_k(scores, 4)[1].item() == 0.0
    soft = torch.sigmoid(scores.detach() - 1.5)
    straight_through_top_k(scores, 2).sum().backward()
    torch.testing.assert_close(scores.grad, soft * (1 - soft))
    scores.grad = None
    straight_through_top_k(scores, 2, "identity").sum().backward()
    assert scores.grad.tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize("surrogate", ["sigmoid_k", "identity"])
def test_invariant_12_useful_scores_go_up(surrogate):
    scores = torch.randn(3, 50, requires_grad=True)
    worth = torch.randn(3, 50)  # d(-loss)/d(mask)
    mask = straight_through_top_k(standardised(scores), 20, surrogate)
    (-(mask * worth).sum()).backward()
    step = -scores.grad
    assert (step[worth > 0] > 0).all() and (step[worth < 0] < 0).all()


def test_chosen_mask_with_the_gradient_of_the_scores():
    scores = torch.randn(3, 50, requires_grad=True)
    chosen = hard_top_k(torch.randn(3, 50), 20)[0]
    weight = torch.randn(3, 50)
    mask = straight_through_top_k(scores, 20, "sigmoid_k", chosen)
    assert torch.equal(mask, chosen.float())
    (mask * weight).sum().backward()
    soft = torch.sigmoid(scores - hard_top_k(scores, 20)[1]).detach()
    torch.testing.assert_close(scores.grad, weight * soft * (1 - soft))


def test_standardised_keeps_the_choice():
    scores = torch.randn(3, 40) * 0.01
    scaled = standardised(scores)
    torch.testing.assert_close(scaled.std(-1), torch.ones(3))
    assert torch.equal(hard_top_k(scores, 9)[0], hard_top_k(scaled, 9)[0])
    assert standardised(torch.ones(3, 1)).tolist() == [[1], [1], [1]]
    assert standardised(torch.ones(3, 4)).isfinite().all()


def test_gumbel_moments():
    torch.manual_seed(0)
    noise = gumbel_like(torch.empty(100_000), torch.Generator().manual_seed(0))
    assert abs(noise.mean() - 0.5772) < 0.02 and abs(noise.std() - 1.2825) < 0.02


def test_swap_without_bound_is_top_k():
    old = hard_top_k(torch.randn(4, 101), 50)[0]
    scores = torch.randn(4, 101)
    assert torch.equal(swap_towards(old, scores, 50), hard_top_k(scores, 50)[0])
    assert torch.equal(swap_towards(old, scores, 50, 1.0), hard_top_k(scores, 50)[0])


@pytest.mark.parametrize(("max_swap", "count"), [(0.02, 4), (0.001, 1), (0.0, 0), (0.1, 20)])
def test_swap_is_bounded_and_takes_the_largest_differences(max_swap, count):
    old = hard_top_k(torch.randn(3, 400), 200)[0]
    scores = torch.randn(3, 400)
    new = swap_towards(old, scores, 200, max_swap)
    assert (new.sum(-1) == 200).all()
    for t in range(3):
        entered, left = new[t] & ~old[t], old[t] & ~new[t]
        assert entered.sum() == left.sum() == count
        if count:
            assert scores[t][entered].min() >= scores[t][~old[t] & ~entered].max()
            assert scores[t][left].max() <= scores[t][old[t] & ~left].min()


def test_swap_margin_and_repair():
    old = torch.tensor([[True, True, False, False]])
    scores = torch.tensor([[0.0, 1.0, 1.2, 3.0]])
    deviation = scores.std().item()
    assert swap_towards(old, scores, 2).tolist() == [[False, False, True, True]]
    # differences: 3 - 0, then 1.2 - 1
    kept = swap_towards(old, scores, 2, margin=0.3 / deviation)
    assert kept.tolist() == [[False, True, False, True]]
    assert torch.equal(swap_towards(old, scores, 2, margin=3.1 / deviation), old)
    everything = torch.ones(1, 4, dtype=torch.bool)
    assert swap_towards(everything, scores, 2, 0.01).tolist() == [[False, False, True, True]]
    assert swap_towards(everything, scores, 4).all()
