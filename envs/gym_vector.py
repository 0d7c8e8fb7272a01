"""A suite's vector as a plain `gymnasium.vector.VectorEnv`."""

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.vector import Vector


class GymVector(VectorEnv[NDArray[np.float32], NDArray[Any], NDArray[Any]]):
    """The gymnasium face of a `Vector`, with same-step auto-reset.

    Where an episode ended, `infos["final_obs"]` holds its true last observation, under the mask
    `infos["_final_obs"]`. `infos` also has "success", "valid", "task_id" and "episode_number", each
    `[n]` ("episode" is what gymnasium's own wrappers write their statistics under).
    The random streams are fixed where the vector is made: `reset(seed=...)` is refused.
    """

    def __init__(self, vector: Vector) -> None:
        rules = vector.rules
        mode = AutoresetMode.SAME_STEP if rules.autoreset else AutoresetMode.DISABLED
        self.metadata = {"autoreset_mode": mode}
        self.tasks = vector
        self.num_envs = vector.num_envs
        self.single_observation_space = Box(-np.inf, np.inf, (rules.observation_dim,), np.float32)
        box = Box(-1.0, 1.0, (rules.action_dim,), np.float32)
        self.single_action_space = Discrete(rules.action_dim) if rules.discrete else box
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin a new episode everywhere; ValueError for a seed or options."""
        if seed is not None or options:
            raise ValueError("reset takes no seed and no options; pass the seed to the suite")
        self.tasks.reset()
        return self.tasks.arrays["observation"].copy(), self._infos()

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """One step of every environment; actions `[n, action_dim]` in [-1, 1], or numbers `[n]`."""
        discrete = self.tasks.rules.discrete
        self.tasks.advance(np.asarray(actions, dtype=None if discrete else np.float32))
        arrays = self.tasks.arrays
        terminated, truncated, success, valid = (
            arrays[name][:, 0].copy() for name in ("terminated", "truncated", "success", "valid")
        )
        infos = {**self._infos(), "success": success, "valid": valid}
        ended = terminated | truncated
        if ended.any():
            final = np.full(self.num_envs, None, dtype=object)
            for row in np.flatnonzero(ended):
                final[row] = arrays["next_observation"][row].copy()
            infos["final_obs"], infos["_final_obs"] = final, ended
        reward = arrays["reward"][:, 0].astype(np.float64)
        return arrays["observation"].copy(), reward, terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Close the vector underneath."""
        self.tasks.close()

    def _infos(self) -> dict[str, Any]:
        arrays = self.tasks.arrays
        return {
            "task_id": arrays["task_id"].copy(),
            "episode_number": arrays["episode"].copy(),
        }
