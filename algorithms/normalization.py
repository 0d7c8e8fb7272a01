"""Running normalisation of observations."""

import gin
import torch
from torch import Tensor, nn

from algorithms.arguments import check_positive


@gin.configurable
class ObservationNormalizer(nn.Module):
    """`clip((x - mean) / max(std, floor), -bound, bound)` with running statistics.

    Mean and variance are pooled over tasks and follow every collected observation until a fixed
    number has been seen; from then on they stand still, so that the learner's inputs do too. They
    are buffers: they travel with checkpoints and with an exported policy.

    Args:
        observation_dim: Numbers in an observation.
        num_tasks: Tasks that share the statistics.
        steps_per_task: Observations of each task after which the statistics freeze.
        floor: Smallest standard deviation divided by, in the observation's units.
        bound: Largest magnitude of a normalised value.

    Raises:
        ValueError: a number that is not positive.
    """

    mean: Tensor
    square: Tensor
    count: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        observation_dim: int,
        num_tasks: int,
        *,
        steps_per_task: int = 10_000,
        floor: float = 0.02,
        bound: float = 5.0,
    ) -> None:
        super().__init__()
        positive = {"steps_per_task": steps_per_task, "floor": floor, "bound": bound}
        check_positive("ObservationNormalizer", **positive)
        self.limit = steps_per_task * num_tasks
        self.floor, self.bound = floor, bound
        zeros = torch.zeros(observation_dim, dtype=torch.float64)
        self.register_buffer("mean", zeros)
        self.register_buffer("square", zeros.clone())  # sum of squared deviations from the mean
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        # What `forward` needs of them, derived where they change and not at each of its calls.
        self.register_buffer("shift", torch.zeros(observation_dim), persistent=False)
        self.register_buffer("scale", torch.ones(observation_dim), persistent=False)
        self.register_load_state_dict_post_hook(lambda module, keys: module._derive())  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def observe(self, observation: Tensor, valid: Tensor) -> None:
        """Take in `observation` `[n, observation_dim]` where `valid` `[n, 1]` (Chan's update)."""
        if self.count.device.type == "cpu" and self.count >= self.limit:
            return  # asked only where the answer costs no wait
        weight = valid.double() * (self.count < self.limit)
        x = torch.where(valid, observation, 0.0).double()
        number = weight.sum()
        mean = (weight * x).sum(0) / number.clamp(min=1.0)
        square = (weight * (x - mean).square()).sum(0)
        total = self.count + number
        delta = mean - self.mean
        share = number / total.clamp(min=1.0)
        self.square += square + delta.square() * self.count * share
        self.mean += delta * share
        self.count.copy_(total)
        self._derive()

    def forward(self, observation: Tensor) -> Tensor:
        """Normalise `[..., observation_dim]`; the identity before anything was seen."""
        normalised = ((observation - self.shift) / self.scale).clamp(-self.bound, self.bound)
        return torch.where(self.count > 0, normalised, observation)

    @torch.no_grad()
    def _derive(self) -> None:
        std = (self.square / self.count.clamp(min=1.0)).sqrt().clamp(min=self.floor)
        self.shift.copy_(self.mean)
        self.scale.copy_(std)
