"""The tiny suite: a point mass in the plane under several rotations of its actions.

For tests and first steps: no simulator, 30 steps an episode. A policy that does not know its task
cannot solve it, since tasks 0 and 1 want opposite actions in the same state.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import gin
from torch import Tensor

from envs.arguments import check_whole
from envs.episodes import Build, Task
from envs.plane import SUCCESS_DISTANCE, build
from envs.suite import Spec, Suite

MOST = 10**5
"""Of tasks, and of goals: all are listed."""


@gin.configurable
class PointMassSuite(Suite):
    """`num_tasks` rotations of the point mass of `envs.plane`.

    Args:
        num_tasks: number of tasks; task 1 inverts the action.
        horizon: steps per episode.
        num_goals: pairs of start and goal, each uniform in [-1, 1]^2. The split "train" and the
            split "test" (the same tasks) have `num_goals` pairs each, and none in common.
        goal_seed: seed of those pairs.
        workers: worker processes, 0 for this process, None for one per core.
        timeout: seconds after which a worker counts as hung.

    Raises:
        ValueError: naming the argument.
    """

    def __init__(
        self,
        num_tasks: int = 2,
        *,
        horizon: int = 30,
        num_goals: int = 50,
        goal_seed: int = 42,
        workers: int | None = 0,
        timeout: float = 60.0,
    ) -> None:
        super().__init__(workers=workers, timeout=timeout)
        check_whole("num_tasks", num_tasks, 1, MOST)
        check_whole("num_goals", num_goals, 1, MOST)
        check_whole("horizon", horizon, 1)
        check_whole("goal_seed", goal_seed, 0)
        self._num_tasks, self._horizon = num_tasks, horizon
        self._names = tuple(f"turn-{i}" for i in range(num_tasks))
        self._num_goals, self._goal_seed = num_goals, goal_seed

    @property
    def name(self) -> str:
        """For example "point-mass-2"."""
        return f"point-mass-{self._num_tasks}"

    @property
    def spec(self) -> Spec:
        """6 numbers to see (position, velocity, goal), 2 to choose."""
        return Spec(6, 2, self._num_tasks, self._horizon, self._names)

    def tasks(self, split: str = "train") -> tuple[Task, ...]:
        """The rotations, named "turn-0", "turn-1", ...; "test" has other starts and goals."""
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        goals = tuple(range(self._num_goals))
        return tuple(Task(name, i, split, goals) for i, name in enumerate(self._names))

    def protocol(self) -> dict[str, Any]:
        """What decides a score besides the agent."""
        return {
            "suite": "point mass",
            "benchmark": self.name,
            "tasks": list(self._names),
            "horizon": self._horizon,
            "goals_per_task": self._num_goals,
            "goal_seed": self._goal_seed,
            "success": f"closer than {SUCCESS_DISTANCE} at any step of the episode",
        }

    def build(self, tasks: Sequence[Task]) -> Build:
        """See `envs.plane.build`."""
        return partial(build, self._goal_seed)

    @staticmethod
    def distance(observation: Tensor) -> Tensor:
        """Distance to the goal `[*]` seen in observations `[*, 6]`, first or last of an episode."""
        distance: Tensor = (observation[..., :2] - observation[..., 4:]).norm(dim=-1)
        return distance
