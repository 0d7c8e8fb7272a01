"""The critic: several value networks as one stacked call."""

from collections.abc import Callable
from typing import Any

import gin
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from networks.arguments import TASK_KEYS, check_choice, check_sizes
from networks.trunk_owner import TrunkOwner


@gin.configurable
class Critic(TrunkOwner):
    """num_critics state-action values Q_k(observation, action), evaluated together.

    `trunk` is one trunk whose parameters and buffers carry a leading critic dimension, as masks do.
    A trunk that says `stackable = True` computes with such weights itself; any other one is called
    through `torch.func.vmap`, which costs more per call.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        num_tasks: int,
        *,
        trunk: Callable[[int, int, int], nn.Module] = gin.REQUIRED,
        num_critics: int = 2,
        task_key: str = "task_id",
    ) -> None:
        """Build num_critics trunks as trunk(observation_dim + action_dim, 1, num_tasks).

        Args:
            observation_dim: width of "observation", without the task one-hot.
            action_dim: width of "action".
            num_tasks: number of tasks; of a trunk that reads a latent, the latent's width.
            trunk: factory of one network.
            num_critics: number of independent critics, drawn one after the other.
            task_key: what the trunk is told of the task: "task_id", or "latent".

        Raises:
            ValueError: if a size is below 1 or `task_key` is unknown.
        """
        super().__init__()
        check_sizes(observation_dim=observation_dim, action_dim=action_dim, num_tasks=num_tasks)
        check_sizes(num_critics=num_critics)
        check_choice("task_key", task_key, TASK_KEYS)
        self.num_critics, self.task_key = num_critics, task_key
        trunks = [trunk(observation_dim + action_dim, 1, num_tasks) for _ in range(num_critics)]
        parameters, buffers = stack_module_state(trunks)
        self.trunk = trunks[0]
        for name, stacked in parameters.items():
            owner, _, leaf = name.rpartition(".")
            parameter = nn.Parameter(stacked.detach(), requires_grad=stacked.requires_grad)
            setattr(self.trunk.get_submodule(owner), leaf, parameter)
        for name, stacked in buffers.items():
            owner, _, leaf = name.rpartition(".")
            setattr(self.trunk.get_submodule(owner), leaf, stacked.detach())

    def forward(self, td: TensorDictBase, **extra: Any) -> TensorDictBase:
        """Write "state_action_value" [*, num_critics] into td, and return it.

        Args:
            td: holds "observation" [*, observation_dim], "action" [*, action_dim] and `task_key`.
            extra: goes to the trunk; tensors (also in lists) with a leading critic dimension.
        """
        td["state_action_value"] = self.values(
            torch.cat((td["observation"], td["action"]), -1), td[self.task_key], extra
        )
        return td

    def values(self, x: Tensor, task: Tensor, extra: dict[str, Any]) -> Tensor:
        """Map x [*, observation_dim + action_dim] and task [*], or latent, to [*, num_critics]."""
        if getattr(self.trunk, "stackable", False):
            stacked = [tensor.expand(self.num_critics, *tensor.shape) for tensor in (x, task)]
            y: Tensor = self.trunk(*stacked, **extra)
            return y.squeeze(-1).movedim(0, -1)
        parameters: dict[str, Tensor] = dict(self.trunk.named_parameters())
        buffers = dict(self.trunk.named_buffers())

        def one(
            weights: dict[str, Tensor], others: dict[str, Tensor], more: dict[str, Any]
        ) -> Tensor:
            value: Tensor = functional_call(self.trunk, (weights, others), (x, task), more)
            return value.squeeze(-1)

        values: Tensor = vmap(one, out_dims=-1)(parameters, buffers, extra)
        return values
