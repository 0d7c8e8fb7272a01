"""State encoders, which stand in front of any trunk, and the two plain ones.

MTRL (Sodhani and Zhang 2021) puts the feed-forward one before Soft Modularization, and nothing
before MT-SAC.
"""

from collections.abc import Callable, Sequence
from typing import Any

import gin
import torch
from torch import Tensor, nn

from networks.arguments import check_sizes
from networks.feed_forward import FeedForward

TaskEncoders = Callable[[Sequence[str]], Any]
"""Makes a `TaskEncoder`, or what offers `code_dim` and `forward(task)`, from the tasks' names."""


class StateEncoder(nn.Module):
    """What actor and critics see in place of the observation: cat(f, c), c the code of the task.

    The contract with a learner, for encoder(observation_dim, task_names):

        out_features                                   width of what the trunks get
        code(task [*]) -> [*, code_dim]                the task code c; code_dim may be 0
        forward(observation [*, o], code) -> [*, out_features]      what the critics see
        for_actor(observation, code) -> [*, out_features]           what the policy sees

    A learner calls `code` once per update, with gradient, and hands the code to `forward`,
    `for_actor` and the target copy's `forward` alike. The critics' loss alone trains an encoder:
    the learner detaches what `for_actor` gives. Observations have any leading dimensions; those of
    a code are the same, or broadcast to them. Encoders are single, never stacked as critics are.
    Parameters of `task_encoder` are those of the code, the others those of f; what is not trained
    is a buffer.
    """

    def __init__(
        self,
        observation_dim: int,
        task_names: Sequence[str],
        task_encoder: TaskEncoders | None,
        features: int,
    ) -> None:
        """Build the task encoder as task_encoder(task_names).

        Args:
            observation_dim: width of the observation.
            task_names: names of the tasks; task id i is the i-th of them.
            task_encoder: factory of the task encoder; None leaves the code empty.
            features: width of f.

        Raises:
            ValueError: if a width is below 1.
        """
        super().__init__()
        check_sizes(observation_dim=observation_dim, width=features)
        self.observation_dim = observation_dim
        self.task_encoder = None if task_encoder is None else task_encoder(task_names)
        self.code_dim = 0 if self.task_encoder is None else int(self.task_encoder.code_dim)
        self.out_features = features + self.code_dim

    def code(self, task: Tensor) -> Tensor:
        """Map task ids [*] int64 to codes [*, code_dim]."""
        if self.task_encoder is None:
            return torch.zeros((*task.shape, 0), device=task.device)
        code: Tensor = self.task_encoder(task)
        return code

    def join(self, features: Tensor, code: Tensor) -> Tensor:
        """Append the code: f [*, features] -> [*, out_features]."""
        if self.code_dim == 0:
            return features
        return torch.cat((features, code.expand(*features.shape[:-1], -1)), -1)

    def for_actor(self, observation: Tensor, code: Tensor) -> Tensor:
        """Map observation [*, o] to what the policy sees, [*, out_features]."""
        features: Tensor = self(observation, code)
        return features


@gin.configurable
class IdentityEncoder(StateEncoder):
    """f is the observation; with a task encoder this makes MTRL's "MT-SAC + task encoder"."""

    def __init__(
        self,
        observation_dim: int,
        task_names: Sequence[str],
        *,
        task_encoder: TaskEncoders | None = None,
    ) -> None:
        """Build the task encoder, if any; arguments and errors as in `StateEncoder`."""
        super().__init__(observation_dim, task_names, task_encoder, observation_dim)

    def forward(self, observation: Tensor, code: Tensor) -> Tensor:
        """Map observation [*, o] and code [*, code_dim] to [*, out_features]."""
        return self.join(observation, code)


@gin.configurable
class FeedforwardEncoder(StateEncoder):
    """f = W_2 relu(W_1 relu(W_0 s + b_0) + b_1) + b_2.

    With a task encoder the code follows f; MTRL's soft modules split the two again.
    """

    def __init__(
        self,
        observation_dim: int,
        task_names: Sequence[str],
        *,
        task_encoder: TaskEncoders | None = None,
        width: int = 50,
    ) -> None:
        """Build the three layers, each `width` wide; otherwise as in `StateEncoder`."""
        super().__init__(observation_dim, task_names, task_encoder, width)
        self.layers = FeedForward((observation_dim, width, width, width))

    def forward(self, observation: Tensor, code: Tensor) -> Tensor:
        """Map observation [*, o] and code [*, code_dim] to [*, out_features]."""
        return self.join(self.layers(observation), code)
