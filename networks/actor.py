"""The policy: reads keys, calls the trunk, writes a squashed Gaussian and its action."""

import math
from collections.abc import Callable
from typing import Any

import gin
from tensordict import TensorDictBase
from torch import Tensor, nn

from networks.arguments import TASK_KEYS, check_choice, check_sizes
from networks.distributions import SquashedGaussian
from networks.trunk_owner import TrunkOwner


@gin.configurable
class Actor(TrunkOwner):
    """The tanh-Gaussian policy of SAC over any trunk.

    The trunk returns 2 * action_dim numbers: first the mean, then s. log sigma is s clamped hard,
    or, as in MTRL, log sigma = min + (max - min) (tanh s + 1) / 2.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        num_tasks: int,
        *,
        trunk: Callable[[int, int, int], nn.Module] = gin.REQUIRED,
        log_std_min: float = -20.0,
        log_std_max: float = 2.0,
        log_std_bound: str = "clamp",
        log_std_offset: float = 0.0,
        epsilon: float = 0.0,
        task_key: str = "task_id",
    ) -> None:
        """Build the trunk as trunk(observation_dim, 2 * action_dim, num_tasks).

        Args:
            observation_dim: width of "observation", without the task one-hot.
            action_dim: width of "action".
            num_tasks: number of tasks; of a trunk that reads a latent, the latent's width.
            trunk: factory of the network.
            log_std_min: lower bound of log sigma.
            log_std_max: upper bound of log sigma.
            log_std_bound: `clamp` or `tanh`.
            log_std_offset: added to s, as a bias that starts there does (garage: 1.0).
            epsilon: added to 1 - tanh(u)^2 within the logarithm of log pi, which is exact with 0;
                published code has 1e-6.
            task_key: what the trunk is told of the task: "task_id", or "latent".

        Raises:
            ValueError: if a size is below 1, the bounds are empty, a number is not finite, epsilon
                is negative, or `log_std_bound` or `task_key` is unknown.
        """
        super().__init__()
        check_sizes(observation_dim=observation_dim, action_dim=action_dim, num_tasks=num_tasks)
        if not log_std_min < log_std_max:
            raise ValueError(
                f"log_std_min must be below log_std_max, got {log_std_min} and {log_std_max}"
            )
        numbers = {"min": log_std_min, "max": log_std_max, "offset": log_std_offset}
        for name, number in numbers.items():
            if not math.isfinite(number):
                raise ValueError(f"log_std_{name} must be finite, got {number}")
        check_choice("log_std_bound", log_std_bound, ("clamp", "tanh"))
        check_choice("task_key", task_key, TASK_KEYS)
        if not 0.0 <= epsilon < math.inf:
            raise ValueError(f"epsilon must be finite and at least 0, got {epsilon}")
        self.log_std_bound, self.log_std_offset = log_std_bound, log_std_offset
        self.epsilon = epsilon
        self.task_key = task_key
        self.log_std_min = log_std_min
        self.log_std_max = log_std_max
        self.trunk = trunk(observation_dim, 2 * action_dim, num_tasks)

    def distribution(self, observation: Tensor, task: Tensor, **extra: Any) -> SquashedGaussian:
        """Return the policy at observation [*, observation_dim] and task [*], or latent [*, n]."""
        loc, s = self.trunk(observation, task, **extra).chunk(2, -1)
        if self.log_std_offset:
            s = s + self.log_std_offset
        low, high = self.log_std_min, self.log_std_max
        if self.log_std_bound == "tanh":
            log_std = low + 0.5 * (high - low) * (s.tanh() + 1.0)
        else:
            log_std = s.clamp(low, high)
        return SquashedGaussian(loc, log_std.exp(), self.epsilon)

    def forward(self, td: TensorDictBase, explore: bool = True, **extra: Any) -> TensorDictBase:
        """Write "loc", "scale" [*, action_dim] and "action" into td, and return it.

        With `explore` the action is drawn with the global torch generator and "action_log_prob"
        [*] is written; otherwise the action is tanh(loc) and nothing is drawn. `extra` goes to the
        trunk. Reads "observation" [*, observation_dim] and `task_key`.
        """
        policy = self.distribution(td["observation"], td[self.task_key], **extra)
        td["loc"], td["scale"] = policy.loc, policy.scale
        if explore:
            td["action"], td["action_log_prob"] = policy.rsample()
        else:
            td["action"] = policy.mode
        return td
