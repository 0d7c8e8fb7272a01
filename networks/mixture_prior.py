"""The priors of the components of a mixture, as CEMRL has them.

Bing et al., "Meta-Reinforcement Learning in Non-Stationary and Dynamic Environments", 2022.
"""

import math

import gin
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from networks.arguments import check_choice, check_sizes
from networks.latent_gaussian import LatentGaussian

KINDS = ("standard", "class_index", "learned")


@gin.configurable
class MixturePrior(nn.Module):
    """p(z | k), a Gaussian for each component k = 0 ... K - 1.

    standard:    N(0, I), as in TIGR
    class_index: N((k, ..., k), scale^2 I)
    learned:     N(m, diag(s^2)) with (m, r) = W onehot(k) + b, s = softplus(r)
    """

    mean: Tensor
    variance: Tensor

    def __init__(
        self, num_components: int, latent_dim: int, *, kind: str = "standard", scale: float = 0.5
    ) -> None:
        """Build the prior.

        Args:
            num_components: K.
            latent_dim: width of z.
            kind: `standard`, `class_index` or `learned`.
            scale: standard deviation of `class_index`.

        Raises:
            ValueError: if a size is below 1, `kind` is unknown or `scale` is not positive.
        """
        super().__init__()
        check_sizes(num_components=num_components, latent_dim=latent_dim)
        check_choice("kind", kind, KINDS)
        if not 0.0 < scale < math.inf:
            raise ValueError(f"scale must be positive and finite, got {scale}")
        self.kind = kind
        if kind == "learned":
            self.map = nn.Linear(num_components, 2 * latent_dim)
            return
        index = torch.arange(num_components).unsqueeze(1).expand(-1, latent_dim)
        by_index = kind == "class_index"
        mean = index.float() if by_index else torch.zeros(index.shape)
        variance = torch.full(index.shape, scale**2 if by_index else 1.0)
        self.register_buffer("mean", mean.clone())
        self.register_buffer("variance", variance)

    def forward(self) -> LatentGaussian:
        """Return the components, fields [K, latent_dim]."""
        if self.kind != "learned":
            return LatentGaussian(self.mean, self.variance)
        mean, spread = (self.map.weight.t() + self.map.bias).chunk(2, -1)
        return LatentGaussian(mean, softplus(spread).square())
