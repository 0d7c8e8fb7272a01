"""The squashed Gaussian of SAC (Haarnoja et al. 2018), with a log-probability that can be exact."""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

LOG_TWO = math.log(2.0)
HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def log_one_minus_tanh_squared(u: Tensor) -> Tensor:
    """Return log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u)), exact for large |u| as well."""
    return 2.0 * (LOG_TWO - u - softplus(-2.0 * u))


class SquashedGaussian:
    """a = tanh(u), u ~ N(loc, diag(scale^2)).

    log p(a) = sum_j [ log N(u_j; loc_j, scale_j) - log(1 - tanh(u_j)^2 + epsilon) ]
    """

    def __init__(self, loc: Tensor, scale: Tensor, epsilon: float = 0.0) -> None:
        """Keep mean and standard deviation of u, each [*, action_dim], and epsilon."""
        self.loc = loc
        self.scale = scale
        self.epsilon = epsilon

    @property
    def mode(self) -> Tensor:
        """The deterministic action tanh(loc), [*, action_dim]."""
        return torch.tanh(self.loc)

    def log_prob(self, u: Tensor) -> Tensor:
        """Return log p(tanh(u)) for the value before the tanh: [*, action_dim] -> [*]."""
        standard = (u - self.loc) / self.scale
        return self._log_prob(u, standard)

    def rsample(self) -> tuple[Tensor, Tensor]:
        """Draw with the global generator; return actions [*, action_dim] and log p [*].

        Both carry the pathwise gradient.
        """
        standard = torch.randn_like(self.loc)
        u = self.loc + self.scale * standard
        return torch.tanh(u), self._log_prob(u, standard)

    def _log_prob(self, u: Tensor, standard: Tensor) -> Tensor:
        gaussian = -0.5 * standard.square() - self.scale.log() - HALF_LOG_TWO_PI
        jacobian = log_one_minus_tanh_squared(u)
        if self.epsilon:
            jacobian = (jacobian.exp() + self.epsilon).log()
        return (gaussian - jacobian).sum(-1)
