"""Tells at each evaluation how much tasks' masks have in common, and how much they should."""

from typing import Any, Protocol

import gin
from tensordict import TensorDictBase
from torch import Tensor


class Masked(Protocol):
    """What is asked of a learner."""

    def similarities(self) -> dict[str, Tensor]:
        """Matrices `[tasks, tasks]` by name."""
        ...


@gin.configurable
class MaskRecorder:
    """The matrices of `MaskedSAC.similarities`, as they are when an evaluation begins."""

    kind = "masks"

    def __init__(self) -> None:
        """Begin without matrices."""
        self.begin()

    def begin(self) -> None:
        """Forget everything."""
        self._seen: dict[str, Tensor] = {}

    def see(self, learner: Masked, td: TensorDictBase, step: int, active: Tensor) -> None:
        """Take them from the learner, once.

        Raises:
            TypeError: if the learner has no masks.
        """
        if self._seen:
            return
        if not hasattr(learner, "similarities"):
            owner: Any = type(learner).__name__
            raise TypeError(
                f"{owner} has no masks: leave Evaluator.recorder out, or learn with MaskedSAC"
            )
        self._seen = {name: value.float().cpu() for name, value in learner.similarities().items()}

    def summary(self) -> dict[str, Tensor]:
        """`overlap/<network>` and `target/<network>`, float32 [tasks, tasks]."""
        return self._seen
