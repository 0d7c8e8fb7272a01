"""WindowSchedule: the epochs of TIGR and CEMRL.

TIGR: Bing et al., "Meta-Reinforcement Learning in Broad and Non-Parametric Environments", 2021.
CEMRL: Bing et al., "Meta-Reinforcement Learning in Non-Stationary and Dynamic Environments", 2022.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import gin
import numpy as np
import torch
from tensordict import TensorDict

from runners.ledger import Ledger
from runners.posterior_schedule import TASK_STREAM
from runners.regimes import WINDOW, check_loop
from runners.rollouts import returns, successes
from runners.task_lists import listed_tasks
from runners.window_rollouts import WindowRollouts

PHASES = ("initial", "collect", "infer", "update")


@gin.configurable
class WindowSchedule:
    """Collect, count statistics, train encoder and decoder, then policy and critics.

    Before the first epoch every training task is collected. An epoch draws training tasks, without
    replacement while there are enough of them, and runs them in lock-step, over and over until
    there are `transitions` of each on average. Statistics for the normaliser are taken over after
    each collection. Then come `inference_steps` on windows of the training split, with a validation
    after the first and each `validation_interval` further ones, and `policy_steps` on windows of
    all that is stored.

    Deviations from TIGR's published code: statistics are there after the initial collection, not
    only after that of the first epoch; the split is by episodes (`WindowReplay`).

    Args:
        suite: the tasks; environments are built at the first collection, not before.
        learner: infers from windows (`algorithms.window_learner`).
        seed: of the tasks drawn and of the environments' random streams.
        replay: factory of the replay, called with the sizes of observation and action, and
            `length`.
        window: factory of the windows of running episodes, see `WindowRollouts`.
        tasks_per_epoch: tasks drawn in an epoch.
        episodes_at_once: episodes that run side by side; `tasks_per_epoch` if None.
        initial_transitions: transitions per task before the first epoch, whole episodes; 0 for
            none, and an episode of each task if None.
        transitions: likewise in an epoch, at least 1.
        inference_steps: steps of encoder and decoder in an epoch.
        inference_batch: windows of each.
        validation_interval: inference steps between two validations.
        patience: inference steps without a better validation after which the epoch's others are
            left out, for a learner that counts them as `stale`; None for never.
        policy_steps: steps of policy and critics in an epoch.
        policy_batch: windows of each.

    Raises:
        ValueError: for a value out of range, or parts that do not fit.
    """

    def __init__(
        self,
        suite: Any,
        learner: Any,
        *,
        seed: int = 0,
        replay: Callable[..., Any] = gin.REQUIRED,
        window: Callable[..., Any] = gin.REQUIRED,
        tasks_per_epoch: int = 100,
        episodes_at_once: int | None = None,
        initial_transitions: int | None = None,
        transitions: int | None = None,
        inference_steps: int = 128,
        inference_batch: int = 4096,
        validation_interval: int = 50,
        patience: int | None = None,
        policy_steps: int = 2048,
        policy_batch: int = 256,
    ) -> None:
        horizon = suite.spec.horizon
        self.transitions = horizon if transitions is None else transitions
        self.initial_transitions = horizon if initial_transitions is None else initial_transitions
        self.at_once = tasks_per_epoch if episodes_at_once is None else episodes_at_once
        numbers = {
            "tasks_per_epoch": tasks_per_epoch,
            "episodes_at_once": self.at_once,
            "transitions": self.transitions,
            "inference_steps": inference_steps,
            "inference_batch": inference_batch,
            "validation_interval": validation_interval,
            "policy_steps": policy_steps,
            "policy_batch": policy_batch,
            "patience": 1 if patience is None else patience,
        }
        for name, value in numbers.items():
            if value < 1:
                raise ValueError(f"WindowSchedule.{name} must be at least 1, got {value}")
        if self.initial_transitions < 0:
            raise ValueError(
                f"WindowSchedule.initial_transitions must be at least 0, got {initial_transitions}"
            )
        check_loop("WindowSchedule", learner, WINDOW)
        if patience is not None and not hasattr(learner, "stale"):
            raise ValueError(
                f"WindowSchedule.patience = {patience}: {type(learner).__name__} does not look for "
                "its best encoder; bind PATIENCE to None"
            )
        self.suite, self.learner = suite, learner
        self.device = next(p.device for p in learner.parameters())
        spec = suite.spec
        self.replay = replay(spec.observation_dim, spec.action_dim, length=learner.window)
        self.known = listed_tasks(suite, "train")
        self.tasks_per_epoch = tasks_per_epoch
        self._check_replay()
        self.inference_steps, self.inference_batch = inference_steps, inference_batch
        self.validation_interval, self.patience = validation_interval, patience
        self.policy_steps, self.policy_batch = policy_steps, policy_batch
        self.rollouts = WindowRollouts(suite, self.at_once, window, seed=seed)
        stream = np.random.SeedSequence(seed, spawn_key=TASK_STREAM)
        self._stream = np.random.Generator(np.random.PCG64(stream))
        # What the tasks of the epoch under way were drawn from.
        self._drawn_from = self._stream.bit_generator.state
        # place: of the next piece in its phase; stored: transitions that this phase collected.
        self._counts = {"phase": 0, "place": 0, "stored": 0}
        self._tasks: tuple[Any, ...] = ()
        self._enter(0)

    def _check_replay(self) -> None:
        """Refuse a replay that cannot hold what is collected before the first update."""
        first = max(
            self.tasks_per_epoch * self.transitions, len(self.known) * self.initial_transitions
        )
        if self.replay.capacity < first:
            raise ValueError(
                f"WindowSchedule.replay holds {self.replay.capacity} transitions, and the first "
                f"collections bring {first}; raise REPLAY_CAPACITY (WindowReplay.capacity)"
            )

    @property
    def about(self) -> str:
        """The schedule, in a line."""
        return (
            f"{self.tasks_per_epoch} tasks, {self.transitions} transitions of each; "
            f"{self.inference_steps} inference steps, {self.policy_steps} policy steps"
        )

    @property
    def pending(self) -> bool:
        """Whether an iteration has begun and is not over."""
        return self._counts["phase"] > 1 or self._counts["place"] > 0

    @property
    def faults(self) -> dict[str, int]:
        """Counts of dead workers and of episodes that broke."""
        return self.rollouts.faults

    @property
    def phase(self) -> str:
        """What the next piece belongs to."""
        return PHASES[self._counts["phase"]]

    def advance(self, ledger: Ledger) -> bool:
        """Do one episode of some tasks side by side, or one update; whether it was the last."""
        phase = self.phase
        if phase in ("initial", "collect"):
            self._collect(ledger)
        elif phase == "infer":
            self._infer(ledger)
        else:
            self._update(ledger)
        return phase == "update" and self.phase != "update"

    def _enter(self, phase: int) -> None:
        """Begin a phase."""
        if phase == 0 and not self.initial_transitions:
            phase = 1
        self._counts = {"phase": phase, "place": 0, "stored": 0}
        if phase == 0:
            self._tasks = self.known
        elif phase == 1:
            self._drawn_from = self._stream.bit_generator.state
            self._tasks = self._draw()

    def _draw(self) -> tuple[Any, ...]:
        number, known = self.tasks_per_epoch, self.known
        chosen = self._stream.choice(len(known), number, replace=number > len(known))
        return tuple(known[i] for i in chosen.tolist())

    def _collect(self, ledger: Ledger) -> None:
        groups = self.rollouts.groups(self._tasks)
        counts = self._counts
        with ledger.timed("collect"):
            experience = self.rollouts.run(self.learner, groups[counts["place"] % len(groups)])
            self.replay.extend(experience)
        ledger.collected(experience["mask"])
        ledger.note(_scores(experience))
        counts["stored"] += int(experience["mask"].sum())
        counts["place"] += 1
        each = self.initial_transitions if self.phase == "initial" else self.transitions
        if counts["place"] % len(groups) == 0 and counts["stored"] >= each * len(self._tasks):
            self.learner.load_statistics(self.replay.statistics())
            self._enter(counts["phase"] + 1)

    def _infer(self, ledger: Ledger) -> None:
        counts = self._counts
        if counts["place"] == 0:
            ledger.note(self.learner.begin_phase(None))
        with ledger.timed("infer"):
            over = self._inference_step(ledger, counts["place"])
        counts["place"] += 1
        if over or counts["place"] == self.inference_steps:
            ledger.note(self.learner.end_phase(None))
            self._enter(3)

    def _inference_step(self, ledger: Ledger, place: int) -> bool:
        """One step, with the validation that is due; whether to leave out the rest."""
        batch = self._batch("train", self.inference_batch)
        ledger.updated(self.learner.infer(batch), batch)
        if place % self.validation_interval:
            return False
        aside = "validation" if self.replay.number("validation") else "train"
        ledger.note(self.learner.validate(self._batch(aside, self.inference_batch)))
        if self.patience is None:
            return False
        return bool(self.learner.stale * self.validation_interval >= self.patience)

    def _update(self, ledger: Ledger) -> None:
        with ledger.timed("update"):
            batch = self._batch("all", self.policy_batch)
            ledger.updated(self.learner.update(batch), batch)
        self._counts["place"] += 1
        if self._counts["place"] == self.policy_steps:
            self._enter(1)

    def _batch(self, split: str, size: int) -> TensorDict:
        batch: TensorDict = self.replay.sample(split, size).to(self.device)
        return batch

    def rehearse(self, ledger: Ledger, updates: int) -> tuple[float, float]:
        """Seconds of an epoch's collection, and of a step on average; one episode of each group."""
        marks = [perf_counter()]
        groups = self.rollouts.groups(self._tasks)
        experience = self.rollouts.run(self.learner, groups[0])
        self.replay.extend(experience)
        self.learner.load_statistics(self.replay.statistics())
        marks.append(perf_counter())
        self.learner.begin_phase(None)
        for place in range(updates):
            self._inference_step(ledger, place)
        self.learner.end_phase(None)
        marks.append(perf_counter())
        for _ in range(updates):
            batch = self._batch("all", self.policy_batch)
            ledger.updated(self.learner.update(batch), batch)
        marks.append(perf_counter())
        collecting, inferring, updating = np.diff(marks).tolist()
        ledger.collected(experience["mask"])
        rounds = self._rounds(self.transitions, self.tasks_per_epoch)
        steps = self.inference_steps + self.policy_steps
        average = (self.inference_steps * inferring + self.policy_steps * updating) / steps
        return collecting * rounds, average / updates

    def whole(self, iterations: int, collection: float, update: float) -> float:
        """Seconds of a run, the first collection included, from what `rehearse` measured."""
        steps = self.inference_steps + self.policy_steps
        first = self._rounds(self.initial_transitions, len(self.known))
        share = first / self._rounds(self.transitions, self.tasks_per_epoch)
        return iterations * (collection + steps * update) + share * collection

    def _rounds(self, transitions: int, num_tasks: int) -> int:
        """Rounds of episodes, full-length ones, for so many transitions of so many tasks."""
        horizon: int = self.suite.spec.horizon
        return -(-transitions // horizon) * -(-num_tasks // self.at_once)

    def state_dict(self) -> dict[str, Any]:
        """All but the replay, which the loop saves by itself."""
        return {
            "counts": dict(self._counts),
            "drawn_from": self._drawn_from,
            "rollouts": self.rollouts.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        tasks = [self.known[i % len(self.known)] for i in range(self.at_once)]
        self.rollouts.load_state_dict(state["rollouts"], tasks)
        self._counts, self._drawn_from = dict(state["counts"]), state["drawn_from"]
        self._stream.bit_generator.state = self._drawn_from
        self._tasks = self.known if self.phase == "initial" else self._draw()

    def refill(self) -> None:
        """Begin the epoch anew, and the first collection with it: the replay was not saved."""
        self._stream.bit_generator.state = self._drawn_from
        self._enter(0)

    def close(self) -> None:
        """Release the environments."""
        self.rollouts.close()


def _scores(experience: TensorDict) -> dict[str, torch.Tensor]:
    """Means over tasks and episodes."""
    return {
        "train/return": returns(experience).mean(),
        "train/success": successes(experience).double().mean(),
        "train/episode_length": experience["mask"].sum(-1).double().mean(),
    }
