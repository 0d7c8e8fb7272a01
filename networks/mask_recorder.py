"""Tells at each evaluation how much tasks' masks have in common, and how much they should."""

import logging
from typing import Protocol

import gin
from tensordict import TensorDictBase
from torch import Tensor

log = logging.getLogger("absl")


class Masked(Protocol):
    """What is asked of a learner."""

    def similarities(self) -> dict[str, Tensor]:
        """Matrices `[tasks, tasks]` by name."""
        ...


@gin.configurable
class MaskRecorder:
    """The matrices of `MaskedSAC.similarities`, as they are when an evaluation begins.

    Of a learner without masks there are none: a warning says so, and no file is written.
    """

    kind = "masks"

    def __init__(self) -> None:
        """Begin without matrices."""
        self._warned = False
        self.begin()

    def begin(self) -> None:
        """Forget everything."""
        self._seen: dict[str, Tensor] = {}

    def see(self, learner: Masked, td: TensorDictBase, step: int, active: Tensor) -> None:
        """Take them from the learner, once."""
        if hasattr(learner, "similarities"):
            if not self._seen:
                matrices = learner.similarities().items()
                self._seen = {name: value.float().cpu() for name, value in matrices}
        elif not self._warned:
            owner = type(learner).__name__
            log.warning("MaskRecorder (Evaluator.recorder) records nothing: %s has no masks", owner)
            self._warned = True

    def summary(self) -> dict[str, Tensor]:
        """`overlap/<network>` and `target/<network>`, float32 [tasks, tasks]."""
        return self._seen
