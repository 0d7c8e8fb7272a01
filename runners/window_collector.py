"""The collections of `WindowSchedule`: every training task at first, then drawn ones, in rounds."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import TensorDict

from runners.ledger import Ledger
from runners.rollouts import scores
from runners.seeding import task_stream
from runners.task_lists import listed_tasks
from runners.window_rollouts import WindowRollouts


class WindowCollector:
    """Runs tasks side by side, over and over until there are enough transitions, into a replay.

    Args:
        suite: the tasks; environments are built at the first round, not before.
        learner: acts, and takes over the statistics after a collection.
        replay: where episodes are stored.
        window: see `WindowRollouts`.
        seed: of the tasks drawn and of the environments' random streams.
        num_drawn: tasks of a collection, different ones while there are enough of them.
        at_once: episodes side by side.
        first: transitions of each training task in the first collection; 0 leaves it out.
        each: transitions of each drawn task.
        exact: so many of each by itself, its last episode cut; else at least so many on average.
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
        exact: bool = False,
    ) -> None:
        self.suite, self.learner, self.replay = suite, learner, replay
        self.num_drawn, self.at_once, self.first, self.each = num_drawn, at_once, first, each
        self.exact = exact
        self.known = listed_tasks(suite, "train")
        self.rollouts = WindowRollouts(suite, at_once, window, seed=seed)
        self._stream = task_stream(seed)
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
        self._counts = {"initial": int(initial and self.first > 0), "rounds": 0}
        self._drawn_from = self._stream.bit_generator.state
        self._choose()

    def _choose(self) -> None:
        """The tasks of the collection, and what each of them lacks."""
        self.tasks = self.known if self.initial else self._draw()
        self._lacking = [self.first if self.initial else self.each] * len(self.tasks)
        self._turn: list[int] = []  # places of those that have theirs before all come again

    def _draw(self) -> tuple[Any, ...]:
        number, known = self.num_drawn, self.known
        chosen = self._stream.choice(len(known), number, replace=number > len(known))
        return tuple(known[i] for i in chosen.tolist())

    def advance(self, ledger: Ledger) -> bool:
        """Run an episode of some tasks; whether the collection is complete."""
        lacking, number = self._lacking, self.at_once
        if not self._turn:
            self._turn = [i for i, steps in enumerate(lacking) if steps > 0 or not self.exact]
        places, self._turn = self._turn[:number], self._turn[number:]
        with ledger.timed("collect"):
            limits = [lacking[i] for i in places] if self.exact else None
            experience = self._round([self.tasks[i] for i in places], limits)
        ledger.collected(experience["mask"])
        ledger.note(scores(experience))
        for i, steps in zip(places, experience["mask"].sum((1, 2)).tolist(), strict=True):
            lacking[i] -= steps
        self._counts["rounds"] += 1
        if self._turn or (max(lacking) if self.exact else sum(lacking)) > 0:
            return False
        self.learner.load_statistics(self.replay.statistics())
        return True

    def _round(self, tasks: Sequence[Any], limits: Sequence[int] | None = None) -> TensorDict:
        """Store an episode of each task, cut after so many steps."""
        experience = self.rollouts.run(self.learner, tasks)
        if limits is not None:
            mask = experience["mask"]
            ends = torch.tensor(limits, device=mask.device).view(-1, 1, 1)
            mask &= mask.cumsum(-1) <= ends
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
            "lacking": list(self._lacking),
            "turn": list(self._turn),
            "drawn_from": self._drawn_from,
            "rollouts": self.rollouts.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        tasks = [self.known[i % len(self.known)] for i in range(self.at_once)]
        self.rollouts.load_state_dict(state["rollouts"], tasks)
        self._counts, self._drawn_from = dict(state["counts"]), state["drawn_from"]
        self._stream.bit_generator.state = self._drawn_from
        self._choose()
        self._lacking, self._turn = list(state["lacking"]), list(state["turn"])

    def refill(self) -> None:
        """Begin with the first collection again; the drawn tasks after it will be the same."""
        self._stream.bit_generator.state = self._drawn_from
        self.begin(initial=True)
