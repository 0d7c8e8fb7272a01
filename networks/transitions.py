"""Transitions as vectors [o, a, r, o'], which context encoders read."""

import torch
from tensordict import TensorDictBase
from torch import Tensor

from networks.arguments import check_sizes


def transition_width(
    observation_dim: int, action_dim: int, *, next_observation: bool = True
) -> int:
    """Return the width of `join`'s vectors.

    Raises:
        ValueError: if a size is below 1.
    """
    check_sizes(observation_dim=observation_dim, action_dim=action_dim)
    return observation_dim * (2 if next_observation else 1) + action_dim + 1


def join(context: TensorDictBase, *, next_observation: bool = True) -> Tensor:
    """Return the transitions of a context as [o, a, r, o'] or [o, a, r], [*, width].

    Where "mask" [*] bool is among the keys and False, the vector is zero, whatever lies there.

    Args:
        context: [*], "observation", "action", ("next", "reward") and, if it enters, ("next",
            "observation").
        next_observation: whether o' enters.
    """
    following = context["next"]
    parts = [context["observation"], context["action"], following["reward"]]
    if next_observation:
        parts.append(following["observation"])
    rows = torch.cat(parts, -1)
    mask: Tensor | None = context.get("mask", None)
    return rows if mask is None else rows.masked_fill(~mask.unsqueeze(-1), 0.0)
