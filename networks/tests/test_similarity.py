"""Tests of similarities, targets and losses."""

import math

import torch

from networks import similarity as s
from networks.top_k import hard_top_k


def masks(tasks=4, k=20):
    return [
        hard_top_k(torch.randn(tasks, 40), k)[0].view(tasks, 5, 8).float(),
        hard_top_k(torch.randn(tasks, 31), k)[0].float(),
    ]


def test_invariant_15_overlap():
    for _ in range(5):
        chosen = masks()
        value = s.overlap(chosen)
        assert torch.equal(value, value.t())
        assert torch.equal(value.diagonal(), torch.ones(4))
        assert (value >= 0).all() and (value <= 1).all()
        torch.testing.assert_close(value, s.overlap([mask.bool() for mask in chosen]))
    by_hand = [torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0]]), torch.tensor([[1.0, 0], [1, 0]])]
    torch.testing.assert_close(s.overlap(by_hand)[0, 1], torch.tensor(2 / 3))


def test_overlap_gradient_is_the_other_mask():
    chosen = [mask.requires_grad_() for mask in masks(2)]
    s.overlap(chosen)[0, 1].backward()
    for mask in chosen:
        torch.testing.assert_close(mask.grad[0], mask.detach()[1] / 40)


def test_encoding_targets():
    encoding = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    value = s.encoding_similarity(encoding)
    mean = 20 / 6
    torch.testing.assert_close(value[0, 1], torch.tensor(math.exp(-5 / mean)))
    assert value[0, 2] == 1 and value[1, 1] == 1
    corrected = s.chance_corrected(value, 0.7)
    torch.testing.assert_close(corrected, 0.3 + 0.7 * value)
    assert (s.encoding_similarity(torch.zeros(3, 2)) == 1).all()
    two = s.encoding_similarity(torch.randn(2, 5))
    torch.testing.assert_close(two[0, 1], torch.tensor(math.exp(-1)))


def test_gaussian_kl_target():
    mean, std = torch.randn(3, 4) * 3, torch.rand(3, 4) + 0.2
    pairs = torch.zeros(3, 3)
    for i in range(3):
        for j in range(3):
            a, b = (torch.distributions.Normal(mean[x], std[x]) for x in (i, j))
            pairs[i, j] = sum(
                torch.distributions.kl_divergence(*pair).sum() for pair in ((a, b), (b, a))
            )
    torch.testing.assert_close(
        s.gaussian_kl_similarity(mean, std),
        s.min_max(torch.exp(-pairs / 100)),
        atol=1e-5,
        rtol=1e-4,
    )


def test_reference_similarity_underflows_at_full_size():
    small = s.exp_distance([torch.eye(3)])
    assert small[0, 0] == 1 and small[0, 1] == 0
    big = [hard_top_k(torch.randn(3, 40_000), 20_000)[0].float().requires_grad_()]
    value = s.exp_distance(big)
    assert torch.equal(value, torch.eye(3))


def test_losses():
    a = torch.tensor([[9.0, 1.0], [2.0, 9.0]])
    b = torch.zeros(2, 2)
    assert s.mean_square(a, b) == 2.5
    torch.testing.assert_close(s.euclidean(a, b), torch.tensor(math.sqrt(81 * 2 + 5)))
    one = torch.ones(1, 1, requires_grad=True)
    s.mean_square(one, torch.zeros(1, 1)).backward()
    assert one.grad.item() == 0
    same = torch.ones(2, 2, requires_grad=True)
    s.euclidean(same, torch.ones(2, 2)).backward()
    assert same.grad.isfinite().all()


def test_invariant_14_zero_when_both_agree():
    chosen = masks()
    assert s.mean_square(s.overlap(chosen), s.overlap(chosen)) == 0
    assert s.euclidean(s.exp_distance(chosen), s.exp_distance(chosen)) == 0


def test_exp_distance_keeps_double_precision() -> None:
    """Against a loop over pairs."""
    rows = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    closeness = [[math.exp(-(a - b).square().sum().sqrt().item()) for b in rows] for a in rows]
    low = min(map(min, closeness))
    expected = [[(value - low) / (1.0 - low) for value in row] for row in closeness]
    got = s.exp_distance([rows[:, :4], rows[:, 4:]])
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14)
