"""Tests of the scoring body."""

import torch

from networks.score_body import ScoreBody, head_rank


def test_auto_looks_at_the_widest_mask():
    assert head_rank("auto", 16, [(127, 5), (3,)]) == 0
    assert head_rank("auto", 16, [(5, 128)]) == 16
    assert head_rank("dense", 16, [(500, 128)]) == 0
    assert head_rank("low_rank", 3, [(5, 4)]) == 3


def test_low_rank_scores_by_hand():
    body = ScoreBody(2, 4, [(3, 5), (6,)], 2)
    embedding = torch.randn(7, 2)
    flat = body.heads(torch.relu(body.first(embedding)))
    left, right = flat[:, :6].view(7, 3, 2), flat[:, 6:16].view(7, 5, 2)
    weight, units = body(embedding)
    torch.testing.assert_close(weight, torch.einsum("tir,tjr->tij", left, right))
    torch.testing.assert_close(units, flat[:, 16:])


def test_dense_order_and_gradients():
    body = ScoreBody(2, 4, [(3, 5), (2, 3)], 0)
    embedding = torch.randn(7, 2)
    scores = body(embedding)
    flat = body.heads(torch.relu(body.first(embedding)))
    torch.testing.assert_close(torch.cat([s.flatten(1) for s in scores], 1), flat)
    sum(score.square().sum() for score in scores).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in body.parameters())
