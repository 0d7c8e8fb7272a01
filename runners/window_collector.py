"""The collections of `WindowSchedule`: every training task at first, then drawn ones, in rounds."""

from collections.abc import Callable
from typing import Any

import numpy as np
from tensordict import TensorDict
from torch import Tensor

from runners.ledger import Ledger
from runners.posterior_schedule import TASK_STREAM
from runners.rollouts import returns, successes
from runners.task_lists import listed_tasks
from runners.window_rollouts import WindowRollouts


class WindowCollector:
    """Runs tasks side by side, over and over until there are enough transitions, into a replay.

    Args:
        suite: the tasks; environments are built at the first round, not before.
        learner: acts, and takes over the statistics behind a collection.
        replay: where episodes are stored.
        window: see `WindowRollouts`.
        seed: of the tasks drawn and of the environments' random streams.
        num_drawn: tasks of a collection, different ones while there are enough of them.
        at_once: episodes side by side.
        first: transitions of each training task in the first collection; 0 leaves it out.
        each: transitions of each drawn task.
    """

    def __init__(
        self,
        suite: Any,
        learner: Any,
        replay: Any,
        window: Callable[..., Any],
        *,
        seed: int,
        num_drawn: int,
        at_once: int,
        first: int,
        each: int,
    ) -> None:
        self.suite, self.learner, self.replay = suite, learner, replay
        self.num_drawn, self.at_once, self.first, self.each = num_drawn, at_once, first, each
        self.known = listed_tasks(suite, "train")
        self.rollouts = WindowRollouts(suite, at_once, window, seed=seed)
        stream = np.random.SeedSequence(seed, spawn_key=TASK_STREAM)
        self._stream = np.random.Generator(np.random.PCG64(stream))
        self.tasks: tuple[Any, ...] = ()
        self.begin(initial=True)

    @property
    def initial(self) -> bool:
        """Whether the first collection is under way, or to come."""
        return bool(self._counts["initial"])

    @property
    def pending(self) -> bool:
        """Whether a collection has begun."""
        return self._counts["rounds"] > 0

    def begin(self, initial: bool = False) -> None:
        """Choose the tasks of a collection."""
        self._counts = {"initial": int(initial and self.first > 0), "rounds": 0, "stored": 0}
        self._drawn_from = self._stream.bit_generator.state
        self.tasks = self.known if self.initial else self._draw()

    def _draw(self) -> tuple[Any, ...]:
        number, known = self.num_drawn, self.known
        chosen = self._stream.choice(len(known), number, replace=number > len(known))
        return tuple(known[i] for i in chosen.tolist())

    def advance(self, ledger: Ledger) -> bool:
        """Run an episode of some tasks; whether the collection is complete."""
        groups, counts = self.rollouts.groups(self.tasks), self._counts
        with ledger.timed("collect"):
            experience = self._round(groups[counts["rounds"] % len(groups)])
        ledger.collected(experience["mask"])
        ledger.note(_scores(experience))
        counts["stored"] += int(experience["mask"].sum())
        counts["rounds"] += 1
        wanted = len(self.tasks) * (self.first if self.initial else self.each)
        if counts["rounds"] % len(groups) or counts["stored"] < wanted:
            return False
        self.learner.load_statistics(self.replay.statistics())
        return True

    def _round(self, tasks: Any) -> TensorDict:
        experience = self.rollouts.run(self.learner, tasks)
        self.replay.extend(experience)
        return experience

    def rehearse(self, ledger: Ledger) -> None:
        """One round, for `--dry_run`."""
        ledger.collected(self._round(self.tasks[: self.at_once])["mask"])
        self.learner.load_statistics(self.replay.statistics())

    def rounds(self, initial: bool) -> int:
        """Rounds of a collection whose episodes all have full length."""
        horizon: int = self.suite.spec.horizon
        transitions, tasks = (
            (self.first, len(self.known)) if initial else (self.each, self.num_drawn)
        )
        return -(-transitions // horizon) * -(-tasks // self.at_once)

    def state_dict(self) -> dict[str, Any]:
        """Where the collection stands, the stream its tasks were drawn from, the environments."""
        return {
            "counts": dict(self._counts),
            "drawn_from": self._drawn_from,
            "rollouts": self.rollouts.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        tasks = [self.known[i % len(self.known)] for i in range(self.at_once)]
        self.rollouts.load_state_dict(state["rollouts"], tasks)
        self._counts, self._drawn_from = dict(state["counts"]), state["drawn_from"]
        self._stream.bit_generator.state = self._drawn_from
        self.tasks = self.known if self.initial else self._draw()

    def refill(self) -> None:
        """Begin with the first collection again; the drawn tasks after it will be the same."""
        self._stream.bit_generator.state = self._drawn_from
        self.begin(initial=True)


def _scores(experience: TensorDict) -> dict[str, Tensor]:
    """Means over tasks and episodes."""
    return {
        "train/return": returns(experience).mean(),
        "train/success": successes(experience).double().mean(),
        "train/episode_length": experience["mask"].sum(-1).double().mean(),
    }
