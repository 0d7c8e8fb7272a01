"""Meta-World v3 as a suite: MT1, MT10, MT25, MT50, ML1, ML10, ML25, ML45, or a list of tasks.

Yu et al., "Meta-World: A Benchmark and Evaluation for Multi-Task and Meta Reinforcement Learning",
2019, and McLean et al., "Meta-World+", 2025.
"""

import envs.opengl  # noqa: F401

# isort: split
from collections.abc import Sequence
from functools import partial
from typing import Any

import gin
import numpy as np
from metaworld import env_dict

from envs.arguments import check_whole
from envs.episodes import Build, Seed, Task
from envs.goals import Goals, draw
from envs.manipulation import build
from envs.suite import Spec, Suite, closest

ALL_TASKS = tuple(env_dict.ALL_V3_ENVIRONMENTS)
BENCHMARKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "MT10": (tuple(env_dict.MT10_V3), ()),
    "MT25": (tuple(env_dict.MT25_V3), ()),
    "MT50": (tuple(env_dict.MT50_V3), ()),
    **{
        name: (tuple(classes["train"]), tuple(classes["test"]))
        for name, classes in (
            ("ML10", env_dict.ML10_V3),
            ("ML25", env_dict.ML25_V3),
            ("ML45", env_dict.ML45_V3),
        )
    },
}
GOALS_DRAWN = 50


@gin.configurable
class MetaWorldSuite(Suite):
    """The tasks of a Meta-World v3 benchmark.

    Args:
        benchmark: "MT10", "MT25", "MT50", "ML10", "ML25", "ML45"; "MT1" or "ML1" together with
            `task`; or a list of task names. In an ML benchmark the goal is hidden.
        task: the task of MT1 or ML1, for example "reach-v3".
        reward_version: "v1" or "v2".
        horizon: steps per episode, at most 500.
        num_goals: 50, one of which is drawn at each reset, or 1, always the same: the first of the
            50, or the one that `goal_draw` draws.
        goal_seed: seed the goals are drawn with. They are those of `metaworld.MT10(seed=goal_seed)`
            and so on. For a list each task has those of `metaworld.MT1(name, seed=goal_seed)`,
            whatever else is in the list.
        goal_draw: with `num_goals` 1, the seed that draws each task's one goal among its 50, in
            training and evaluation alike; None for the first of them. A task's draw depends on its
            name and this seed alone.
        seeding: "own" gives each environment its own random stream of goals; "upstream" seeds them
            all alike, as `gymnasium.make_vec("Meta-World/MT10", seed=...)` does, so that all tasks
            draw the same goal numbers.
        accelerated: use the faster classes of `envs.sawyer`, which give the same numbers; False
            for upstream's own.
        workers: worker processes, 0 for this process, None for one per core.
        timeout: seconds after which a worker counts as hung.

    Raises:
        ValueError: naming the argument, before anything is simulated.
    """

    def __init__(
        self,
        benchmark: str | Sequence[str] = "MT10",
        *,
        task: str | None = None,
        reward_version: str = "v2",
        horizon: int = 500,
        num_goals: int = 50,
        goal_seed: int = 42,
        goal_draw: int | None = None,
        seeding: str = "own",
        accelerated: bool = True,
        workers: int | None = None,
        timeout: float = 60.0,
    ) -> None:
        super().__init__(workers=workers, timeout=timeout)
        self._train, self._test = _names(benchmark, task)
        self._benchmark = benchmark if isinstance(benchmark, str) else None
        _among("reward_version", reward_version, ("v1", "v2"))
        _among("num_goals", num_goals, (GOALS_DRAWN, 1))
        _among("seeding", seeding, ("own", "upstream"))
        _whole("horizon", horizon, 1, 500)
        # Meta-World draws the goals of an ML benchmark's test tasks with the next seed.
        _whole("goal_seed", goal_seed, 0, 2**32 - (2 if str(benchmark).startswith("ML") else 1))
        if goal_draw is not None:
            _whole("goal_draw", goal_draw, 0, 2**32 - 1)
            if num_goals != 1:
                raise ValueError(f"goal_draw goes with num_goals 1, not with {num_goals}")
        self._reward_version, self._horizon, self._num_goals = reward_version, horizon, num_goals
        self._goal_seed, self._goal_draw, self._seeding = goal_seed, goal_draw, seeding
        self._accelerated = accelerated
        self._goals: dict[str, Goals] | None = None

    @property
    def name(self) -> str:
        """For example "MT10", "MT1-reach-v3", or "custom" with the number of tasks."""
        if self._benchmark is None:
            return f"custom-{len(self._train)}"
        single = self._benchmark in ("MT1", "ML1")
        return f"{self._benchmark}-{self._train[0]}" if single else self._benchmark

    @property
    def goal_hidden(self) -> bool:
        """Whether the observation lacks the goal (ML benchmarks)."""
        return self._benchmark is not None and self._benchmark.startswith("ML")

    @property
    def spec(self) -> Spec:
        """39 numbers to see, 4 to choose."""
        return Spec(39, 4, len(self._train), self._horizon, self._train)

    @property
    def positions(self) -> tuple[int, ...]:
        """All but the goal."""
        return tuple(range(36))

    def tasks(self, split: str = "train") -> tuple[Task, ...]:
        """The tasks of "train" or "test"; MT benchmarks have no test tasks.

        Ids count the training tasks first; a test task that is no training task comes after them.
        """
        _among("split", split, ("train", "test"))
        ids = {name: i for i, name in enumerate(dict.fromkeys(self._train + self._test))}
        names = self._train if split == "train" else self._test
        return tuple(Task(name, ids[name], split, self._numbers(name)) for name in names)

    def choose(
        self, num_tasks: int, tasks: Sequence[Task], generator: np.random.Generator
    ) -> list[Task]:
        """As many tasks of each class, in random order; see `Suite.sample`.

        Raises:
            ValueError: a number of tasks that the classes cannot share.
        """
        if len(tasks) < 2:
            return super().choose(num_tasks, tasks, generator)
        check_whole("num_tasks", num_tasks, 1)
        if num_tasks % len(tasks):
            raise ValueError(
                f"num_tasks must be a multiple of the {len(tasks)} classes of {self.name} in the "
                f"split {tasks[0].split!r}, got {num_tasks!r}"
            )
        return [tasks[i % len(tasks)] for i in generator.permutation(num_tasks).tolist()]

    def _numbers(self, name: str) -> tuple[int, ...]:
        """Which of the 50 goals a task has."""
        if self._goal_draw is None:
            return tuple(range(self._num_goals))
        stream = np.random.SeedSequence(self._goal_draw, spawn_key=(ALL_TASKS.index(name),))
        return (int(stream.generate_state(1, np.uint64)[0]) % GOALS_DRAWN,)

    def protocol(self) -> dict[str, Any]:
        """What decides a score besides the agent."""
        fixed = self._num_goals == 1
        return {
            "suite": "Meta-World v3",
            "benchmark": self.name,
            "tasks": list(self._train),
            "test_tasks": list(self._test),
            "reward_version": self._reward_version,
            "horizon": self._horizon,
            "goals_per_task": self._num_goals,
            "goal_seed": self._goal_seed,
            "goal_draw": self._goal_draw,
            "fixed_goals": [self._numbers(name)[0] for name in self._train] if fixed else None,
            "goal_hidden": self.goal_hidden,
            "seeding": self._seeding,
            "success": "at any step of the episode",
        }

    def seeds(self, count: int, seed: int, purpose: str) -> tuple[Seed, ...]:
        """One random stream per environment; under "upstream" all alike, for every purpose."""
        if self._seeding == "upstream":
            return (Seed(seed),) * count
        return super().seeds(count, seed, purpose)

    def goals(self) -> dict[str, Goals]:
        """Split -> task name -> goal vectors; drawn at the first call, see `envs.goals`."""
        if self._goals is None:
            seed = self._goal_seed
            if self._benchmark is None:
                drawn = {name: draw("MT1", seed, name)["train"][name] for name in self._train}
                self._goals = {"train": drawn, "test": {}}
            else:
                single = self._benchmark in ("MT1", "ML1")
                self._goals = draw(self._benchmark, seed, self._train[0] if single else None)
        return self._goals

    def build(self, tasks: Sequence[Task]) -> Build:
        """See `envs.manipulation.build`."""
        return partial(
            build, self.goals(), self._reward_version, self.goal_hidden, self._accelerated
        )


