"""The half-cheetah that must run in an unknown direction, or at an unknown speed.

Finn et al., "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import gin

from envs.arguments import check_number, check_whole
from envs.cheetah import KINDS, build
from envs.episodes import Build, Task
from envs.numbered import ENDLESS, NumberedSuite
from envs.suite import Spec


@gin.configurable
class HalfCheetahSuite(NumberedSuite):
    """The half-cheetah of `envs.cheetah`, drawn alike for training and test.

    Kind "direction" has two goals, 0 for forward and 1 for backward. Kind "velocity" has endless
    ones, uniform in [0, `max_velocity`].

    Args:
        kind: "direction" or "velocity".
        horizon: steps per episode.
        max_velocity: of the goals of kind "velocity".
        goal_seed: seed of these.
        workers: worker processes, 0 for this process, None for one per core.
        timeout: seconds after which a worker counts as hung.

    Raises:
        ValueError: naming the argument.
    """

    def __init__(
        self,
        kind: str = "direction",
        *,
        horizon: int = 200,
        max_velocity: float = 2.0,
        goal_seed: int = 42,
        workers: int | None = None,
        timeout: float = 60.0,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {list(KINDS)}, got {kind!r}")
        num_goals = 2 if kind == "direction" else ENDLESS
        super().__init__((f"half-cheetah-{kind}",), num_goals, workers=workers, timeout=timeout)
        check_whole("horizon", horizon, 1)
        check_number("max_velocity", max_velocity, 0)
        check_whole("goal_seed", goal_seed, 0)
        self._kind, self._horizon = kind, horizon
        self._max_velocity, self._goal_seed = max_velocity, goal_seed

    @property
    def name(self) -> str:
        """For example "half-cheetah-direction"."""
        return self._names[0]

    @property
    def spec(self) -> Spec:
        """20 numbers to see, 6 to choose."""
        return Spec(20, 6, 1, self._horizon, self._names)

    def protocol(self) -> dict[str, Any]:
        """What decides a score besides the agent."""
        velocity = f"uniform in [0, {self._max_velocity}], not seen by the agent"
        direction = "1 and -1, not seen by the agent"
        return {
            "suite": "half-cheetah",
            "benchmark": self.name,
            "tasks": list(self._names),
            "horizon": self._horizon,
            "goals": direction if self._kind == "direction" else velocity,
            "goal_seed": None if self._kind == "direction" else self._goal_seed,
            "success": "not defined",
        }

    def build(self, tasks: Sequence[Task]) -> Build:
        """See `envs.cheetah.build`."""
        return partial(build, self._kind, self._goal_seed, self._max_velocity)
