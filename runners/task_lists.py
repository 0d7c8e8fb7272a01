"""The tasks of a suite that a run numbers: one for each goal of each name."""

from typing import Any


def listed_tasks(suite: Any, split: str, num_goals: int | None = None) -> tuple[Any, ...]:
    """Tasks of one goal each, in suite order.

    Args:
        suite: lists them (`envs.suite.Suite.each`).
        split: "train" or "test".
        num_goals: only the first goals of each name; all of them if None.

    Raises:
        ValueError: a number below 1, or a split without tasks.
    """
    if num_goals is not None and num_goals < 1:
        raise ValueError(f"num_goals must be at least 1 or None, got {num_goals!r}")
    kept: dict[str, int] = {}
    tasks = []
    for task in suite.each(split):
        kept[task.name] = kept.get(task.name, 0) + 1
        if num_goals is None or kept[task.name] <= num_goals:
            tasks.append(task)
    if not tasks:
        raise ValueError(
            f"{suite.name} has no tasks in the split {split!r}; take other tasks (gin/envs), or "
            "evaluate on another split"
        )
    return tuple(tasks)
