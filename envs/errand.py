"""A robot with a hidden task, which may change before the episode is over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from envs.body import Anatomy, Body, Layout, Physics
from envs.changes import Change
from envs.environment import Environment
from envs.episodes import Task
from envs.families import Alive, Family


@dataclass(frozen=True, eq=False)
class Plan:
    """All that makes the environments of a benchmark; what a worker is handed.

    Attributes:
        anatomy: the robot.
        layout: what it senses.
        physics: see `envs.body.Physics`.
        families: by task id.
        tables: split -> the specifications `[goals, width]` of each family.
        alive: an episode ends where it is not; None for no such end.
        change: when the task changes; None for never.
        drawn: ids of the families a change draws from.
    """

    anatomy: Anatomy
    layout: Layout
    physics: Physics
    families: Sequence[Family]
    tables: Mapping[str, Sequence[NDArray[np.float64]]]
    alive: Alive | None = None
    change: Change | None = None
    drawn: Sequence[int] = field(default=())


class Errand(Environment):
    """A robot that is paid for one of a family of tasks.

    An episode begins with the task it was given. A change draws one of all tasks of the split, each
    with the same probability, or reverses a direction (`envs.changes.LocationChange`); it comes
    before the step is simulated. The state goes on, and the next reset restores the task. What is
    random within an episode is drawn from a stream of its own, which the reset seeds.

    An episode ends where the robot is no longer alive. No step counts as a success.

    Args:
        plan: the benchmark.
        split: "train" or "test".
        task_id: of the family that is given.
    """

    needs_gl = True

    def __init__(self, plan: Plan, split: str, task_id: int) -> None:
        self._plan, self._given, self._tables = plan, task_id, plan.tables[split]
        outfits = [family.outfit for family in plan.families if family.outfit is not None]
        own = any(outfit.alters_model for outfit in outfits)
        self._body = Body(plan.anatomy, plan.layout, plan.physics, own=own)
        self.rate = 1.0 / self._body.seconds
        self._pool = [(i, goal) for i in plan.drawn for goal in range(len(self._tables[i]))]
        self._rng = np.random.default_rng(0)
        self._clock = {} if plan.change is None else plan.change.begin(self._rng)
        self._take_on(task_id, self._tables[task_id][0])
        width = (plan.layout.width(plan.anatomy),)
        self.observation_space = Box(-np.inf, np.inf, width, np.float64)
        self.action_space = Box(-1.0, 1.0, (plan.anatomy.num_actions,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Begin with goal number `options["goal"]`, all that is random from `options["rng"]`."""
        super().reset(seed=seed)
        given = options or {}
        rng = given.get("rng", self.np_random)
        self._take_on(self._given, self._tables[self._given][given.get("goal", 0)])
        self._body.begin(rng)
        if self._plan.change is not None:
            self._rng = np.random.Generator(np.random.PCG64(int(rng.integers(2**63))))
            self._clock = self._plan.change.begin(self._rng)
        return self._body.observe(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """One step of an action in [-1, 1]."""
        body, plan = self._body, self._plan
        changed = plan.change is not None and self._change(plan.change)
        family, specification = plan.families[self._task_id], self._specification
        square = body.move(action)
        paid = family.term(body, specification)
        cost = family.control * square + family.contact * body.contact()
        bonus = family.span[1] if family.bonus is None else family.bonus
        info = {
            "success": False,
            "unstable": body.broken,
            "reward_task": paid,
            "reward_cost": -cost,
            "task_id": self._task_id,
            "specification": specification,
            "task_changed": changed,
        }
        ended = plan.alive is not None and not plan.alive(body)
        return body.observe(), paid - cost + bonus, ended, False, info

    def picture(self, width: int, height: int) -> NDArray[np.uint8]:
        """The robot, followed by a camera."""
        return self._body.picture(width, height)

    def close(self) -> None:
        """Free what pictures needed."""
        self._body.put_away()

    def snapshot(self) -> dict[str, Any]:
        """The task, its clock, the random stream and the body."""
        return {
            "task_id": self._task_id,
            "specification": self._specification.copy(),
            "clock": dict(self._clock),
            "rng": self._rng.bit_generator.state,
            "body": self._body.snapshot(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `snapshot` was taken.

        Raises:
            ValueError: its tasks change in another way.
        """
        if state["clock"].keys() != self._clock.keys():
            raise ValueError("the state is of tasks that change in another way than these")
        specification = np.array(state["specification"], dtype=np.float64)
        self._take_on(int(state["task_id"]), specification)
        self._clock = dict(state["clock"])
        self._rng.bit_generator.state = state["rng"]
        self._body.restore(state["body"])

    def _take_on(self, task_id: int, specification: NDArray[np.float64]) -> None:
        self._task_id, self._specification = task_id, specification
        outfit = self._plan.families[task_id].outfit
        if outfit is not None:
            outfit.wear(self._body, specification)

    def _change(self, change: Change) -> bool:
        """Whether the task is another one from this step on."""
        sign = change.strikes(self._clock, float(self._body.place[0]), self._rng)
        family = self._plan.families[self._task_id]
        if not sign or family.final:
            return False
        before = (self._task_id, self._specification)
        if family.turns and change.directed:
            if sign * self._specification[0] > 0:
                self._take_on(self._task_id, -self._specification)
        else:
            task_id, goal = self._pool[int(self._rng.integers(len(self._pool)))]
            self._take_on(task_id, self._tables[task_id][goal])
        same = before[0] == self._task_id and np.array_equal(before[1], self._specification)
        return not same


def build(plan: Plan, task: Task) -> Environment:
    """The environment of a task."""
    return Errand(plan, task.split, task.task_id)
