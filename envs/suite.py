"""What a suite of tasks is: a named, frozen family that holds no simulator."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.arguments import check_whole
from envs.arrays import Rules
from envs.cores import usable_cores
from envs.episodes import Build, Seed, Task
from envs.gym_vector import GymVector
from envs.vector import Vector, VectorTasks

__all__ = ["Spec", "Suite", "Task", "closest"]

PURPOSES = ("train", "evaluation")
MOST_STEPS = 1_000_000
"""Longest horizon: every evaluation runs episodes of that length."""
LONGEST = 1e6  # seconds; what the system's `poll` can wait for is not much more


@dataclass(frozen=True)
class Spec:
    """Sizes of a suite.

    Attributes:
        observation_dim: width of an observation; no task id is part of it.
        action_dim: width of an action; where actions are discrete, how many there are.
        num_tasks: number of training tasks.
        horizon: steps after which an episode is cut.
        task_names: of the training tasks, by id; empty where the suite does not name them.
        discrete: an action is one whole number below `action_dim`, int64.
        specification_dim: numbers of the true task that each step tells; 0 where it tells none.
        sparse: each step also pays ("next", "sparse_reward").

    Raises:
        ValueError: a size below 1, a horizon above `MOST_STEPS`, or names that are not one for each
            task.
    """

    observation_dim: int
    action_dim: int
    num_tasks: int
    horizon: int
    task_names: tuple[str, ...] = ()
    discrete: bool = False
    specification_dim: int = 0
    sparse: bool = False

    @property
    def num_actions(self) -> int:
        """How many actions there are to choose from; 0 where actions are continuous."""
        return self.action_dim if self.discrete else 0

    def rules(self, autoreset: bool = True, terminate_on_success: bool = False) -> Rules:
        """What is common to the environments of a vector."""
        return Rules(
            self.observation_dim,
            self.action_dim,
            self.horizon,
            autoreset=autoreset,
            terminate_on_success=terminate_on_success,
            discrete=self.discrete,
            specification_dim=self.specification_dim,
            sparse=self.sparse,
        )

    def __post_init__(self) -> None:
        """Check the sizes and the names."""
        for name in ("observation_dim", "action_dim", "num_tasks", "horizon"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"Spec.{name} must be at least 1, got {getattr(self, name)!r}")
        if self.horizon > MOST_STEPS:
            raise ValueError(f"Spec.horizon must be at most {MOST_STEPS}, got {self.horizon}")
        if self.task_names and len(set(self.task_names)) != self.num_tasks:
            raise ValueError(
                f"task_names must be {self.num_tasks} different names, got {self.task_names}"
            )


class Suite(ABC):
    """A named family of tasks.

    The true task, for evaluation and for losses that are given labels, is a pair: the base task,
    which is the task's name, as its `task_id`; and the specification, numbers that tell the goals
    of a name apart. Where `spec.specification_dim` is not 0, the "next" part of a step tells the
    task its reward was paid for, which differs from the assigned one where tasks change within an
    episode:

        "task_id" `[n]`, "specification" `[n, specification_dim]`,
        "task_changed" `[n, 1]`: it is another one than in the step before.

    A base task that only the test split has bears an id of `spec.num_tasks` or more. Where
    `spec.sparse`, a step also pays "sparse_reward" `[n, 1]`, which PEARL shows its encoder and
    counts in evaluations, in place of the dense reward the policy learns from.

    Args:
        workers: worker processes to step in; 0 steps in this process, None takes one for each core
            that this process may use.
        timeout: seconds after which a worker that does not answer counts as hung.
    """

    def __init__(self, *, workers: int | None = 0, timeout: float = 60.0) -> None:
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int)):
            raise ValueError(f"workers must be a whole number or None, got {workers!r}")
        if workers is not None and workers < 0:
            raise ValueError(f"workers must be 0 (this process) or more, got {workers}")
        real = isinstance(timeout, int | float) and not isinstance(timeout, bool)
        if not real or not 0 < timeout <= LONGEST:
            raise ValueError(
                f"timeout must be a positive number of seconds, at most {LONGEST:g}, "
                f"got {timeout!r}"
            )
        self._workers, self._timeout = workers, float(timeout)

    @property
    @abstractmethod
    def name(self) -> str:
        """A name for logs and result files."""

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """The sizes networks and buffers are built with."""

    @abstractmethod
    def tasks(self, split: str = "train") -> tuple[Task, ...]:
        """The tasks of a split ("train" or "test") in suite order; ValueError for another one."""

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """What a result must be printed with (JSON values): benchmark, horizon, goals, ..."""

    @abstractmethod
    def build(self, tasks: Sequence[Task]) -> Build:
        """What makes the simulator of a task: picklable, free of gin; called once per vector."""

    def specification(self, task: Task) -> NDArray[np.float32]:
        """The numbers `[spec.specification_dim]` of a task with one goal."""
        return np.zeros(0, dtype=np.float32)

    @property
    def positions(self) -> tuple[int, ...]:
        """The entries of an observation that a decoder of positions alone predicts (CEMRL)."""
        return tuple(range(self.spec.observation_dim))

    def each(self, split: str = "train") -> tuple[Task, ...]:
        """The tasks of a split with one goal each, in suite order; for PEARL these are the tasks.

        Where goals are endless, those that `tasks` lists.
        """
        tasks = self.tasks(split)
        return tuple(replace(task, goals=(goal,)) for task in tasks for goal in task.goals)

    def numbers(self, task: Task) -> Sequence[int]:
        """Every goal of a task of `tasks`, which may list only the first of them."""
        return task.goals

    def sample(
        self, num_tasks: int, split: str, generator: np.random.Generator
    ) -> tuple[Task, ...]:
        """Tasks of one goal each, for a meta-learner: uniform, with replacement.

        Args:
            num_tasks: how many.
            split: "train" or "test".
            generator: where they are drawn from; nothing else decides.

        Raises:
            ValueError: a number or a split that there is not.
        """
        chosen = self.choose(num_tasks, self.tasks(split), generator)
        numbers = [self.numbers(task) for task in chosen]
        draws = [int(generator.integers(len(known))) for known in numbers]
        return tuple(
            replace(task, goals=(int(known[draw]),))
            for task, known, draw in zip(chosen, numbers, draws, strict=True)
        )

    def choose(
        self, num_tasks: int, tasks: Sequence[Task], generator: np.random.Generator
    ) -> list[Task]:
        """Which of a split's tasks `sample` takes: uniform, with replacement."""
        check_whole("num_tasks", num_tasks, 1)
        if not tasks:
            raise ValueError(
                f"split: {self.name} has no tasks in it; take other tasks, or another split"
            )
        return [tasks[i] for i in generator.integers(len(tasks), size=num_tasks).tolist()]

    def check(self, tasks: Sequence[Task]) -> None:
        """ValueError unless every task is one of this suite, with its id and goals it has."""
        splits = dict.fromkeys(task.split for task in tasks)
        known = {split: {task.name: task for task in self.tasks(split)} for split in splits}
        for task in tasks:
            names = known[task.split]
            if task.name not in names:
                raise ValueError(
                    f"tasks: {self.name} has no task {task.name!r} in split {task.split!r}"
                    f"{closest(task.name, list(names))}"
                )
            if task.task_id != names[task.name].task_id:
                raise ValueError(
                    f"tasks: {task.name} has task_id {names[task.name].task_id} in {self.name}, "
                    f"got {task.task_id}; take tasks from Suite.tasks"
                )
            numbers = self.numbers(names[task.name])
            there = numbers if isinstance(numbers, range) else frozenset(numbers)
            if not task.goals or not all(goal in there for goal in task.goals):
                raise ValueError(
                    f"tasks: goals of {task.name} must be among {numbers[0]} to {numbers[-1]} "
                    f"and at least one, got {task.goals}"
                )

    def seeds(self, count: int, seed: int, purpose: str) -> tuple[Seed, ...]:
        """One random stream per environment: `SeedSequence(seed, spawn_key=(purpose, index))`."""
        index = PURPOSES.index(purpose)
        return tuple(Seed(seed, (index, environment)) for environment in range(count))

    def vector(
        self,
        tasks: Sequence[Task] | None = None,
        seed: int = 0,
        *,
        purpose: str = "train",
        autoreset: bool = True,
        terminate_on_success: bool = False,
    ) -> Vector:
        """Environments side by side, one for each of `tasks` (all training tasks by default).

        Args:
            tasks: a name may occur more than once.
            seed: the same seed gives the same trajectories under the same actions.
            purpose: "train" or "evaluation", two independent families of random streams.
            autoreset: see `envs.arrays.Rules`.
            terminate_on_success: end an episode at its first success.

        Raises:
            ValueError: an argument the suite cannot serve.
        """
        if purpose not in PURPOSES:
            raise ValueError(f"purpose must be one of {PURPOSES}, got {purpose!r}")
        check_whole("seed", seed, 0)
        chosen = tuple(self.tasks() if tasks is None else tasks)
        if not chosen:
            raise ValueError("tasks must name at least one task, got none")
        self.check(chosen)
        rules = self.spec.rules(autoreset=autoreset, terminate_on_success=terminate_on_success)
        return self.start(chosen, rules, seed, purpose)

    def start(self, tasks: Sequence[Task], rules: Rules, seed: int, purpose: str) -> Vector:
        """The vector of arguments that were checked: a simulator for each environment."""
        workers = max(1, int(usable_cores())) if self._workers is None else self._workers
        return VectorTasks(
            self.build(tasks),
            tasks,
            rules,
            seeds=self.seeds(len(tasks), seed, purpose),
            check=self.check,
            workers=min(workers, len(tasks)),
            timeout=self._timeout,
        )

    def gymnasium(
        self, tasks: Sequence[Task] | None = None, seed: int = 0, **options: Any
    ) -> GymVector:
        """`vector` of the same arguments as a plain `gymnasium.vector.VectorEnv`."""
        return GymVector(self.vector(tasks, seed, **options))


def closest(word: str, known: Sequence[str]) -> str:
    """A hint for an error message: the known word most like this one."""
    match = get_close_matches(str(word), known, n=1, cutoff=0.0)
    return f"; did you mean {match[0]!r}?" if match else ""
