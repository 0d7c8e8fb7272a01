"""Environments written as functions of tensors, all rows at once, and one row as an environment."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor

from envs.arrays import write_actions
from envs.environment import Environment
from envs.episodes import Task

State = dict[str, Tensor]  # name -> [n, ...]
Goals = Callable[[Task, int], NDArray[Any]]  # a task and the number of its goal -> the goal [size]


class Outcome(NamedTuple):
    """What a step shows.

    Attributes:
        observation: `[n, observation_dim]` float32.
        reward: `[n]` float32.
        terminated: `[n]` bool.
        success: `[n]` bool.
        told: what `envs.arrays.told` lists, `[n]` or `[n, specification_dim]`.
    """

    observation: Tensor
    reward: Tensor
    terminated: Tensor
    success: Tensor
    told: Mapping[str, Tensor] = MappingProxyType({})


class Dynamics(ABC):
    """An environment without memory: row i of every tensor belongs to environment i.

    Both functions return new tensors, leave their arguments as they are, and draw as many random
    numbers whatever the rows hold, so that no row's future depends on another row.

    Attributes:
        observation_dim: width of an observation.
        action_dim: width of an action, or the number of actions.
        discrete: actions are whole numbers `[n]`, not `[n, action_dim]`.
    """

    observation_dim: int
    action_dim: int
    discrete = False

    @abstractmethod
    def begin(self, goal: Tensor, rng: np.random.Generator) -> tuple[State, Tensor]:
        """The state at the start of an episode with goals `[n, size]`, and its observation."""

    @abstractmethod
    def step(self, state: State, action: Tensor, rng: np.random.Generator) -> tuple[State, Outcome]:
        """The state after an action, and what it shows."""


class SingleEnv(Environment):
    """One row of a `Dynamics` as an environment: for gymnasium's tools, and slow.

    Args:
        dynamics: the environment.
        goals: what the goals of the task are.
        task: the task.
    """

    def __init__(self, dynamics: Dynamics, goals: Goals, task: Task) -> None:
        self._dynamics, self._goals, self._task = dynamics, goals, task
        self._state: State = {}
        self._begun = False
        self._rng = np.random.default_rng(0)
        width = (dynamics.observation_dim,)
        self.observation_space = Box(-np.inf, np.inf, width, np.float64)
        space: Any = Box(-1.0, 1.0, (dynamics.action_dim,), np.float32)
        if dynamics.discrete:
            space = Discrete(dynamics.action_dim)
        self.action_space = space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Begin an episode with goal `options["goal"]`; see `Environment`."""
        super().reset(seed=seed)
        given = options or {}
        source = given.get("rng", self.np_random)
        self._rng = np.random.Generator(np.random.PCG64(int(source.integers(2**63))))
        goal = torch.from_numpy(self._goals(self._task, given.get("goal", 0)))
        self._state, observation = self._dynamics.begin(goal[None], self._rng)
        self._begun = True
        return observation[0].double().numpy(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """One step; the episode's end by time is the caller's affair.

        Raises:
            RuntimeError: before the first reset.
            ValueError: see `envs.arrays.write_actions`.
        """
        if not self._begun:
            raise RuntimeError("step before the first reset; call reset() or restore()")
        width, discrete = self._dynamics.action_dim, self._dynamics.discrete
        row = np.empty(1, np.int64) if discrete else np.empty((1, width), np.float32)
        write_actions(row, np.asarray(action)[None], discrete, width)
        self._state, outcome = self._dynamics.step(self._state, torch.from_numpy(row), self._rng)
        info: dict[str, Any] = {name: value[0].numpy() for name, value in outcome.told.items()}
        info["success"] = bool(outcome.success)
        observation = outcome.observation[0].double().numpy()
        return observation, float(outcome.reward), bool(outcome.terminated), False, info

    def snapshot(self) -> dict[str, Any]:
        """The state, and that of the random stream."""
        state = {name: value.numpy().copy() for name, value in self._state.items()}
        return {"state": state, "rng": self._rng.bit_generator.state}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `snapshot` was taken."""
        self._state = {name: torch.tensor(value) for name, value in state["state"].items()}
        self._rng.bit_generator.state = state["rng"]
        self._begun = True
