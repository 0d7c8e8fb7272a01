"""The mixture of Gaussians over a latent that TIGR and CEMRL infer from a window.

TIGR: Bing et al., "Meta-Reinforcement Learning in Broad and Non-Parametric Environments", 2021.
CEMRL: Bing et al., "Meta-Reinforcement Learning in Non-Stationary and Dynamic Environments", 2022.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from networks.latent_gaussian import LatentGaussian

SELECTIONS = ("convex", "argmax", "drawn")


class GaussianMixture(NamedTuple):
    """K Gaussians N(mean_k, diag(variance_k)) with weights gamma = softmax(logits).

    A tuple of tensors, so that it passes through `torch.func` as it is. Fields are [*, K,
    latent_dim] twice, and [*, K].
    """

    mean: Tensor
    variance: Tensor
    logits: Tensor

    @property
    def components(self) -> LatentGaussian:
        """The Gaussians, fields [*, K, latent_dim]."""
        return LatentGaussian(self.mean, self.variance)

    def weights(self) -> Tensor:
        """Return gamma, [*, K]."""
        return self.logits.softmax(-1)

    def component(self) -> Tensor:
        """Return the component of the largest weight, [*] int64."""
        return self.logits.argmax(-1)

    def latent(self, selection: str = "convex", sample: bool = False) -> Tensor:
        """Return z [*, latent_dim], made of one z_k of each component.

        convex: z = sum_k gamma_k z_k;   argmax: the z_k of the largest weight;   drawn: k ~ gamma

        Args:
            selection: which; the choice of k itself has no gradient.
            sample: draw z_k ~ N(mean_k, variance_k) with the pathwise gradient; else z_k = mean_k.
        """
        parts = self.components.sample() if sample else self.mean
        if selection == "convex":
            return (self.weights().unsqueeze(-1) * parts).sum(-2)
        if selection == "argmax":
            return pick(parts, self.component())
        noise = torch.empty_like(self.logits).exponential_().log()
        return pick(parts, (self.logits - noise).argmax(-1))


def pick(parts: Tensor, component: Tensor) -> Tensor:
    """Return one component's row: parts [*, K, n], component [*] int64 -> [*, n]."""
    index = component[..., None, None].expand(*component.shape, 1, parts.shape[-1])
    return parts.gather(-2, index).squeeze(-2)
