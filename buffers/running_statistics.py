"""Mean and standard deviation of rows that come and go."""

from typing import Any

import torch
from torch import Tensor


class RunningStatistics:
    """Mean and population standard deviation of each column, in double precision.

    Rows are added and taken away in bunches, by the update of Chan et al. 1983 and its inverse, so
    that the numbers are those of the rows that are there.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        """Start without a row of `width` numbers."""
        self.count = 0
        self._mean = torch.zeros(width, dtype=torch.float64, device=device)
        self._square = torch.zeros_like(self._mean)  # sum of squared deviations from the mean

    @property
    def mean(self) -> Tensor:
        """Of each column, `[width]`; 0 without a row."""
        return self._mean.clone()

    @property
    def std(self) -> Tensor:
        """Of each column, `[width]`; 1 without a row."""
        if not self.count:
            return torch.ones_like(self._square)
        return (self._square / self.count).sqrt()

    def add(self, rows: Tensor) -> None:
        """Take in rows `[n, width]`."""
        if not len(rows):
            return
        mean, square = _moments(rows)
        total = self.count + len(rows)
        delta = mean - self._mean
        self._mean += delta * (len(rows) / total)
        self._square += square + delta.square() * (self.count * len(rows) / total)
        self.count = total

    def remove(self, rows: Tensor) -> None:
        """Take away rows `[n, width]`, which were added before."""
        if not len(rows):
            return
        rest = self.count - len(rows)
        if rest == 0:
            self._mean.zero_()
            self._square.zero_()
        else:
            mean, square = _moments(rows)
            self._mean -= (mean - self._mean) * (len(rows) / rest)
            delta = mean - self._mean
            self._square -= square + delta.square() * (rest * len(rows) / self.count)
            self._square.clamp_(min=0.0)
        self.count = rest

    def state_dict(self) -> dict[str, Any]:
        """Everything, as copies."""
        moments = {"mean": self._mean, "square": self._square}
        copies = {name: x.to("cpu", copy=True) for name, x in moments.items()}
        return {"count": self.count, **copies}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of the same width."""
        self.count = int(state["count"])
        self._mean.copy_(state["mean"])
        self._square.copy_(state["square"])


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of rows `[n, width]` and sum of squared deviations from it."""
    rows = rows.double()
    mean = rows.mean(0)
    return mean, (rows - mean).square().sum(0)
