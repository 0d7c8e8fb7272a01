"""Optimizers known to gin; `ClippedOptimizer` of one group of parameters, and `OptimizerGroups`."""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import gin
import torch
from torch import Tensor, nn

for _optimizer in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD):
    gin.external_configurable(_optimizer, module="torch.optim")


class ClippedOptimizer:
    """An optimizer, the clip of its gradient's norm, and the refusal of non-finite gradients.

    The fused implementations take a `found_inf` flag that turns a step into nothing, moments and
    step count included, without the host having to look at the gradient.

    Fused CPU kernels walk a gradient as if it had its parameter's memory layout. `backward` gives
    it that layout; a gradient written by hand into `.grad` must be made contiguous first.

    Args:
        parameters: The group; those without gradient are left out. With `members > 1` each has a
            leading dimension of that size.
        optimizer: A `torch.optim` class that knows `fused`.
        lr: Learning rate.
        max_norm: Bound of the Euclidean norm of the gradient, of each member by itself; None for no
            bound.
        members: Networks stacked in the group, as twin critics are.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        lr: float = 3e-4,
        *,
        max_norm: float | None = 1.0,
        members: int = 1,
    ) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.optimizer = optimizer(self.parameters, lr=lr, fused=True)
        self.max_norm = math.inf if max_norm is None else max_norm
        self.members = members

    def step(self) -> tuple[Tensor, Tensor]:
        """Clip, step and clear the gradients.

        Returns:
            The norm before clipping, largest over members, and 1.0 if the step was refused.
        """
        moved = [(p, p.grad) for p in self.parameters if p.grad is not None]
        gradients = [gradient for _, gradient in moved]
        norms = [torch.linalg.vector_norm(g.reshape(self.members, -1), dim=1) for g in gradients]
        norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        scale = (self.max_norm / (norm + 1e-6)).clamp(max=1.0)
        clipped: Sequence[Tensor]
        # Not in place: gradients of one backward pass may share memory, and would shrink twice.
        if self.members == 1:
            clipped = torch._foreach_mul(gradients, scale.squeeze(0))
        else:
            clipped = [g * scale.view(-1, *[1] * (g.ndim - 1)) for g in gradients]
        for (parameter, _), gradient in zip(moved, clipped, strict=True):
            parameter.grad = gradient
        refused = (~torch.isfinite(norm).all()).float()
        self.optimizer.found_inf = refused  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm.amax(), refused

    def state_dict(self) -> dict[str, Any]:
        """Moments, step counts and settings, as `torch.optim` gives them."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave; the state's tensors are copied, not shared."""
        self.optimizer.load_state_dict(copy.deepcopy(state))


class Step(NamedTuple):
    """What came of a step.

    Attributes:
        norms: `grad_norm/<group>` before clipping, 0-d.
        refused: 1.0 if a group's gradient was not finite, and the group stood still; 0-d.
    """

    norms: dict[str, Tensor]
    refused: Tensor


class OptimizerGroups(dict[str, ClippedOptimizer]):
    """The optimizers of a learner by name; each step moves those groups alone that it names."""

    def backward(self, loss: Tensor, *names: str) -> None:
        """Add the gradient of a loss to the parameters of some groups, and of no other."""
        moved = [p for name in names for p in self[name].parameters]
        torch.autograd.backward(loss, inputs=moved)

    def step(self, *names: str) -> Step:
        """Step some groups by the gradients they have."""
        taken = {name: self[name].step() for name in names}
        norms = {f"grad_norm/{name}": norm for name, (norm, _) in taken.items()}
        return Step(norms, torch.stack([refused for _, refused in taken.values()]).amax())

    def move(self, loss: Tensor, *names: str) -> Step:
        """Step some groups down a loss."""
        self.backward(loss, *names)
        return self.step(*names)

    def state_dict(self) -> dict[str, Any]:
        """The optimizers' states by name."""
        return {name: group.state_dict() for name, group in self.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        for name, group in self.items():
            group.load_state_dict(state[name])
