"""Watches a policy while it is evaluated, and says which units and segments serve which task."""

from typing import Any, Protocol

import gin
import torch
from tensordict import TensorDictBase
from torch import Tensor

from networks.activity import SegmentUse, UnitUse


class Watched(Protocol):
    """What is asked of a learner; its trunk has `hidden_activations`, and maybe `segment_use`."""

    actor: Any
    num_tasks: int

    def seen_by_policy(self, observation: Tensor, task: Tensor) -> Tensor:
        """What the policy's trunk is given."""
        ...


@gin.configurable
class ActivityRecorder:
    """Statistics of `networks.activity` for every hidden layer of a policy's trunk.

    Samples are the states of evaluation episodes, every `stride`-th step of each; what an episode
    did before its end counts, nothing after. Sums are kept, not activations.
    """

    def __init__(self, *, stride: int = 10) -> None:
        """Begin without samples.

        Args:
            stride: steps from one sample of an episode to the next.

        Raises:
            ValueError: if `stride` is below 1.
        """
        if stride < 1:
            raise ValueError(f"ActivityRecorder.stride must be at least 1, got {stride}")
        self.stride = stride
        self.begin()

    def begin(self) -> None:
        """Forget everything."""
        self._units: dict[str, UnitUse] = {}
        self._segments: dict[str, SegmentUse] = {}

    @torch.no_grad()
    def see(self, learner: Watched, td: TensorDictBase, step: int, active: Tensor) -> None:
        """Count one vector step.

        Args:
            learner: the policy's owner.
            td: "observation" [n, observation_dim] and "task_id" [n], on the learner's device.
            step: steps of these episodes before this one.
            active: bool [n], false where an episode is over.

        Raises:
            TypeError: if the trunk cannot tell its hidden activations.
        """
        if step % self.stride or not bool(active.any()):
            return
        trunk: Any = learner.actor.trunk
        if not hasattr(trunk, "hidden_activations"):
            raise TypeError(
                f"{type(trunk).__name__} does not tell its hidden activations: leave "
                "Evaluator.recorder out, or use MLP, MultiHeadMLP, MaskedMLP or DendriticMLP"
            )
        task = td["task_id"]
        x = learner.seen_by_policy(td["observation"], task)
        rows = active.to(task.device)
        for index, hidden in enumerate(trunk.hidden_activations(x, task)):
            use = self._units.setdefault(str(index), UnitUse(learner.num_tasks, hidden.shape[-1]))
            use.add(hidden[rows], task[rows])
        if hasattr(trunk, "segment_use"):
            for key, (d, winner, gate) in trunk.segment_use(x, task).items():
                sizes = (learner.num_tasks, *d.shape[-2:])
                self._segments.setdefault(key, SegmentUse(*sizes)).add(
                    d[rows], winner[rows], gate[rows], task[rows]
                )

    def summary(self) -> dict[str, Tensor]:
        """`layer_<l>/<figure>` and `segments_<l>/<figure>` of `networks.activity`, float32."""
        parts = {f"layer_{key}": use.summary() for key, use in self._units.items()}
        parts |= {f"segments_{key}": use.summary() for key, use in self._segments.items()}
        return {
            f"{part}/{name}": value.float()
            for part, figures in parts.items()
            for name, value in figures.items()
        }
