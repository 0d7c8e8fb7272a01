"""From features to the numbers that a mixture of Gaussians is made of.

See `networks.mixture` for the papers.
"""

from typing import NamedTuple

import gin
import torch
from torch import Tensor, nn

from networks.affine import affine, head
from networks.arguments import check_sizes


class RawMixture(NamedTuple):
    """What a head returns: means and spreads [*, K, latent_dim], logits [*, K].

    A spread becomes a variance only after the merge over time, see `networks.time_merge`.
    """

    mean: Tensor
    spread: Tensor
    logits: Tensor


@gin.configurable
class JointHead(nn.Module):
    """TIGR's: one perceptron for all, (mean_k, spread_k, logit_k) = W_1 relu(W_0 h + b_0) + b_1."""

    def __init__(self, features: int, num_components: int, latent_dim: int) -> None:
        """Build the two layers, initialised as `nn.Linear` does.

        Args:
            features: width of h, and of the hidden layer.
            num_components: K.
            latent_dim: width of z.

        Raises:
            ValueError: if a size is below 1.
        """
        super().__init__()
        check_sizes(features=features, num_components=num_components, latent_dim=latent_dim)
        self.latent_dim = latent_dim
        self.shape = (num_components, 2 * latent_dim + 1)
        self.hidden = nn.Linear(features, features)
        self.last = nn.Linear(features, num_components * (2 * latent_dim + 1))

    def forward(self, features: Tensor) -> RawMixture:
        """Map features [*, features] to the numbers of the mixture."""
        h = affine(features, self.hidden.weight, self.hidden.bias, relu=True)
        numbers = head(h, self.last.weight, self.last.bias).unflatten(-1, self.shape)
        mean, spread, logits = numbers.split((self.latent_dim, self.latent_dim, 1), -1)
        return RawMixture(mean, spread, logits.squeeze(-1))


@gin.configurable
class SeparateHeads(nn.Module):
    """CEMRL's: a linear map for the logits, and one for each component's mean and spread."""

    def __init__(self, features: int, num_components: int, latent_dim: int) -> None:
        """Build the maps, initialised as `nn.Linear` does; arguments and errors as `JointHead`."""
        super().__init__()
        check_sizes(features=features, num_components=num_components, latent_dim=latent_dim)
        self.shape = (num_components, 2, latent_dim)
        self.classes = nn.Linear(features, num_components)
        self.gaussians = nn.Linear(features, num_components * 2 * latent_dim)

    def logits(self, features: Tensor) -> Tensor:
        """Map features [*, features] to logits [*, K]."""
        return head(features, self.classes.weight, self.classes.bias)

    def forward(self, features: Tensor) -> RawMixture:
        """Map features [*, features] to the numbers of the mixture."""
        numbers = head(features, self.gaussians.weight, self.gaussians.bias)
        mean, spread = torch.unbind(numbers.unflatten(-1, self.shape), -2)
        return RawMixture(mean, spread, self.logits(features))
