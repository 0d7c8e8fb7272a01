"""Suites whose goals are a numbered, in effect endless, list; and those that step as tensors."""

from collections.abc import Sequence
from functools import partial

from envs.arrays import Rules
from envs.batched import BatchedTasks
from envs.dynamics import Dynamics, Goals, SingleEnv
from envs.episodes import SPLITS, Build, Seed, Task
from envs.suite import PURPOSES, Suite
from envs.vector import Vector

ENDLESS = 2**31
LISTED = 50


class NumberedSuite(Suite):
    """A suite of few names, each with the goals number 0 to `num_goals` - 1.

    What goal i of a split is depends on a seed, the split and i alone, so that a task means the
    same in every process and after a resume (`envs.episodes.goal_stream`). `tasks` lists the first
    50 goals; `sample` draws from all of them.

    Args:
        names: of the tasks, the same in both splits.
        num_goals: goals of each name and split.
        workers: worker processes, 0 for this process, None for one per core.
        timeout: seconds after which a worker counts as hung.
    """

    def __init__(
        self,
        names: Sequence[str],
        num_goals: int = ENDLESS,
        *,
        workers: int | None = 0,
        timeout: float = 60.0,
    ) -> None:
        super().__init__(workers=workers, timeout=timeout)
        self._names, self._num_goals = tuple(names), num_goals

    def tasks(self, split: str = "train") -> tuple[Task, ...]:
        """The names, each with its first goals."""
        if split not in SPLITS:
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        goals = tuple(range(min(LISTED, self._num_goals)))
        return tuple(Task(name, i, split, goals) for i, name in enumerate(self._names))

    def numbers(self, task: Task) -> Sequence[int]:
        """All goals, whatever `tasks` lists."""
        return range(self._num_goals)


class TensorSuite(Suite):
    """A suite whose environments are rows of tensors: a fast `Vector`, no workers.

    A subclass sets `dynamics` and `goals`, both picklable.
    """

    dynamics: Dynamics
    goals: Goals

    def start(self, tasks: Sequence[Task], rules: Rules, seed: int, purpose: str) -> Vector:
        """See `envs.batched.BatchedTasks`."""
        stream = Seed(seed, (PURPOSES.index(purpose),))
        return BatchedTasks(self.dynamics, self.goals, tasks, rules, seed=stream, check=self.check)

    def build(self, tasks: Sequence[Task]) -> Build:
        """One row as an environment, see `envs.dynamics.SingleEnv`."""
        return partial(SingleEnv, self.dynamics, self.goals)


class BatchedSuite(TensorSuite, NumberedSuite):
    """A `NumberedSuite` that is a `TensorSuite`."""
