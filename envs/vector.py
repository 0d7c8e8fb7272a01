"""Many environments side by side, spoken to in TensorDict."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

import torch
from numpy.typing import NDArray
from tensordict import TensorDict

from envs import plain
from envs.arrays import Arrays, Rules, new_arrays, told, write_actions
from envs.engine import Engine
from envs.episodes import Build, Chunk, Seed, Task
from envs.errors import TaskError
from envs.workers import WorkerPool

STATE_FORMAT = 2


class Vector:
    """Environments that step together, one task each, spoken to in TensorDict.

    Args:
        engine: what steps them.
        arrays: where the engine reads and writes, those of `envs.arrays.fields`.
        tasks: one per environment.
        rules: sizes, horizon, what happens at the end of an episode.
        check: raises ValueError for tasks that `assign` must refuse.

    A transition that must not be stored has ("next", "valid") False: its worker died, its simulator
    broke down, or the environment was resting. If such a transition also ends an episode that was
    not over, the whole episode is void.
    """

    def __init__(
        self,
        engine: Engine,
        arrays: Arrays,
        tasks: Sequence[Task],
        rules: Rules,
        check: Callable[[Sequence[Task]], None],
    ) -> None:
        self._chunk, self._arrays = engine, arrays
        self._tasks, self._rules, self._check = tuple(tasks), rules, check
        self._past = {"worker_restarts": 0, "unstable_episodes": 0}
        self._begun = False
        self._closed = False

    @property
    def num_envs(self) -> int:
        """How many environments step together."""
        return len(self._tasks)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks as last assigned."""
        return self._tasks

    @property
    def rules(self) -> Rules:
        """Sizes, horizon and what happens at the end of an episode."""
        return self._rules

    @property
    def arrays(self) -> Arrays:
        """The arrays of `envs.arrays.fields`, which every step overwrites."""
        return self._arrays

    @property
    def faults(self) -> dict[str, int]:
        """Counts since the beginning: "worker_restarts" and "unstable_episodes"."""
        return {
            "worker_restarts": self._past["worker_restarts"] + self._chunk.restarts,
            "unstable_episodes": self._past["unstable_episodes"]
            + int(self._arrays["unstable"].sum()),
        }

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """Process ids of the workers; empty when stepping in this process."""
        return self._chunk.pids

    def reset(self) -> TensorDict:
        """Begin a new episode everywhere and return `current()`."""
        self._open()
        self._chunk.reset()
        self._begun = True
        return self.current()

    def current(self) -> TensorDict:
        """What the policy sees now: the next root, in tensors of its own.

        Returns:
            "observation" `[n, observation_dim]`, "task_id" `[n]`, "is_init" `[n, 1]`,
            "episode" `[n]`.
        """
        names = ("observation", "task_id", "is_init", "episode")
        return TensorDict(
            {name: torch.from_numpy(self._arrays[name].copy()) for name in names},
            batch_size=[self.num_envs],
        )

    def step(self, td: TensorDict) -> TensorDict:
        """One step of every environment.

        Args:
            td: "action" `[n, action_dim]` in [-1, 1] (clipped; td keeps its own), or, where actions
                are discrete, whole numbers `[n]` below `action_dim`.

        Returns:
            the same TensorDict with its "next" part: "observation" (at the end of an episode its
            true last one), "reward", "terminated", "truncated", "done", "success", "valid", and
            what `envs.arrays.told` lists.

        Raises:
            ValueError: an action of the wrong shape or kind, not finite, or not one there is.
            RuntimeError: not reset yet, closed, or workers that fail again and again.
        """
        action = td["action"]
        if action.dtype is torch.bfloat16:  # which numpy does not have
            action = action.float()
        self.advance(action.numpy(force=True))
        td["next"] = self._next()
        return td

    def advance(self, action: NDArray[Any]) -> None:
        """`step` below TensorDict: the action is an array, what follows is in `arrays`.

        Raises:
            ValueError, RuntimeError: as `step`.
        """
        self._open()
        if not self._begun:
            raise RuntimeError("step before the first reset; call reset() or load_state_dict()")
        write_actions(self._arrays["action"], action, self._rules.discrete, self._rules.action_dim)
        self._chunk.step()

    def _next(self) -> TensorDict:
        arrays = self._arrays
        names = ("reward", "terminated", "truncated", "success", "valid")
        values = {name: arrays[name].copy() for name in names}
        values |= {name: arrays[f"next_{name}"].copy() for name in told(self._rules)}
        values["observation"] = arrays["next_observation"].copy()
        values["done"] = values["terminated"] | values["truncated"]
        tensors = {name: torch.from_numpy(value) for name, value in values.items()}
        return TensorDict(tensors, batch_size=[self.num_envs])

    def assign(self, tasks: Sequence[Task]) -> None:
        """New tasks, as many as environments, each in effect from its next episode on.

        Raises:
            ValueError: another number of tasks, or tasks the suite does not have.
        """
        self._open()
        if len(tasks) != self.num_envs:
            raise ValueError(
                f"tasks must be {self.num_envs}, one per environment, got {len(tasks)}"
            )
        self._check(tasks)
        self._chunk.assign(tasks)
        self._tasks = tuple(tasks)

    def state_dict(self) -> dict[str, Any]:
        """Everything the future depends on: dicts, lists, scalars and tensors only.

        It does not depend on the number of workers: a state taken with two workers can be loaded
        into a vector that steps in this process, and the other way round.
        """
        self._open()
        return {
            "format": STATE_FORMAT,
            "rules": asdict(self._rules),
            "begun": self._begun,
            "faults": self.faults,
            "environments": plain.tensors(self._chunk.state()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken.

        Raises:
            ValueError: the state of another format, of other sizes, horizon or ends of episodes, or
                of another number of environments.
        """
        self._open()
        if state.get("format") != STATE_FORMAT:
            raise ValueError(
                f"state has format {state.get('format')!r}, this version reads {STATE_FORMAT}"
            )
        mine = asdict(self._rules)
        for name, value in state["rules"].items():
            if mine[name] != value:
                raise ValueError(f"state is of a vector whose {name} is {value}, not {mine[name]}")
        states = plain.arrays(state["environments"])
        tasks = self._chunk.assigned(states)
        if len(tasks) != self.num_envs:
            raise ValueError(f"state is of {len(tasks)} environments, this has {self.num_envs}")
        self._check(tasks)
        self._tasks = tasks
        self._chunk.load(states)
        self._begun = bool(state["begun"])
        for name in self._past:
            self._past[name] = 0
            self._past[name] = int(state["faults"][name]) - self.faults[name]

    def close(self) -> None:
        """End the workers and free the simulators; may be called twice."""
        if not self._closed:
            self._closed = True
            self._chunk.close()

    def __enter__(self) -> Self:
        """The vector itself; it is closed at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _open(self) -> None:
        if self._closed:
            raise RuntimeError("this vector is closed")


class VectorTasks(Vector):
    """A `Vector` of one simulator for each environment.

    Args:
        build: makes the simulator of a task.
        tasks: one per environment.
        rules: sizes, horizon, what happens at the end of an episode.
        seeds: one random stream per environment.
        check: raises ValueError for tasks that `assign` must refuse.
        workers: worker processes; 0 steps in this process. The numbers are the same.
        timeout: seconds after which a worker counts as hung.

    Raises:
        TaskError: The system refuses a process or its memory, or a simulator breaks the rules.
    """

    def __init__(
        self,
        build: Build,
        tasks: Sequence[Task],
        rules: Rules,
        *,
        seeds: Sequence[Seed],
        check: Callable[[Sequence[Task]], None],
        workers: int = 0,
        timeout: float = 60.0,
    ) -> None:
        if workers:
            try:
                pool = WorkerPool(build, tasks, seeds, rules, workers, timeout)
            except OSError as error:
                raise TaskError(
                    f"no worker process could be started for environments ({error}); allow more "
                    "open files (ulimit -n), processes or shared memory, or bind workers = 0"
                ) from error
            super().__init__(pool, pool.arrays, tasks, rules, check)
        else:
            arrays = new_arrays(len(tasks), rules)
            super().__init__(Chunk(build, tasks, seeds, rules, arrays), arrays, tasks, rules, check)
