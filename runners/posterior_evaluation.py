"""PosteriorEvaluator: what a meta-learner does while it learns more of a task, episode by episode.

The protocol of PEARL (Rakelly et al., ICML 2019).
"""

import logging
from collections.abc import Sequence
from typing import Any

import gin
import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from runners.compatibility import versions
from runners.contexts import KEPT, SPARSE, context_of, drawn, transitions
from runners.devices import device_of
from runners.evaluation import evaluating, untouched_randomness
from runners.evaluation_results import Table
from runners.latent_records import Arrays, of_posteriors
from runners.meta_evaluation import SPLITS, half_width
from runners.regimes import POSTERIOR, check_evaluator
from runners.rollout_evaluation import RolloutEvaluator
from runners.rollouts import Rollouts, returns, successes
from runners.task_lists import listed_tasks

log = logging.getLogger("absl")


@gin.configurable
class PosteriorEvaluator(RolloutEvaluator):
    """Of each task episodes one after the other, each with a latent of all that came before.

    The first `prior_episodes` have latents drawn from the prior; each later one has a latent drawn
    from the posterior of all transitions so far. Whole episodes are run until there are at least
    `steps` transitions; the last one is what counts, the i-th ones are the online curve. Actions
    are deterministic. All test tasks are evaluated, and as many training tasks, drawn once by
    `seed`, with replacement. Environments start each evaluation from the same snapshot, and neither
    global random generators nor the learner are changed.

    1. The published code also infers latents of training tasks from its replay. That is left out:
       collecting does the same in `train/return_posterior`.
    2. Where episodes end early the last one comes after a number of episodes that depends on the
       policy. Episode `prior_episodes` + 1 of the online curve always is the first that is adapted.

    Args:
        interval: iterations between two evaluations.
        steps: transitions of each task.
        prior_episodes: episodes before the first posterior.
        repetitions: how often a task is begun anew.
        context_size: transitions that posteriors are inferred from, drawn with replacement; all of
            them if None.
        sparse: contexts and returns are of the sparse reward.
        num_tasks: only the first test tasks, and as many training tasks; all of them if None.
        train_goals: of the training tasks, only the first goals of each name, those of
            `PosteriorSchedule.num_goals`; all of them if None.
        test_goals: the same of the test tasks.
        at_once: environments side by side; one for each task and repetition if None.
        splits: of the tasks; "train", "test" or both. The last one is the headline.
        seed: of the training tasks and of all that is random in an evaluation.
        latents: write the posterior after each episode beside the JSON, as `<its name>_latents`
            (`runners.latent_records`), of a learner that tells its "mean" and "variance".

    Raises:
        ValueError: for a value out of range.
    """

    def __init__(
        self,
        *,
        interval: int = 1,
        steps: int = 600,
        prior_episodes: int = 1,
        repetitions: int = 2,
        context_size: int | None = None,
        sparse: bool = False,
        num_tasks: int | None = None,
        train_goals: int | None = None,
        test_goals: int | None = None,
        at_once: int | None = None,
        splits: Sequence[str] = SPLITS,
        seed: int = 0,
        latents: bool = False,
    ) -> None:
        super().__init__(interval, seed)
        given = {"steps": steps, "prior_episodes": prior_episodes, "repetitions": repetitions}
        limits = {"context_size": context_size, "num_tasks": num_tasks, "at_once": at_once}
        limits |= {"train_goals": train_goals, "test_goals": test_goals}
        given |= {name: value for name, value in limits.items() if value is not None}
        for name, number in given.items():
            if number < 1:
                raise ValueError(f"PosteriorEvaluator.{name} must be at least 1, got {number!r}")
        splits = tuple(splits)
        if not splits or not set(splits) <= set(SPLITS) or len(set(splits)) < len(splits):
            raise ValueError(f"PosteriorEvaluator.splits must be among {SPLITS}, got {splits}")
        self.steps, self.prior_episodes, self.repetitions = steps, prior_episodes, repetitions
        self.context_size, self.sparse, self.at_once = context_size, sparse, at_once
        self.num_tasks, self.goals = num_tasks, {"train": train_goals, "test": test_goals}
        self.splits, self.latents = splits, latents
        self.returns: dict[str, Tensor] = {}
        self.successes: dict[str, Tensor] = {}
        self.posteriors: dict[str, Arrays] = {}
        self._broken = 0

    def __call__(self, suite: Any, learner: Any) -> dict[str, float]:
        """Evaluate `learner`.

        Returns:
            `eval/return/<split>/last` and `eval/return/<split>/episode_<i>`, means over tasks and
            repetitions, and the same of `eval/success_rate` (success at any step); `eval/return`
            and `eval/success_rate` are the last episode's of the last split, `eval/return_before`
            is its first one's. `self.returns` and `self.successes` hold every episode by split,
            `[tasks, repetitions, episodes]`, nan after the last one of a task and where a
            simulator broke one off; `eval/broken_episodes` counts these, if there are any.
        """
        self._broken = 0
        self._evaluate(suite, learner)
        metrics = {"eval/broken_episodes": float(self._broken)} if self._broken else {}
        for split in self.splits:
            for tag, scores in (("return", self.returns), ("success_rate", self.successes)):
                place = f"eval/{tag}/{split}"
                metrics[f"{place}/last"] = float(_last(scores[split]).nanmean())
                for i in range(-(-self.steps // suite.spec.horizon)):
                    mean = scores[split][..., i].nanmean()
                    metrics[f"{place}/episode_{i + 1}"] = float(mean)
        split = self.splits[-1]
        self.success = _last(self.successes[split]).nanmean(-1).float()
        for tag in ("return", "success_rate"):
            metrics[f"eval/{tag}"] = metrics[f"eval/{tag}/{split}/last"]
        metrics["eval/return_before"] = metrics[f"eval/return/{split}/episode_1"]
        return metrics

    def check(self, suite: Any, learner: Any) -> None:
        """Refuse what does not fit.

        Raises:
            ValueError: a learner of another regime, a split without tasks, no sparse reward.
        """
        check_evaluator("PosteriorEvaluator", learner, POSTERIOR)
        if self.sparse and not suite.spec.sparse:
            raise ValueError(
                f"PosteriorEvaluator.sparse is True, and {suite.name} pays no sparse reward; "
                "set it to False"
            )
        if self.steps <= self.prior_episodes * suite.spec.horizon:
            log.warning(
                "PosteriorEvaluator.steps (EVALUATION_STEPS) is %d, and the first %d "
                "(PRIOR_EPISODES) episodes of %d steps come before any adaptation: its returns are "
                "those of a prior",
                self.steps,
                self.prior_episodes,
                suite.spec.horizon,
            )
        self._draw(suite)

    def _draw(self, suite: Any) -> None:
        tasks = {split: listed_tasks(suite, split, self.goals[split]) for split in SPLITS}
        tested = tasks["test"][: self.num_tasks]
        draws = np.random.default_rng(self.seed).integers(len(tasks["train"]), size=len(tested))
        self._tasks = {"train": tuple(tasks["train"][i] for i in draws), "test": tested}

    def _begun(self, split: str) -> list[Any]:
        """The tasks, each as often as it is begun anew."""
        return [task for task in self._tasks[split] for _ in range(self.repetitions)]

    @property
    def _first(self) -> str:
        return self.splits[0]

    def _build(self, suite: Any) -> Rollouts:
        self._draw(suite)
        number = len(self._begun(self._first))
        self._places = min(number, self.at_once or number)
        keep = (*KEPT, SPARSE) if self.sparse else KEPT
        return Rollouts(suite, self._places, 1, seed=self.seed, purpose="evaluation", keep=keep)

    def _rows(self, split: str) -> list[Any]:
        return self._begun(split)[: self._places]

    def _measure(self, rollouts: Rollouts, learner: Any) -> None:
        for split in self.splits:
            self._restart(split)
            with untouched_randomness(self.seed), evaluating(learner):
                self._run(split, rollouts, learner)

    def _run(self, split: str, rollouts: Rollouts, learner: Any) -> None:
        rows, number = self._begun(split), rollouts.num_tasks
        generator = torch.Generator().manual_seed(self.seed)
        parts: list[list[Tensor]] = []
        for first in range(0, len(rows), number):
            chosen = rows[first : first + number]
            tasks = [chosen[i % len(chosen)] for i in range(number)]
            found = self._episodes(rollouts, learner, tasks, generator)
            parts.append([scores[: len(chosen)] for scores in found])
        longest = max(part[0].shape[1] for part in parts)
        shape = (len(self._tasks[split]), self.repetitions, longest)
        filled = [[_padded(scores, longest) for scores in part] for part in parts]
        joined = [torch.cat(scores) for scores in zip(*filled, strict=True)]
        whole = [scores.view(*shape, *scores.shape[2:]) for scores in joined]
        self.returns[split], self.successes[split] = whole[:2]
        if self.latents:
            told = {"return": whole[0], "mean": whole[2], "variance": whole[3]}
            self.posteriors[split] = of_posteriors(rollouts.suite, self._tasks[split], told)

    def _episodes(
        self, rollouts: Rollouts, learner: Any, tasks: list[Any], generator: torch.Generator
    ) -> list[Tensor]:
        """Returns and successes of each task's episodes, `[tasks, episodes]`.

        With `latents` the posterior's means and variances too, `[tasks, episodes, latent_dim]`.
        """
        device = device_of(learner)
        latents = learner.prior(len(tasks))
        collected = torch.zeros(len(tasks), device=device)
        seen: list[TensorDict] = []
        scores: list[list[Tensor]] = []
        while bool((active := collected < self.steps).any()):
            if len(seen) >= self.prior_episodes:
                latents = learner.adapt(self.context(seen, generator), latents)
            elif seen:
                latents = learner.prior(len(tasks))
            experience = rollouts.collect(learner, tasks, latents["latent"], explore=False)
            self._broken += int((active & ~experience["mask"].flatten(1).any(1)).sum())
            experience["mask"] &= active[:, None, None]
            context = context_of(experience, self.sparse)
            collected += experience["mask"].sum((1, 2))
            told = returns(context)[:, 0].double(), successes(experience)[:, 0].double()
            scores.append([score.where(active, torch.nan).cpu() for score in told])
            seen.append(context)
            if self.latents:
                after = self._posterior(learner, seen, latents)
                scores[-1] += [part.where(active[:, None], torch.nan).cpu() for part in after]
        return [torch.stack(parts, 1) for parts in zip(*scores, strict=True)]

    def _posterior(self, learner: Any, seen: list[TensorDict], latents: TensorDict) -> list[Tensor]:
        """Its mean and variance, without a trace in the evaluation."""
        with untouched_randomness(self.seed):
            generator = torch.Generator().manual_seed(self.seed)
            told = learner.adapt(self.context(seen, generator), latents)
        return [told["mean"], told["variance"]]

    def context(self, seen: list[TensorDict], generator: torch.Generator) -> TensorDict:
        """What the posterior is inferred from, `[tasks, transitions]`, perhaps with "mask"."""
        flat = [part.flatten(1, 2) for part in seen]
        whole: TensorDict = torch.cat(flat, 1)
        if self.context_size is None:
            return whole
        # A task whose episodes all broke off shows nothing: rows of its padding, and masked.
        present = whole["mask"].any(1)
        pools = [
            transitions(row) if some else row.exclude("mask")
            for row, some in zip(whole, present.tolist(), strict=True)
        ]
        context = drawn(pools, self.context_size, generator, False)
        if not bool(present.all()):
            context["mask"] = present[:, None].expand(-1, self.context_size)
        return context

    def result(self, step: int, suite: Any, metrics: dict[str, float]) -> dict[str, Any]:
        """The last evaluation and all one must know to compare it, ready for JSON."""
        return {
            "step": step,
            "suite": suite.name,
            "protocol": suite.protocol(),
            "horizon": suite.spec.horizon,
            "success": "at any step of the episode",
            "policy": "deterministic",
            "reward": "sparse" if self.sparse else "dense",
            "steps": self.steps,
            "prior_episodes": self.prior_episodes,
            "repetitions": self.repetitions,
            "context_size": self.context_size,
            "seed": self.seed,
            "return": metrics["eval/return"],
            "success_rate": metrics["eval/success_rate"],
            "splits": {split: self._split(suite, split) for split in self.splits},
            "versions": versions(),
        }

    def _split(self, suite: Any, split: str) -> dict[str, Any]:
        scores, wins = self.returns[split], self.successes[split]
        episodes: list[dict[str, Any]] = []
        for i in [*range(scores.shape[-1]), None]:
            by_task = (_last(scores) if i is None else scores[..., i]).nanmean(-1)
            won = _last(wins) if i is None else wins[..., i]
            there = by_task[~by_task.isnan()]
            episodes.append(
                {
                    "episode": "last" if i is None else i + 1,
                    "latent": "prior" if i is not None and i < self.prior_episodes else "posterior",
                    "tasks": len(there),
                    "return": float(there.mean()),
                    "return_ci95_over_tasks": half_width(there),
                    "success_rate": float(won.nanmean()),
                }
            )
        tasks = [
            {
                "name": task.name,
                "goal": int(task.goals[0]),
                "specification": suite.specification(task).tolist(),
                "returns": [[v for v in row if v == v] for row in values],
            }
            for task, values in zip(self._tasks[split], scores.tolist(), strict=True)
        ]
        return {"last": episodes.pop(), "episodes": episodes, "tasks": tasks}

    def recorded(self) -> dict[str, Arrays]:
        """The posteriors of each split, as `<split>/<name>`."""
        if not self.latents:
            return {}
        splits = self.posteriors.items()
        return {
            "latents": {f"{split}/{name}": told[name] for split, told in splits for name in told}
        }

    def table(self, result: dict[str, Any]) -> Table:
        """A line for each split and episode, then the last episode of each split."""
        header = ("split", "episode", "latent", "return", "±95 %", "success")

        def row(split: str, episode: dict[str, Any]) -> tuple[str, ...]:
            numbers = (episode["return"], episode["return_ci95_over_tasks"])
            told = (f"{number:.2f}" for number in numbers)
            won = f"{episode['success_rate']:.3f}"
            return (split, str(episode["episode"]), episode["latent"], *told, won)

        splits = result["splits"].items()
        rows = [row(split, episode) for split, there in splits for episode in there["episodes"]]
        return Table(header, rows, [row(split, there["last"]) for split, there in splits])

    def adjust(self, suite: Any, episodes: int | None, seed: int | None) -> None:
        """Begin each task anew as often as `episodes` says, and take another seed, if given."""
        self.seed = self.seed if seed is None else seed
        self.repetitions = self.repetitions if episodes is None else episodes

    def rehearse(self, suite: Any, learner: Any) -> float:
        """Seconds that an evaluation will take, from a short one: a single episode of each task."""
        changes: dict[str, Any] = {"steps": 1, "splits": self.splits[:1]}
        changes |= {name: {} for name in ("returns", "successes", "posteriors")}
        seconds = self._seconds(suite, learner, **changes)
        episodes: int = -(-self.steps // suite.spec.horizon)
        return seconds * len(self.splits) * episodes


def _last(scores: Tensor) -> Tensor:
    """The last of `[*, episodes]` that is no nan."""
    number = torch.arange(1, scores.shape[-1] + 1, device=scores.device)
    place = (number * ~scores.isnan()).argmax(-1, keepdim=True)
    last: Tensor = scores.gather(-1, place).squeeze(-1)
    return last


def _padded(scores: Tensor, length: int) -> Tensor:
    """Scores `[tasks, length, *]`, nan at the end."""
    missing = length - scores.shape[1]
    behind = scores.new_full((len(scores), missing, *scores.shape[2:]), torch.nan)
    return torch.cat((scores, behind), 1)
