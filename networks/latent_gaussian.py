"""Gaussians over a latent, and the product that merges what single transitions say of it.

Rakelly et al., "Efficient Off-Policy Meta-Reinforcement Learning via Probabilistic Context
Variables", ICML 2019.
"""

from typing import NamedTuple

import torch
from torch import Tensor

MIN_VARIANCE = 1e-7


class LatentGaussian(NamedTuple):
    """z ~ N(mean, diag(variance)); both fields are [*, latent_dim].

    A tuple of tensors, so that it passes through `torch.func` as it is.
    """

    mean: Tensor
    variance: Tensor

    def sample(self) -> Tensor:
        """Draw z [*, latent_dim] with the global generator and the pathwise gradient."""
        return self.mean + self.variance.sqrt() * torch.randn_like(self.mean)

    def kl_to_standard(self) -> Tensor:
        """Return KL(self || N(0, I)) = sum_d (mean_d^2 + v_d - 1 - ln v_d) / 2, [*]."""
        return 0.5 * (self.mean.square() + self.variance - 1.0 - self.variance.log()).sum(-1)

    def kl(self, other: "LatentGaussian") -> Tensor:
        """Return KL(self || other), [*]; the two broadcast.

        sum_d (ln(w_d / v_d) + (v_d + (mean_d - m_d)^2) / w_d - 1) / 2 with other = N(m, diag(w)).
        """
        ratio = self.variance / other.variance
        distance = (self.mean - other.mean).square() / other.variance
        return 0.5 * (ratio - ratio.log() + distance - 1.0).sum(-1)


def standard_gaussian(like: Tensor) -> LatentGaussian:
    """Return N(0, I) in the shape [*, latent_dim], the kind and the place of `like`."""
    return LatentGaussian(torch.zeros_like(like), torch.ones_like(like))


def product_of_gaussians(
    mean: Tensor, variance: Tensor, mask: Tensor | None = None
) -> LatentGaussian:
    """Return the normalised product of the factors N(m_c, diag(v_c)); it knows no prior.

    1 / v = sum_c 1 / v_c;   m = v sum_c m_c / v_c

    Without a factor it is N(0, I).

    Args:
        mean: [*, factors, latent_dim].
        variance: of the same shape, clamped below at 1e-7.
        mask: [*, factors] bool, False where there is no factor; None if all are there.

    Returns:
        Fields [*, latent_dim].
    """
    if mask is None:
        mask = torch.ones(mean.shape[:-1], dtype=torch.bool, device=mean.device)
    missing = ~mask.unsqueeze(-1)
    precision = variance.clamp(min=MIN_VARIANCE).reciprocal().masked_fill(missing, 0.0)
    total = precision.sum(-2).masked_fill(missing.all(-2), 1.0)
    merged = total.reciprocal()
    return LatentGaussian(merged * (precision * mean.masked_fill(missing, 0.0)).sum(-2), merged)
