"""A point that moves where it is told, and must find out where that is.

Rakelly et al., "Efficient Off-Policy Meta-Reinforcement Learning via Probabilistic Context
Variables", 2019.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.dynamics import Dynamics, Outcome, State
from envs.episodes import SPLITS, Task

REACH = 0.1  # of an action of 1
DISTANCE, RELATIVE, ALONG = range(3)

Tables = Mapping[str, Sequence[NDArray[np.float64]]]


class PointRobot(Dynamics):
    """A point in the plane; the observation is its position s.

        s' = s + 0.1 action
        reward = -|s' - g|,                 of a DISTANCE task
                 -|s' - g| / |g|,           of a RELATIVE one
                 10 g_x (s'_x - s_x),       of one ALONG the x axis

    g is the specification. No episode ends by itself, and no step counts as a success. The sparse
    reward is 1 - |s' - g| within a radius, 0 elsewhere. The task may change, after as many steps of
    the same one, for any task of the split. All in single precision.

    Args:
        kinds: of reward, by task id.
        start: positions begin uniform in [-start, start]^2.
        radius: of the sparse reward; None for no such reward.
        tables: split -> the specifications `[goals, 2]` of each task id.
        change_steps: steps after which the task changes; 0 for never.
    """

    observation_dim = 2
    action_dim = 2

    def __init__(
        self,
        kinds: Sequence[int],
        start: float,
        radius: float | None,
        tables: Tables,
        change_steps: int = 0,
    ) -> None:
        self._kinds, self._start, self._radius = torch.tensor(kinds), start, radius
        self._change_steps = change_steps
        lists = [_pool(tables[split]) for split in SPLITS]
        self._pool = torch.from_numpy(np.concatenate(lists))
        self._count = torch.tensor([len(rows) for rows in lists])
        self._first = torch.tensor([0, len(lists[0])])

    def begin(self, goal: Tensor, rng: np.random.Generator) -> tuple[State, Tensor]:
        """A random position; goals `[n, 4]`: index of the split, task id, specification."""
        draw = torch.from_numpy(rng.uniform(-1.0, 1.0, (len(goal), 2)))
        position = (self._start * draw).float()
        split, task = goal[:, 0].long(), goal[:, 1:]
        elapsed = torch.zeros_like(split)
        return {"position": position, "split": split, "task": task, "elapsed": elapsed}, position

    def step(self, state: State, action: Tensor, rng: np.random.Generator) -> tuple[State, Outcome]:
        """A move, after the change of the task if there is one."""
        state, changed = self._change(state, rng)
        task_id, goal = state["task"][:, 0].long(), state["task"][:, 1:]
        before = state["position"]
        position = before + REACH * action
        distance = (position - goal).norm(dim=-1)
        kind = self._kinds[task_id]
        loss = torch.where(kind == RELATIVE, distance / goal.norm(dim=-1), distance)
        gain = 10.0 * goal[:, 0] * (position - before)[:, 0]
        told = {"task_id": task_id, "specification": goal, "task_changed": changed}
        if self._radius is not None:
            told["sparse_reward"] = (1.0 - distance) * (distance <= self._radius)
        never = torch.zeros_like(changed)
        outcome = Outcome(position, torch.where(kind == ALONG, gain, -loss), never, never, told)
        return {**state, "position": position, "elapsed": state["elapsed"] + 1}, outcome

    def _change(self, state: State, rng: np.random.Generator) -> tuple[State, Tensor]:
        """The state with the task of this step, and whether it is another one `[n]`."""
        task, elapsed, split = state["task"], state["elapsed"], state["split"]
        if not self._change_steps:
            return state, torch.zeros(len(task), dtype=torch.bool)
        draw = torch.from_numpy(rng.random(len(task))) * self._count[split]
        due = elapsed >= self._change_steps
        new = torch.where(due[:, None], self._pool[self._first[split] + draw.long()], task)
        return {**state, "task": new, "elapsed": elapsed * ~due}, (new != task).any(-1)


def _pool(tables: Sequence[NDArray[np.float64]]) -> NDArray[np.float32]:
    """Task id and specification `[tasks, 3]` of each task of a split."""
    rows = [np.insert(table, 0, i, axis=1) for i, table in enumerate(tables)]
    return np.concatenate(rows).astype(np.float32)


def point_goal(tables: Tables, task: Task, number: int) -> NDArray[np.float32]:
    """What `PointRobot.begin` wants of a goal `[4]`."""
    specification = tables[task.split][task.task_id][number]
    row = np.array([SPLITS.index(task.split), task.task_id, *specification])
    return row.astype(np.float32)
