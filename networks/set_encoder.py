"""PEARL's context encoder: from a set of transitions to a Gaussian over the task's latent.

Rakelly et al., "Efficient Off-Policy Meta-Reinforcement Learning via Probabilistic Context
Variables", ICML 2019.
"""

from collections.abc import Sequence

import gin
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.nn.functional import softplus

from networks.arguments import check_hidden, check_sizes
from networks.feed_forward import FeedForward
from networks.latent_gaussian import LatentGaussian, product_of_gaussians, standard_gaussian
from networks.transitions import join, transition_width


@gin.configurable
class SetEncoder(nn.Module):
    """q(z | c) = prod_n N(m_n, diag(v_n)) with (m_n, s_n) = F(o_n, a_n, r_n), v_n = softplus(s_n).

    Each transition is a factor, so their order does not matter; the prior N(0, I) is none, but what
    is left without any. Without the bottleneck z = mean_n F(o_n, a_n, r_n), a Gaussian without
    variance.

    1. Episode ends are no part of a transition, as in the published code.
    2. The recurrent encoder of that code is left out: its authors call it wrong.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        *,
        latent_dim: int = 5,
        hidden: Sequence[int] = (200, 200, 200),
        next_observation: bool = False,
        bottleneck: bool = True,
        init: str = "soft_module",
    ) -> None:
        """Build and initialise F.

        Args:
            observation_dim: width of the observation.
            action_dim: width of the action.
            latent_dim: width of z.
            hidden: widths of F's hidden layers.
            next_observation: whether o' enters as well.
            bottleneck: whether z is drawn; else it is the mean of F.
            init: as in `networks.mlp.init_layers_`; "soft_module" is that of PEARL too.

        Raises:
            ValueError: if a size is below 1, there is no hidden layer, or `init` is unknown.
        """
        super().__init__()
        check_sizes(latent_dim=latent_dim)
        check_hidden(hidden)
        width = transition_width(observation_dim, action_dim, next_observation=next_observation)
        self.latent_dim, self.bottleneck = latent_dim, bottleneck
        self.next_observation = next_observation
        outputs = 2 * latent_dim if bottleneck else latent_dim
        self.layers = FeedForward((width, *hidden, outputs), init=init)

    def prior(self, num_tasks: int) -> LatentGaussian:
        """Return the latents' distribution before any transition, fields [num_tasks, latent_dim].

        Without the bottleneck, zero.
        """
        prior = standard_gaussian(self._like().new_zeros(num_tasks, self.latent_dim))
        return prior if self.bottleneck else LatentGaussian(prior.mean, prior.mean)

    def forward(self, context: TensorDictBase) -> LatentGaussian:
        """Return the posterior, fields [*, latent_dim].

        Args:
            context: [*, transitions], see `networks.transitions.join`; where "mask" is False there
                is no transition, and all of them are there without "mask".
        """
        rows = join(context, next_observation=self.next_observation)
        mask: Tensor | None = context.get("mask", None)
        factors: Tensor = self.layers(rows)
        if self.bottleneck:
            mean, spread = factors.chunk(2, -1)
            return product_of_gaussians(mean, softplus(spread), mask)
        if mask is None:
            mask = torch.ones(rows.shape[:-1], dtype=torch.bool, device=rows.device)
        total = factors.masked_fill(~mask.unsqueeze(-1), 0.0).sum(-2)
        mean = total / mask.sum(-1, keepdim=True).clamp(min=1)
        return LatentGaussian(mean, torch.zeros_like(mean))

    def sample(self, posterior: LatentGaussian) -> Tensor:
        """Draw z [*, latent_dim] with the pathwise gradient; without the bottleneck, the mean."""
        return posterior.sample() if self.bottleneck else posterior.mean

    def divergence(self, posterior: LatentGaussian) -> Tensor:
        """Return KL(posterior || N(0, I)), [*]; zeros without the bottleneck."""
        if self.bottleneck:
            return posterior.kl_to_standard()
        return torch.zeros_like(posterior.mean[..., 0])

    def _like(self) -> Tensor:
        weight: Tensor = self.layers.linears()[0].weight
        return weight.detach()
