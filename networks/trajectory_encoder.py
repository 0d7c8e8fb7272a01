"""The trajectory encoder of MUST: a task's recent states as one vector.

MUST is known only from a public repository, without a paper.
"""

import math
from typing import cast

import gin
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from networks.arguments import check_sizes

MIN_STD = 1e-3
PRETRAIN_BATCH = 8


def gaussian_log_prob(value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return log N(value; mean, diag(std^2)), summed over the last dimension."""
    standard = (value - mean) / std
    return (-0.5 * standard.square() - std.log() - 0.5 * math.log(2.0 * math.pi)).sum(-1)


@gin.configurable
class TrajectoryEncoder(nn.Module):
    """e = mean over valid steps of an LSTM that reads the states backwards in time.

    With `pretrain_passes`, e also gives a diagonal Gaussian latent z ~ N(mean(e), std(e)^2), and a
    linear decoder maps (s_t, z) to a Gaussian over s_{t+1}; see `pretrain_loss`.

    Deviations from the published code:
        1. The recurrence runs over time; there it ran over the tasks, by a mixed-up layout.
        2. Only the backward direction is built. In a bidirectional LSTM of one layer the forward
           direction never reaches the backward outputs, the only ones used.
        3. Padded steps neither enter the recurrence before a valid one nor the mean.
    """

    def __init__(
        self,
        observation_dim: int,
        *,
        width: int = 256,
        pretrain_passes: int = 0,
        pretrain_lr: float = 1e-3,
        latent_dim: int | None = None,
    ) -> None:
        """Build the LSTM, and with `pretrain_passes` the heads.

        Args:
            observation_dim: width of a state, without the task one-hot.
            width: width d_e of the encoding.
            pretrain_passes: passes over the trajectories in `pretrain`; 0 builds no latent and
                next-state heads.
            pretrain_lr: Adam's learning rate there.
            latent_dim: width of the latent; None takes `width`.

        Raises:
            ValueError: if a width is below 1, `pretrain_passes` is negative or
                `pretrain_lr` is not positive.
        """
        super().__init__()
        latent_dim = width if latent_dim is None else latent_dim
        check_sizes(observation_dim=observation_dim, width=width, latent_dim=latent_dim)
        if pretrain_passes < 0:
            raise ValueError(f"pretrain_passes must not be negative, got {pretrain_passes}")
        if not 0.0 < pretrain_lr < math.inf:
            raise ValueError(f"pretrain_lr must be positive and finite, got {pretrain_lr}")
        self.observation_dim = observation_dim
        self.width = width
        self.latent_dim = latent_dim
        self.pretrain_passes = pretrain_passes
        self.pretrain_lr = pretrain_lr
        self.lstm = nn.LSTM(observation_dim, width, batch_first=True)
        if pretrain_passes:
            self.posterior = nn.Linear(width, 2 * latent_dim)
            self.decoder = nn.Linear(observation_dim + latent_dim, 2 * observation_dim)

    def forward(self, observation: Tensor, mask: Tensor) -> Tensor:
        """Encode trajectories [n, length, observation_dim] with mask [n, length] bool -> [n, d_e].

        A trajectory without a valid step is encoded as zeros.
        """
        length = observation.shape[1]
        time = torch.arange(length, device=observation.device)
        # Valid steps first, in reversed time; the causal LSTM then never sees padding before them.
        order = torch.where(mask, length - 1 - time, length + time).argsort(1)
        valid = mask.gather(1, order).unsqueeze(-1)
        observation = torch.where(mask.unsqueeze(-1), observation, 0.0)
        steps = observation.gather(1, order.unsqueeze(-1).expand_as(observation))
        outputs = cast(Tensor, self.lstm(steps)[0])
        return (outputs * valid).sum(1) / valid.sum(1).clamp_min(1)

    def posterior_of(self, encoding: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and std of the latent, each [n, latent_dim], for encodings [n, d_e].

        Raises:
            ValueError: if the encoder was built without `pretrain_passes`.
        """
        if not self.pretrain_passes:
            raise ValueError("pretrain_passes must be positive for a latent posterior, got 0")
        mean, raw = cast(Tensor, self.posterior(encoding)).chunk(2, -1)
        return mean, softplus(raw) + MIN_STD

    def pretrain_loss(self, observation: Tensor, mask: Tensor, draws: torch.Generator) -> Tensor:
        """Return KL(q(z | trajectory) || N(0, 1)) - mean_t log p(s_{t+1} | s_t, z), a scalar.

        KL and log-likelihood are sums over latent and state dimensions; the KL is averaged over
        trajectories that have a valid step, the likelihood over valid transitions.

        Args:
            observation: [n, length, observation_dim].
            mask: [n, length] bool.
            draws: the random generator of the latents.
        """
        mean, std = self.posterior_of(self(observation, mask))
        divergence = (0.5 * (mean.square() + std.square() - 1.0) - std.log()).sum(-1)
        present = mask.any(1)
        divergence = (divergence * present).sum() / present.sum().clamp_min(1)
        noise = torch.randn(std.shape, dtype=std.dtype, device=std.device, generator=draws)
        latent = mean + std * noise
        observation = torch.where(mask.unsqueeze(-1), observation, 0.0)
        now, then = observation[:, :-1], observation[:, 1:]
        latent = latent.unsqueeze(1).expand(-1, now.shape[1], -1)
        location, raw = cast(Tensor, self.decoder(torch.cat((now, latent), -1))).chunk(2, -1)
        likelihood = gaussian_log_prob(then, location, softplus(raw) + MIN_STD)
        both = mask[:, :-1] & mask[:, 1:]
        return divergence - (likelihood * both).sum() / both.sum().clamp_min(1)

    def pretrain(self, observation: Tensor, mask: Tensor, draws: torch.Generator) -> None:
        """Take `pretrain_passes` passes of Adam on `pretrain_loss`, eight trajectories at a time.

        Every call starts Adam anew, so between calls nothing but the parameters is kept.
        Trajectories without a valid step are left out. Any gradients of the encoder are lost.

        Args:
            observation: [n, length, observation_dim].
            mask: [n, length] bool.
            draws: the random generator of the order and of the latents.
        """
        if not self.pretrain_passes:
            return
        present = mask.any(1).nonzero().squeeze(1)
        if len(present) == 0:
            return
        optimizer = torch.optim.Adam(self.parameters(), lr=self.pretrain_lr)
        for _ in range(self.pretrain_passes):
            order = torch.randperm(len(present), device=present.device, generator=draws)
            order = present[order]
            for first in range(0, len(order), PRETRAIN_BATCH):
                rows = order[first : first + PRETRAIN_BATCH]
                optimizer.zero_grad()
                loss = self.pretrain_loss(observation[rows], mask[rows], draws)
                torch.autograd.backward(loss)
                optimizer.step()
        optimizer.zero_grad()

    def summary(self, observation: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Summarise each task by one Gaussian over the latents of its trajectories.

        The Gaussian has the mean and the variance of the mixture of the trajectories' posteriors;
        a task without trajectories gets N(0, 1).

        Args:
            observation: [tasks, window, length, observation_dim].
            mask: [tasks, window, length] bool.

        Returns:
            Mean and std, each [tasks, latent_dim].
        """
        tasks = observation.shape[0]
        encoding = self(observation.flatten(0, 1), mask.flatten(0, 1))
        mean, std = self.posterior_of(encoding)
        mean, std = mean.view(tasks, -1, self.latent_dim), std.view(tasks, -1, self.latent_dim)
        present = mask.any(2).unsqueeze(-1)
        count = present.sum(1)
        centre = (mean * present).sum(1) / count.clamp_min(1)
        spread = std.square() + (mean - centre.unsqueeze(1)).square()
        variance = (spread * present).sum(1) / count.clamp_min(1)
        return centre, torch.where(count > 0, variance, 1.0).sqrt()
