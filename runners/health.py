"""Watching a learner without waiting for its device: its updates, and speed."""

from collections.abc import Mapping
from time import perf_counter
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

CHECK_EVERY, MAX_NONFINITE = 50, 100
"""Of learners whose updates are quick: updates between two looks, and how many may be refused."""


class DivergenceError(RuntimeError):
    """The learner can learn no more; `batch` is the last one drawn."""

    def __init__(self, message: str, batch: TensorDict) -> None:
        super().__init__(message)
        self.batch = batch


class HealthWatch:
    """Counts updates in a row whose metric "health/nonfinite" was not 0, and bounds "loss/critic".

    Args:
        device: of the metrics.
        check_every: updates between two looks, each of which waits for the device.
        most: refused updates in a row after which the run stops.
        max_critic_loss: the run stops after a larger one; None for no bound.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        check_every: int = CHECK_EVERY,
        most: int = MAX_NONFINITE,
        max_critic_loss: float | None = None,
    ) -> None:
        self.check_every, self.most, self.max_critic_loss = check_every, most, max_critic_loss
        self._streak = torch.zeros(2, device=device)  # now, and the longest
        self._largest = torch.zeros((), device=device)  # loss of the critics

    def add(self, metrics: Mapping[str, Tensor], updates: int, batch: TensorDict) -> None:
        """See the metrics of update number `updates`.

        Raises:
            DivergenceError: the learner could not use `most` updates in a row, or the critics'
                loss was too large.
            ValueError: a loss is bounded that the learner does not give.
        """
        if self.max_critic_loss is not None:
            self._bound(self.max_critic_loss, metrics, updates, batch)
        refused = metrics.get("health/nonfinite")
        if refused is None:
            return
        now = (self._streak[0] + 1) * (refused > 0)
        self._streak = torch.stack((now, torch.maximum(self._streak[1], now)))
        if updates % self.check_every == 0 and self._streak[1] >= self.most:
            raise DivergenceError(
                f"gradients were not finite in {int(self._streak[1])} updates in a row, up to "
                f"update {updates}; lower the learning rates",
                batch,
            )

    def _bound(
        self, most: float, metrics: Mapping[str, Tensor], updates: int, batch: TensorDict
    ) -> None:
        loss = metrics.get("loss/critic")
        if loss is None:
            raise ValueError("max_critic_loss is bound, but the learner logs no loss/critic")
        self._largest = torch.fmax(self._largest, loss.detach())  # nan counts as a refused update
        if updates % self.check_every == 0 and self._largest > most:
            raise DivergenceError(
                f"loss/critic reached {float(self._largest):.3g} by update {updates}, above "
                f"max_critic_loss = {most:g}; lower the learning rates or the "
                "rewards, or raise the bound",
                batch,
            )

    def state_dict(self) -> dict[str, Any]:
        """The two counts, and the largest loss if it has a bound."""
        state = {"streak": self._streak.clone()}
        return state if self.max_critic_loss is None else state | {"largest": self._largest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self._streak = state["streak"].to(self._streak.device)
        if "largest" in state:
            self._largest = state["largest"].to(self._streak.device)


class Rates:
    """Steps and updates per second, and the share of the time that collecting took."""

    def __init__(self) -> None:
        self.restart(0, 0)

    def restart(self, step: int, updates: int) -> None:
        """Count from here."""
        self.seconds = [0.0, 0.0]  # collecting, updating
        self._step, self._updates, self._time = step, updates, perf_counter()

    def read(self, step: int, updates: int) -> dict[str, float]:
        """The rates since the last reading."""
        seconds = max(perf_counter() - self._time, 1e-9)
        rates = {
            "perf/env_steps_per_s": (step - self._step) / seconds,
            "perf/updates_per_s": (updates - self._updates) / seconds,
            "perf/collect_fraction": self.seconds[0] / max(sum(self.seconds), 1e-9),
        }
        self.restart(step, updates)
        return rates
