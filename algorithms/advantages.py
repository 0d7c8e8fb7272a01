"""Returns, advantages and means over episodes of different lengths.

Tensors are [*, episodes, time]; `mask` is True on the steps of an episode and False on the padding
after them. All episodes end at their last step: nothing is bootstrapped.

Generalised advantages: Schulman et al., "High-Dimensional Continuous Control Using Generalized
Advantage Estimation", 2016.
"""

import torch
from torch import Tensor


def discounted_sums(values: Tensor, discount: float) -> Tensor:
    """Return y_t = x_t + discount y_(t+1), with y = 0 after the end: [*, time] -> [*, time].

    One triangular product instead of a step for each time.
    """
    time = torch.arange(values.shape[-1], device=values.device)
    ahead = time[:, None] - time  # row: the later step
    powers = torch.pow(discount, ahead.clamp(min=0).to(values.dtype))
    return values @ powers.tril()


def returns_to_go(reward: Tensor, mask: Tensor, discount: float) -> Tensor:
    """Return R_t = r_t mask_t + discount R_(t+1), [*, time]."""
    return discounted_sums(reward * mask, discount)


def generalized_advantages(
    reward: Tensor, value: Tensor, mask: Tensor, discount: float, gae_lambda: float
) -> Tensor:
    """Return A_t = delta_t + discount gae_lambda A_(t+1), [*, time].

    delta_t = r_t + discount V_(t+1) - V_t, with reward and value zero on the padding. With
    gae_lambda = 1 this is the return to go less the value.
    """
    value = value * mask
    following = torch.cat((value[..., 1:], torch.zeros_like(value[..., :1])), -1)
    delta = reward * mask + discount * following - value
    return discounted_sums(delta, discount * gae_lambda)


def normalized(advantage: Tensor, mask: Tensor) -> Tensor:
    """Return the advantages with mean 0 and population deviation 1 over all steps of a task.

    [*, episodes, time]; on the padding they are (0 - mean) / (deviation + 1e-8). A task without any
    step, whose simulators broke off all its episodes, has zeros.
    """
    advantage, count = advantage * mask, mask.sum((-2, -1), keepdim=True).clamp(min=1)
    mean = advantage.sum((-2, -1), keepdim=True) / count
    variance = ((advantage - mean).square() * mask).sum((-2, -1), keepdim=True) / count
    return (advantage - mean) / (variance.sqrt() + 1e-8)


def weighted_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over time within each episode, then over episodes.

    [*, episodes, time] -> [*]; an episode counts alike whatever its length.
    """
    lengths = mask.sum(-1).clamp(min=1)
    return ((values * mask).sum(-1) / lengths).mean(-1)
