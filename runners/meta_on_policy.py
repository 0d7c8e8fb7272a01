"""The on-policy meta regime: episodes before and after adaptation, then one update, for ever."""

from collections.abc import Iterator
from typing import Any

import gin
from tensordict import TensorDict
from torch import Tensor

from runners.devices import device_of
from runners.health import HealthWatch
from runners.ledger import Ledger
from runners.memory import keep_freed_memory
from runners.regimes import ON_POLICY, check_loop
from runners.rollouts import Rollouts, check_draw, check_fits, check_numbers, scores
from runners.seeding import task_stream

MAX_REFUSED = 10
"""Iterations in a row without a finite update after which the run stops."""


@gin.configurable
class MetaOnPolicyLoop:
    """Yields `(iteration, metrics)` after every meta-iteration.

    An iteration: draw tasks, with replacement; run episodes with the latent of no experience; adapt
    the latents to them, once; run episodes with the new latents; update on both. Steps of this
    regime are its iterations, `total_steps` and intervals of evaluation among them; metrics tell
    the environment steps. Between any two yields the state may be saved, and restored exactly.

    Args:
        suite: the tasks; its environments are built at the first iteration, not before.
        learner: a meta-learner that learns from whole episodes.
        seed: of the tasks drawn, and of the environments' random streams.
        tasks_per_iteration: tasks M of an iteration.
        episodes_per_task: episodes B of each task, before and again after adaptation.
        episodes_at_once: how many of them run side by side; all if None. Simulators are heavy: one
            of each task is enough there.
        log_interval: iterations between two readings of the metrics.

    Raises:
        ValueError: for a value out of range, a learner that does not adapt, or a number of tasks
            that the suite cannot draw.
    """

    unit, counted = "iterations", "each with one update"
    collected = "the episodes of one iteration"
    sizes = "tasks_per_iteration (META_BATCH) or episodes_per_task (EPISODES)"
    pending = closing = False
    replay = None

    def __init__(
        self,
        suite: Any,
        learner: Any,
        *,
        seed: int = 0,
        tasks_per_iteration: int = 20,
        episodes_per_task: int = 20,
        episodes_at_once: int | None = None,
        log_interval: int = 1,
    ) -> None:
        if log_interval < 1:
            raise ValueError(
                f"MetaOnPolicyLoop.log_interval must be at least 1, got {log_interval}"
            )
        numbers = {
            "tasks_per_iteration": tasks_per_iteration,
            "episodes_per_task": episodes_per_task,
        }
        check_numbers("MetaOnPolicyLoop", numbers, episodes_at_once)
        check_loop("MetaOnPolicyLoop", learner, ON_POLICY)
        amounts = tasks_per_iteration, episodes_per_task
        check_fits("MetaOnPolicyLoop", suite, *amounts, copies=2, fix=self.sizes)
        check_draw("MetaOnPolicyLoop.tasks_per_iteration", suite, tasks_per_iteration, "train")
        keep_freed_memory()
        self.suite, self.learner, self.log_interval = suite, learner, log_interval
        self.rollouts = Rollouts(
            suite, tasks_per_iteration, episodes_per_task, at_once=episodes_at_once, seed=seed
        )
        self._stream = task_stream(seed)
        self.ledger = Ledger(HealthWatch(device_of(learner), check_every=1, most=MAX_REFUSED))

    @property
    def about(self) -> str:
        """The schedule, in a line."""
        rollouts = self.rollouts
        return (
            f"{rollouts.num_tasks} tasks, {rollouts.episodes} episodes of each before and after "
            f"adaptation, {rollouts.at_once} at once"
        )

    @property
    def counts(self) -> dict[str, int]:
        """Iterations, environment steps and updates so far."""
        return self.ledger.counts

    @property
    def step(self) -> int:
        """Iterations so far."""
        return self.counts["iterations"]

    @property
    def updates(self) -> int:
        """Updates so far: one for each iteration."""
        return self.counts["iterations"]

    def __iter__(self) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The loop itself: it can be left and entered again."""
        return self

    def __next__(self) -> tuple[int, dict[str, Tensor]]:
        """One iteration; the metrics once per `log_interval`, else none."""
        self._iterate()
        if self.step % self.log_interval:
            return self.step, {}
        return self.step, self.ledger.read(self.rollouts.faults)

    def _iterate(self) -> None:
        tasks, ledger = self._draw(), self.ledger
        prior = self.learner.prior(len(tasks))
        with ledger.timed("collect"):
            before = self.rollouts.collect(self.learner, tasks, prior["latent"])
        with ledger.timed("adapt"):
            adapted = self.learner.adapt(before, prior)
        with ledger.timed("collect"):
            after = self.rollouts.collect(self.learner, tasks, adapted["latent"])
        batch = TensorDict({"before": before, "after": after}, [len(tasks)])
        with ledger.timed("update"):
            metrics = self.learner.update(batch)
        for when, experience in batch.items():
            ledger.collected(experience["mask"])
            ledger.note(scores(experience, f"_{when}"))
        self.counts["iterations"] += 1
        ledger.updated(metrics, batch)

    def rehearse(self, steps: int, updates: int) -> tuple[float, float]:
        """One iteration, for `--dry_run`; seconds of its episodes, and of the rest."""
        self.ledger.restart()
        self._iterate()
        seconds = self.ledger.seconds
        return seconds["collect"], seconds["adapt"] + seconds["update"]

    def whole(self, total_steps: int, step: float, update: float) -> float:
        """Seconds of a run of `total_steps`, from those that `rehearse` measured."""
        return total_steps * (step + update)

    def close(self) -> None:
        """Release the environments and their processes."""
        self.rollouts.close()

    def _draw(self) -> tuple[Any, ...]:
        tasks: tuple[Any, ...] = self.suite.sample(self.rollouts.num_tasks, "train", self._stream)
        return tasks

    def state_dict(self) -> dict[str, Any]:
        """Everything of the loop but the learner and the global random streams."""
        return {
            "ledger": self.ledger.state_dict(),
            "tasks": self._stream.bit_generator.state,
            "rollouts": self.rollouts.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.ledger.load_state_dict(state["ledger"])
        self.rollouts.load_state_dict(state["rollouts"], self._draw())
        self._stream.bit_generator.state = state["tasks"]
