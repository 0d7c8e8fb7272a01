"""Means of metrics between two readings, kept on the device where they were made."""

from collections.abc import ItemsView
from typing import Any, Protocol

import torch


class Metrics(Protocol):
    """A dict or a TensorDict of metrics."""

    def items(self) -> ItemsView[str, torch.Tensor] | Any:
        """Pairs of name and value."""
        ...


class Meter:
    """Sums metrics without reading them, so that adding never waits for an accelerator.

    A metric keeps its shape, `[]` or `[num_tasks]`. Each has a count of its own: one that is only
    reported now and then is averaged over the times it was.
    """

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: Metrics) -> None:
        """Add one report; numbers and tensors of any dtype, sums in float32 or wider."""
        known, values = [], []
        for name, value in metrics.items():
            value = torch.as_tensor(value).detach()
            if not value.is_floating_point() or value.element_size() < 4:
                value = value.to(torch.float32)
            if name in self._sums:
                if self._sums[name].device != value.device:  # restored sums lie on the CPU
                    self._sums[name] = self._sums[name].to(value.device)
                known.append(self._sums[name])
                values.append(value)
            else:
                self._sums[name] = value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1
        if known:
            torch._foreach_add_(known, values)  # one launch for all of them

    def means(self) -> dict[str, torch.Tensor]:
        """The means since the last call, still on their device; starts anew."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts."""
        sums = {name: total.clone() for name, total in self._sums.items()}
        return {"sums": sums, "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the sums of `state_dict`; `add` moves them to the metrics' device."""
        self._sums = {name: total.clone() for name, total in state["sums"].items()}
        self._counts = dict(state["counts"])
