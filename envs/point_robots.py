"""Suites of the point robot: dense, sparse, from the origin, and of two families."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gin
import numpy as np

from envs.arguments import check_whole
from envs.families import Array, Counts, signs, split
from envs.listed import ListedSuite, shares, tabled
from envs.numbered import TensorSuite
from envs.point_robot import ALONG, DISTANCE, RELATIVE, PointRobot, point_goal
from envs.suite import Spec

RADIUS = 0.2

Draw = Callable[[Counts, np.random.RandomState], tuple[Array, Array]]


@dataclass(frozen=True)
class Kind:
    """A suite of point robots.

    Attributes:
        families: name -> kind of reward, and how the specifications are drawn.
        start: see `envs.point_robot.PointRobot`.
        sizes: tasks for training and for test.
        horizon: steps of an episode.
        sparse: each step also pays the sparse reward.
    """

    families: dict[str, tuple[int, Draw]]
    start: float
    sizes: Counts
    horizon: int = 20
    sparse: bool = False


def square(extent: float, counts: Counts, rng: np.random.RandomState) -> tuple[Array, Array]:
    """Uniform in [-extent, extent]^2."""
    return split(rng.uniform(-extent, extent, (sum(counts), 2)), counts)


def half_circle(counts: Counts, rng: np.random.RandomState) -> tuple[Array, Array]:
    """Equally spaced on the upper half of the unit circle, with both ends, in random order."""
    angle = np.linspace(0.0, np.pi, sum(counts))
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return split(rng.permutation(points), counts)


def ring(counts: Counts, rng: np.random.RandomState) -> tuple[Array, Array]:
    """Radii equally spaced in [0.5, 1.5], in random order, at random angles."""
    radius = rng.permutation(np.linspace(0.5, 1.5, sum(counts)))
    angle = rng.uniform(0.0, 2 * np.pi, sum(counts))
    return split(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), counts)


def sides(counts: Counts, rng: np.random.RandomState) -> tuple[Array, Array]:
    """In each split half of -1 and half of 1."""
    return signs((0.0, 0.0), counts, rng)


KINDS = {
    "point-robot": Kind({"goal": (DISTANCE, partial(square, 1.0))}, 1.0, (80, 20)),
    "point-robot-sparse": Kind({"goal": (DISTANCE, half_circle)}, 0.0, (80, 20), sparse=True),
    "point-robot-origin": Kind({"goal": (DISTANCE, partial(square, 0.5))}, 0.0, (100, 40), 100),
    "point-robot-families": Kind(
        {"goal": (RELATIVE, ring), "direction": (ALONG, sides)}, 0.1, (40, 20)
    ),
}


@gin.configurable
class PointRobotSuite(TensorSuite, ListedSuite):
    """Point robots with hidden tasks; those of both splits come from one draw.

        kind                     start             goals                   horizon
        point-robot              [-1, 1]^2         [-1, 1]^2               20
        point-robot-sparse       origin            upper unit half-circle  20
        point-robot-origin       origin            [-0.5, 0.5]^2           100
        point-robot-families     [-0.1, 0.1]^2     two families            20

    The families are "goal", a point at a distance of 0.5 to 1.5 with the reward relative to it, and
    "direction", 1 or -1 along x. With the seed 1337 the goals of the first two are PEARL's own.
    Deviation from its code: actions in [-1, 1] are scaled by 0.1, as its wrapper does.

    Args:
        kind: see above.
        sizes: how many tasks for training and for test, in equal shares for the families; None for
            (80, 20), (80, 20), (100, 40), (40, 20).
        horizon: steps per episode; None for those above.
        goal_seed: of the goals.
        change_steps: steps after which the task changes for any of the split; 0 for never.

    Raises:
        ValueError: naming the argument.
    """

    def __init__(
        self,
        kind: str = "point-robot",
        *,
        sizes: tuple[int, int] | None = None,
        horizon: int | None = None,
        goal_seed: int = 1337,
        change_steps: int = 0,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {list(KINDS)}, got {kind!r}")
        record = KINDS[kind]
        self._kind, self._record, self._names = kind, record, tuple(record.families)
        self._horizon = record.horizon if horizon is None else horizon
        check_whole("horizon", self._horizon, 1)
        check_whole("goal_seed", goal_seed, 0, 2**32 - 1)
        check_whole("change_steps", change_steps, 0)
        self._goal_seed, self._change_steps = goal_seed, change_steps
        counts = shares(record.sizes if sizes is None else sizes, len(self._names))
        draws = [draw for _, draw in record.families.values()]
        self._tables = tabled({i: partial(draw, counts) for i, draw in enumerate(draws)}, goal_seed)
        rewards = [reward for reward, _ in record.families.values()]
        radius = RADIUS if record.sparse else None
        self.dynamics = PointRobot(rewards, record.start, radius, self._tables, change_steps)
        self.goals = partial(point_goal, self._tables)

    @property
    def name(self) -> str:
        """The kind."""
        return self._kind

    @property
    def spec(self) -> Spec:
        """2 numbers to see (the position), 2 to choose."""
        return Spec(
            2,
            2,
            len(self._names),
            self._horizon,
            self._names,
            specification_dim=2,
            sparse=self._record.sparse,
        )

    def protocol(self) -> dict[str, Any]:
        """What decides a score besides the agent."""
        return {
            "suite": "point robot",
            "benchmark": self.name,
            "tasks": list(self._names),
            "horizon": self._horizon,
            "goals": self.counts,
            "goal_seed": self._goal_seed,
            "change_steps": self._change_steps,
            "sparse_radius": RADIUS if self._record.sparse else None,
            "success": "not defined",
        }
