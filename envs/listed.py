"""Suites whose goals are short lists of numbers, drawn once and shared out between the splits."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from envs.episodes import SPLITS, Task
from envs.suite import Suite

Array = NDArray[np.float64]
Pair = tuple[Array, Array]  # the specifications of both splits
Tables = dict[str, list[Array]]  # split -> the specifications `[goals, width]` of each family


class ListedSuite(Suite):
    """A suite of families whose goals are the rows of tables.

    A subclass sets `_names`, the families' in the order of their ids, and `_tables`.
    """

    _names: tuple[str, ...]
    _tables: Tables

    def tasks(self, split: str = "train") -> tuple[Task, ...]:
        """The families, each with all its goals of the split."""
        if split not in SPLITS:
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        goals = [tuple(range(count)) for count in self.counts[split]]
        return tuple(Task(name, i, split, goals[i]) for i, name in enumerate(self._names))

    def numbers(self, task: Task) -> Sequence[int]:
        """All of them."""
        return range(len(task.goals))

    @property
    def counts(self) -> dict[str, list[int]]:
        """Split -> how many goals each family has."""
        return {split: [len(rows) for rows in tables] for split, tables in self._tables.items()}

    def specification(self, task: Task) -> NDArray[np.float32]:
        """The row of a task with one goal."""
        row = self._tables[task.split][task.task_id][task.goals[0]]
        return np.array(row, dtype=np.float32)


def tabled(draws: Mapping[int, Callable[[np.random.RandomState], Pair]], goal_seed: int) -> Tables:
    """The tables of some families, filled up with zeros to the same width.

    Args:
        draws: place of a family among all there are, which seeds it together with `goal_seed`,
            so that it does not matter which others are drawn -> its draw from that stream.
        goal_seed: the first place has the stream of this seed alone.
    """
    pairs = [
        draw(np.random.RandomState((goal_seed, place) if place else goal_seed))
        for place, draw in draws.items()
    ]
    width = max(rows.shape[1] for pair in pairs for rows in pair)
    return {
        split: [np.pad(pair[i], ((0, 0), (0, width - pair[i].shape[1]))) for pair in pairs]
        for i, split in enumerate(SPLITS)
    }


def shares(sizes: Sequence[int], num_families: int) -> tuple[int, int]:
    """Tasks of each family in both splits; ValueError for too few."""
    whole = all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    if len(sizes) != 2 or not whole or min(sizes) < num_families:
        raise ValueError(
            f"sizes must be two whole numbers of at least {num_families}, got {sizes!r}"
        )
    train, test = sizes
    return train // num_families, test // num_families
