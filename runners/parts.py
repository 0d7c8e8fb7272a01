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
    """A training regime: an iterator of `(environment steps, metrics)`."""

    unit: str
    step: int
    updates: int
    pending: bool
    closing: bool
    replay: Any

    def __iter__(self) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The loop itself."""

    def __next__(self) -> tuple[int, dict[str, Tensor]]:
        """One vector step or one update."""

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
