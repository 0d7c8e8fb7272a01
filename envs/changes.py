"""When the task of a running episode changes.

Bing et al., "Meta-Reinforcement Learning in Non-Stationary and Dynamic Environments", 2022.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from envs.arguments import check_number, check_whole

Clock = dict[str, float]


class Change(Protocol):
    """A rule; what it keeps in mind during an episode is its clock, plain numbers."""

    @property
    def directed(self) -> bool:
        """A change has a direction, which tasks of direction obey."""

    def begin(self, rng: np.random.Generator) -> Clock:
        """The clock at the start of an episode."""

    def strikes(self, clock: Clock, place: float, rng: np.random.Generator) -> int:
        """Advance the clock by the step that begins now.

        Args:
            clock: changed in place.
            place: x of the robot.
            rng: of the environment.

        Returns:
            0 for no change, 1 for one, -1 for one in the opposite direction.
        """


@dataclass(frozen=True, kw_only=True)
class TimedChange:
    """A change before the step that follows `steps` of the same task, with some probability.

    Where the probability is below 1, each later step has it too. Deviations from the references:
    1. TIGR counts the first step before it looks, so that its first segment is a step short: 79,
       80, 80, ... Here all have `steps`.
    2. CEMRL asks for more than `change_steps`: `steps` is one more than that.

    Attributes:
        steps: at the least between two changes.
        probability: of each step from there on.

    Raises:
        ValueError: naming the argument.
    """

    steps: int = 80
    probability: float = 1.0
    directed = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_whole("steps", self.steps, 1)
        check_number("probability", self.probability, 0)
        if self.probability > 1:
            raise ValueError(f"probability must be at most 1, got {self.probability!r}")

    def begin(self, rng: np.random.Generator) -> Clock:
        """No step yet."""
        return {"elapsed": 0}

    def strikes(self, clock: Clock, place: float, rng: np.random.Generator) -> int:
        """See `Change`."""
        struck = clock["elapsed"] >= self.steps and (
            self.probability == 1 or bool(rng.random() < self.probability)
        )
        clock["elapsed"] = 1 if struck else clock["elapsed"] + 1
        return int(struck)


@dataclass(frozen=True, kw_only=True)
class LocationChange:
    """A change where the robot passes a mark ahead, or one behind.

        ahead = distance + interval U,  behind = -(distance + interval U),  U uniform in [0, 1)

    A mark that was passed moves on by as much again, with a U of its own. In a task of direction
    the mark ahead turns a robot that should go forward, the one behind one that should go back;
    other tasks change for one drawn from the split's list.

    Deviation from the reference: the marks are drawn at every reset, not where a task is assigned.

    Attributes:
        distance: of the first marks at the least.
        interval: of the random part.

    Raises:
        ValueError: naming the argument.
    """

    distance: float = 10.0
    interval: float = 1.0
    directed = True

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_number("distance", self.distance, 0)
        check_number("interval", self.interval, 0)

    def begin(self, rng: np.random.Generator) -> Clock:
        """Both marks."""
        return {"ahead": self._further(rng), "behind": -self._further(rng)}

    def strikes(self, clock: Clock, place: float, rng: np.random.Generator) -> int:
        """See `Change`."""
        if place > clock["ahead"]:
            clock["ahead"] += self._further(rng)
            return 1
        if place < clock["behind"]:
            clock["behind"] -= self._further(rng)
            return -1
        return 0

    def _further(self, rng: np.random.Generator) -> float:
        return self.distance + self.interval * float(rng.random())
