"""Evaluator: Meta-World's protocol, on environments and random streams of its own."""

import copy
import dataclasses
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Protocol

import gin
import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from runners.compatibility import versions
from runners.devices import device_of
from runners.evaluation_results import Scheduled, Table, try_out
from runners.regimes import PLAIN, check_evaluator


class Recorder(Protocol):
    """Watches the policy while it is evaluated."""

    def begin(self) -> None:
        """Forget the last evaluation."""

    def see(self, learner: Any, td: TensorDict, step: int, active: Tensor) -> None:
        """Take in what the policy met at a step; `active` bool `[n]`: whose episode goes on."""

    def summary(self) -> dict[str, Tensor]:
        """What to write."""
        ...


Episodes = dict[str, Tensor]
"""`success` and `valid` bool, `return` float64, `length` int64, each `[num_tasks, episodes]`, and
`counted`, bool: False where a task has fewer goals than the others: no episode of its own."""


@contextmanager
def untouched_randomness(seed: int) -> Iterator[None]:
    """Run with global random generators seeded by `seed`, and put back all that they were before.

    Covers Python, NumPy and torch on the CPU and on every CUDA device in use.
    """
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.random.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def evaluating(learner: nn.Module) -> Iterator[None]:
    """Put the learner into evaluation mode, and each of its modules back as it was."""
    modes = [(module, module.training) for module in learner.modules()]
    learner.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@gin.configurable
