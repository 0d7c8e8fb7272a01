"""Trunks that change by themselves, apart from gradients, once per iteration of updates."""

from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class Rhythmic(Protocol):
    """A trunk with a rhythm of its own, as the boosting of k-winners has."""

    def end_iteration(self) -> None:
        """An iteration of updates is over."""


def end_iteration(trunk: nn.Module) -> None:
    """Tell a trunk that an iteration of updates is over, if it wants to know."""
    if isinstance(trunk, Rhythmic):
        trunk.end_iteration()
