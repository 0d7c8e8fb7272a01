"""The half-cheetah of gymnasium's HalfCheetah-v5, with the observation and rewards of its v1."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco import mujoco_env
from gymnasium.spaces import Box
from numpy.typing import NDArray

from envs.episodes import Environment, Task, goal_stream

FRAME_SKIP = 5
CONTROL_COST = 0.05  # half of today's
NOISE = 0.1  # of the start
STATE = mujoco.mjtState.mjSTATE_INTEGRATION
# Bad positions, velocities or accelerations: MuJoCo numbers these warnings one after the other.
BROKEN = slice(mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQACC + 1)
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

    def __init__(self, kind: str, goal: Callable[[int], float]) -> None:
        self._term, self._goal_of, self._goal = KINDS[kind], goal, goal(0)
        self._model = model()
        self._data: Any = mujoco.MjData(self._model)
        self._start = self._data.qpos.copy()
        self._seconds = self._model.opt.timestep * FRAME_SKIP
        # Live views:
        self._torso = self._data.xpos[self._model.body("torso").id]
        self._broken = self._data.warning.number[BROKEN]
        self.observation_space = Box(-np.inf, np.inf, (20,), np.float64)
        self.action_space = Box(-1.0, 1.0, (self._model.nu,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Begin with goal number `options["goal"]`, the noise from `options["rng"]`."""
        super().reset(seed=seed)
        given = options or {}
        rng = given.get("rng", self.np_random)
        self._goal = self._goal_of(given.get("goal", 0))
        data = self._data
        mujoco.mj_resetData(self._model, data)
        data.qpos[:] = self._start + rng.uniform(-NOISE, NOISE, self._model.nq)
        data.qvel[:] = NOISE * rng.standard_normal(self._model.nv)
        mujoco.mj_forward(self._model, data)
        return self._observe(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """One step of an action `[6]` in [-1, 1]."""
        data = self._data
        exact = action.astype(np.float64)
        before = float(data.qpos[0])
        data.ctrl[:] = exact
        mujoco.mj_step(self._model, data, nstep=FRAME_SKIP)
        forward = self._term((float(data.qpos[0]) - before) / self._seconds, self._goal)
        control = CONTROL_COST * float(exact.dot(exact))
        info = {
            "success": False,
            "unstable": any(self._broken.tolist()),
            "reward_forward": forward,
            "reward_ctrl": -control,
            "task": self._goal,
        }
        return self._observe(), forward - control, False, False, info

    def snapshot(self) -> dict[str, Any]:
        """The goal and MuJoCo's state; what derives from them is not needed."""
        physics = np.empty(mujoco.mj_stateSize(self._model, STATE))
        mujoco.mj_getState(self._model, self._data, physics, STATE)
        return {"goal": self._goal, "physics": physics}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `snapshot` was taken."""
        self._goal = float(state["goal"])
        mujoco.mj_resetData(self._model, self._data)
        mujoco.mj_setState(self._model, self._data, state["physics"], STATE)

    def _observe(self) -> NDArray[np.float64]:
        return np.concatenate((self._data.qpos[1:], self._data.qvel, self._torso))


@cache
def model() -> Any:
    """The model of HalfCheetah-v5, one for all environments of a process: nothing writes to it."""
    path = Path(mujoco_env.__file__).parent / "assets" / "half_cheetah.xml"
    return mujoco.MjModel.from_xml_path(str(path))


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
