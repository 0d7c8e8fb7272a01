"""The normalisation of the transitions that TIGR's encoder and decoder see.

Bing et al., "Meta-Reinforcement Learning in Broad and Non-Parametric Environments", 2021.
"""

import math

import gin
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from networks.transitions import join, transition_width


@gin.configurable
class TransitionNormalizer(nn.Module):
    """(x - mean) / (std + epsilon) for o, a, r and o' of every transition; padding is zero.

    The one place where transitions are normalised: windows of a replay, those of running episodes,
    and the targets of the decoder alike. Whoever counts the statistics gives them to `load`; until
    then nothing is changed. They are buffers: they travel with checkpoints and exported policies.

    Deviation: the published code takes 1e-8 for epsilon in training and 1e-9 in rollouts.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, observation_dim: int, action_dim: int, *, epsilon: float = 1e-8) -> None:
        """Start with mean 0 and std 1.

        Args:
            observation_dim: width of the observation.
            action_dim: width of the action.
            epsilon: added to the standard deviations, so that constant features stay finite.

        Raises:
            ValueError: if a size is below 1, or `epsilon` is not positive.
        """
        super().__init__()
        width = transition_width(observation_dim, action_dim)
        if not 0.0 < epsilon < math.inf:
            raise ValueError(f"epsilon must be positive and finite, got {epsilon}")
        self.epsilon = epsilon
        self.widths = (observation_dim, action_dim, 1, observation_dim)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    @torch.no_grad()
    def load(self, statistics: TensorDictBase) -> None:
        """Take over statistics, batch size []: "mean" and "std", each with a context's keys."""
        self.mean.copy_(join(statistics["mean"]))
        self.std.copy_(join(statistics["std"]))

    def forward(self, context: TensorDictBase) -> TensorDict:
        """Return the context's transitions, normalised.

        Args:
            context: [*], "observation", "action", ("next", "reward"), ("next", "observation"), and
                perhaps "mask" [*] bool.

        Returns:
            The same keys, [*]; zeros where the mask is False.
        """
        rows = (join(context) - self.mean) / (self.std + self.epsilon)
        mask: Tensor | None = context.get("mask", None)
        if mask is not None:
            rows = rows.masked_fill(~mask.unsqueeze(-1), 0.0)
        observation, action, reward, following = rows.split(self.widths, -1)
        after = TensorDict({"reward": reward, "observation": following}, context.batch_size)
        td = TensorDict(
            {"observation": observation, "action": action, "next": after}, context.batch_size
        )
        return td if mask is None else td.set("mask", mask)
