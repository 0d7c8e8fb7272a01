"""One ring of rows for each task, all in one block."""

from typing import Any

import torch
from torch import Tensor


class TaskRings:
    """Rings that are written to and emptied one by one, and drawn from many at once.

    Memory on the CPU is claimed as rows are written; on a GPU at once.
    """

    def __init__(self, num_tasks: int, capacity: int, width: int, device: torch.device) -> None:
        """Allocate `num_tasks` rings of `capacity` rows of `width` numbers."""
        self.num_tasks, self.capacity = num_tasks, capacity
        self.block = torch.empty(num_tasks * capacity, width, device=device)
        # Rows since the ring was last emptied: modulo the capacity, its cursor.
        self.stored = torch.zeros(num_tasks, dtype=torch.int64, device=device)

    @property
    def held(self) -> Tensor:
        """Rows in each ring, `[tasks]`."""
        return self.stored.clamp(max=self.capacity)

    def extend(self, task: Tensor, rows: Tensor) -> None:
        """Append rows `[n, width]` to the rings of `task` `[n]`, in order; the oldest are lost."""
        order = task.argsort(stable=True)
        task, rows = task[order], rows[order]
        number = task.bincount(minlength=self.num_tasks)
        rank = torch.arange(len(task), device=task.device) - (number.cumsum(0) - number)[task]
        # Of more rows than a ring has, the last: no place is written twice, in whatever order.
        kept = rank >= number[task] - self.capacity
        at = task * self.capacity + (self.stored[task] + rank) % self.capacity
        self.block.index_copy_(0, at[kept], rows[kept])
        self.stored += number

    def clear(self, task: Tensor) -> None:
        """Empty the rings of some tasks."""
        self.stored[task] = 0

    def draw(self, task: Tensor, length: int, generator: torch.Generator) -> Tensor:
        """Return rows `[n, length, width]`: for each task `[n]` uniform ones, with replacement."""
        uniform = torch.rand(
            (len(task), length), dtype=torch.float64, device=task.device, generator=generator
        )  # 53 random bits below 1: a count times that is never the count itself
        at = (uniform * self.held[task].unsqueeze(1)).long() + (task * self.capacity).unsqueeze(1)
        return self.block.index_select(0, at.flatten()).view(len(task), length, -1)

    def state_dict(self) -> dict[str, Any]:
        """The rows in use, task after task, and how many were stored; copies."""
        used = torch.arange(self.capacity, device=self.stored.device) < self.held.unsqueeze(1)
        at = used.flatten().nonzero().squeeze(1)
        rows = self.block.index_select(0, at)
        return {"rows": rows.cpu(), "stored": self.stored.to("cpu", copy=True)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of rings of the same sizes."""
        self.stored.copy_(state["stored"])
        used = torch.arange(self.capacity, device=self.stored.device) < self.held.unsqueeze(1)
        at = used.flatten().nonzero().squeeze(1)
        self.block.index_copy_(0, at, state["rows"].to(self.block.device))
