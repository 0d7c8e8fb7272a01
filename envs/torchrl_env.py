"""A suite's vector as an environment of TorchRL, which the extra `torchrl` brings."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Binary, Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from envs.arguments import check_whole
from envs.arrays import told
from envs.suite import Suite, Task


class TorchRLEnv(EnvBase):  # type: ignore[misc]
    """`suite.vector(...)` for TorchRL, on the CPU: batch size `[num_envs]`, a task for each row.

    Reads "action"; `reset` and the "next" part of a step hold "observation", "task_id", "is_init",
    "episode", "success", "valid" and what `envs.arrays.told` lists (zeros in a reset). A transition
    whose ("next", "valid") is False must not be stored, see `Vector`.

    A row's episode ends by itself or at the suite's horizon, and the next has begun by the time
    TorchRL asks for its reset. No episode can be broken off alone: `reset` begins all of them.

    Args:
        suite: of tasks.
        tasks: one for each row; all training tasks if None.
        seed: see `Suite.vector`; `set_seed` makes the vector anew.
        options: "purpose" and "terminate_on_success", see there.

    Raises:
        ValueError: an argument the suite cannot serve.
    """

    def __init__(
        self, suite: Suite, tasks: Sequence[Task] | None = None, seed: int = 0, **options: Any
    ) -> None:
        self._make = partial(suite.vector, tasks=tasks, autoreset=True, **options)
        self.tasks, self._root = self._make(seed=seed), TensorDict()
        n, rules = self.tasks.num_envs, self.tasks.rules
        super().__init__(device="cpu", batch_size=[n])
        seen = {"observation": Unbounded((n, rules.observation_dim))}
        for name in ("task_id", "episode"):
            seen[name] = Unbounded((n,), dtype=torch.int64)
        self._told = {}
        for name in told(rules):
            value = torch.from_numpy(self.tasks.arrays[f"next_{name}"])
            self._told[name] = torch.zeros_like(value)
            seen[name] = Unbounded(value.shape, dtype=value.dtype)
        flag = Binary(shape=(n, 1), dtype=torch.bool)
        seen |= {name: flag.clone() for name in ("is_init", "success", "valid")}
        self.observation_spec = Composite(seen, shape=(n,))
        ends = {name: flag.clone() for name in ("done", "terminated", "truncated")}
        self.done_spec = Composite(ends, shape=(n,))
        self.reward_spec = Unbounded((n, 1))
        self.action_spec = (
            Categorical(rules.action_dim, (n,))
            if rules.discrete
            else Bounded(-1.0, 1.0, (n, rules.action_dim), dtype=torch.float32)
        )

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the vector too."""
        self.tasks.close()
        super().close(raise_if_closed=raise_if_closed)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        asked = None if tensordict is None else tensordict.get("_reset", None)
        if asked is None or self._root.is_empty():
            self._root = self.tasks.reset()
        elif early := (asked & ~self._root["is_init"]).nonzero()[:, 0].tolist():
            raise RuntimeError(
                f"rows {early} are to be reset in the middle of an episode; episodes end at the "
                f"suite's horizon of {self.tasks.rules.horizon}: take StepCounter without "
                "max_steps, or reset all rows"
            )
        begun = torch.zeros_like(self._root["is_init"])
        seen = {**self._told, **self._root, "success": begun, "valid": ~begun}
        return TensorDict(seen, self.batch_size).clone()

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        before = self._root
        step = TensorDict({"action": tensordict["action"]}, self.batch_size)
        after = self.tasks.step(step)["next"]
        self._root = self.tasks.current()
        for name in ("task_id", "episode"):
            if name not in after:
                after[name] = before[name]
        after["is_init"] = torch.zeros_like(before["is_init"])
        return after

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            check_whole("seed", seed, 0)
            self.tasks.close()
            self.tasks, self._root = self._make(seed=seed), TensorDict()
