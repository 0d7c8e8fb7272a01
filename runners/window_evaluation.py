"""WindowEvaluator: what a learner with a window does from an empty one, at once.

The protocol of TIGR and CEMRL; see `runners.window_schedule` for the papers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import gin
from tensordict import TensorDict

from runners.compatibility import versions
from runners.evaluation import evaluating, untouched_randomness
from runners.evaluation_results import Table
from runners.inference_scores import accuracy, matching, reaction
from runners.latent_records import Arrays, of_windows
from runners.meta_evaluation import broken, half_width
from runners.regimes import WINDOW, check_evaluator
from runners.rollout_evaluation import RolloutEvaluator
from runners.rollouts import joined, returns, successes
from runners.window_rollouts import WindowRollouts

RUNS = tuple(
    f"{split}/{policy}" for split in ("train", "test") for policy in ("stochastic", "deterministic")
)


@gin.configurable
class WindowEvaluator(RolloutEvaluator):
    """Episodes of every task, each from an empty window: return, and what was inferred.

    A run is a split and a kind of policy, "test/deterministic" for example. Environments start each
    of them from the same snapshot, and neither global random generators nor the learner are
    changed, so that the result depends on the policy alone.

    A component of the mixture counts as right where it is the family's own: the one of its number
    if the learner was given labels, else by the best one-to-one matching within the run. Where
    tasks change in an episode, a change is followed step by step (`inference_scores.reaction`).

    Args:
        interval: steps of the run (a meta-loop's are iterations) between two evaluations.
        window: factory of the windows of running episodes, see `WindowRollouts`.
        episodes: episodes of each task.
        episodes_at_once: how many of all run side by side; one of each task if None.
        num_tasks: tasks of each split, evenly out of all; all if None.
        runs: see above; the last one is the headline.
        seed: of all that is random in an evaluation.
        burn_in: steps of an episode that do not count for what was inferred.
        reaction_steps: steps after a change that are told.
        suite: other tasks than the run's to evaluate on, of the same sizes; the run's if None.
        latents: write what was inferred before each step beside the JSON, as `<its name>_latents`
            (`runners.latent_records`).

    Raises:
        ValueError: for a value out of range.
    """

    def __init__(
        self,
        *,
        interval: int = 1,
        window: Callable[..., Any] = gin.REQUIRED,
        episodes: int = 1,
        episodes_at_once: int | None = None,
        num_tasks: int | None = None,
        runs: Sequence[str] = ("train/deterministic", "test/stochastic", "test/deterministic"),
        seed: int = 0,
        burn_in: int = 5,
        reaction_steps: int = 20,
        suite: Any = None,
        latents: bool = False,
    ) -> None:
        super().__init__(interval, seed)
        numbers = {
            "episodes": episodes,
            "episodes_at_once": 1 if episodes_at_once is None else episodes_at_once,
            "num_tasks": 1 if num_tasks is None else num_tasks,
            "reaction_steps": reaction_steps,
        }
        for name, value in numbers.items():
            if value < 1:
                raise ValueError(f"WindowEvaluator.{name} must be at least 1, got {value}")
        if burn_in < 0:
            raise ValueError(f"WindowEvaluator.burn_in must be at least 0, got {burn_in}")
        if isinstance(suite, type):
            raise ValueError(
                f"WindowEvaluator.suite is the class {suite.__name__}; write @{suite.__name__}()"
            )
        if suite is not None and not hasattr(suite, "spec"):
            raise ValueError(
                f"WindowEvaluator.suite is {suite!r:.80}, no suite; write @Name(), or None"
            )
        runs = tuple(runs)
        if not runs or not set(runs) <= set(RUNS) or len(set(runs)) < len(runs):
            raise ValueError(f"WindowEvaluator.runs must be among {RUNS}, got {runs}")
        self.window, self.episodes, self.at_once = window, episodes, episodes_at_once
        self.num_tasks, self.runs = num_tasks, runs
        self.burn_in, self.reaction_steps, self.suite = burn_in, reaction_steps, suite
        self.latents = latents
        self.scores: dict[str, dict[str, Any]] = {}
        self.inferred: dict[str, Arrays] = {}

    def __call__(self, suite: Any, learner: Any) -> dict[str, float]:
        """Evaluate `learner`.

        Returns:
            For each run `eval/return/<run>`, `eval/success_rate/<run>` and `eval/accuracy/<run>`,
            means over tasks and episodes, and `eval/return/<run>/<family>`; without a run's name
            those of the last one. `self.scores` holds every episode by run, nan where a simulator
            broke it off; means leave those out, and `eval/broken_episodes` counts them, if any.
        """
        self._evaluate(self.suite or suite, learner)
        told = {run: scores["return"] for run, scores in self.scores.items()}
        return self._metrics() | broken(told)

    @property
    def _first(self) -> str:
        return self.runs[0].split("/")[0]

    def _build(self, suite: Any) -> WindowRollouts:
        for split in {run.split("/")[0] for run in self.runs}:
            self._tasks[split] = _spread(suite.each(split), self.num_tasks)
        largest = max(len(tasks) for tasks in self._tasks.values())
        self._places = largest if self.at_once is None else min(self.at_once, largest)
        return WindowRollouts(
            suite,
            self._places,
            self.window,
            seed=self.seed,
            purpose="evaluation",
            detailed=self.latents,
        )

    def _rows(self, split: str) -> list[Any]:
        """The tasks again and again."""
        tasks = self._tasks[split]
        return [tasks[i % len(tasks)] for i in range(self._places)]

    def _measure(self, rollouts: WindowRollouts, learner: Any) -> None:
        for run in self.runs:
            split, policy = run.split("/")
            self._restart(split)
            with untouched_randomness(self.seed), evaluating(learner):
                parts = [
                    rollouts.run_all(learner, self._tasks[split], policy == "stochastic")
                    for _ in range(self.episodes)
                ]
            experience = joined(parts, 1).to("cpu")
            self.scores[run] = self._scored(learner, experience)
            if self.latents:
                tasks = self._tasks[split]
                self.inferred[run] = of_windows(rollouts.suite, tasks, experience)

    def _scored(self, learner: Any, experience: TensorDict) -> dict[str, Any]:
        own = matching(
            experience, self.burn_in, learner.prior(1)["weights"].shape[-1], learner.labelled
        )
        scores: dict[str, Any] = {
            "return": returns(experience).double(),
            "success": successes(experience),
            "accuracy": accuracy(experience, own, self.burn_in),
            "components": own.tolist(),
        }
        if "task_changed" in experience["next"].keys():
            changed = experience["next", "task_changed"].squeeze(-1) & experience["mask"]
            if bool(changed.any()):
                scores["reaction"] = reaction(experience, own, self.reaction_steps)
        return scores

    def _families(self, run: str) -> dict[str, list[int]]:
        """The places of each family's tasks."""
        places: dict[str, list[int]] = {}
        for place, task in enumerate(self._tasks[run.split("/")[0]]):
            places.setdefault(task.name, []).append(place)
        return places

    def _metrics(self) -> dict[str, float]:
        metrics = {}
        for run, scores in self.scores.items():
            metrics[f"eval/return/{run}"] = float(scores["return"].nanmean())
            metrics[f"eval/success_rate/{run}"] = float(scores["success"].nanmean())
            metrics[f"eval/accuracy/{run}"] = scores["accuracy"]
            for name, places in self._families(run).items():
                metrics[f"eval/return/{run}/{name}"] = float(scores["return"][places].nanmean())
        last = self.runs[-1]
        for tag in ("return", "success_rate", "accuracy"):
            metrics[f"eval/{tag}"] = metrics[f"eval/{tag}/{last}"]
        self.success = self.scores[last]["success"].float().nanmean(-1)
        return metrics

    def check(self, suite: Any, learner: Any) -> None:
        """Refuse what does not fit.

        Raises:
            ValueError: a learner of another regime, or another suite of other sizes.
        """
        check_evaluator("WindowEvaluator", learner, WINDOW)
        if self.suite is None:
            return
        for name in ("observation_dim", "action_dim", "num_tasks"):
            wanted, got = getattr(suite.spec, name), getattr(self.suite.spec, name)
            if wanted != got:
                raise ValueError(
                    f"WindowEvaluator.suite: {name} is {got}, that of train.suite is {wanted}"
                )

    def result(self, step: int, suite: Any, metrics: dict[str, float]) -> dict[str, Any]:
        """The last evaluation and all one must know to compare it, ready for JSON."""
        suite = self.suite or suite
        return {
            "step": step,
            "suite": suite.name,
            "protocol": suite.protocol(),
            "horizon": suite.spec.horizon,
            "adaptation": "within the episode, from an empty window",
            "policy": self.runs[-1].split("/")[1],
            "episodes_per_task": self.episodes,
            "burn_in": self.burn_in,
            "seed": self.seed,
            "return": metrics["eval/return"],
            "success_rate": metrics["eval/success_rate"],
            "accuracy": metrics["eval/accuracy"],
            "runs": {run: self._run_result(run) for run in self.runs},
            "versions": versions(),
        }

    def _run_result(self, run: str) -> dict[str, Any]:
        scores = self.scores[run]
        by_task = scores["return"].nanmean(-1)
        split = run.split("/")[0]
        told: dict[str, Any] = {
            name: scores[name] for name in ("accuracy", "components", "reaction") if name in scores
        }
        return {
            "return": float(by_task.nanmean()),
            "return_ci95_over_tasks": half_width(by_task),
            "success_rate": float(scores["success"].nanmean()),
            "families": {
                name: float(by_task[places].nanmean())
                for name, places in self._families(run).items()
            },
            **told,
            "tasks": [
                {
                    "name": task.name,
                    "goal": int(task.goals[0]),
                    "returns": [v for v in row if v == v],
                }
                for task, row in zip(self._tasks[split], scores["return"].tolist(), strict=True)
            ],
        }

    def recorded(self) -> dict[str, Arrays]:
        """What was inferred in each run, as `<run>/<name>`."""
        if not self.latents:
            return {}
        runs = self.inferred.items()
        return {"latents": {f"{run}/{name}": told[name] for run, told in runs for name in told}}

    def table(self, result: dict[str, Any]) -> Table:
        """A line for each run, and one for each of its families."""
        rows = []
        for run, there in result["runs"].items():
            numbers = (there["return"], there["return_ci95_over_tasks"])
            shares = (there["success_rate"], there["accuracy"])
            cells = [f"{x:.2f}" for x in numbers] + [f"{x:.3f}" for x in shares]
            rows.append((run, "all", *cells))
            rows += [
                (run, name, f"{value:.2f}", "", "", "") for name, value in there["families"].items()
            ]
        header = ("run", "family", "return", "±95 %", "success", "accuracy")
        return Table(header, rows, [])

    def adjust(self, suite: Any, episodes: int | None, seed: int | None) -> None:
        """Take another number of episodes of each task, or another seed, if given."""
        self.seed = self.seed if seed is None else seed
        self.episodes = self.episodes if episodes is None else episodes

    def rehearse(self, suite: Any, learner: Any) -> float:
        """Seconds that an evaluation will take, from a short one."""
        changes = {"runs": self.runs[-1:], "scores": {}, "inferred": {}}
        seconds = self._seconds(suite, learner, episodes=1, **changes)
        return seconds * len(self.runs) * self.episodes


def _spread(tasks: Sequence[Any], number: int | None) -> tuple[Any, ...]:
    """So many of the tasks, at even distances; all if None or if there are no more."""
    if number is None or number >= len(tasks):
        return tuple(tasks)
    return tuple(tasks[i * len(tasks) // number] for i in range(number))
