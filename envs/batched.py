"""A vector for environments that are functions of tensors: no loop over them, no process.

All environments share one random stream. As long as none begins an episode of its own (without
`autoreset`), what one environment goes through does not depend on the actions of the others.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.arrays import Arrays, Rules, new_arrays, silence, told
from envs.breakdowns import Breakdowns
from envs.dynamics import Dynamics, Goals, Outcome, State
from envs.episodes import Seed, Task, restored
from envs.vector import Vector


class BatchedTasks(Vector):
    """A `Vector` whose environments are rows of tensors.

    Args:
        dynamics: the environment.
        goals: what the goals of a task are.
        tasks: one per environment.
        rules: sizes, horizon, what happens at the end of an episode.
        seed: the random stream of all environments.
        check: raises ValueError for tasks that `assign` must refuse.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        goals: Goals,
        tasks: Sequence[Task],
        rules: Rules,
        *,
        seed: Seed,
        check: Callable[[Sequence[Task]], None],
    ) -> None:
        arrays = new_arrays(len(tasks), rules)
        engine = Batch(dynamics, goals, tasks, rules, seed, arrays)
        super().__init__(engine, arrays, tasks, rules, check)


class Batch:
    """Steps all rows of a `Dynamics` and keeps their episodes; the verbs of `Chunk`.

    An episode with a number that is not finite ends as it does there.

    Args:
        dynamics: the environment.
        goals: what the goals of a task are.
        tasks: one per environment.
        rules: see `envs.arrays.Rules`.
        seed: the random stream, of goals too where a task has more than one.
        arrays: the arrays of `envs.arrays.fields`.
    """

    restarts = 0
    pids: tuple[int, ...] = ()

    def __init__(
        self,
        dynamics: Dynamics,
        goals: Goals,
        tasks: Sequence[Task],
        rules: Rules,
        seed: Seed,
        arrays: Arrays,
    ) -> None:
        self._dynamics, self._rules, self._rng = dynamics, rules, seed.generator()
        self._arrays, self._told = arrays, tuple(told(rules))
        self._rows = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self._state: State = {}
        self._elapsed = torch.zeros(len(tasks), dtype=torch.int64)
        self._done = torch.zeros(len(tasks), dtype=torch.bool)
        self._breakdowns, self._goals = Breakdowns(), goals
        self._held: tuple[Task, ...]
        self._tasks: tuple[Task, ...]
        self._waiting: Tensor
        self._table: State
        self._take(tasks, tasks, torch.zeros(len(tasks), dtype=torch.bool))
        self._rows["task_id"].copy_(self._table["task_id"][len(tasks) :])

    def reset(self) -> None:
        """Begin a new episode in every row."""
        self._begin(torch.ones_like(self._done))

    def step(self) -> None:
        """Read "action", write what follows; see `envs.arrays.Rules` for the end of an episode."""
        rows, rules = self._rows, self._rules
        state, outcome = self._dynamics.step(self._state, rows["action"], self._rng)
        moves = ~self._done
        broken = self._broken(outcome, moves)
        self._state = _where(moves, state, self._state)
        self._elapsed += moves
        success = outcome.success & moves
        terminated = outcome.terminated
        if rules.terminate_on_success:
            terminated = terminated | success
        truncated = self._elapsed >= rules.horizon
        _write(rows["next_observation"], outcome.observation, moves)
        _write(rows["terminated"], terminated[:, None], moves)
        _write(rows["truncated"], truncated[:, None], moves)
        for name in self._told:
            row = rows[f"next_{name}"]
            _write(row, outcome.told[name].view_as(row), moves)
        silence(self._arrays, ~moves.numpy())
        rows["reward"].copy_(torch.where(moves, outcome.reward, 0.0)[:, None])
        rows["success"].copy_(success[:, None])
        rows["valid"].copy_(moves[:, None])
        rows["is_init"].zero_()
        if broken is not None:
            self._void(broken)
        rows["observation"].copy_(rows["next_observation"])
        self._done = (rows["terminated"] | rows["truncated"])[:, 0]
        if rules.autoreset and bool(self._done.any()):
            self._begin(self._done)

    def assign(self, tasks: Sequence[Task]) -> None:
        """New tasks, which take effect where the next episode begins."""
        kept = zip(self._waiting.tolist(), self._held, self._tasks, strict=True)
        held = [old if waiting else new for waiting, old, new in kept]
        self._take(held, tasks, torch.ones_like(self._waiting))

    def state(self) -> dict[str, Any]:
        """Everything the future depends on; `load` of another batch of this kind continues it."""
        return {
            "held": [asdict(task) for task in self._held],
            "tasks": [asdict(task) for task in self._tasks],
            "waiting": self._waiting.numpy(),
            "elapsed": self._elapsed.numpy(),
            "done": self._done.numpy(),
            "rng": self._rng.bit_generator.state,
            "rows": {name: row.numpy() for name, row in self._rows.items() if name != "action"},
            "state": {name: value.numpy() for name, value in self._state.items()},
        }

    def load(self, states: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        held = [restored(task) for task in states["held"]]
        self._take(held, self.assigned(states), torch.tensor(states["waiting"]))
        self._elapsed = torch.tensor(states["elapsed"])
        self._done = torch.tensor(states["done"])
        self._rng.bit_generator.state = states["rng"]
        for name, row in states["rows"].items():
            self._rows[name].copy_(torch.from_numpy(row))
        self._state = {name: torch.tensor(value) for name, value in states["state"].items()}

    @staticmethod
    def assigned(states: Mapping[str, Any]) -> tuple[Task, ...]:
        """The tasks as last assigned when `state` was taken."""
        return tuple(restored(task) for task in states["tasks"])

    def close(self) -> None:
        """Nothing to free."""

    def _broken(self, outcome: Outcome, moves: Tensor) -> Tensor | None:
        """The rows `[n]` of those that move whose numbers are not all finite; None without any."""
        total = outcome.observation.sum() + outcome.reward.sum()
        if math.isfinite(total):  # so every number is
            return None
        finite = torch.isfinite(outcome.observation).all(1) & torch.isfinite(outcome.reward)
        broken = moves & ~finite
        return broken if bool(broken.any()) else None

    def _void(self, broken: Tensor) -> None:
        """End these episodes at their last good observation; see `Chunk`."""
        rows, where = self._rows, broken.numpy()
        _write(rows["next_observation"], rows["observation"], broken)
        for name, value in (("terminated", False), ("truncated", True), ("valid", False)):
            self._arrays[name][where] = value
        self._arrays["reward"][where], self._arrays["success"][where] = 0.0, False
        self._arrays["unstable"][where] += 1
        silence(self._arrays, where)
        begun = int(rows["episode"].sum()) + len(broken)  # the first is 0
        for i in broken.nonzero().flatten().tolist():
            self._breakdowns.note(begun, self._tasks[i].name)

    def _begin(self, begins: Tensor) -> None:
        """New episodes where `begins` `[n]`, each with one of its task's goals."""
        rows, table, num = self._rows, self._table, len(begins)
        self._waiting = self._waiting & ~begins
        place = torch.arange(num) + num * ~self._waiting
        draw = torch.from_numpy(self._rng.random(num)) * table["count"][place]
        goal = table["goals"][table["first"][place] + draw.long()]
        state, observation = self._dynamics.begin(goal, self._rng)
        bad = begins & ~torch.isfinite(observation).all(1)
        if bool(bad.any()):
            name = self._tasks[int(bad.nonzero()[0])].name
            raise RuntimeError(f"{name}: the first observation is not finite")
        self._state = _where(begins, state, self._state) if self._state else state
        _write(rows["observation"], observation, begins)
        rows["task_id"].copy_(table["task_id"][place])
        rows["is_init"] |= begins[:, None]
        rows["episode"] += begins
        self._elapsed = self._elapsed * ~begins
        self._done = self._done & ~begins

    def _take(self, held: Sequence[Task], tasks: Sequence[Task], waiting: Tensor) -> None:
        """Tasks in effect, tasks from the next episode on, and which rows wait for that.

        The goals of both lie one after the other in one table; row i finds those of its task in
        effect at place i, and those of its next one at place n + i.
        """
        self._held, self._tasks, self._waiting = tuple(held), tuple(tasks), waiting
        both = (*self._held, *self._tasks)
        goals: list[Any] = []
        first: dict[Task, int] = {}
        for task in dict.fromkeys(both):
            first[task] = len(goals)
            goals += [self._goals(task, number) for number in task.goals]
        self._table = {
            "goals": torch.from_numpy(np.stack(goals)),
            "first": torch.tensor([first[task] for task in both]),
            "count": torch.tensor([len(task.goals) for task in both]),
            "task_id": torch.tensor([task.task_id for task in both]),
        }


def _where(rows: Tensor, new: State, old: State) -> State:
    """The new state in the given rows `[n]`, the old one elsewhere."""
    return {
        name: torch.where(rows.view(-1, *[1] * (value.dim() - 1)), value, old[name])
        for name, value in new.items()
    }


def _write(target: Tensor, value: Tensor, rows: Tensor) -> None:
    """Put `value` `[n, ...]` in the given rows `[n]` of the target."""
    target.copy_(torch.where(rows.view(-1, *[1] * (value.dim() - 1)), value, target))
