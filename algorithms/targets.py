"""Target networks, which follow the ones that learn."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def soft_update(target: nn.Module, online: nn.Module, smoothing: float) -> None:
    """Move each parameter of a target by a share `smoothing` of the way to the online one."""
    slow: list[Tensor] = list(target.parameters())
    fast: list[Tensor] = list(online.parameters())
    if slow:  # a network may have nothing to learn
        torch._foreach_lerp_(slow, fast, smoothing)
