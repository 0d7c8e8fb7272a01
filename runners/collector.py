"""Collecting: one vector step of every environment, and what the episodes came to."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor


class Vector(Protocol):
    """Environments side by side, one for each task."""

    def current(self) -> TensorDict:
        """What the policy sees now, `[n]`."""

    def step(self, td: TensorDict) -> TensorDict:
        """Apply `"action"` `[n, action_dim]`; add the `"next"` part."""


class Actor(Protocol):
    """The part of a learner that collecting needs."""

    def act(self, td: TensorDict, explore: bool) -> TensorDict:
        """Add `"action"`."""

    def observe(self, td: TensorDict) -> None:
        """See a collected step."""


class Collector:
    """Steps the environments, hands the steps on, and keeps the statistics of finished episodes.

    Args:
        vector: the environments, row t for task t.
        learner: chooses actions and sees each collected step.
        sinks: what else sees each step: the replay's and the trajectory store's `extend`.
        names: the tasks' names, for the tags.
        action_dim: numbers in an action.
        device: the learner's.
        scaler: called with reward and valid, `[n, 1]` both, for the reward that learner and sinks
            see; the statistics of episodes are of the raw one. None: they see that too.
    """

    def __init__(
        self,
        vector: Vector,
        learner: Actor,
        sinks: Sequence[Callable[[TensorDict], None]],
        *,
        names: Sequence[str],
        action_dim: int,
        device: torch.device,
        scaler: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.vector, self.learner, self.sinks = vector, learner, list(sinks)
        self.names, self.action_dim, self.device = list(names), action_dim, device
        self.scaler = scaler
        # Running episode: return, steps, success. Finished ones: their sums, and how many.
        self._running = np.zeros((3, len(self.names)))
        self._finished = np.zeros((4, len(self.names)))

    def step(self, uniform: bool = False) -> None:
        """Collect one transition of each task, by the exploring policy or uniformly at random."""
        td = self.vector.current()
        if uniform:
            td["action"] = 2.0 * torch.rand(len(self.names), self.action_dim) - 1.0
        elif self.device.type == "cpu":
            td = self.learner.act(td, explore=True)
        else:
            acted = self.learner.act(td.to(self.device), explore=True)
            td["action"] = acted["action"].to("cpu")
        td = self.vector.step(td)
        self._count(td)
        if self.scaler is not None:
            td["next", "reward"] = self.scaler(td["next", "reward"], td["next", "valid"])
        seen = td if self.device.type == "cpu" else td.to(self.device, non_blocking=True)
        self.learner.observe(seen)
        for sink in self.sinks:
            sink(td)

    def means(self) -> dict[str, Tensor]:
        """Means over the episodes finished since the last call; no key where there was none.

        Over tasks each task counts the same, however many episodes it finished.
        """
        returns, lengths, successes, counts = torch.from_numpy(self._finished)
        self._finished = np.zeros_like(self._finished)
        some = counts > 0
        if not some.any():
            return {}
        per_task = torch.stack((returns, lengths, successes))[:, some] / counts[some]
        means = {
            "train/return": per_task[0].mean(),
            "train/episode_length": per_task[1].mean(),
            "train/success": per_task[2].mean(),
            "train/episodes": counts.sum(),
        }
        names = [name for name, there in zip(self.names, some.tolist(), strict=True) if there]
        for name, value, success in zip(names, per_task[0], per_task[2], strict=True):
            means[f"train/return/{name}"] = value
            means[f"train/success/{name}"] = success
        return means

    def state_dict(self) -> dict[str, Any]:
        """Sums of the running and the finished episodes."""
        sums = {"running": self._running, "finished": self._finished}
        return {name: torch.from_numpy(array.copy()) for name, array in sums.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the sums of `state_dict`."""
        self._running = state["running"].cpu().numpy().copy()
        self._finished = state["finished"].cpu().numpy().copy()

    def _count(self, td: TensorDict) -> None:
        after = td["next"]
        reward, success, done, valid = (
            after[key].cpu().numpy()[:, 0] for key in ("reward", "success", "done", "valid")
        )
        running = self._running
        running[0] += np.where(valid, reward, 0.0)
        running[1] += 1.0
        np.maximum(running[2], success & valid, out=running[2])
        if not valid.all() or done.any():
            # An episode that broke (a dead worker, an unstable simulator) is no episode.
            ended = done & valid
            self._finished[:3] += running * ended
            self._finished[3] += ended
            running[:, done | ~valid] = 0.0
