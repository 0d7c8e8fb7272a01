"""Choosing k of N entries by score, with a gradient, and changing such a choice a little at a time.

All functions work on the last dimension, N, and on any leading dimensions (tasks).
"""

import math

import torch
from torch import Tensor

SURROGATES = ("sigmoid_k", "softmax", "identity")
ROUNDINGS = ("round", "trunc")


def keep_count(size: int, pruning_ratio: float, rounding: str = "round") -> int:
    """Return how many of `size` entries stay: max(1, round((1 - pruning_ratio) size)).

    Rounding is Python's, halves to the even number.

    Args:
        size: number of entries N.
        pruning_ratio: share of entries set to zero.
        rounding: `trunc` is the published code's trunc(N - N pruning_ratio).
    """
    if rounding == "trunc":
        return max(1, int(size - size * pruning_ratio))
    return max(1, round((1.0 - pruning_ratio) * size))


def deviation(scores: Tensor) -> Tensor:
    """Return the standard deviation over the last dimension, [*, 1]; faster than `torch.std`."""
    centred = scores - scores.mean(-1, keepdim=True)
    norm: Tensor = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
    return norm / math.sqrt(max(1, scores.shape[-1] - 1))


def standardised(scores: Tensor) -> Tensor:
    """Return scores / std(scores), the std taken over the last dimension as a constant.

    A positive factor never changes which entries are largest.
    """
    return scores / deviation(scores.detach()).clamp_min(1e-8) if scores.shape[-1] > 1 else scores


def gumbel_like(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Return Gumbel(0, 1) noise of the same shape."""
    return -torch.empty_like(scores).exponential_(generator=generator).clamp_min(1e-30).log()


def hard_top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return a bool mask with exactly k ones at the largest scores, and the threshold.

    The threshold [*, 1] is the midpoint of the k-th and the (k+1)-th score, without gradient; the
    k-th score itself if k = N.
    """
    scores = scores.detach()
    mask = torch.zeros_like(scores, dtype=torch.bool)
    if k == scores.shape[-1]:
        return ~mask, scores.amin(-1, keepdim=True)
    largest = scores.topk(k + 1, sorted=False)
    mask.scatter_(-1, largest.indices, True)
    highest_dropped, last = largest.values.min(-1, keepdim=True)
    mask.scatter_(-1, largest.indices.gather(-1, last), False)
    lowest_kept = largest.values.scatter(-1, last, torch.inf).amin(-1, keepdim=True)
    return mask, 0.5 * (lowest_kept + highest_dropped)


def straight_through_top_k(
    scores: Tensor, k: int, surrogate: str = "sigmoid_k", chosen: Tensor | None = None
) -> Tensor:
    """Return hard_top_k as 0.0 and 1.0 exactly, with the gradient of a soft selection.

    With a bool mask `chosen` [*, N] the value is that mask instead; the gradient stays.

    value = hard + (soft - stopgrad(soft)); soft is
        sigmoid_k: sigmoid(s - threshold)
        softmax: softmax(s) over the last dimension, the published form
        identity: s
    """
    hard, threshold = hard_top_k(scores, k)
    hard = hard if chosen is None else chosen
    if surrogate == "softmax":
        soft = scores.softmax(-1)
    elif surrogate == "sigmoid_k":
        soft = torch.sigmoid(scores - threshold)
    else:
        soft = scores
    return hard.to(soft.dtype) + (soft - soft.detach())


def swap_towards(
    old: Tensor, scores: Tensor, k: int, max_swap: float | None = None, margin: float = 0.0
) -> Tensor:
    """Move a mask of k ones towards the top k of the scores, by a bounded number of exchanges.

    The best-scored zero trades places with the worst-scored one, then the second best with the
    second worst, and so on: largest score differences first, as long as the difference exceeds
    the margin. The number of ones stays k.

    Args:
        old: bool [*, N]. A row that does not have k ones is replaced by the top k.
        scores: [*, N].
        k: number of ones.
        max_swap: largest share of the k ones to exchange, at least one entry if positive; None
            sets no bound.
        margin: hysteresis, in standard deviations of the scores.

    Returns:
        The new bool mask [*, N].
    """
    scores = scores.detach()
    size = scores.shape[-1]
    fresh, _ = hard_top_k(scores, k)
    count = min(k, size - k)
    if max_swap is not None:
        count = min(count, max(1, int(max_swap * k + 1e-6)) if max_swap > 0.0 else 0)
    mask = old.clone()
    if count > 0:
        gain = scores.masked_fill(old, -torch.inf).topk(count, sorted=True)
        loss = scores.masked_fill(~old, torch.inf).topk(count, largest=False, sorted=True)
        better = gain.values - loss.values > margin * deviation(scores)
        mask.scatter_(-1, gain.indices, better)
        mask.scatter_(-1, loss.indices, ~better)
    return torch.where(old.sum(-1, keepdim=True) == k, mask, fresh)
