"""Episodes in which the latent is inferred anew before each step, from the last transitions."""

from collections.abc import Callable, Sequence
from typing import Any

from tensordict import TensorDict
from torch import Tensor

from runners.rollouts import Rollouts, joined

STORED = ("observation", "terminated")
TOLD = ("task_changed",)
INFERRED = ("latent", "component")


class WindowRollouts(Rollouts):
    """`Rollouts` of one episode of each task, all in lock-step, for a learner with a window.

    The transitions of a step also hold `"family"` `[tasks, 1, time]` int64, the task that the
    reward was paid for, and what was inferred before it: `"latent"` and `"component"`.

    Args:
        suite: the tasks.
        num_tasks: episodes side by side.
        window: factory of `buffers.rolling_window`, called with the sizes of observation and
            action, the number of episodes and the length, and `device`.
        seed: of the environments.
        purpose: "train" or "evaluation", see `envs.suite.Suite.vector`.
        detailed: also hold `"weights"`, the mixture's, and ("next", "specification") where the
            suite tells it.
    """

    def __init__(
        self,
        suite: Any,
        num_tasks: int,
        window: Callable[..., Any],
        *,
        seed: int = 0,
        purpose: str = "train",
        detailed: bool = False,
    ) -> None:
        self._tells = suite.spec.specification_dim > 0
        told = (*TOLD, "specification") if detailed else TOLD
        keep = (*STORED, *told) if self._tells else STORED
        self._inferring = (*INFERRED, "weights") if detailed else INFERRED
        super().__init__(suite, num_tasks, 1, seed=seed, purpose=purpose, keep=keep)
        self._factory = window
        self._window: Any = None
        self._inferred: TensorDict | None = None

    def run(self, learner: Any, tasks: Sequence[Any], explore: bool = True) -> TensorDict:
        """Run one episode of each of at most `num_tasks` tasks, `[len(tasks), 1, time]`.

        Environments that are left over go along, without being looked at.
        """
        filled = [tasks[i % len(tasks)] for i in range(self.num_tasks)]
        prior = learner.prior(self.num_tasks)
        return self.collect(learner, filled, prior["latent"], explore)[: len(tasks)]

    def _round(self, vector: Any, learner: Any, latent: Tensor, explore: bool) -> TensorDict:
        spec = self.suite.spec
        sizes = spec.observation_dim, spec.action_dim, self.num_tasks, learner.window
        self._window = self._factory(*sizes, device=latent.device)
        self._inferred = learner.prior(self.num_tasks)
        return super()._round(vector, learner, latent, explore)

    def _act(self, learner: Any, observation: Tensor, latent: Tensor, explore: bool) -> Tensor:
        self._inferred = learner.adapt(self._window.context(), self._inferred)
        return super()._act(learner, observation, self._inferred["latent"], explore)

    def _kept(self, td: TensorDict, mask: Tensor) -> TensorDict:
        self._window.push(td.flatten())
        kept = super()._kept(td, mask)
        assert self._inferred is not None
        kept["family"] = td["next", "task_id"] if self._tells else td["task_id"]
        for key in self._inferring:
            kept[key] = self._inferred[key].unsqueeze(1).to("cpu")
        return kept

    def run_all(self, learner: Any, tasks: Sequence[Any], explore: bool) -> TensorDict:
        """Run one episode of each of any number of tasks, `[len(tasks), 1, time]`."""
        groups = (tasks[i : i + self.num_tasks] for i in range(0, len(tasks), self.num_tasks))
        return joined([self.run(learner, group, explore) for group in groups], 0)
