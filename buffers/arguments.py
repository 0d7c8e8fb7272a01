"""Checks of what stores are given: ValueError naming the store, the argument and the value."""

from collections.abc import Mapping, Sequence

import torch


def check_sizes(owner: str, **sizes: int) -> None:
    """Sizes of at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{owner}.{name} is {size}; give a positive number")


def named_device(owner: str, device: torch.device | str) -> torch.device:
    """Return the device of that name."""
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"{owner}.device is {device!r}; give 'cpu' or 'cuda'") from error


def check_saved_sizes(owner: str, sizes: Mapping[str, int], saved: Sequence[int]) -> None:
    """Sizes of a state, in the order of those of the store that is to take it over."""
    here, there = list(sizes.values()), list(saved)
    if here != there:
        raise ValueError(
            f"{owner}: [{', '.join(sizes)}] is {here} and was {there} when saved; use the saved "
            "run's"
        )
