"""The last transitions of running episodes, as `WindowReplay` would return them later."""

import gin
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from buffers.arguments import check_sizes, named_device
from buffers.transition_rows import TransitionRows


@gin.configurable
class RollingWindow:
    """For each environment the last `length` transitions of its episode, padded on the left.

    Padding is zero and its mask False. Nothing is normalised, as in `WindowReplay`.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        num_environments: int,
        length: int,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        """Start with padding alone.

        Args:
            observation_dim: numbers in an observation.
            action_dim: numbers in an action.
            num_environments: episodes side by side.
            length: transitions T of a window.
            device: where the windows lie.

        Raises:
            ValueError: a size is not positive, or the device is unknown.
        """
        check_sizes(
            "RollingWindow",
            observation_dim=observation_dim,
            action_dim=action_dim,
            num_environments=num_environments,
            length=length,
        )
        self._layout = TransitionRows(observation_dim, action_dim)
        shape, device = (num_environments, length), named_device("RollingWindow", device)
        self._rows = torch.zeros(*shape, self._layout.width, device=device)
        self._mask = torch.zeros(shape, dtype=torch.bool, device=device)

    @torch.no_grad()
    def push(self, td: TensorDictBase) -> None:
        """Append a transition to each window; the oldest are lost.

        Args:
            td: `[num_environments]`, "observation", "action", ("next", "observation" | "reward" |
                "terminated").
        """
        row = self._layout.pack(td).to(self._rows.device).unsqueeze(1)
        self._rows = torch.cat((self._rows[:, 1:], row), 1)
        self._mask = torch.cat((self._mask[:, 1:], torch.ones_like(self._mask[:, :1])), 1)

    @torch.no_grad()
    def reset(self, begins: Tensor | None = None) -> None:
        """Empty the windows of environments whose episode begins, `[num_environments]` bool."""
        if begins is None:
            begins = torch.ones(len(self._mask), dtype=torch.bool)
        begins = begins.to(self._mask.device)
        self._rows = self._rows.masked_fill(begins.view(-1, 1, 1), 0.0)
        self._mask = self._mask.masked_fill(begins.view(-1, 1), False)

    def context(self) -> TensorDict:
        """Return the windows, `[num_environments, length]`, which later calls leave as they are.

        "observation", "action", ("next", "observation" | "reward" | "terminated"), "mask".
        """
        td, _ = self._layout.unpack(self._rows)
        return td.set("mask", self._mask)
