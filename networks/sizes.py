"""The checks that networks make of their sizes, and what a trunk may be told of the task."""

from collections.abc import Sequence

TASK_KEYS = ("task_id", "latent")


def check_sizes(**sizes: int) -> None:
    """Raise a ValueError that names the first size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def check_hidden(hidden: Sequence[int]) -> None:
    """Raise a ValueError if there is no hidden layer, or one without units."""
    if not hidden or min(hidden) < 1:
        raise ValueError(f"hidden must hold at least one width, each at least 1, got {hidden}")
