"""What a suite of tasks is: a named, frozen family that holds no simulator."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from envs.episodes import Build, Rules, Seed, Task
from envs.gym_vector import GymVector
from envs.vector import VectorTasks

__all__ = ["Spec", "Suite", "Task", "closest"]

PURPOSES = ("train", "evaluation")


@dataclass(frozen=True)
class Spec:
    """Sizes of a suite.

    Attributes:
        observation_dim: width of an observation; no task id is part of it.
        action_dim: width of an action.
        num_tasks: number of training tasks.
        horizon: steps after which an episode is cut.
        task_names: of the training tasks, by id; empty where the suite does not name them.

    Raises:
        ValueError: names that are not one for each task.
    """

    observation_dim: int
    action_dim: int
    num_tasks: int
    horizon: int
    task_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the names."""
        if self.task_names and len(set(self.task_names)) != self.num_tasks:
            raise ValueError(
                f"task_names must be {self.num_tasks} different names, got {self.task_names}"
            )


class Suite(ABC):
    """A named family of tasks.

    Args:
        workers: worker processes to step in; 0 steps in this process, None takes one per core.
        timeout: seconds after which a worker that does not answer counts as hung.
    """

    def __init__(self, *, workers: int | None = 0, timeout: float = 60.0) -> None:
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int)):
            raise ValueError(f"workers must be a whole number or None, got {workers!r}")
        if workers is not None and workers < 0:
            raise ValueError(f"workers must be 0 (this process) or more, got {workers}")
        if isinstance(timeout, bool | str) or timeout <= 0:
            raise ValueError(f"timeout must be a positive number of seconds, got {timeout!r}")
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

    def check(self, tasks: Sequence[Task]) -> None:
        """ValueError unless every task is one of this suite, with goals the suite has."""
        for task in tasks:
            known = {known.name: known for known in self.tasks(task.split)}
            if task.name not in known:
                raise ValueError(
                    f"tasks: {self.name} has no task {task.name!r} in split {task.split!r}"
                    f"{closest(task.name, list(known))}"
                )
            if not task.goals or not set(task.goals) <= set(known[task.name].goals):
                raise ValueError(
                    f"tasks: goals of {task.name} must be among {known[task.name].goals[0]} to "
                    f"{known[task.name].goals[-1]} and at least one, got {task.goals}"
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
    ) -> VectorTasks:
        """Environments side by side, one for each of `tasks` (all training tasks by default).

        Args:
            tasks: a name may occur more than once.
            seed: the same seed gives the same trajectories under the same actions.
            purpose: "train" or "evaluation", two independent families of random streams.
            autoreset: see `envs.episodes.Rules`.
            terminate_on_success: end an episode at its first success.

        Raises:
            ValueError: an argument the suite cannot serve.
        """
        if purpose not in PURPOSES:
            raise ValueError(f"purpose must be one of {PURPOSES}, got {purpose!r}")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be a whole number of at least 0, got {seed!r}")
        chosen = tuple(self.tasks() if tasks is None else tasks)
        if not chosen:
            raise ValueError("tasks must name at least one task, got none")
        self.check(chosen)
        spec = self.spec
        workers = os.cpu_count() or 1 if self._workers is None else self._workers
        return VectorTasks(
            self.build(chosen),
            chosen,
            Rules(
                spec.observation_dim,
                spec.action_dim,
                spec.horizon,
                autoreset=autoreset,
                terminate_on_success=terminate_on_success,
            ),
            seeds=self.seeds(len(chosen), seed, purpose),
            check=self.check,
            workers=min(workers, len(chosen)),
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
