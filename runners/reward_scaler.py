"""Rewards divided by a running estimate of their standard deviation, a task at a time.

As the environments of the MTRL library do it (Sodhani et al. 2021), whose experiments "Projected
Task-Specific Layers" (Somerville Roberts and Di 2024) repeats.
"""

import math
from typing import Any

import gin
import torch
from torch import Tensor


@gin.configurable
class RewardScaler:
    """Scales each task's rewards as they are collected; their mean is not taken off.

    With reward r of a task, from m = 0 and v = 1, once per step:

        m <- (1 - rate) m + rate * r
        v <- (1 - rate) v + rate * (r - m)^2        with the new m
        stored reward = r / (sqrt(v) + epsilon)

    What is stored keeps the scale of its time, so the rewards of one state change while v does.

    Args:
        num_tasks: tasks, each with its m and v.
        rate: weight of the newest reward.
        epsilon: keeps the divisor away from zero.

    Raises:
        ValueError: for a value out of range.
    """

    def __init__(self, num_tasks: int, *, rate: float = 0.001, epsilon: float = 1e-8) -> None:
        if num_tasks < 1:
            raise ValueError(f"RewardScaler.num_tasks must be at least 1, got {num_tasks}")
        if not 0.0 < rate < 1.0:
            raise ValueError(f"RewardScaler.rate must lie in (0, 1), got {rate}")
        if not 0.0 < epsilon < math.inf:
            raise ValueError(f"RewardScaler.epsilon must be positive and finite, got {epsilon}")
        self.rate, self.epsilon = rate, epsilon
        self._mean = torch.zeros(num_tasks, dtype=torch.float64)
        self._variance = torch.ones(num_tasks, dtype=torch.float64)

    @property
    def scale(self) -> Tensor:
        """What rewards are divided by now, `[num_tasks]`."""
        return self._variance.sqrt() + self.epsilon

    def __call__(self, reward: Tensor, valid: Tensor) -> Tensor:
        """Take in one step of every task, and scale it.

        Args:
            reward: `[num_tasks, 1]`, as the environments gave it.
            valid: `[num_tasks, 1]` bool; a step that is not valid moves neither m nor v.

        Returns:
            The scaled rewards, in memory of their own.
        """
        raw, seen = reward.squeeze(1).double(), valid.squeeze(1)
        mean = (1.0 - self.rate) * self._mean + self.rate * raw
        variance = (1.0 - self.rate) * self._variance + self.rate * (raw - mean).square()
        self._mean = mean.where(seen, self._mean)
        self._variance = variance.where(seen, self._variance)
        return (raw / self.scale).unsqueeze(1).to(reward.dtype)

    def state_dict(self) -> dict[str, Any]:
        """m and v of every task."""
        return {"mean": self._mean.clone(), "variance": self._variance.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the m and v of `state_dict`."""
        self._mean, self._variance = state["mean"].clone(), state["variance"].clone()
