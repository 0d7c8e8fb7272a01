"""Episode bookkeeping for a list of environments: goals, time limit, auto-reset, broken simulators.

A `Chunk` writes into plain numpy arrays. The same class runs in this process and, one per worker
process, over shared memory; that is why the two modes give the same numbers. This module imports
neither torch nor gin, so that a worker starts quickly and knows no configuration.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from envs.arrays import Arrays, Rules, silence, told
from envs.breakdowns import Breakdowns
from envs.environment import REAL, Environment, check_environment, fault, reset_fault
from envs.errors import TaskError
from envs.spares import Spares

SPLITS = ("train", "test")
LARGEST_SQUARE = float(np.finfo(np.float32).max) ** 2


@dataclass(frozen=True)
class Task:
    """An environment class and the goals it draws from at each reset.

    Attributes:
        name: the environment's name in its suite.
        task_id: index of the name in the suite.
        split: "train" or "test".
        goals: indices into the suite's goals of that name and split.
    """

    name: str
    task_id: int
    split: str = "train"
    goals: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Seed:
    """The random stream of one environment: entropy and spawn key of a `numpy.SeedSequence`."""

    entropy: int
    spawn_key: tuple[int, ...] = ()

    def generator(self) -> np.random.Generator:
        """A generator at the start of the stream, of the kind gymnasium seeds its own with."""
        sequence = np.random.SeedSequence(self.entropy, spawn_key=self.spawn_key)
        return np.random.Generator(np.random.PCG64(sequence))


def goal_stream(goal_seed: int, split: str, number: int) -> np.random.Generator:
    """Where goal `number` of a split is drawn from, for suites with an endless list of goals."""
    return Seed(goal_seed, (SPLITS.index(split), number)).generator()


Build = Callable[[Task], Environment]


class Chunk:
    """Steps a list of environments, one after the other, and keeps their episodes.

    Args:
        build: makes the simulator of a task.
        tasks: one per environment.
        seeds: one per environment; the stream chooses the goal of each episode.
        rules: see `Rules`.
        arrays: the rows of these environments in the arrays of `fields`.

    An episode whose simulator breaks down, or gives a non-finite number, ends as truncated at its
    last good observation, with "valid" False and reward 0, and is counted in "unstable"; too many
    are an error, see `Breakdowns`. What breaks the rules of `envs.environment` is a TaskError at
    once.

    Where an environment takes on a task of another name or split, its simulator is kept, up to
    `max_spares` of them, and serves the next environment that needs one of that kind.
    """

    max_spares = 50
    restarts = 0  # of workers, of which there are none
    pids: tuple[int, ...] = ()

    def __init__(
        self,
        build: Build,
        tasks: Sequence[Task],
        seeds: Sequence[Seed],
        rules: Rules,
        arrays: Arrays,
    ) -> None:
        self._build, self._rules, self._arrays = build, rules, arrays
        self._tasks = list(tasks)
        self._pending: list[Task | None] = [None] * len(self._tasks)
        self._goals = [task.goals[0] for task in self._tasks]
        self._elapsed = [0] * len(self._tasks)
        self._done = [False] * len(self._tasks)
        self._breakdowns = Breakdowns()
        self._told = tuple((name, int(np.prod(shape))) for name, (shape, _) in told(rules).items())
        self._shape = (rules.observation_dim,)
        self._rngs = [seed.generator() for seed in seeds]
        self._environments = [self._new(task) for task in self._tasks]
        self._spares = Spares(self.max_spares)
        for i, task in enumerate(self._tasks):
            arrays["task_id"][i] = task.task_id

    def reset(self) -> None:
        """Begin a new episode in every environment."""
        self._place({i: task for i, task in enumerate(self._pending) if task is not None})
        for i in range(len(self._tasks)):
            self._begin(i)

    def step(self) -> None:
        """Read "action", write what follows; see `envs.arrays.Rules` for the end of an episode."""
        actions = self._arrays["action"].copy()
        for environment, done, action in zip(self._environments, self._done, actions, strict=True):
            if not done:
                environment.simulate(action)
        for i, done in enumerate(self._done):
            if done:
                self._rest(i)
            else:
                self._finish(i)
                self._go_on(i)

    def assign(self, tasks: Sequence[Task]) -> None:
        """New tasks, which take effect where the next episode begins."""
        self._pending = list(tasks)

    def rest(self) -> None:
        """Let every environment rest until the next reset."""
        self._done = [True] * len(self._tasks)

    def close(self) -> None:
        """Free the simulators."""
        for environment in self._environments:
            environment.close()
        self._spares.close()

    def state(self) -> list[dict[str, Any]]:
        """One entry per environment; `load` of another chunk of the same rules continues it."""
        arrays = self._arrays
        return [
            {
                "task": asdict(self._tasks[i]),
                "pending": None if (task := self._pending[i]) is None else asdict(task),
                "goal": self._goals[i],
                "elapsed": self._elapsed[i],
                "done": self._done[i],
                "rng": rng.bit_generator.state,
                "rows": {name: np.array(arrays[name][i]) for name in arrays if name != "action"},
                "simulator": environment.snapshot(),
            }
            for i, (rng, environment) in enumerate(zip(self._rngs, self._environments, strict=True))
        ]

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Continue where `state` was taken."""
        self._place({i: restored(state["task"]) for i, state in enumerate(states)})
        for i, state in enumerate(states):
            self._pending[i] = None if state["pending"] is None else restored(state["pending"])
            self._goals[i] = int(state["goal"])
            self._elapsed[i] = int(state["elapsed"])
            self._done[i] = bool(state["done"])
            self._rngs[i].bit_generator.state = state["rng"]
            for name, row in state["rows"].items():
                self._arrays[name][i] = row
            self._environments[i].restore(state["simulator"])

    @staticmethod
    def assigned(states: Sequence[Mapping[str, Any]]) -> tuple[Task, ...]:
        """The tasks as last assigned when `state` was taken."""
        return tuple(restored(state["pending"] or state["task"]) for state in states)

    def _new(self, task: Task) -> Environment:
        environment = self._build(task)
        check_environment(task.name, environment, self._rules)
        return environment

    def _place(self, tasks: Mapping[int, Task]) -> None:
        """Tasks for some environments; a simulator that one gives up may serve another."""
        kinds = [(task.name, task.split) for task in self._tasks]
        moved = [i for i, task in tasks.items() if (task.name, task.split) != kinds[i]]
        for i in moved:
            self._spares.put(kinds[i], self._environments[i])
        for i in moved:
            spare = self._spares.take((tasks[i].name, tasks[i].split))
            self._environments[i] = self._new(tasks[i]) if spare is None else spare
        self._spares.trim()
        for i, task in tasks.items():
            self._tasks[i], self._pending[i] = task, None
            self._arrays["task_id"][i] = task.task_id

    def _begin(self, i: int) -> None:
        pending = self._pending[i]
        if pending is not None:
            self._place({i: pending})
        goals = self._tasks[i].goals
        self._goals[i] = goals[int(self._rngs[i].choice(len(goals)))]
        options = {"goal": self._goals[i], "rng": self._rngs[i]}
        began = self._environments[i].reset(options=options)
        if said := reset_fault(self._tasks[i].name, began, self._rules):
            raise TaskError(said)
        with np.errstate(over="ignore"):  # a number beyond single precision is infinite there
            observation = np.asarray(began[0], np.float32)
        if not np.isfinite(observation).all():
            raise RuntimeError(
                f"{self._tasks[i].name}, goal {self._goals[i]}: the first observation is not finite"
            )
        self._elapsed[i] = 0
        self._done[i] = False
        self._arrays["observation"][i] = observation
        self._arrays["is_init"][i] = True
        self._arrays["episode"][i] += 1

    def _rest(self, i: int) -> None:
        self._arrays["reward"][i] = 0.0
        self._arrays["success"][i] = False
        self._arrays["valid"][i] = False
        silence(self._arrays, i)

    def _finish(self, i: int) -> None:
        outcome = self._environments[i].outcome()
        self._elapsed[i] += 1
        try:
            self._write(i, outcome)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            name = self._tasks[i].name
            said = fault(name, outcome, self._rules)
            raise TaskError(said or f"task {name}: {type(error).__name__}: {error}") from error

    def _write(self, i: int, outcome: tuple[Any, Any, bool, bool, dict[str, Any]]) -> None:
        arrays, rules = self._arrays, self._rules
        observation, reward, terminated, truncated, info = outcome
        # Only nan is unequal to itself, and True by `bool`.
        if observation.shape != self._shape or info["success"] != info["success"]:
            raise ValueError("see `fault`")
        if observation.dtype.char not in "fd":
            if observation.dtype.kind not in REAL:
                raise ValueError("see `fault`")
            observation = observation.astype(np.float64)  # whose squares fit
        success = bool(info["success"])
        terminated = terminated or (rules.terminate_on_success and success)
        truncated = truncated or self._elapsed[i] >= rules.horizon
        # One sum tells whether every number is finite and fits single precision.
        square = float(observation.dot(observation)) + float(reward) * float(reward)
        valid = square < LARGEST_SQUARE and not info.get("unstable", False)
        if valid:
            arrays["next_observation"][i] = observation
            for name, size in self._told:
                if np.size(info[name]) != size:  # numpy would fill the row with one number
                    raise ValueError("see `fault`")
                arrays[f"next_{name}"][i] = info[name]
        else:
            arrays["next_observation"][i] = arrays["observation"][i]
            arrays["unstable"][i] += 1
            silence(arrays, i)
            reward, success, terminated, truncated = 0.0, False, False, True
        arrays["reward"][i] = reward
        arrays["success"][i] = success
        arrays["terminated"][i] = terminated
        arrays["truncated"][i] = truncated
        arrays["valid"][i] = valid
        arrays["is_init"][i] = False
        self._done[i] = terminated or truncated

    def _go_on(self, i: int) -> None:
        """Begin the next episode after an end, unless this one goes on or rests."""
        if self._done[i]:
            if not self._arrays["valid"][i, 0]:
                begun = int(self._arrays["episode"].sum()) + len(self._tasks)  # the first is 0
                self._breakdowns.note(begun, self._tasks[i].name)
            if self._rules.autoreset:
                self._begin(i)
                return
        self._arrays["observation"][i] = self._arrays["next_observation"][i]


def restored(state: Mapping[str, Any]) -> Task:
    """The task whose fields these are."""
    return Task(state["name"], state["task_id"], state["split"], tuple(state["goals"]))