class Evaluator(Scheduled):
    """Every goal of every task once, as Meta-World prescribes: with the deterministic policy.

    An episode ends at its first success, and is a success if one step was
    (Meta-World 3, `metaworld.evaluation.evaluation`; every goal exactly once needs upstream's
    pseudorandom goal selection). An episode that the simulator broke off counts as it stood.

    The environments stay open, and start each evaluation from the same snapshot: the result
    depends on the policy and on `seed` alone, and neither global random generators nor the
    learner are changed by it.

    Args:
        interval: environment steps (of all tasks together) between two evaluations.
        episodes_per_goal: episodes for each goal.
        num_goals: only the first goals of each task; all of them if None.
        seed: of the evaluation's own environments, and of its actions if it samples them.
        explore: sample actions as in training, as some papers evaluate; results then say
            "stochastic".
        goals_at_once: goals of each task whose episodes run side by side, each in an environment of
            its own. Faster with few tasks; one suits many.
        recorder: watches the policy during the episodes (`networks.activity_recorder`); what it saw
            is written beside each result, as `<step>_activity.npz` or under its own `kind`, if it
            has one; nothing if it saw nothing.

    Raises:
        ValueError: for a value out of range.
    """

    def __init__(
        self,
        *,
        interval: int = 200_000,
        episodes_per_goal: int = 1,
        num_goals: int | None = None,
        seed: int = 0,
        explore: bool = False,
        goals_at_once: int = 1,
        recorder: Recorder | None = None,
    ) -> None:
        super().__init__(interval, seed)
        given = {"episodes_per_goal": episodes_per_goal, "goals_at_once": goals_at_once}
        if num_goals is not None:
            given["num_goals"] = num_goals
        for name, value in given.items():
            if value < 1:
                raise ValueError(f"Evaluator.{name} must be at least 1, got {value!r}")
        self.episodes_per_goal, self.num_goals = episodes_per_goal, num_goals
        self.explore = explore
        self.goals_at_once, self.recorder = goals_at_once, recorder
        self.success = torch.zeros(0)
        self.episodes: Episodes = {}
        self._suite: Any = None
        self._vector: Any = None
        self._start: Any = None

    def __call__(self, suite: Any, learner: Any) -> dict[str, float]:
        """Evaluate `learner` on all training tasks of `suite`.

        Returns:
            `eval/success_rate`, and for each task `eval/success_rate/<task>`,
            `eval/return/<task>` (undiscounted, up to the first success) and
            `eval/episode_length/<task>`. `self.success` `[num_tasks]` holds the rates, and
            `self.episodes` every single episode.
        """
        try:
            tasks = tuple(suite.tasks())
            with untouched_randomness(self.seed):
                self._open(suite, tasks)
            if self.recorder is not None:
                self.recorder.begin()
            goals = range(max(map(self._goals, tasks)))
            goals_in_turn = [goal for goal in goals for _ in range(self.episodes_per_goal)]
            # A stream of their own: environments that had to be opened may have drawn before.
            with untouched_randomness(self.seed), evaluating(learner):
                rounds = [
                    self._round(suite, learner, tasks, goals_in_turn[i : i + self.goals_at_once])
                    for i in range(0, len(goals_in_turn), self.goals_at_once)
                ]
        except BaseException:
            self.close()  # environments in an unknown state are not used again
            raise
        self._done()
        self.episodes = {key: torch.cat([r[key] for r in rounds], 1) for key in rounds[0]}
        return self._metrics(tasks)

    def check(self, suite: Any, learner: Any) -> None:
        """Raise ValueError for a learner that adapts to tasks: it needs experience to act."""
        check_evaluator("Evaluator", learner, PLAIN)

    def _goals(self, task: Any) -> int:
        goals = len(task.goals)
        return goals if self.num_goals is None else min(goals, self.num_goals)

    def _open(self, suite: Any, tasks: Sequence[Any]) -> None:
        if self._suite is not suite:
            self.close()
            tasks = tuple(tasks) * self.goals_at_once
            self._vector = suite.vector(
                tasks, self.seed, purpose="evaluation", autoreset=False, terminate_on_success=True
            )
            self._vector.reset()
            self._suite, self._start = suite, self._vector.state_dict()
        self._vector.load_state_dict(self._start)

    def _round(self, suite: Any, learner: Any, tasks: Sequence[Any], goals: list[int]) -> Episodes:
        """One episode for each task and goal, all at once; `[num_tasks, goals_at_once]` of each."""
        vector, device = self._vector, device_of(learner)
        missing = self.goals_at_once - len(goals)  # in the last round: repeated, not counted
        places = [
            (task, goal % self._goals(task), place < len(goals) and goal < self._goals(task))
            for place, goal in enumerate((*goals, *goals[-1:] * missing))
            for task in tasks
        ]
        vector.assign(
            tuple(dataclasses.replace(task, goals=(task.goals[goal],)) for task, goal, _ in places)
        )
        vector.reset()
        num = len(places)
        result = {
            "success": torch.zeros(num, dtype=torch.bool),
            "valid": torch.ones(num, dtype=torch.bool),
            "return": torch.zeros(num, dtype=torch.float64),
            "length": torch.zeros(num, dtype=torch.int64),
            "counted": torch.tensor([counted for *_, counted in places]),
        }
        active = result["counted"].clone()
        for step in range(suite.spec.horizon):
            td = vector.current()
            seen = td.to(device)
            td["action"] = learner.act(seen, explore=self.explore)["action"].to("cpu")
            if self.recorder is not None:
                self.recorder.see(learner, seen, step, active)
            td = vector.step(td)
            result["success"] |= active & td["next", "success"].squeeze(-1)
            result["valid"] &= ~active | td["next", "valid"].reshape(num)
            reward = td["next", "reward"].squeeze(-1).double()
            result["return"] += torch.where(active, reward, 0.0)
            result["length"] += active
            active &= ~td["next", "done"].squeeze(-1)
            if not bool(active.any()):
                break
        return {key: value.view(-1, len(tasks)).T for key, value in result.items()}

    def _metrics(self, tasks: Sequence[Any]) -> dict[str, float]:
        counted = self.episodes["counted"].double()
        means = {
            key: (self.episodes[key].double() * counted).sum(1) / counted.sum(1)
            for key in ("success", "return", "length")
        }
        self.success = means["success"].float()
        metrics = {"eval/success_rate": float(means["success"].mean())}
        tags = {"success": "success_rate", "return": "return", "length": "episode_length"}
        for key, tag in tags.items():
            for task, value in zip(tasks, means[key].tolist(), strict=True):
                metrics[f"eval/{tag}/{task.name}"] = value
        broken = int((~self.episodes["valid"] & self.episodes["counted"]).sum())
        return metrics | ({"eval/broken_episodes": float(broken)} if broken else {})

    def result(self, step: int, suite: Any, metrics: dict[str, float]) -> dict[str, Any]:
        """The last evaluation and all one must know to compare it, ready for JSON."""
        tasks = suite.tasks()
        episodes = self.episodes["counted"].sum(1).tolist()
        per_task = {
            task.name: {
                "success_rate": metrics[f"eval/success_rate/{task.name}"],
                "return": metrics[f"eval/return/{task.name}"],
                "episode_length": metrics[f"eval/episode_length/{task.name}"],
                "episodes": episodes[i],
                "goals": list(task.goals[: self._goals(task)]),
                "successes": self.episodes["success"][i][self.episodes["counted"][i]].tolist(),
            }
            for i, task in enumerate(tasks)
        }
        return {
            "step": step,
            "suite": suite.name,
            "protocol": suite.protocol(),
            "horizon": suite.spec.horizon,
            "success": "at any step of the episode, which ends there",
            "policy": "stochastic" if self.explore else "deterministic",
            "episodes_per_goal": self.episodes_per_goal,
            "episodes_per_task": max(episodes),
            "seed": self.seed,
            "success_rate": metrics["eval/success_rate"],
            "tasks": per_task,
            "versions": versions(),
        }

    def recorded(self) -> dict[str, Any]:
        """What the recorder saw, under its `kind`; nothing if it saw nothing."""
        if self.recorder is None:
            return {}
        arrays = {name: value.numpy() for name, value in self.recorder.summary().items()}
        return {getattr(self.recorder, "kind", "activity"): arrays} if arrays else {}

    def score(self, metrics: dict[str, float]) -> float:
        """What the best checkpoint is chosen by: the mean success rate."""
        return metrics["eval/success_rate"]

    def table(self, result: dict[str, Any]) -> Table:
        """A line for each task, and their mean."""
        rows = [
            (
                name,
                f"{task['success_rate']:.3f}",
                f"{task['return']:.1f}",
                f"{task['episode_length']:.1f}",
                str(task["episodes"]),
            )
            for name, task in result["tasks"].items()
        ]
        header = ("task", "success", "return", "length", "episodes")
        return Table(header, rows, [("mean", f"{result['success_rate']:.3f}")])

    def adjust(self, suite: Any, episodes: int | None, seed: int | None) -> None:
        """Take another number of episodes of each task, or another seed, if given.

        Raises:
            ValueError: if the goals cannot be shared out evenly over the episodes.
        """
        self.seed = self.seed if seed is None else seed
        if episodes is None:
            return
        goals = max(len(task.goals) for task in suite.tasks())
        if episodes > goals and episodes % goals:
            raise ValueError(
                f"--episodes={episodes}: at most {goals}, the number of goals, or a multiple"
            )
        self.num_goals, self.episodes_per_goal = min(episodes, goals), max(1, episodes // goals)

    def rehearse(self, suite: Any, learner: Any) -> float:
        """Seconds that an evaluation will take, from a short one."""
        short = copy.copy(self)
        short._suite = short._vector = None
        short.num_goals, short.episodes_per_goal = self.goals_at_once, 1
        start = perf_counter()
        try:
            try_out(short, suite, short(suite, learner))
        finally:
            short.close()
        episodes = max(map(self._goals, suite.tasks())) * self.episodes_per_goal
        return (perf_counter() - start) * -(-episodes // self.goals_at_once)

    def close(self) -> None:
        """Close the environments; the next evaluation opens new ones."""
        vector, self._suite, self._vector = self._vector, None, None
        if vector is not None:
            vector.close()
