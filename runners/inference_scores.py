"""How well a mixture's components tell the families of tasks, and how fast after a change.

Experience is `[tasks, episodes, time]`, see `runners.window_rollouts`: "component", the likeliest
before the step; "family", the one that paid its reward; "mask".
"""

from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from tensordict import TensorDict
from torch import Tensor

BEFORE = 5
"""Steps before a change that are told."""


def confusion(experience: TensorDict, burn_in: int, num_components: int) -> Tensor:
    """Steps `[K, families]` of each component and family, from step `burn_in` on."""
    counted = _counted(experience, burn_in)
    family, component = experience["family"][counted], experience["component"][counted]
    num_families = int(family.max()) + 1 if len(family) else 1
    flat = component * num_families + family
    counts = torch.bincount(flat, minlength=num_components * num_families)
    return counts.view(num_components, num_families)


def matching(experience: TensorDict, burn_in: int, num_components: int, labelled: bool) -> Tensor:
    """The component of each family, `[families]` int64, -1 for none.

    With labels it is the one of the family's number; without, components and families are matched
    one to one so that the most steps agree.
    """
    counts = confusion(experience, burn_in, num_components)
    families = torch.arange(counts.shape[1])
    if labelled:
        return families.where(families < num_components, -1)
    own = torch.full_like(families, -1)
    components, matched = linear_sum_assignment(counts.numpy(), maximize=True)
    own[torch.from_numpy(matched)] = torch.from_numpy(components)
    return own


def accuracy(experience: TensorDict, own: Tensor, burn_in: int) -> float:
    """Share of steps, from step `burn_in` on, whose component is their family's."""
    right = _right(experience, own)[_counted(experience, burn_in)]
    return float(right.double().mean())


def separation(latent: Tensor, group: Tensor) -> float:
    """How far the latents of the nearest two groups lie apart.

    That is the distance of their means over the pooled standard deviation along the line through
    both; nan if there is but one group.

    Args:
        latent: `[rows, latent_dim]`.
        group: `[rows]`, of which task a latent is.
    """
    groups = [latent[group == number].double() for number in group.unique()]
    found = [
        _apart(groups[i], groups[j]) for i in range(len(groups)) for j in range(i + 1, len(groups))
    ]
    return min(found, default=float("nan"))


def _apart(one: Tensor, other: Tensor) -> float:
    way = other.mean(0) - one.mean(0)
    distance = way.norm()
    if distance == 0:
        return 0.0
    squares = [((x - x.mean(0)) @ (way / distance)).square().sum() for x in (one, other)]
    pooled = (squares[0] + squares[1]) / max(1, len(one) + len(other) - 2)
    return float(distance / pooled.sqrt())


def reaction(experience: TensorDict, own: Tensor, steps: int) -> dict[str, Any]:
    """Reward and accuracy around changes of the task within episodes.

    Returns:
        "changes", their number; "step", places relative to a change: -1 is the last step of the
        task before, 0 the first of the new one; "reward" and "accuracy", means of each place over
        the changes, None where there is none; "count", of how many. A step belongs to the change
        before it, and to the next one too if that is at most 5 steps away.
    """
    mask, right = experience["mask"], _right(experience, own)
    changed = experience["next", "task_changed"].squeeze(-1) & mask
    time = torch.arange(mask.shape[-1]).expand(mask.shape)
    last = time.where(changed, -1).cummax(-1).values
    ahead = time.where(changed, mask.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    following = torch.cat((ahead[..., 1:], torch.full_like(ahead[..., :1], mask.shape[-1])), -1)
    reward = experience["next", "reward"].squeeze(-1)
    places = {
        -k: mask & (following - time == k) & (following < mask.shape[-1])
        for k in range(BEFORE, 0, -1)
    }
    places |= {k: mask & (last >= 0) & (time - last == k) for k in range(steps)}

    def means(values: Tensor) -> list[float | None]:
        chosen = [values[there].double() for there in places.values()]
        return [float(x.mean()) if len(x) else None for x in chosen]

    return {
        "changes": int(changed.sum()),
        "step": list(places),
        "reward": means(reward),
        "accuracy": means(right),
        "count": [int(there.sum()) for there in places.values()],
    }


def _counted(experience: TensorDict, burn_in: int) -> Tensor:
    mask: Tensor = experience["mask"]
    counted = mask & (torch.arange(mask.shape[-1]) >= burn_in)
    return counted if bool(counted.any()) else mask  # episodes that are shorter than that


def _right(experience: TensorDict, own: Tensor) -> Tensor:
    family = experience["family"].clamp(max=len(own) - 1)
    known = experience["family"] < len(own)
    right: Tensor = (own[family] == experience["component"]) & known
    return right
