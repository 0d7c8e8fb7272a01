"""What a run is put together from."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from runners.checkpoint import Checkpointer
from runners.evaluation import Evaluator
from runners.logs import Logger
from runners.progress import Progress
from runners.seeding import GlobalStreams


class Loop(Protocol):
    """A training regime: an iterator of `(step, metrics)`."""

    unit: str
    """What `step` and `train.total_steps` count: "steps" of environments, or "iterations"."""
    counted: str
    """How, for people: "over all tasks"."""
    collected: str
    """What is collected at once, for people: "one step of every task"."""
    about: str
    """The schedule, in a line."""
    step: int
    """So far."""
    updates: int
    """Gradient steps so far."""
    pending: bool
    """In the middle of what no evaluation may interrupt."""
    closing: bool
    """The learner's `end_phase` comes with the next piece."""
    replay: Any
    """None without one."""

    def __iter__(self) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The loop itself."""

    def __next__(self) -> tuple[int, dict[str, Tensor]]:
        """One piece of work, such as a vector step or an update; no metrics most of the time."""

    def rehearse(self, steps: int, updates: int) -> tuple[float, float]:
        """A little of everything, for `--dry_run`: seconds of a collection and of an update."""

    def whole(self, total_steps: int, step: float, update: float) -> float:
        """Seconds of a run of `total_steps`, from those that `rehearse` measured."""

    def close(self) -> None:
        """Release the environments."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""


@dataclass
class Parts:
    """A run, put together."""

    suite: Any
    learner: Any
    loop: Any
    evaluator: Any
    commit_evaluator: Evaluator | None
    logger: Logger
    checkpointer: Checkpointer
    progress: Progress
    streams: GlobalStreams
    recorder: Any = None
    evaluated: dict[str, int] = field(default_factory=lambda: {"step": -1})

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, in the order in which it is restored."""
        parts = {"learner": self.learner, "loop": self.loop, "evaluated": _Entry(self.evaluated)}
        if self.evaluator is not None:
            parts["evaluator"] = self.evaluator
        return {**parts, "logger": self.logger, "random": self.streams}


class _Entry:
    """A plain dict among the parts of a checkpoint."""

    def __init__(self, values: dict[str, int]) -> None:
        self.values = values

    def state_dict(self) -> dict[str, int]:
        return dict(self.values)

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.values.update(state)
