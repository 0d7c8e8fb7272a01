"""The off-policy meta regime: a schedule of collections and updates from a replay, for ever."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import gin
from torch import Tensor

from runners.devices import device_of
from runners.health import HealthWatch
from runners.ledger import Ledger
from runners.memory import keep_freed_memory
from runners.regimes import POSTERIOR, WINDOW, check_loop


class Schedule(Protocol):
    """What happens in a meta-iteration, cut into pieces between which a run can be saved.

    It owns replay, environments and the streams that tasks are drawn from, and is built as
    `schedule(suite, learner, seed=seed)`, without building environments yet. The collection that
    comes before the first update belongs to the first iteration.
    """

    replay: Any
    """What is stored: `nbytes`, `device`, `state_dict()`, `load_state_dict(state)`."""

    @property
    def about(self) -> str:
        """The schedule, in a line."""

    @property
    def pending(self) -> bool:
        """Whether an iteration has begun and is not over."""

    @property
    def faults(self) -> dict[str, int]:
        """Counts of dead workers and of episodes that broke."""

    def advance(self, ledger: Ledger) -> bool:
        """Do the next piece, an update or a collection of some seconds; whether it was the last.

        Environment steps, updates, metrics and times go to the ledger.
        """

    def rehearse(self, ledger: Ledger, updates: int) -> tuple[float, float]:
        """For `--dry_run`: seconds of one iteration's collection, and of one of some updates."""

    def whole(self, iterations: int, collection: float, update: float) -> float:
        """Seconds of a run, the first collection included, from what `rehearse` measured."""

    def state_dict(self) -> dict[str, Any]:
        """All but the replay, which the loop saves by itself."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""

    def refill(self) -> None:
        """Begin the iteration anew, and the first collection with it: the replay was not saved."""

    def close(self) -> None:
        """Release the environments."""


@gin.configurable
class MetaOffPolicyLoop:
    """Yields `(iteration, metrics)` after every piece of a meta-iteration.

    The schedule says what an iteration is. Steps of this regime are its iterations, `total_steps`
    and intervals of evaluation among them; metrics tell the environment steps. Between any two
    yields the state may be saved, and restored exactly.

    Args:
        suite: the tasks; environments are built at the first piece, not before.
        learner: a meta-learner that learns from a replay.
        seed: of the tasks drawn, and of the environments' random streams.
        schedule: factory of the `Schedule`.
        log_interval: iterations between two readings of the metrics.

    Raises:
        ValueError: for a value out of range, or a learner of another regime.
    """

    unit, counted = "iterations", "each with its updates"
    collected = "the episodes of one iteration"
    closing = False

    def __init__(
        self,
        suite: Any,
        learner: Any,
        *,
        seed: int = 0,
        schedule: Callable[..., Schedule] = gin.REQUIRED,
        log_interval: int = 1,
    ) -> None:
        if log_interval < 1:
            raise ValueError(
                f"MetaOffPolicyLoop.log_interval must be at least 1, got {log_interval}"
            )
        check_loop("MetaOffPolicyLoop", learner, POSTERIOR, WINDOW)
        if suite.spec.discrete:
            raise ValueError(
                f"MetaOffPolicyLoop: its learners have continuous actions, {suite.name} discrete "
                "ones; use gin/runners/meta_on_policy.gin"
            )
        keep_freed_memory()
        self.log_interval = log_interval
        self.schedule = schedule(suite, learner, seed=seed)
        self.ledger = Ledger(HealthWatch(device_of(learner)))

    @property
    def about(self) -> str:
        """The schedule, in a line."""
        return self.schedule.about

    @property
    def replay(self) -> Any:
        """The schedule's."""
        return self.schedule.replay

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
        """Updates so far."""
        return self.counts["updates"]

    @property
    def pending(self) -> bool:
        """Whether an iteration has begun and is not over."""
        return self.schedule.pending

    def __iter__(self) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The loop itself: it can be left and entered again."""
        return self

    def __next__(self) -> tuple[int, dict[str, Tensor]]:
        """One piece; the metrics once per `log_interval`, at the end of an iteration, else none."""
        if not self.schedule.advance(self.ledger):
            return self.step, {}
        self.counts["iterations"] += 1
        if self.step % self.log_interval:
            return self.step, {}
        return self.step, self.ledger.read(self.schedule.faults)

    def rehearse(self, steps: int, updates: int) -> tuple[float, float]:
        """A collection and some updates, for `--dry_run`; seconds of the former, of an update."""
        return self.schedule.rehearse(self.ledger, updates)

    def whole(self, total_steps: int, step: float, update: float) -> float:
        """Seconds of a run of `total_steps`, from those that `rehearse` measured."""
        return self.schedule.whole(total_steps, step, update)

    def close(self) -> None:
        """Release the environments and their processes."""
        self.schedule.close()

    def state_dict(self) -> dict[str, Any]:
        """Everything of the loop but the learner and the global random streams."""
        return {
            "ledger": self.ledger.state_dict(),
            "schedule": self.schedule.state_dict(),
            "replay": self.replay.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; without a replay in it, collect as at the start."""
        self.ledger.load_state_dict(state["ledger"])
        self.schedule.load_state_dict(state["schedule"])
        if "replay" in state:
            self.replay.load_state_dict(state["replay"])
        else:
            self.schedule.refill()
