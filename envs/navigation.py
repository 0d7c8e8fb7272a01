"""2D navigation: a point that must find a goal it cannot see.

Finn et al., "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017, in the form
of Zintgraf et al., "Fast Context Adaptation via Meta-Learning", 2019.
"""

from functools import partial
from typing import Any

import gin
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.arguments import check_whole
from envs.dynamics import Dynamics, Outcome, State
from envs.episodes import Task, goal_stream
from envs.numbered import BatchedSuite
from envs.suite import Spec

REACH = 0.1  # of one step, in each coordinate
CLOSE = 0.01  # to the goal, in each coordinate
EXTENT = 0.5  # of the square the goals lie in


class Navigation(Dynamics):
    """A point that starts at the origin.

        s <- s + clip(action, -0.1, 0.1),  reward = -|s - goal|_2

    The observation is s. An episode ends, with success, where both coordinates are closer than 0.01
    to the goal's. All in single precision.

    Nothing scales the action: 0.1 is the step of an action of 0.1, and of any larger one.
    """

    observation_dim = 2
    action_dim = 2

    def begin(self, goal: Tensor, rng: np.random.Generator) -> tuple[State, Tensor]:
        """The origin, whatever the goals `[n, 2]` are."""
        position = torch.zeros_like(goal)
        return {"position": position, "goal": goal}, position

    def step(self, state: State, action: Tensor, rng: np.random.Generator) -> tuple[State, Outcome]:
        """A move; nothing is random."""
        position = state["position"] + action.clamp(-REACH, REACH)
        offset = position - state["goal"]
        close = (offset.abs() < CLOSE).all(-1)
        outcome = Outcome(position, -offset.norm(dim=-1), close, close)
        return {"position": position, "goal": state["goal"]}, outcome


@gin.configurable
class NavigationSuite(BatchedSuite):
    """2D navigation to goals uniform in [-0.5, 0.5]^2, drawn alike for training and test.

    Args:
        horizon: steps per episode.
        goal_seed: seed of the goals.

    Raises:
        ValueError: naming the argument.
    """

    name = "navigation"

    def __init__(self, *, horizon: int = 100, goal_seed: int = 42) -> None:
        super().__init__((self.name,))
        check_whole("horizon", horizon, 1)
        check_whole("goal_seed", goal_seed, 0)
        self._horizon, self._goal_seed = horizon, goal_seed
        self.dynamics, self.goals = Navigation(), partial(navigation_goal, goal_seed)

    @property
    def spec(self) -> Spec:
        """2 numbers to see (the position), 2 to choose."""
        return Spec(2, 2, 1, self._horizon, self._names)

    def protocol(self) -> dict[str, Any]:
        """What decides a score besides the agent."""
        return {
            "suite": "2D navigation",
            "benchmark": self.name,
            "tasks": list(self._names),
            "horizon": self._horizon,
            "goals": f"uniform in [-{EXTENT}, {EXTENT}]^2, not seen by the agent",
            "goal_seed": self._goal_seed,
            "success": f"closer than {CLOSE} in both coordinates, where the episode ends",
        }


def navigation_goal(goal_seed: int, task: Task, number: int) -> NDArray[np.float32]:
    """The goal `[2]` of that number."""
    draw = goal_stream(goal_seed, task.split, number).uniform(-EXTENT, EXTENT, 2)
    return draw.astype(np.float32)
