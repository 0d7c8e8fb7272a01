"""Which transitions of a ring belong together, and which of them are set aside for validation."""

from typing import Any

import torch
from torch import Tensor

SPLITS = ("all", "train", "validation")


class EpisodeTable:
    """Episodes as half-open ranges of serial numbers; a transition's is how many came before it.

    An episode whose beginning is lost begins where it still is: a number is all that is kept, no
    index of a ring, so two episodes are never taken for one.
    """

    def __init__(self, validation_share: float, device: torch.device) -> None:
        """Start without an episode."""
        self.share = validation_share
        self.total = 0  # transitions ever
        self._start = torch.zeros(0, dtype=torch.int64, device=device)
        self._end = self._start.clone()
        self._aside = torch.zeros(0, dtype=torch.bool, device=device)
        self._splits: dict[str, tuple[Tensor, Tensor, int]] = {}

    def __len__(self) -> int:
        """Episodes of which something is left."""
        return len(self._start)

    def append(self, lengths: Tensor, oldest: int, generator: torch.Generator) -> None:
        """Add episodes of these lengths, `[n]`; the share of them that is set aside is drawn.

        Transitions before the one of number `oldest` are dropped. Of the episodes that are left the
        nearest number to the share is set aside, but of two or more at least one, and never all:
        there is something to train and to validate on from the start, and as long as the ring
        holds two episodes.
        """
        self._forget(oldest)
        end = self.total + lengths.cumsum(0)
        self.total += int(lengths.sum())
        left = end > oldest  # they may be more than the ring holds
        start, end = (end - lengths)[left].clamp(min=oldest), end[left]
        order = torch.rand(len(end), device=lengths.device, generator=generator).argsort()
        together = len(self) + len(end)
        wanted = round(self.share * together)
        if self.share > 0.0 and together > 1:
            wanted = min(max(wanted, 1), together - 1)
        number = max(wanted - int(self._aside.sum()), 0)
        self._start = torch.cat((self._start, start))
        self._end = torch.cat((self._end, end))
        self._aside = torch.cat((self._aside, order < number))

    def _forget(self, oldest: int) -> None:
        """Drop all transitions before the one of number `oldest`."""
        left = self._end > oldest
        self._start = self._start[left].clamp(min=oldest)
        self._end, self._aside = self._end[left], self._aside[left]
        self._splits.clear()

    def number(self, split: str) -> int:
        """Transitions of a split."""
        return self._split(split)[2]

    def find(self, split: str, place: Tensor) -> tuple[Tensor, Tensor]:
        """Return the serial numbers of transitions of a split, and where their episodes begin.

        Args:
            split: "all", "train" or "validation".
            place: `[n]` int64, from 0, the oldest transition of the split, to `number(split) - 1`.
        """
        start, before, _ = self._split(split)
        episode = torch.searchsorted(before, place, right=True) - 1
        return start[episode] + place - before[episode], start[episode]

    def _split(self, name: str) -> tuple[Tensor, Tensor, int]:
        """The episodes' starts, the transitions in the split before each, and those in all."""
        if name not in self._splits:
            if name not in SPLITS:
                raise ValueError(f"split must be one of {SPLITS}, got {name!r}")
            kept = torch.ones_like(self._aside)
            if name != "all":
                kept = self._aside if name == "validation" else ~self._aside
            start, length = self._start[kept], (self._end - self._start)[kept]
            self._splits[name] = start, length.cumsum(0) - length, int(length.sum())
        return self._splits[name]

    def state_dict(self) -> dict[str, Any]:
        """Everything, as copies."""
        ranges = {"start": self._start, "end": self._end, "aside": self._aside}
        copies = {name: x.to("cpu", copy=True) for name, x in ranges.items()}
        return {"total": self.total, **copies}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        device = self._start.device
        self.total = int(state["total"])
        self._start, self._end, self._aside = (
            state[name].to(device, copy=True) for name in ("start", "end", "aside")
        )
        self._splits.clear()
