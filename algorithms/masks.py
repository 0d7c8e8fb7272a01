"""Binary masks of one network, layer by layer, and what can be counted about them."""

import torch
from torch import Tensor

from algorithms.base import Metrics

Masks = list[Tensor]
"""One tensor `[tasks, *shape]` per masked layer; with a leading critic dimension for critics."""


def as_extra(masks: list[Masks]) -> tuple[dict[str, Masks], dict[str, Masks]]:
    """Masks as the policy and the stacked critics take them."""
    stacked = [torch.stack(layer) for layer in zip(*masks[1:], strict=True)]
    return {"masks": masks[0]}, {"masks": stacked}


def replaced(old: Masks, new: Masks, replace: Tensor) -> Masks:
    """`new` for the tasks where `replace` `[tasks]` is True, `old` for the others."""
    layers = zip(old, new, strict=True)
    return [torch.where(replace.view(-1, *[1] * (b.ndim - 1)), b, a) for a, b in layers]


def statistics(name: str, old: Masks, new: Masks) -> Metrics:
    """What a commit did to one network's masks: in all, for each layer and for each task."""
    before, after = flat(old), flat(new)
    kept = torch.maximum(before.sum(1), after.sum(1))  # dense masks before, pruned ones after
    turnover = 1.0 - (before * after).sum(1) / kept
    told = {
        f"mask/kept_fraction/{name}": after.mean(),
        f"mask/turnover/{name}": turnover.mean(),
        f"mask/turnover_of_task/{name}": turnover,
    }
    told |= {f"mask/kept_fraction/{name}/{i}": m.float().mean() for i, m in enumerate(new)}
    if len(after) > 1:
        overlap = mean_of_others(shared(new))
        told |= {f"mask/overlap/{name}": overlap.mean(), f"mask/overlap_of_task/{name}": overlap}
    return told


def shared(masks: Masks) -> Tensor:
    """Of what the one task keeps, the share that the other keeps too, `[tasks, tasks]`."""
    rows = flat(masks)
    return rows @ rows.T / rows.sum(1, keepdim=True)


def mean_of_others(matrix: Tensor) -> Tensor:
    """Mean of each row `[tasks]` of a matrix `[tasks, tasks]` of two or more, diagonal left out."""
    return (matrix.sum(1) - matrix.diagonal()) / (matrix.shape[0] - 1)


def flat(masks: Masks) -> Tensor:
    """All layers of each task's mask in one row `[tasks, weights]`, as float."""
    return torch.cat([m.flatten(1) for m in masks], 1).float()
