"""A point in the plane that is pushed towards a goal; needs no simulator."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from envs.environment import Environment
from envs.episodes import Task

SPEED_GAIN = 0.2
POSITION_GAIN = 0.1
SUCCESS_DISTANCE = 0.1
SEEN = 1.4  # half the width of a picture
PAPER, FRAME = (255, 255, 255), (225, 225, 225)
GOAL, POINT = (230, 159, 0), (0, 78, 122)  # apart in grey, and to the colour-blind


def turn(task_id: int) -> float:
    """The angle by which a task turns its actions, as a fraction of a full turn.

    The binary digits of the task number, mirrored behind the point: 0, 1/2, 1/4, 3/4, 1/8, ...
    Task 1 therefore inverts both axes.
    """
    fraction, weight = 0.0, 0.5
    while task_id:
        fraction += weight * (task_id & 1)
        task_id >>= 1
        weight /= 2
    return fraction


class PointMass(Environment):
    """A point mass without friction.

        velocity += 0.2 R action,  position += 0.1 velocity,  reward = -|position - goal|

    R turns the action by `turn(task_id)`. Start and goal are uniform in [-1, 1]^2, a pair for each
    goal number; the point starts at rest. The observation is (position, velocity, goal). Success:
    closer than 0.1 to the goal.

    Args:
        task_id: which rotation.
        stream: seeds the starts and goals, together with the goal number.
    """

    def __init__(self, task_id: int, stream: tuple[int, ...]) -> None:
        quarter = round(4 * turn(task_id), 9)
        angle = np.pi / 2 * quarter
        exact = {0.0: (1, 0), 1.0: (0, 1), 2.0: (-1, 0), 3.0: (0, -1)}
        cosine, sine = exact.get(quarter, (np.cos(angle), np.sin(angle)))
        self._rotation = np.array([[cosine, -sine], [sine, cosine]], dtype=np.float64)
        self._stream = stream
        self._state = np.zeros(6)
        self.observation_space = Box(-np.inf, np.inf, (6,), np.float64)
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Begin with start and goal number `options["goal"]` (0 by default)."""
        number = (options or {}).get("goal", 0)
        draw = np.random.default_rng((*self._stream, number)).uniform(-1.0, 1.0, 4)
        self._state = np.concatenate([draw[:2], np.zeros(2), draw[2:]])
        return self._state.copy(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """One push; never ends an episode by itself."""
        position, velocity, goal = self._state[:2], self._state[2:4], self._state[4:]
        velocity += SPEED_GAIN * (self._rotation @ action.astype(np.float64))
        position += POSITION_GAIN * velocity
        distance = float(np.sqrt(np.square(position - goal).sum()))
        info = {"success": distance < SUCCESS_DISTANCE}
        return self._state.copy(), -distance, False, False, info

    def picture(self, width: int, height: int) -> NDArray[np.uint8]:
        """The square of starts, the goal as large as it must be met, and the point."""
        x = np.linspace(-SEEN, SEEN, width)[None, :]
        y = np.linspace(SEEN, -SEEN, height)[:, None]
        soft = 2.0 * SEEN / min(width, height)  # a pixel: edges are blended over that much
        drawn = np.empty((height, width, 3))
        drawn[:] = FRAME
        square = np.maximum(abs(x), abs(y)) - 1.0
        discs = [(square, PAPER)]
        for (cx, cy), radius, colour in (
            (self._state[4:], SUCCESS_DISTANCE, GOAL),
            (self._state[:2].clip(-SEEN, SEEN), SUCCESS_DISTANCE / 2, POINT),
        ):
            discs.append((np.hypot(x - cx, y - cy) - radius, colour))
        for outside, colour in discs:
            cover = (0.5 - outside / soft).clip(0.0, 1.0)[..., None]
            drawn += cover * (np.array(colour) - drawn)
        return drawn.round().astype(np.uint8)

    def snapshot(self) -> dict[str, Any]:
        """Position, velocity and goal."""
        return {"state": self._state.copy()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `snapshot` was taken."""
        self._state = np.array(state["state"], dtype=np.float64)


def build(goal_seed: int, task: Task) -> Environment:
    """The environment of a task; starts and goals are the same for all tasks of a split."""
    return PointMass(task.task_id, (goal_seed, int(task.split == "test")))
