"""Ledger: what the iterations of a loop leave behind, written into by its schedule."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from runners.health import HealthWatch
from runners.meter import Meter


class Ledger:
    """Counts, means of metrics since the last reading, and the seconds that each phase took.

    Args:
        watch: of the updates.

    Attributes:
        counts: "iterations", "env_steps" and "updates" so far.
        seconds: by phase, since the last reading.
    """

    def __init__(self, watch: HealthWatch) -> None:
        self.counts = {"iterations": 0, "env_steps": 0, "updates": 0}
        self._meter, self._watch = Meter(), watch
        self.restart()

    def restart(self) -> None:
        """Measure times from here."""
        self.seconds: dict[str, float] = {}
        self._read = dict(self.counts)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds within to those of a phase, for example "collect"."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + perf_counter() - start

    def collected(self, mask: Tensor) -> None:
        """Count the environment steps that `mask` says happened."""
        self.counts["env_steps"] += int(mask.sum())

    def note(self, metrics: Mapping[str, Tensor]) -> None:
        """Add metrics to the means."""
        self._meter.add(metrics)

    def updated(self, metrics: Mapping[str, Tensor], batch: TensorDict) -> None:
        """Count an update, and add its metrics to the means.

        Raises:
            DivergenceError: see `HealthWatch.add`; `batch` is the last update's.
        """
        self.counts["updates"] += 1
        self._meter.add(metrics)
        self._watch.add(metrics, self.counts["updates"], batch)

    def read(self, faults: Mapping[str, int]) -> dict[str, Tensor]:
        """Means, counts and rates since the last reading, and `health/<fault>`; starts anew."""
        counts, before = self.counts, self._read
        total = max(sum(self.seconds.values()), 1e-9)
        values: dict[str, float] = {name: counts[name] for name in ("env_steps", "updates")}
        values |= {f"perf/{phase}_fraction": s / total for phase, s in self.seconds.items()}
        for name in ("env_steps", "updates"):
            values[f"perf/{name}_per_s"] = (counts[name] - before[name]) / total
        values |= {f"health/{name}": count for name, count in faults.items()}
        self.restart()
        metrics = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
        return {**self._meter.means(), **metrics}

    def state_dict(self) -> dict[str, Any]:
        """All but the times."""
        return {
            "counts": dict(self.counts),
            "meter": self._meter.state_dict(),
            "watch": self._watch.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.counts = dict(state["counts"])
        self._meter.load_state_dict(state["meter"])
        self._watch.load_state_dict(state["watch"])
        self.restart()
