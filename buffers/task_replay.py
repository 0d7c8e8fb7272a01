"""Replay in equal, independent shares per task, after the replay of MUST's code.

Soft Modularization (Yang et al. 2020) draws one set of time indices and uses it for all tasks;
here, as there, every task has its own ring and its own uniform indices. The MTRL family
(Sodhani et al. 2021) keeps one buffer for all tasks, and a batch has as many rows of a task as
chance gives it: that is `stratified=False`.
"""

from typing import Any

import gin
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from buffers.arguments import check_saved_sizes, check_sizes, named_device


@gin.configurable
class TaskReplay:
    """One ring of transitions per task; a batch has equally many rows of each, or mixes them all.

    A transition is one packed float32 row: observation, action, reward, terminated, next
    observation. Writing is one indexed copy and drawing one indexed read for all tasks together.
    The task is not stored: it is known from the ring.

    Not stratified, each row of a batch is a uniform draw from all that is stored, and the rows of a
    task are multinomial in number. The rings stay: where every task stores at every step, they hold
    what one ring of all tasks would hold.

    The next observation lies in the row although it is mostly the observation of the row after. To
    share the two takes a table of row numbers, since the last observation of an episode needs a row
    that must not be drawn. Tried with 10 x 128 rows of 39 numbers, it nearly halved the memory, but
    drawing took 1.3 times and writing twice as long.

    Memory on the CPU is claimed as rows are written; on a GPU at once. See `bytes_needed`.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        num_tasks: int,
        *,
        capacity: int = 1_000_000,
        batch_size: int = 1280,
        stratified: bool = True,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ) -> None:
        """Check the sizes, then allocate.

        Args:
            observation_dim: numbers in an observation.
            action_dim: numbers in an action.
            num_tasks: tasks, each with a ring of `capacity // num_tasks` transitions.
            capacity: transitions in all.
            batch_size: transitions drawn by `sample`; if stratified, a multiple of `num_tasks`.
            stratified: draw the same number of rows of each task, `[tasks, rows]`; else draw from
                all tasks together, `[batch_size]`.
            device: where the rows lie and the indices are drawn.
            seed: of the index draws; None takes torch's seed without drawing from its generator.

        Raises:
            ValueError: a size is not positive, a stratified batch does not divide by the tasks,
                the rings cannot hold one batch, or one row of each task, or the device is unknown.
        """
        check_sizes(
            "TaskReplay",
            observation_dim=observation_dim,
            action_dim=action_dim,
            num_tasks=num_tasks,
            batch_size=batch_size,
        )
        if stratified and batch_size % num_tasks:
            fit = max(1, round(batch_size / num_tasks)) * num_tasks
            raise ValueError(
                f"TaskReplay.batch_size is {batch_size}, not a multiple of the {num_tasks} tasks; "
                f"set it to {fit}"
            )
        least = max(batch_size, num_tasks)
        if capacity < least:
            raise ValueError(
                f"TaskReplay.capacity is {capacity}, less than one batch of {batch_size} or one "
                f"row of each of {num_tasks} tasks; set it to {least} or more"
            )
        self.observation_dim, self.action_dim = observation_dim, action_dim
        self.num_tasks, self.batch_size, self.stratified = num_tasks, batch_size, stratified
        self.capacity_per_task = capacity // num_tasks
        self.device = named_device("TaskReplay", device)
        self._split = (observation_dim, action_dim, 1, 1, observation_dim)
        # The last row takes the writes of transitions that are not stored.
        rows = num_tasks * self.capacity_per_task + 1
        self._block = torch.empty(rows, sum(self._split), device=self.device)
        task = torch.arange(num_tasks, device=self.device)
        self._first = (task * self.capacity_per_task).unsqueeze(1)
        rows_each = batch_size // num_tasks
        self._shape = (num_tasks, rows_each) if stratified else (batch_size,)
        self._task_id = task.unsqueeze(1).repeat(1, rows_each)
        # Transitions of each task since the start, [tasks, 1]: modulo the capacity, its cursor.
        self._stored = torch.zeros(num_tasks, 1, dtype=torch.int64, device=self.device)
        self._checked = self._ready = False
        self._generator = torch.Generator(device=self.device)
        self.seed(torch.initial_seed() if seed is None else seed)

    @classmethod
    def bytes_needed(
        cls, observation_dim: int, action_dim: int, num_tasks: int, *, capacity: int
    ) -> int:
        """Bytes that a replay of these sizes takes when full, known without allocating it."""
        rows = num_tasks * (capacity // num_tasks) + 1
        return 4 * rows * (2 * observation_dim + action_dim + 2)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows when full."""
        return self._block.nbytes

    @property
    def rows(self) -> Tensor:
        """Transitions held of each task, `[tasks]`."""
        return self._stored.squeeze(1).clamp(max=self.capacity_per_task)

    def __len__(self) -> int:
        """Transitions held of the task that has fewest."""
        return int(self.rows.min())

    def seed(self, seed: int) -> None:
        """Restart the index draws."""
        self._generator.manual_seed(seed)

    @torch.no_grad()
    def extend(self, td: TensorDictBase) -> None:
        """Store one transition of each task; a full ring loses its oldest.

        Args:
            td: batch size `[tasks]`, rows in the order of the tasks, with "observation", "action",
                ("next", "observation" | "reward" | "terminated") and ("next", "valid"): a
                transition that is not valid is left out.

        Raises:
            ValueError: not one row per task, or, at the first call, "task_id" out of order.
        """
        if not self._checked:
            self._check(td)
        after = td["next"]
        flags = after["reward"], after["terminated"]
        parts = (td["observation"], td["action"], *flags, after["observation"], after["valid"])
        packed = torch.cat(parts, -1).to(self.device, torch.float32, non_blocking=True)
        row, valid = packed[:, :-1], packed[:, -1:] != 0
        at = (self._first + self._stored % self.capacity_per_task).where(valid, self._unused)
        self._block.index_copy_(0, at.squeeze(1), row)
        self._stored += valid

    @torch.no_grad()
    def sample(self) -> TensorDict:
        """Draw `batch_size` transitions, uniformly and with replacement, see `stratified`.

        Returns:
            Batch size `[tasks, rows]` with task t in row t, or `[batch_size]`: "observation",
            "task_id", "action" and ("next", "observation" | "reward" | "terminated"), fresh memory.

        Raises:
            RuntimeError: some task has no transition yet; if not stratified, none has.
        """
        if not self._ready:
            self._check_stored()
        at, task_id = self._draw()
        shape = at.shape
        batch = self._block.index_select(0, at.flatten()).view(*shape, -1)
        observation, action, reward, terminated, following = batch.split_with_sizes(self._split, -1)
        after = TensorDict(
            {"observation": following, "reward": reward, "terminated": terminated != 0},
            batch_size=shape,
        )
        return TensorDict(
            {"observation": observation, "task_id": task_id, "action": action, "next": after},
            batch_size=shape,
        )

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on exactly: rows in use, cursors and the generator, as copies."""
        rows = self.rows
        used = torch.arange(int(rows.max()), device=self.device) < rows.unsqueeze(1)
        return {
            "sizes": list(self._sizes.values()),
            "rows": self._view()[:, : used.shape[1]].where(used.unsqueeze(2), 0.0).cpu(),
            "stored": self._stored.squeeze(1).to("cpu", copy=True),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of a replay of the same sizes.

        Raises:
            ValueError: the state is of other sizes.
        """
        check_saved_sizes("TaskReplay", self._sizes, state["sizes"])
        rows = state["rows"]
        self._view()[:, : rows.shape[1]] = rows.to(self.device)
        self._stored.copy_(state["stored"].unsqueeze(1))
        self._generator.set_state(state["generator"].cpu())
        self._ready = False

    def _draw(self) -> tuple[Tensor, Tensor]:
        """Numbers and tasks of the rows of a batch; nothing waits for the device."""
        count = self._stored.clamp(max=self.capacity_per_task)
        uniform = torch.rand(
            self._shape, dtype=torch.float64, device=self.device, generator=self._generator
        )  # 53 random bits below 1: a count times that is never the count itself
        if self.stratified:
            return (uniform * count).long() + self._first, self._task_id.clone()
        count = count.squeeze(1)
        end = count.cumsum(0)  # of each task's transitions, all of them numbered in order of tasks
        number = (uniform * end[-1]).long()
        task_id = torch.searchsorted(end, number, right=True)
        return number + (self._first.squeeze(1) + count - end)[task_id], task_id

    @property
    def _unused(self) -> int:
        return len(self._block) - 1

    def _view(self) -> Tensor:
        return self._block[:-1].view(self.num_tasks, self.capacity_per_task, -1)

    @property
    def _sizes(self) -> dict[str, int]:
        return {
            "observation_dim": self.observation_dim,
            "action_dim": self.action_dim,
            "num_tasks": self.num_tasks,
            "capacity per task": self.capacity_per_task,
        }

    def _check_stored(self) -> None:
        empty = (self._stored == 0).squeeze(1).nonzero().flatten().tolist()
        if empty and (self.stratified or len(empty) == self.num_tasks):
            raise RuntimeError(
                f"TaskReplay.sample: no transition of task {empty} is stored yet; "
                "collect warm-up steps in every task first"
            )
        self._ready = True

    def _check(self, td: TensorDictBase) -> None:
        if td.batch_size != (self.num_tasks,):
            raise ValueError(
                f"TaskReplay.extend: batch size {tuple(td.batch_size)}; "
                f"give one row for each of the {self.num_tasks} tasks"
            )
        order = td["task_id"].tolist()
        if order != list(range(self.num_tasks)):
            raise ValueError(f"TaskReplay.extend: task_id is {order}; give the tasks in order")
        self._checked = True
