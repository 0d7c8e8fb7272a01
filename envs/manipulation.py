"""One Meta-World task as an environment with numbered goals; upstream's classes do the work."""

import envs.opengl  # noqa: F401

# isort: split
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.types import Task as UpstreamTask
from numpy.typing import NDArray

from envs import snapshot
from envs.camera import Camera, free
from envs.environment import Environment
from envs.episodes import Task
from envs.goals import Goals
from envs.sawyer import accelerate

# Bad positions, velocities or accelerations: MuJoCo numbers these warnings one after the other.
BROKEN = slice(mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQACC + 1)


class ManipulationEnv(Environment):
    """A Meta-World v3 task.

    Args:
        name: for example "reach-v3".
        goals: goal vectors, as Meta-World draws them.
        reward_version: "v1" or "v2".
        goal_hidden: zero the last three numbers of the observation.
        accelerated: step the class of `envs.sawyer`, which gives the same numbers sooner, and not
            upstream's own.

    The episode's end is the caller's affair: upstream allows 500 steps after a reset.
    """

    rate = 80.0
    needs_gl = True

    def __init__(
        self,
        name: str,
        goals: Sequence[NDArray[np.float64]],
        *,
        reward_version: str = "v2",
        goal_hidden: bool = False,
        accelerated: bool = True,
    ) -> None:
        kind: Any = ALL_V3_ENVIRONMENTS[name]
        self._upstream = [
            UpstreamTask(
                name,
                pickle.dumps(
                    {"rand_vec": goal, "env_cls": kind, "partially_observable": goal_hidden}
                ),
            )
            for goal in goals
        ]
        made = accelerate(kind) if accelerated else kind
        self.simulator: Any = made(reward_function_version=reward_version)
        self.simulator.set_task(self._upstream[0])
        self._in_parts = accelerated  # upstream's own class does all of a step at once
        self._broken = self.simulator.data.warning.number[BROKEN]  # a live view
        space: Any = self.simulator.sawyer_observation_space
        self.observation_space = space
        self.action_space = self.simulator.action_space
        self._camera: Camera | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Begin an episode with goal `options["goal"]` (0 by default); nothing else is random."""
        self.simulator.set_task(self._upstream[(options or {}).get("goal", 0)])
        observation, info = self.simulator.reset()
        return observation, info

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Upstream's step; the info also says whether MuJoCo gave up ("unstable")."""
        return self._told(self.simulator.step(action))

    def simulate(self, action: NDArray[np.float32]) -> None:
        """See `Environment`."""
        self._action = action
        if self._in_parts:
            self.simulator.simulate(action)

    def outcome(self) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """See `Environment`."""
        step = self.simulator.outcome if self._in_parts else self.simulator.step
        return self._told(step(self._action))

    def _told(self, step: Any) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, _, info = step
        info["unstable"] = any(self._broken.tolist())
        return observation, float(reward), bool(terminated), False, info

    def snapshot(self) -> dict[str, Any]:
        """See `envs.snapshot`."""
        return snapshot.take(self.simulator)

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `envs.snapshot`."""
        snapshot.put(self.simulator, state)

    def picture(self, width: int, height: int) -> NDArray[np.uint8]:
        """Over the robot's shoulder, on which side tasks show their handles and buttons."""
        if self._camera is None or self._camera.size != (width, height):
            self._put_away()
            view = free((0.0, 0.65, 0.15), distance=1.25, turn=130.0, tilt=-30.0)
            self._camera = Camera(self.simulator.model, view, width, height)
        return self._camera.take(self.simulator.data)

    def close(self) -> None:
        """Free the simulator."""
        self._put_away()
        self.simulator.close()

    def _put_away(self) -> None:
        camera, self._camera = self._camera, None
        if camera is not None:
            camera.close()


def build(
    goals: Mapping[str, Goals],
    reward_version: str,
    goal_hidden: bool,
    accelerated: bool,
    task: Task,
) -> Environment:
    """The environment of a task; what a worker is handed, as a partial of this function.

    Args:
        goals: split -> name -> goal vectors.
        reward_version: "v1" or "v2".
        goal_hidden: whether the goal is hidden.
        accelerated: whether the accelerated classes are used.
        task: the task to build for.
    """
    return ManipulationEnv(
        task.name,
        goals[task.split][task.name],
        reward_version=reward_version,
        goal_hidden=goal_hidden,
        accelerated=accelerated,
    )
