"""The replay of PEARL: of each task all that happened, and what happened lately.

Rakelly et al., "Efficient Off-Policy Meta-Reinforcement Learning via Probabilistic Context
Variables", ICML 2019.
"""

from typing import Any

import gin
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from buffers.arguments import check_saved_sizes, check_sizes, named_device
from buffers.task_rings import TaskRings
from buffers.transition_rows import TransitionRows


@gin.configurable
class ContextReplay:
    """Two rings for each task: one that learning draws from, one that contexts are drawn from.

    The first keeps all transitions; the second, emptied before a task is collected anew, those of
    its last collection that were collected for it. Batches are of tasks drawn uniformly, with
    replacement, as their rows are.

    With `sparse_context` the reward in a context is the sparse one, while learning goes on with the
    dense.

    Deviation: the rings share `capacity`, where the published code gives each task two of a million
    transitions, which few experiments fill.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        num_tasks: int,
        *,
        capacity: int = 1_000_000,
        context_capacity: int = 10_000,
        meta_batch: int = 16,
        batch_size: int = 256,
        context_size: int = 64,
        sparse_context: bool = False,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ) -> None:
        """Check the sizes, then allocate.

        Args:
            observation_dim: numbers in an observation.
            action_dim: numbers in an action.
            num_tasks: training tasks.
            capacity: transitions to learn from in all, `capacity // num_tasks` of each task.
            context_capacity: transitions of each task to draw contexts from.
            meta_batch: tasks of a batch.
            batch_size: transitions of each of them.
            context_size: transitions of each one's context.
            sparse_context: contexts hold ("next", "sparse_reward") as their reward.
            device: where the rows lie and the indices are drawn.
            seed: of the draws; None takes torch's seed without drawing from its generator.

        Raises:
            ValueError: a size is not positive, there is no row for each task, or the device is
                unknown.
        """
        check_sizes(
            "ContextReplay",
            observation_dim=observation_dim,
            action_dim=action_dim,
            num_tasks=num_tasks,
            context_capacity=context_capacity,
            meta_batch=meta_batch,
            batch_size=batch_size,
            context_size=context_size,
        )
        if capacity < num_tasks:
            raise ValueError(
                f"ContextReplay.capacity is {capacity}, less than one row of each of "
                f"{num_tasks} tasks; set it to {num_tasks} or more"
            )
        self.num_tasks, self.meta_batch = num_tasks, meta_batch
        self.batch_size, self.context_size = batch_size, context_size
        self.sparse_context = sparse_context
        self.device = named_device("ContextReplay", device)
        self._layout = TransitionRows(observation_dim, action_dim, more=int(sparse_context))
        width = self._layout.width
        self._all = TaskRings(num_tasks, capacity // num_tasks, width, self.device)
        self._recent = TaskRings(num_tasks, context_capacity, width, self.device)
        self._sizes = {
            "observation_dim": observation_dim,
            "action_dim": action_dim,
            "num_tasks": num_tasks,
            "capacity per task": self._all.capacity,
            "context_capacity": context_capacity,
            "sparse_context": int(sparse_context),
        }
        self._whole = False  # whether no ring is known to be empty
        self._generator = torch.Generator(device=self.device)
        self.seed(torch.initial_seed() if seed is None else seed)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows when full."""
        return self._all.block.nbytes + self._recent.block.nbytes

    @property
    def task_capacity(self) -> int:
        """Transitions of each task that can be held to learn from."""
        return self._all.capacity

    @property
    def task_context_capacity(self) -> int:
        """Transitions of each task that can be held to draw contexts from."""
        return self._recent.capacity

    @property
    def rows(self) -> Tensor:
        """Transitions held of each task to learn from, `[tasks]`."""
        return self._all.held

    @property
    def context_rows(self) -> Tensor:
        """Transitions held of each task to draw contexts from, `[tasks]`."""
        return self._recent.held

    def __len__(self) -> int:
        """Transitions held of the task that has fewest."""
        return int(self.rows.min())

    def seed(self, seed: int) -> None:
        """Restart the draws."""
        self._generator.manual_seed(seed)

    @torch.no_grad()
    def extend(self, experience: TensorDictBase, tasks: Tensor, *, context: bool) -> None:
        """Store the experience of some tasks; a full ring loses its oldest.

        Args:
            experience: `[tasks, *]`, in order of time: "observation", "action", ("next",
                "observation" | "reward" | "terminated"), with `sparse_context` ("next",
                "sparse_reward"), and perhaps "mask" `[tasks, *]` bool: False on what is left out.
            tasks: their numbers, `[tasks]` int64; one may come twice.
            context: contexts may be drawn from it as well.

        Raises:
            ValueError: the numbers are not those of training tasks, or not one for each.
        """
        given = tasks.tolist()
        if len(given) != experience.shape[0] or not all(0 <= n < self.num_tasks for n in given):
            raise ValueError(
                f"ContextReplay.extend: tasks are {given}; give {experience.shape[0]} numbers "
                f"below {self.num_tasks}"
            )
        sparse = (experience["next", "sparse_reward"],) if self.sparse_context else ()
        rows = self._layout.pack(experience, *sparse).to(self.device)
        task = tasks.to(self.device).view(-1, *(1,) * (rows.dim() - 2)).expand(rows.shape[:-1])
        mask = experience.get("mask", None)
        if mask is None:
            task, rows = task.flatten(), rows.flatten(0, -2)
        else:
            mask = mask.to(self.device)
            task, rows = task[mask], rows[mask]
        self._all.extend(task, rows)
        if context:
            self._recent.extend(task, rows)

    def clear_context(self, tasks: Tensor) -> None:
        """Forget what contexts of these tasks, `[n]` int64, would be drawn from."""
        self._recent.clear(tasks.to(self.device))
        self._whole = False

    @torch.no_grad()
    def sample(self, tasks: Tensor | None = None) -> TensorDict:
        """Draw a batch.

        Args:
            tasks: their numbers, `[n]` int64; None draws `meta_batch`, with replacement.

        Returns:
            Batch size `[n]`: "task_id" `[n]`; "transitions" `[n, batch_size]` with "observation",
            "action", ("next", "observation" | "reward" | "terminated"); and "context" `[n,
            context_size]`, see `context`. All fresh memory.

        Raises:
            RuntimeError: some task has nothing to draw.
        """
        if tasks is None:
            self._check(None)
            shape, device = (self.meta_batch,), self.device
            tasks = torch.randint(self.num_tasks, shape, device=device, generator=self._generator)
        else:
            tasks = tasks.to(self.device)
            self._check(tasks)
        rows = self._all.draw(tasks, self.batch_size, self._generator)
        return TensorDict(
            {
                "task_id": tasks,
                "transitions": self._layout.unpack(rows)[0],
                "context": self._context(tasks, self.context_size),
            },
            tasks.shape,
        )

    @torch.no_grad()
    def context(self, tasks: Tensor, length: int | None = None) -> TensorDict:
        """Draw contexts alone.

        Args:
            tasks: their numbers, `[n]` int64.
            length: transitions of each; None takes `context_size`.

        Returns:
            `[n, length]`: "observation", "action", ("next", "observation" | "reward").

        Raises:
            RuntimeError: one of the tasks has nothing to draw.
        """
        tasks = tasks.to(self.device)
        self._check(tasks)
        return self._context(tasks, self.context_size if length is None else length)

    def _context(self, tasks: Tensor, length: int) -> TensorDict:
        rows = self._recent.draw(tasks, length, self._generator)
        td, sparse = self._layout.unpack(rows)
        if self.sparse_context:
            td["next", "reward"] = sparse
        return td.exclude(("next", "terminated"))

    def _check(self, tasks: Tensor | None) -> None:
        """Raise where a ring is empty; once nothing is, without asking the device."""
        if self._whole:
            return
        empty = (self._all.stored == 0) | (self._recent.stored == 0)
        self._whole = not bool(empty.any())
        asked = empty if tasks is None else empty[tasks]
        if bool(asked.any()):
            names = torch.arange(self.num_tasks, device=self.device)
            names = (names if tasks is None else tasks)[asked].unique()
            raise RuntimeError(
                f"ContextReplay.sample: nothing is stored of task {names.tolist()}, or no context; "
                "collect in each task first, and again after clearing its context"
            )

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on exactly: rows in use, cursors and the generator, as copies."""
        return {
            "sizes": list(self._sizes.values()),
            "all": self._all.state_dict(),
            "recent": self._recent.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of a replay of the same sizes.

        Raises:
            ValueError: the state is of other sizes.
        """
        check_saved_sizes("ContextReplay", self._sizes, state["sizes"])
        self._all.load_state_dict(state["all"])
        self._recent.load_state_dict(state["recent"])
        self._generator.set_state(state["generator"].cpu())
        self._whole = False