def _names(
    benchmark: str | Sequence[str], task: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if not isinstance(benchmark, str):
        if task is not None:
            raise ValueError("task goes with benchmark MT1 or ML1; leave it out for a list")
        names = tuple(benchmark)
        if not names or len(set(names)) != len(names):
            raise ValueError(f"benchmark must list one or more different tasks, got {names}")
        for name in names:
            _known("benchmark", name)
        return names, ()
    if benchmark in ("MT1", "ML1"):
        if task is None:
            raise ValueError(f"task must name the task of {benchmark}, for example 'reach-v3'")
        _known("task", task)
        return (task,), ((task,) if benchmark == "ML1" else ())
    if task is not None:
        raise ValueError(f"task goes with benchmark MT1 or ML1, not with {benchmark!r}")
    if benchmark not in BENCHMARKS:
        known = ["MT1", "ML1", *BENCHMARKS]
        raise ValueError(
            f"benchmark must be one of {known} or a list of task names, got {benchmark!r}"
            + (f"; did you mean [{benchmark!r}]?" if benchmark in ALL_TASKS else "")
        )
    return BENCHMARKS[benchmark]


def _known(argument: str, name: str) -> None:
    if name not in ALL_TASKS:
        hint = closest(name, ALL_TASKS)
        raise ValueError(f"{argument}: Meta-World v3 has no task {name!r}{hint}")


def _among(argument: str, value: object, choices: Sequence[object]) -> None:
    if isinstance(value, bool) or value not in choices:
        raise ValueError(f"{argument} must be one of {list(choices)}, got {value!r}")


def _whole(argument: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{argument} must be a whole number from {low} to {high}, got {value!r}")
