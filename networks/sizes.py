"""The check that all networks make of their sizes, and what a trunk may be told of the task."""

TASK_KEYS = ("task_id", "latent")


def check_sizes(**sizes: int) -> None:
    """Raise a ValueError that names the first size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
