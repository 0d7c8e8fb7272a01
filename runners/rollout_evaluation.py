"""What the evaluators of meta-learners share: environments that stay open, the order of things."""

import copy
from abc import abstractmethod
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch

from runners.evaluation import untouched_randomness
from runners.evaluation_results import Scheduled, try_out
from runners.rollouts import Rollouts


class RolloutEvaluator(Scheduled):
    """Evaluates in environments of its own, which start every evaluation from the same snapshot.

    Neither the learner nor the global random generators are changed by it, so that the result
    depends on the policy alone.

    Attributes:
        seed: of the tasks drawn and of all that is random in an evaluation.
        success: of each task in the last evaluation's headline, `[tasks]`.
    """

    def __init__(self, interval: int, seed: int) -> None:
        super().__init__(interval, seed)
        self.success = torch.zeros(0)
        self._tasks: dict[str, tuple[Any, ...]] = {}
        self._rollouts: Any = None
        self._start: Any = None

    @abstractmethod
    def __call__(self, suite: Any, learner: Any) -> dict[str, float]:
        """Evaluate `learner`; metrics by their tags."""

    @abstractmethod
    def _build(self, suite: Any) -> Rollouts:
        """Choose the tasks, and make what runs them."""

    @abstractmethod
    def _rows(self, split: str) -> Sequence[Any]:
        """Tasks of a split, as many as the rollouts have places."""

    @abstractmethod
    def _measure(self, rollouts: Any, learner: Any) -> None:
        """Run all that is to be measured, and keep the scores."""

    @property
    @abstractmethod
    def _first(self) -> str:
        """The split that is measured first."""

    def _evaluate(self, suite: Any, learner: Any) -> None:
        """Open the environments where they are not, and measure."""
        try:
            if self._rollouts is None or self._rollouts.suite is not suite:
                self.close()
                with untouched_randomness(self.seed):
                    self._rollouts = self._build(suite)
                    self._rollouts.open(self._rows(self._first)).reset()
                    self._start = self._rollouts.state_dict()
            self._measure(self._rollouts, learner)
        except BaseException:
            self.close()  # environments in an unknown state are not used again
            raise
        self._done()

    def _restart(self, split: str) -> None:
        """Bring the environments back to the snapshot, for tasks of a split."""
        self._rollouts.load_state_dict(self._start, self._rows(split))

    def score(self, metrics: dict[str, float]) -> float:
        """What the best checkpoint is chosen by: the headline's return."""
        return metrics["eval/return"]

    def _seconds(self, suite: Any, learner: Any, **changes: Any) -> float:
        """Seconds of an evaluation with some attributes changed, environments of its own included.

        What this evaluator knows and holds open stays as it is.
        """
        short = copy.copy(self)
        for attribute, value in {"_rollouts": None, "_tasks": {}, **changes}.items():
            setattr(short, attribute, value)
        start = perf_counter()
        try:
            try_out(short, suite, short(suite, learner))
        finally:
            short.close()
        return perf_counter() - start

    def close(self) -> None:
        """Close the environments; the next evaluation opens new ones."""
        rollouts, self._rollouts = self._rollouts, None
        if rollouts is not None:
            rollouts.close()
