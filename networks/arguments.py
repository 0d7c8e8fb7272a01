"""The checks that networks make of their arguments, and what a trunk may be told of the task.

Each raises a ValueError that names the argument.
"""

from collections.abc import Iterable, Sequence

TASK_KEYS = ("task_id", "latent")


def check_sizes(**sizes: int) -> None:
    """Sizes of at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def check_hidden(hidden: Sequence[int]) -> None:
    """The widths of at least one hidden layer, each with a unit."""
    if not hidden or min(hidden) < 1:
        raise ValueError(f"hidden must hold at least one width, each at least 1, got {hidden}")


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """One of several values."""
    known = tuple(choices)
    if value not in known:
        raise ValueError(f"{name} must be one of {known}, got {value!r}")
