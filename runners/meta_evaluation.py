"""MetaEvaluator: what a meta-learner does before, and after each of some adaptation steps."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import gin
import numpy as np
import torch
from scipy.stats import t as student
from tensordict import TensorDict
from torch import Tensor

from runners.compatibility import versions
from runners.devices import device_of
from runners.evaluation import evaluating, untouched_randomness
from runners.evaluation_results import Table
from runners.latent_records import Arrays
from runners.regimes import ON_POLICY, check_evaluator
from runners.rollout_evaluation import RolloutEvaluator
from runners.rollouts import Rollouts, check_draw, check_fits, check_numbers, returns, successes

SPLITS = ("train", "test")


class Recorder(Protocol):
    """Is shown the episodes of an evaluation, after each step of it."""

    episodes: int | None
    """How many of each task and step are kept; None: all."""

    def begin(self) -> None:
        """Forget the last evaluation."""

    def check(self, learner: Any) -> None:
        """TypeError if this learner cannot be recorded."""

    def width(self, learner: Any, observation: Tensor, latent: Tensor) -> int:
        """How many numbers are kept for a time step, told from any one."""
        ...

    def see(
        self, learner: Any, split: str, step: int, experience: TensorDict, latent: Tensor
    ) -> None:
        """Take in the episodes `[tasks, episodes, time]` that were run with these latents."""

    def summary(self) -> dict[str, Tensor]:
        """What to write, by name, as `<split>/<name>`."""
        ...


@gin.configurable
class MetaEvaluator(RolloutEvaluator):
    """For each of some tasks: episodes, one adaptation to them, new episodes, and so on.

    Step 0 is the policy that has seen nothing; step k has adapted k times, each time to the newest
    episodes alone. Actions are sampled, as in training: adaptation needs that. Tasks are drawn once
    by `seed`, environments start each evaluation from the same snapshot, and neither global random
    generators nor the learner are changed, so that the result depends on the policy alone.

    Args:
        interval: steps of the run (a meta-loop's are iterations) between two evaluations.
        num_tasks: tasks of each split; if None, each goal of each of them.
        tasks_at_once: how many of them have environments at once; all if None.
        episodes: episodes of each task before adaptation, and after each step of it.
        episodes_at_once: how many of them run side by side; all if None.
        adaptations: adaptation steps.
        splits: of the tasks; "train", "test" or both. The last one is the headline.
        seed: of the tasks and of all that is random in an evaluation.
        recorder: is shown all episodes (`networks.layer_recorder`); what it kept is written beside
            each result, as `<step>_activations.npz`, with the tasks' names and goals.

    Raises:
        ValueError: for a value out of range.
    """

    def __init__(
        self,
        *,
        interval: int = 10,
        num_tasks: int | None = 20,
        tasks_at_once: int | None = None,
        episodes: int = 40,
        episodes_at_once: int | None = None,
        adaptations: int = 4,
        splits: Sequence[str] = ("train", "test"),
        seed: int = 0,
        recorder: Recorder | None = None,
    ) -> None:
        super().__init__(interval, seed)
        limits = {"num_tasks": num_tasks, "tasks_at_once": tasks_at_once}
        given = {name: number for name, number in limits.items() if number is not None}
        given |= {"adaptations": adaptations, "episodes": episodes}
        check_numbers("MetaEvaluator", given, episodes_at_once)
        splits = tuple(splits)
        if not splits or not set(splits) <= set(SPLITS) or len(set(splits)) < len(splits):
            raise ValueError(f"MetaEvaluator.splits must be among {SPLITS}, got {splits}")
        self.num_tasks, self.tasks_at_once = num_tasks, tasks_at_once
        self.episodes, self.at_once = episodes, episodes_at_once
        self.adaptations, self.splits, self.recorder = adaptations, splits, recorder
        self.returns: dict[str, Tensor] = {}
        self.successes: dict[str, Tensor] = {}
        self.last_successes: dict[str, Tensor] = {}

    def __call__(self, suite: Any, learner: Any) -> dict[str, float]:
        """Evaluate `learner`.

        Returns:
            `eval/return/<split>/step_<k>` and `eval/success_rate/<split>/step_<k>` (success at any
            step of the episode), means over tasks and episodes; `eval/return` and
            `eval/success_rate` are those of the last split after the last step, and
            `eval/return_before` those of its step 0. `self.returns`, `self.successes` and
            `self.last_successes` (success at an episode's last step) hold every episode by split,
            `[tasks, steps, episodes]`, nan where a simulator broke the episode off; means leave
            those out, and `eval/broken_episodes` counts them, if there are any.
        """
        if self.recorder is not None:
            self.recorder.check(learner)
            self.recorder.begin()
        self._evaluate(suite, learner)
        metrics = {}
        for tag, scores in (("return", self.returns), ("success_rate", self.successes)):
            for split in self.splits:
                for step in range(self.adaptations + 1):
                    mean = scores[split][:, step].nanmean()
                    metrics[f"eval/{tag}/{split}/step_{step}"] = float(mean)
        split = self.splits[-1]
        self.success = self.successes[split][:, -1].nanmean(-1).float()
        for tag in ("return", "success_rate"):
            metrics[f"eval/{tag}"] = metrics[f"eval/{tag}/{split}/step_{self.adaptations}"]
        metrics["eval/return_before"] = metrics[f"eval/return/{split}/step_0"]
        return metrics | broken(self.returns)

    def check(self, suite: Any, learner: Any) -> None:
        """Refuse what does not fit.

        Raises:
            ValueError: a learner that does not adapt, or tasks that cannot be drawn.
            TypeError: a learner that the recorder cannot record.
        """
        check_evaluator("MetaEvaluator", learner, ON_POLICY)
        drawn = []
        for split in self.splits:
            number = len(suite.each(split)) if self.num_tasks is None else self.num_tasks
            at_once = min(number, self.tasks_at_once or number)
            fix = "num_tasks (META_BATCH) or episodes (TEST_EPISODES)"
            check_fits("MetaEvaluator", suite, at_once, self.episodes, fix=fix)
            if self.num_tasks is not None:
                check_draw("MetaEvaluator.num_tasks", suite, self.num_tasks, split)
            drawn.append(number)
        if self.recorder is not None:
            self.recorder.check(learner)
            self._check_record(suite, learner, self.recorder, sum(drawn))

    def _check_record(self, suite: Any, learner: Any, recorder: Recorder, num_tasks: int) -> None:
        """Refuse a record that does not fit into memory; it is there twice as it is written."""
        device = device_of(learner)
        observation = torch.zeros(1, 1, 1, suite.spec.observation_dim, device=device)
        width = recorder.width(learner, observation, learner.prior(1)["latent"])
        check_fits(
            "MetaEvaluator.recorder",
            suite,
            num_tasks,
            min(self.episodes, recorder.episodes or self.episodes),
            copies=2 * (self.adaptations + 1),
            width=width,
            fix="LayerRecorder.episodes (--activation_episodes)",
        )

    @property
    def _first(self) -> str:
        return self.splits[0]

    def _build(self, suite: Any) -> Rollouts:
        for split in self.splits:
            generator = np.random.default_rng((self.seed, SPLITS.index(split)))
            self._tasks[split] = (
                suite.each(split)
                if self.num_tasks is None
                else tuple(suite.sample(self.num_tasks, split, generator))
            )
        most = max(map(len, self._tasks.values()))
        return Rollouts(
            suite,
            most if self.tasks_at_once is None else min(most, self.tasks_at_once),
            self.episodes,
            at_once=self.at_once,
            seed=self.seed,
            purpose="evaluation",
        )

    def _rows(self, split: str) -> Sequence[Any]:
        return next(self._groups(split, self._rollouts.num_tasks))

    def _groups(self, split: str, size: int) -> Iterator[tuple[Any, ...]]:
        """The tasks, so many at a time; the last ones are filled up with the first, run twice."""
        tasks = self._tasks[split]
        for start in range(0, len(tasks), size):
            yield tuple(tasks[i % len(tasks)] for i in range(start, start + size))

    def _measure(self, rollouts: Rollouts, learner: Any) -> None:
        for split in self.splits:
            self._restart(split)
            with untouched_randomness(self.seed), evaluating(learner):
                self._run(split, rollouts, learner)

    def _run(self, split: str, rollouts: Rollouts, learner: Any) -> None:
        number, parts = len(self._tasks[split]), []
        known = number  # tasks that are not yet run; what comes after them only fills up
        for tasks in self._groups(split, rollouts.num_tasks):
            parts.append(self._adapted(split, tasks, known, rollouts, learner))
            known -= len(tasks)
        together = (torch.cat(each)[:number] for each in zip(*parts, strict=True))
        self.returns[split], self.successes[split], self.last_successes[split] = together

    def _adapted(
        self, split: str, tasks: Sequence[Any], known: int, rollouts: Rollouts, learner: Any
    ) -> list[Tensor]:
        """Returns, successes and last ones of some tasks, `[tasks, steps, episodes]` each.

        Of the tasks, `known` are shown to the recorder.
        """
        latent = learner.prior(len(tasks))
        scores: list[tuple[Tensor, Tensor, Tensor]] = []
        while True:
            experience = rollouts.collect(learner, tasks, latent["latent"])
            ends = successes(experience, last=True)
            scores.append((returns(experience), successes(experience), ends))
            if self.recorder is not None:
                step, seen = len(scores) - 1, experience[:known]
                self.recorder.see(learner, split, step, seen, latent["latent"][:known])
            if len(scores) > self.adaptations:
                return [torch.stack(part, 1).double().cpu() for part in zip(*scores, strict=True)]
            latent = learner.adapt(experience, latent)

    def result(self, step: int, suite: Any, metrics: dict[str, float]) -> dict[str, Any]:
        """The last evaluation and all one must know to compare it, ready for JSON."""
        return {
            "step": step,
            "suite": suite.name,
            "protocol": suite.protocol(),
            "horizon": suite.spec.horizon,
            "success": "at any step of the episode",
            "policy": "stochastic",
            "adaptations": self.adaptations,
            "episodes_per_step": self.episodes,
            "seed": self.seed,
            "return": metrics["eval/return"],
            "success_rate": metrics["eval/success_rate"],
            "splits": {split: self._split(split) for split in self.splits},
            "versions": versions(),
        }

    def _split(self, split: str) -> dict[str, Any]:
        steps = []
        for step in range(self.adaptations + 1):
            by_task = self.returns[split][:, step].nanmean(-1)
            steps.append(
                {
                    "adaptations": step,
                    "return": float(by_task.nanmean()),
                    "return_ci95_over_tasks": half_width(by_task),
                    "success_rate": float(self.successes[split][:, step].nanmean()),
                    "success_rate_at_the_last_step": float(
                        self.last_successes[split][:, step].nanmean()
                    ),
                }
            )
        drawn = self._tasks[split]
        tasks = [
            {"name": task.name, "goal": int(task.goals[0]), "returns": values}
            for task, values in zip(drawn, self.returns[split].nanmean(-1).tolist(), strict=True)
        ]
        classes = {
            name: self._means(split, [i for i, task in enumerate(drawn) if task.name == name])
            for name in dict.fromkeys(task.name for task in drawn)
        }
        return {"steps": steps, "tasks": tasks, "classes": classes}

    def _means(self, split: str, rows: list[int]) -> dict[str, list[float]]:
        """By adaptation step, over some of a split's tasks."""
        scores = {
            "returns": self.returns[split],
            "success_rates": self.successes[split],
            "success_rates_at_the_last_step": self.last_successes[split],
        }
        return {tag: values[rows].nanmean((0, 2)).tolist() for tag, values in scores.items()}

    def table(self, result: dict[str, Any]) -> Table:
        """A line for each split and step."""
        rows = [
            (
                split,
                str(step["adaptations"]),
                f"{step['return']:.2f}",
                f"{step['return_ci95_over_tasks']:.2f}",
                f"{step['success_rate']:.3f}",
                f"{step['success_rate_at_the_last_step']:.3f}",
            )
            for split, there in result["splits"].items()
            for step in there["steps"]
        ]
        header = ("split", "adaptations", "return", "±95 %", "success", "at the end")
        return Table(header, rows, [])

    def recorded(self) -> dict[str, Arrays]:
        """What the recorder kept, and the names and goals of the tasks."""
        if self.recorder is None:
            return {}
        arrays = {key: value.numpy() for key, value in self.recorder.summary().items()}
        for split in self.splits:
            tasks = self._tasks[split]
            arrays[f"{split}/task"] = np.array([task.name for task in tasks])
            arrays[f"{split}/goal"] = np.array([task.goals[0] for task in tasks])
        return {"activations": arrays}

    def adjust(self, suite: Any, episodes: int | None, seed: int | None) -> None:
        """Take another number of episodes of each task and step, or another seed, if given."""
        self.seed = self.seed if seed is None else seed
        if episodes is not None:
            self.episodes = episodes
            if self.at_once is not None:
                self.at_once = max(n for n in range(1, self.at_once + 1) if episodes % n == 0)

    def rehearse(self, suite: Any, learner: Any) -> float:
        """Seconds that an evaluation will take, from a short one."""
        episodes = self.episodes if self.at_once is None else self.at_once
        numbers = [self.num_tasks or len(suite.each(split)) for split in self.splits]
        first = self.num_tasks or len(suite.tasks(self.splits[0]))
        seconds = self._seconds(
            suite,
            learner,
            num_tasks=first,
            episodes=episodes,
            adaptations=1,
            splits=self.splits[:1],
            returns={},
            successes={},
            last_successes={},
        )
        factor = sum(numbers) / first * (self.adaptations + 1) / 2 * self.episodes / episodes
        return seconds * factor


def half_width(values: Tensor) -> float:
    """Half the width of the 95 % t-interval of the mean of `values` `[n]`; nan for one value.

    Values that are nan are left out.
    """
    values = values[~values.isnan()]
    n = len(values)
    if n < 2:
        return float("nan")
    return float(student.ppf(0.975, n - 1) * values.std() / n**0.5)


def broken(returns: Mapping[str, Tensor]) -> dict[str, float]:
    """`eval/broken_episodes`, the number of returns that are nan, if there are any."""
    number = sum(int(scores.isnan().sum()) for scores in returns.values())
    return {"eval/broken_episodes": float(number)} if number else {}
