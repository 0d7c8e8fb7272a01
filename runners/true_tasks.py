"""Which task is the true one, as a picture tells tasks apart: some kinds, or a continuum."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEW = 8
"""Specifications of one name that are told apart by markers; more are a continuum."""


@dataclass(frozen=True)
class Truth:
    """Which task each of `n` latents belongs to.

    Args:
        labels: of the kinds of tasks; one for a continuum.
        kind: `[n]`, an index of `labels`.
        specification: `[n, numbers]`.
    """

    labels: tuple[str, ...]
    kind: NDArray[np.int64]
    specification: NDArray[np.float64]

    @property
    def continuous(self) -> bool:
        """Whether the specification says more than the kind."""
        return len(self.labels) == 1 and len(np.unique(self.specification, axis=0)) > 1

    @property
    def coordinates(self) -> range:
        """The numbers that are shown as shades: at most two."""
        return range(min(2, self.specification.shape[1])) if self.continuous else range(1)


def truth(names: NDArray[np.str_], specification: NDArray[np.floating[Any]]) -> Truth:
    """Kinds by name; by specification where one name has a few of them.

    Args:
        names: `[n]`.
        specification: `[n, numbers]`.
    """
    told = np.asarray(specification, dtype=np.float64)
    found = list(dict.fromkeys(names.tolist()))  # as they come, which is in the suite's order
    kind = np.array([found.index(name) for name in names.tolist()])
    if len(found) > 1:
        return Truth(tuple(map(str, found)), kind, told)
    rows, place = np.unique(told, axis=0, return_inverse=True)
    if not 1 < len(rows) <= FEW:
        return Truth((str(found[0]),), kind, told)
    labels = [f"{found[0]} {', '.join(f'{number:.3g}' for number in row)}" for row in rows]
    return Truth(tuple(labels), place.reshape(-1), told)
