"""What a vector asks of the thing that steps its environments."""

from collections.abc import Sequence
from typing import Any, Protocol

from envs.episodes import Task


class Engine(Protocol):
    """What steps the environments of a vector: reads and writes arrays, as `Chunk` does."""

    @property
    def restarts(self) -> int:
        """Worker processes that were replaced."""

    @property
    def pids(self) -> tuple[int, ...]:
        """Worker processes there are."""

    def reset(self) -> None:
        """Begin a new episode in every environment."""

    def step(self) -> None:
        """Read "action", write what follows."""

    def assign(self, tasks: Sequence[Task]) -> None:
        """New tasks, in effect from the next episode on."""

    def state(self) -> Any:
        """Everything the future depends on: dicts, lists, scalars and numpy arrays."""

    def load(self, states: Any) -> None:
        """Continue where `state` was taken."""

    def assigned(self, states: Any) -> tuple[Task, ...]:
        """The tasks as last assigned when `state` was taken."""

    def close(self) -> None:
        """Free everything."""
