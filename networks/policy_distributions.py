"""The action distributions of the context policies, in closed form.

Each is a tuple of tensors, so that it passes through `torch.func` (vmap, grad, jvp) as it is; and
none looks at its values, so that nothing waits for a device.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class DiagonalGaussian(NamedTuple):
    """a ~ N(mean, diag(exp(log_std))^2), unbounded; actions are [*, action_dim], floating.

    Both fields are [*, action_dim].
    """

    mean: Tensor
    log_std: Tensor

    def log_prob(self, action: Tensor) -> Tensor:
        """Return log p(action), summed over the dimensions: [*, action_dim] -> [*]."""
        standard = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * standard.square() - self.log_std - HALF_LOG_TWO_PI).sum(-1)

    def kl(self, old: "DiagonalGaussian") -> Tensor:
        """Return KL(self || old) of each dimension, [*, action_dim]; their sum is the joint KL.

        With r = log s - log s_old: (exp(2 r) - 1 + ((m - m_old) / s_old)^2) / 2 - r.
        """
        log_ratio = self.log_std - old.log_std
        standard = (self.mean - old.mean) * (-old.log_std).exp()
        return 0.5 * (torch.expm1(2.0 * log_ratio) + standard.square()) - log_ratio

    def sample(self) -> Tensor:
        """Draw actions [*, action_dim] with the global generator."""
        return self.mean + self.log_std.exp() * torch.randn_like(self.mean)

    def mode(self) -> Tensor:
        """Return the mean, [*, action_dim]."""
        return self.mean


class Categorical(NamedTuple):
    """p(a) = softmax(logits)_a; actions are numbers 0, 1, ..., [*] int64.

    The field is [*, num_actions].
    """

    logits: Tensor

    def log_prob(self, action: Tensor) -> Tensor:
        """Return log p(action): [*] int64 -> [*]."""
        return self.logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def kl(self, old: "Categorical") -> Tensor:
        """Return KL(self || old), [*, 1]: a choice has one dimension."""
        log_p, log_q = self.logits.log_softmax(-1), old.logits.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1, keepdim=True)

    def sample(self) -> Tensor:
        """Draw actions [*] with the global generator: argmax of logits - log(Exponential(1))."""
        return (self.logits - torch.empty_like(self.logits).exponential_().log()).argmax(-1)

    def mode(self) -> Tensor:
        """Return the likeliest actions, [*] int64."""
        return self.logits.argmax(-1)
