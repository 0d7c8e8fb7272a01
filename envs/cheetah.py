"""The half-cheetah of gymnasium's HalfCheetah-v5, with the observation and rewards of its v1."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from envs.body import HALF_CHEETAH, Body, Layout
from envs.environment import Environment
from envs.episodes import Task, goal_stream

CONTROL_COST = 0.05  # half of today's
SENSES = Layout(skip=1, torso=True)
KINDS: dict[str, Callable[[float, float], float]] = {
    "direction": lambda velocity, goal: goal * velocity,
    "velocity": lambda velocity, goal: -abs(velocity - goal),
}


class HalfCheetah(Environment):
    """A half-cheetah with a hidden goal g.

        v = (x after - x before) / 0.05
        direction:  reward = g v - 0.05 |action|^2
        velocity:   reward = -|v - g| - 0.05 |action|^2

    The observation is qpos without the root's x (8), qvel (9) and the position of the torso (3). As
    in the original the torso's position is what the last of a step's 5 simulator steps began with.
    A start is the model's, plus uniform noise of 0.1 on qpos and normal noise of 0.1 on qvel. No
    episode ends by itself, and no step counts as a success.

    Args:
        kind: "direction" or "velocity".
        goal: the goal of a number.
    """

    rate = 20.0
    needs_gl = True

    def __init__(self, kind: str, goal: Callable[[int], float]) -> None:
        self._term, self._goal_of, self._goal = KINDS[kind], goal, goal(0)
        self._body = Body(HALF_CHEETAH, SENSES)
        self._data = self._body.data
        self.observation_space = Box(-np.inf, np.inf, (20,), np.float64)
        self.action_space = Box(-1.0, 1.0, (HALF_CHEETAH.num_actions,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Begin with goal number `options["goal"]`, the noise from `options["rng"]`."""
        super().reset(seed=seed)
        given = options or {}
        rng = given.get("rng", self.np_random)
        self._goal = self._goal_of(given.get("goal", 0))
        self._body.begin(rng)
        return self._body.observe(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """One step of an action `[6]` in [-1, 1]."""
        body = self._body
        control = CONTROL_COST * body.move(action)
        forward = self._term(body.speed(0), self._goal)
        info = {
            "success": False,
            "unstable": body.broken,
            "reward_forward": forward,
            "reward_ctrl": -control,
            "task": self._goal,
        }
        return body.observe(), forward - control, False, False, info

    def picture(self, width: int, height: int) -> NDArray[np.uint8]:
        """The robot, followed by a camera."""
        return self._body.picture(width, height)

    def close(self) -> None:
        """Free what pictures needed."""
        self._body.put_away()

    def snapshot(self) -> dict[str, Any]:
        """The goal and the body's state."""
        return {"goal": self._goal, **self._body.snapshot()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `snapshot` was taken."""
        self._goal = float(state["goal"])
        self._body.restore(state)


def build(kind: str, goal_seed: int, max_velocity: float, task: Task) -> Environment:
    """The environment of a task; goals of kind "direction" are 1 and -1."""
    if kind == "direction":
        return HalfCheetah(kind, direction)
    return HalfCheetah(kind, partial(velocity, goal_seed, max_velocity, task.split))


def direction(number: int) -> float:
    """Forward for goal 0, backward for goal 1."""
    return 1.0 - 2.0 * number


def velocity(goal_seed: int, max_velocity: float, split: str, number: int) -> float:
    """The velocity of that number."""
    return float(goal_stream(goal_seed, split, number).uniform(0.0, max_velocity))
