"""The recent episodes of each task, as MUST's mask generator reads them.

Kept are observations only, of real episodes: from the reset to the true last observation, every
`stride`-th step, padded to one length. There is a single writer, the loop that collects.
"""

from typing import Any

import gin
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from buffers.arguments import check_saved_sizes, check_sizes, named_device


@gin.configurable
class TrajectoryStore:
    """The last `window` trajectories of each task, by MUST's rule.

    Until a task first succeeds, every finished episode is stored. Its first success empties the
    task's list, is stored itself, and sets a flag for good: from then on only successful episodes
    are stored. A generator reads the newest trajectory while the flag is unset, and a uniformly
    random one after.

    Deviations from the reference: (1) an episode starts at its own reset and ends with its own last
    observation; (2) the first success is never lost to the emptying; (3) steps are `stride` apart
    and shorter episodes are padded with zeros, so horizons may differ.

    An episode with a transition that is not valid, or longer than the horizon, is left out.
    """

    def __init__(
        self,
        observation_dim: int,
        num_tasks: int,
        horizon: int,
        *,
        window: int = 10,
        stride: int = 10,
        device: torch.device | str = "cpu",
    ) -> None:
        """Allocate, on the CPU beside the environments.

        Args:
            observation_dim: numbers in an observation.
            num_tasks: tasks, each with one running episode.
            horizon: most steps of an episode.
            window: trajectories kept of each task.
            stride: steps from one kept observation to the next.
            device: where `context` puts its tensors.

        Raises:
            ValueError: a size is not positive, or the device is unknown.
        """
        sizes = {
            "observation_dim": observation_dim,
            "num_tasks": num_tasks,
            "horizon": horizon,
            "window": window,
            "stride": stride,
        }
        check_sizes("TrajectoryStore", **sizes)
        self.num_tasks, self.horizon, self.window, self.stride = num_tasks, horizon, window, stride
        self.length = -(-horizon // stride) + 1
        self.device = named_device("TrajectoryStore", device)
        self._sizes = sizes
        self._task = torch.arange(num_tasks)
        self._context: TensorDict | None = None
        flags = torch.zeros(num_tasks, dtype=torch.bool)
        numbers = torch.zeros(num_tasks, dtype=torch.int64)
        # "running", "steps", "whole", "succeeding": the episode under way. Its last place, one past
        # the length, takes the observations between two kept ones.
        # "stored", "lengths": rings of `window` trajectories; "count": stored since last emptied.
        self._state: dict[str, Tensor] = {
            "running": torch.zeros(num_tasks, self.length + 1, observation_dim),
            "steps": numbers.clone(),
            "whole": flags.clone(),
            "succeeding": flags.clone(),
            "stored": torch.zeros(num_tasks, window, self.length, observation_dim),
            "lengths": torch.zeros(num_tasks, window, dtype=torch.int64),
            "count": numbers.clone(),
            "flag": flags.clone(),
        }

    @property
    def succeeded(self) -> Tensor:
        """Whether each task has ever succeeded, `[tasks]` bool."""
        return self._state["flag"].clone()

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(tensor.nbytes for tensor in self._state.values())

    def __len__(self) -> int:
        """Trajectories stored of the task that has fewest."""
        return int(self._state["count"].clamp(max=self.window).min())

    @torch.no_grad()
    def extend(self, td: TensorDictBase) -> None:
        """Take in one step of each task's running episode, and store the episodes that end.

        Args:
            td: batch size `[tasks]`, in the order of the tasks: "observation", "is_init", and
                ("next", "observation" | "done" | "success" | "valid").

        Raises:
            ValueError: not one row per task.
        """
        if td.batch_size != (self.num_tasks,):
            raise ValueError(
                f"TrajectoryStore.extend: batch size {tuple(td.batch_size)}; "
                f"give one row for each of the {self.num_tasks} tasks"
            )
        state, after, task = self._state, td["next"], self._task
        first = td["is_init"].squeeze(1).cpu()
        valid, done, success = (after[key].squeeze(1).cpu() for key in ("valid", "done", "success"))
        running, steps = state["running"], state["steps"].masked_fill_(first, 0)
        if first.any():
            running[first] = 0.0
        whole = (state["whole"] | first) & valid & (steps < self.horizon)
        succeeding = (state["succeeding"] & ~first) | (success & valid)

        kept = whole & (steps % self.stride == 0)
        running[task, (steps // self.stride).where(kept, self.length)] = td["observation"].cpu()
        steps += 1
        state["whole"], state["succeeding"] = whole & ~done, succeeding
        ended = whole & done
        if ended.any():
            last = (steps + self.stride - 1) // self.stride
            running[task, last.where(ended, self.length)] = after["observation"].cpu()
            self._store(ended, succeeding, last + 1)

    def _store(self, ended: Tensor, success: Tensor, lengths: Tensor) -> None:
        """Put the running episodes that `ended` into their rings, by the flag's rule."""
        state = self._state
        state["count"] = state["count"].masked_fill(ended & success & ~state["flag"], 0)
        state["flag"] = state["flag"] | (ended & success)
        task = (ended & (success | ~state["flag"])).nonzero().squeeze(1)
        slot = state["count"][task] % self.window
        state["stored"][task, slot] = state["running"][task, : self.length]
        state["lengths"][task, slot] = lengths[task]
        state["count"][task] += 1
        self._context = None

    @torch.no_grad()
    def context(self) -> TensorDict:
        """What is stored, newest first.

        Returns:
            Batch size `[tasks, window]`: "observation" `[tasks, window, length, observation_dim]`,
            zeros where there is none; "mask" `[tasks, window, length]` bool, True at real
            observations; "probability" `[tasks, window]`, the chance of each trajectory to be read:
            one for the newest before the task's first success, equal ones after, zeros if nothing
            is stored; "succeeded" `[tasks, window]` bool. The same object until an episode is
            stored, so not to be written to.
        """
        if self._context is None:
            state = self._state
            age = torch.arange(self.window)
            slot = (state["count"].unsqueeze(1) - 1 - age) % self.window
            held = state["count"].clamp(max=self.window).unsqueeze(1)
            there = age < held
            lengths = state["lengths"].gather(1, slot).where(there, 0)
            mask = torch.arange(self.length) < lengths.unsqueeze(2)
            observation = state["stored"][self._task.unsqueeze(1), slot]
            flag = state["flag"].unsqueeze(1)
            newest = there & (age == 0)
            probability = torch.where(flag, there / held.clamp(min=1), newest.float())
            self._context = TensorDict(
                {
                    "observation": observation * mask.unsqueeze(3),
                    "mask": mask,
                    "probability": probability,
                    "succeeded": flag & there,
                },
                batch_size=(self.num_tasks, self.window),
            ).to(self.device)
        return self._context

    def state_dict(self) -> dict[str, Any]:
        """Everything stored and the running episodes, as copies."""
        return {
            "sizes": list(self._sizes.values()),
            **{k: v.clone() for k, v in self._state.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of a store of the same sizes.

        Raises:
            ValueError: the state is of other sizes.
        """
        check_saved_sizes("TrajectoryStore", self._sizes, state["sizes"])
        for name, tensor in self._state.items():
            tensor.copy_(state[name])
        self._context = None
