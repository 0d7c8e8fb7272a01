"""The off-policy regime: warm up, then collect some steps and update some times, for ever."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from time import perf_counter
from typing import Any

import gin
import torch
from tensordict import TensorDict
from torch import Tensor

from runners.collector import Collector
from runners.devices import device_of
from runners.health import HealthWatch, Rates
from runners.memory import keep_freed_memory
from runners.meter import Meter
from runners.regimes import PLAIN, check_loop


@gin.configurable
class OffPolicyLoop:
    """Yields `(environment steps, metrics)` after every vector step and after every update.

    An iteration is `steps_per_iteration` vector steps, then the updates that are due: after `s`
    vector steps since the warm-up `floor(updates_per_step * s)` updates have been made, so a
    fractional ratio adds up exactly. With `catch_up` the steps of the warm-up count too, and it
    ends with the updates due for them. `begin_phase` and `end_phase` of the learner surround the
    updates of an iteration; the learner does not hear of one in which no update is due. Between any
    two yields the state may be saved, and restored exactly.

    Args:
        suite: the tasks; its environments are built at the first step, not before.
        learner: an algorithm.
        seed: of the environments' random streams.
        replay: factory called with observation size, action size and number of tasks.
        trajectories: factory called with observation size, number of tasks and horizon, or None.
        reward_scaler: factory called with the number of tasks, of what scales the stored rewards;
            metrics and evaluation keep the raw ones. None: they are stored as they are.
        steps_per_iteration: vector steps (one step of each task) before the updates.
        updates_per_step: updates per vector step.
        warmup_steps: vector steps before the first update.
        warmup: "policy" explores with the initial policy, "uniform" draws actions uniformly.
        catch_up: make the updates of the warm-up's steps at its end, in one go.
        log_interval: environment steps between two readings of the metrics.
        max_critic_loss: the run stops where "loss/critic" goes beyond it; None for no bound.

    Raises:
        ValueError: for a value out of range, or a replay, learner and suite that do not fit.
    """

    unit, counted = "steps", "over all tasks"
    collected = "one step of every task"

    def __init__(
        self,
        suite: Any,
        learner: Any,
        *,
        seed: int = 0,
        replay: Callable[..., Any] = gin.REQUIRED,
        trajectories: Callable[..., Any] | None = None,
        reward_scaler: Callable[..., Any] | None = None,
        steps_per_iteration: int = 1,
        updates_per_step: float = 1.0,
        warmup_steps: int = 1000,
        warmup: str = "policy",
        catch_up: bool = False,
        log_interval: int = 5000,
        max_critic_loss: float | None = None,
    ) -> None:
        at_least_one = {
            "steps_per_iteration": steps_per_iteration,
            "warmup_steps": warmup_steps,
            "log_interval": log_interval,
        }
        for name, value in at_least_one.items():
            if value < 1:
                raise ValueError(f"OffPolicyLoop.{name} must be at least 1, got {value}")
        if not 1e-6 <= updates_per_step < 1e6:
            raise ValueError(
                "OffPolicyLoop.updates_per_step must be positive, at least 1e-6 and below 1e6, "
                f"got {updates_per_step}"
            )
        if max_critic_loss is not None and not 0.0 < max_critic_loss < math.inf:
            raise ValueError(
                f"OffPolicyLoop.max_critic_loss must be positive, got {max_critic_loss}; None is "
                "no bound"
            )
        if warmup not in ("policy", "uniform"):
            raise ValueError(f"OffPolicyLoop.warmup must be 'policy' or 'uniform', got {warmup!r}")
        check_loop("OffPolicyLoop", learner, PLAIN)
        spec = suite.spec
        if getattr(spec, "num_actions", 0):
            raise ValueError(
                f"OffPolicyLoop: its learners have continuous actions, {suite.name} discrete ones; "
                "use gin/runners/meta_on_policy.gin"
            )
        self.suite, self.learner, self.seed, self.spec = suite, learner, seed, spec
        if isinstance(trajectories, type) and not hasattr(trajectories, "context"):
            raise ValueError(
                f"OffPolicyLoop.trajectories: {trajectories.__name__} keeps no episodes of each "
                "task; bind it to @TrajectoryStore or None"
            )
        self.replay = replay(spec.observation_dim, spec.action_dim, spec.num_tasks)
        sizes = spec.observation_dim, spec.num_tasks, spec.horizon
        self.trajectories = trajectories(*sizes) if trajectories else None
        self._check_batches()
        learner.check_trajectories(self.trajectories is not None)
        keep_freed_memory()
        self.reward_scaler = reward_scaler(spec.num_tasks) if reward_scaler else None
        self.steps_per_iteration, self.log_interval = steps_per_iteration, log_interval
        self.ratio = Fraction(updates_per_step).limit_denominator(10**6)
        self.warmup_steps, self.uniform = warmup_steps, warmup == "uniform"
        self.catch_up = catch_up
        self.device = device_of(learner)
        # wait: warm-up steps left; trained: vector steps since; due: updates left in this phase.
        self.counts = {"steps": 0, "wait": warmup_steps, "trained": 0, "updates": 0}
        self.counts |= {"started": 0, "due": 0, "logged": 0}
        self._meter = Meter()
        self._watch = HealthWatch(self.device, max_critic_loss=max_critic_loss)
        self._rates = Rates()
        self._vector: Any = None
        self._context: TensorDict | None = None

    def _check_batches(self) -> None:
        """Refuse a replay of other things, or of mixed tasks where rows must come grouped."""
        kept = type(self.replay)
        others = ("context", "statistics")  # what those for learners of other loops have
        if not hasattr(kept, "sample") or any(hasattr(kept, other) for other in others):
            raise ValueError(
                f"OffPolicyLoop.replay: {kept.__name__} does not give single transitions of all "
                "tasks; bind it to @TaskReplay"
            )
        if getattr(self.replay, "stratified", True):
            return
        if self.learner.grouped or self.trajectories is not None:
            name = type(self.learner).__name__ if self.learner.grouped else "trajectories"
            raise ValueError(
                f"OffPolicyLoop: {name} needs batches with as many rows of each task, and "
                "TaskReplay.stratified is False; set it to True"
            )

    @property
    def about(self) -> str:
        """The schedule, in a line."""
        warmup = f"{self.warmup_steps} to warm up{', made up for' * self.catch_up}"
        steps = f"{self.steps_per_iteration} vector steps"
        return f"{steps}, {float(self.ratio):g} updates for each; {warmup}"

    @property
    def step(self) -> int:
        """Environment steps so far, over all tasks."""
        return self.counts["steps"] * int(self.spec.num_tasks)

    @property
    def pending(self) -> bool:
        """Whether the next thing is an update."""
        return self.counts["due"] > 0 and not self.counts["wait"]

    @property
    def closing(self) -> bool:
        """Whether the next thing is the last update of its iteration."""
        return self.pending and self.counts["due"] == 1

    @property
    def first_update(self) -> int:
        """Environment steps before the first update."""
        wanted = math.ceil(1 / self.ratio) - (self.warmup_steps if self.catch_up else 0)
        iterations = max(0, math.ceil(wanted / self.steps_per_iteration))
        steps = self.warmup_steps + iterations * self.steps_per_iteration
        return steps * int(self.spec.num_tasks)

    @property
    def updates(self) -> int:
        """Updates so far."""
        return self.counts["updates"]

    def __iter__(self) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The loop itself: it can be left and entered again."""
        return self

    def __next__(self) -> tuple[int, dict[str, Tensor]]:
        """One vector step or one update; the metrics once per `log_interval`, else none."""
        self.build()
        start = perf_counter()
        updating = self.pending
        self._update() if updating else self._collect()
        self._rates.seconds[updating] += perf_counter() - start
        if self.step - self.counts["logged"] < self.log_interval:
            return self.step, {}
        self.counts["logged"] = self.step
        return self.step, self._metrics()

    def build(self) -> None:
        """Build the environments unless they are there."""
        if self._vector is not None:
            return
        self._vector = self.suite.vector(seed=self.seed, purpose="train")
        self._vector.reset()
        stores = [store for store in (self.replay, self.trajectories) if store is not None]
        self._collector = Collector(
            self._vector,
            self.learner,
            [store.extend for store in stores],
            names=[task.name for task in self._vector.tasks],
            action_dim=self.spec.action_dim,
            device=self.device,
            scaler=self.reward_scaler,
        )

    def rehearse(self, steps: int, updates: int) -> tuple[float, float]:
        """Collect and update out of order, for `--dry_run`; seconds for one step, one update."""
        self.build()
        self.counts["wait"] = 0
        start = perf_counter()
        for _ in range(steps):
            self._collect()
        middle = perf_counter()
        self.counts |= {"due": updates, "started": 0}
        while self.pending:
            self._update()
        return (middle - start) / steps, (perf_counter() - middle) / updates

    def whole(self, total_steps: int, step: float, update: float) -> float:
        """Seconds of a run of `total_steps`, from those that `rehearse` measured."""
        steps = total_steps / int(self.spec.num_tasks)
        learning = steps if self.catch_up else max(0.0, steps - self.warmup_steps)
        return steps * step + float(self.ratio) * learning * update

    def close(self) -> None:
        """Release the environments and their processes."""
        if self._vector is not None:
            self._vector.close()
            self._vector = None

    def _collect(self) -> None:
        counts = self.counts
        self._collector.step(uniform=self.uniform and counts["wait"] > 0)
        counts["steps"] += 1
        if counts["wait"]:
            counts["wait"] -= 1
            if self.catch_up and not counts["wait"]:
                self._schedule()
            return
        counts["trained"] += 1
        if counts["trained"] % self.steps_per_iteration == 0:
            self._schedule()

    def _schedule(self) -> None:
        """Count the updates due now; a phase that a restored loop was in the middle of goes on."""
        counts = self.counts
        if counts["due"] <= 0:
            counts["started"] = 0
        steps = counts["steps"] if self.catch_up else counts["trained"]
        counts["due"] = int(self.ratio * steps) - counts["updates"]

    def _update(self) -> None:
        if self.trajectories is not None and self._context is None:
            self._context = self.trajectories.context().to(self.device)
        if not self.counts["started"]:
            self._meter.add(self.learner.begin_phase(self._context))
            self.counts["started"] = 1
        batch = self.replay.sample().to(self.device)
        if self._context is not None:
            batch.batch_size = batch.batch_size[:1]
            batch["context"] = self._context
        metrics = self.learner.update(batch)
        self._meter.add(metrics)
        self.counts["updates"] += 1
        self.counts["due"] -= 1
        if self.counts["due"] == 0:
            self._meter.add(self.learner.end_phase(self._context))
            self._context = None
        self._watch.add(metrics, self.updates, batch)

    def _metrics(self) -> dict[str, Tensor]:
        values: dict[str, float] = {"step_per_task": self.counts["steps"], "updates": self.updates}
        values |= self._rates.read(self.step, self.updates)
        values |= {f"health/{name}": count for name, count in self._vector.faults.items()}
        metrics = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
        if self.reward_scaler is not None:
            metrics["reward_scale"] = self.reward_scaler.scale
        return {**self._meter.means(), **self._collector.means(), **metrics}

    def _parts(self) -> dict[str, Any]:
        """What has a state of its own, under its name in the loop's."""
        self.build()
        parts = {
            "watch": self._watch,
            "meter": self._meter,
            "collector": self._collector,
            "vector": self._vector,
            "replay": self.replay,
            "trajectories": self.trajectories,
            "reward_scaler": self.reward_scaler,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def state_dict(self) -> dict[str, Any]:
        """Everything of the loop but the learner and the global random streams."""
        states = {name: part.state_dict() for name, part in self._parts().items()}
        return {"counts": dict(self.counts), **states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; without a replay in it, warm up again first."""
        self.counts = dict(state["counts"])
        for name, part in self._parts().items():
            if name in state or name not in ("replay", "trajectories"):
                part.load_state_dict(state[name])
        if "replay" not in state:
            self.counts["wait"] = self.warmup_steps
        self._context = None
        self._rates.restart(self.step, self.updates)
