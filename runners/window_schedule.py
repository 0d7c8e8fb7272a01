"""WindowSchedule: the epochs of TIGR and CEMRL.

TIGR: Bing et al., "Meta-Reinforcement Learning in Broad and Non-Parametric Environments", 2021.
CEMRL: Bing et al., "Meta-Reinforcement Learning in Non-Stationary and Dynamic Environments", 2022.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import gin
import numpy as np
from tensordict import TensorDict

from runners.devices import device_of
from runners.ledger import Ledger
from runners.regimes import WINDOW, check_loop
from runners.window_collector import WindowCollector

PHASES = ("collect", "infer", "update")
COLLECT, INFER, UPDATE = range(3)


@gin.configurable
class WindowSchedule:
    """Collect, count statistics, train encoder and decoder, then policy and critics.

    Before the first epoch every training task is collected. An epoch draws training tasks, without
    replacement while there are enough of them, and runs them in lock-step, over and over until
    there are `transitions` of each, on average or exactly. Statistics for the normaliser are taken
    over after each collection. Then come `inference_steps` on windows of the training split, with a
    validation after the first and each `validation_interval` further ones, and `policy_steps` on
    windows of all that is stored.

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
        exact: every task brings as many by itself, for which its last episode is cut, as in CEMRL's
            published code; it matters where episodes end early.
        inference_steps: steps of encoder and decoder in an epoch.
        inference_batch: windows of each.
        validation_interval: inference steps between two validations.
        patience: an epoch's inference steps are left out where the best validation is more than
            so many of them ago, for a learner that counts validations as `stale`; None for never.
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
        exact: bool = False,
        inference_steps: int = 128,
        inference_batch: int = 4096,
        validation_interval: int = 50,
        patience: int | None = None,
        policy_steps: int = 2048,
        policy_batch: int = 256,
    ) -> None:
        horizon = suite.spec.horizon
        each = horizon if transitions is None else transitions
        first = horizon if initial_transitions is None else initial_transitions
        at_once = tasks_per_epoch if episodes_at_once is None else episodes_at_once
        numbers = {
            "tasks_per_epoch": tasks_per_epoch,
            "episodes_at_once": at_once,
            "transitions": each,
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
        if first < 0:
            raise ValueError(f"WindowSchedule.initial_transitions must be at least 0, got {first}")
        check_loop("WindowSchedule", learner, WINDOW)
        if patience is not None and not hasattr(learner, "stale"):
            raise ValueError(
                f"WindowSchedule.patience = {patience}: {type(learner).__name__} does not look for "
                "its best encoder; bind PATIENCE to None"
            )
        self.learner = learner
        self.device = device_of(learner)
        spec = suite.spec
        kind = getattr(replay, "__name__", "")
        if kind and not hasattr(replay, "statistics"):
            raise ValueError(
                f"WindowSchedule.replay: {kind} draws no windows; bind it to @WindowReplay"
            )
        self.replay = replay(spec.observation_dim, spec.action_dim, length=learner.window)
        if getattr(learner, "labelled", False) and not getattr(self.replay, "labelled", True):
            raise ValueError(
                f"WindowReplay.labelled = False: {type(learner).__name__} learns from labels; keep "
                "them, or bind LABEL_WEIGHT to 0"
            )
        self.inference_steps, self.inference_batch = inference_steps, inference_batch
        self.validation_interval, self.patience = validation_interval, patience
        self.policy_steps, self.policy_batch = policy_steps, policy_batch
        self.collector = WindowCollector(
            suite,
            learner,
            self.replay,
            window,
            seed=seed,
            num_drawn=tasks_per_epoch,
            at_once=at_once,
            first=first,
            each=each,
            exact=exact,
        )
        self._check_replay()
        self._counts = {"phase": COLLECT, "place": 0}  # place: updates of this phase so far

    def _check_replay(self) -> None:
        """Refuse a replay that cannot hold what is collected at once."""
        collector = self.collector
        most = max(collector.num_drawn * collector.each, len(collector.known) * collector.first)
        if self.replay.capacity < most:
            raise ValueError(
                f"WindowSchedule.replay holds {self.replay.capacity} transitions, and the first "
                f"collections bring {most}; raise REPLAY_CAPACITY (WindowReplay.capacity)"
            )
        horizon = collector.rollouts.suite.spec.horizon
        if self.replay.capacity <= horizon:  # one to train on and one to validate on
            raise ValueError(
                f"WindowSchedule.replay holds {self.replay.capacity} transitions, no two episodes "
                f"of up to {horizon}; raise REPLAY_CAPACITY (WindowReplay.capacity)"
            )

    @property
    def about(self) -> str:
        """The schedule, in a line."""
        return (
            f"{self.collector.num_drawn} tasks, {self.collector.each} transitions of each; "
            f"{self.inference_steps} inference steps, {self.policy_steps} policy steps"
        )

    @property
    def phase(self) -> str:
        """What the next piece belongs to."""
        return PHASES[self._counts["phase"]]

    @property
    def pending(self) -> bool:
        """Whether an epoch has begun and is not over."""
        return self.phase != "collect" or self.collector.pending

    @property
    def faults(self) -> dict[str, int]:
        """Counts of dead workers and of episodes that broke."""
        return self.collector.rollouts.faults

    def advance(self, ledger: Ledger) -> bool:
        """Do one episode of some tasks side by side, or one update; whether it was the last."""
        return (self._collect, self._infer, self._update)[self._counts["phase"]](ledger)

    def _enter(self, phase: int) -> None:
        self._counts = {"phase": phase, "place": 0}

    def _collect(self, ledger: Ledger) -> bool:
        if self.collector.advance(ledger):
            if self.collector.initial:
                self.collector.begin()
            else:
                self._enter(INFER)
        return False

    def _infer(self, ledger: Ledger) -> bool:
        counts = self._counts
        if counts["place"] == 0:
            ledger.note(self.learner.begin_phase(None))
        with ledger.timed("infer"):
            over = self._inference_step(ledger, counts["place"])
        counts["place"] += 1
        if over or counts["place"] == self.inference_steps:
            ledger.note(self.learner.end_phase(None))
            self._enter(UPDATE)
        return False

    def _inference_step(self, ledger: Ledger, place: int) -> bool:
        """One step, with the validation that is due; whether to leave out the rest."""
        batch = self._batch("train", self.inference_batch)
        ledger.updated(self.learner.infer(batch), batch)
        if place % self.validation_interval:
            return False
        aside = "validation" if self.replay.number("validation") else "train"
        held = self._batch(aside, self.inference_batch)
        seen = self._batch("train", self.inference_batch) if self.learner.compares else None
        ledger.note(self.learner.validate(held, seen))
        if self.patience is None:
            return False
        return bool(self.learner.stale * self.validation_interval > self.patience)

    def _update(self, ledger: Ledger) -> bool:
        with ledger.timed("update"):
            self._policy_step(ledger)
        self._counts["place"] += 1
        over = self._counts["place"] == self.policy_steps
        if over:
            self._enter(COLLECT)
            self.collector.begin()
        return over

    def _policy_step(self, ledger: Ledger) -> None:
        batch = self._batch("all", self.policy_batch)
        ledger.updated(self.learner.update(batch), batch)

    def _batch(self, split: str, size: int) -> TensorDict:
        batch: TensorDict = self.replay.sample(split, size).to(self.device)
        return batch

    def rehearse(self, ledger: Ledger, updates: int) -> tuple[float, float]:
        """For `--dry_run`: seconds of an epoch's collection, and of an update on average."""
        marks = [perf_counter()]
        self.collector.rehearse(ledger)
        marks.append(perf_counter())
        self.learner.begin_phase(None)
        for place in range(updates):
            self._inference_step(ledger, place)
        self.learner.end_phase(None)
        marks.append(perf_counter())
        for _ in range(updates):
            self._policy_step(ledger)
        marks.append(perf_counter())
        collecting, inferring, updating = np.diff(marks).tolist()
        total = self.inference_steps * inferring + self.policy_steps * updating
        average: float = total / (self.inference_steps + self.policy_steps) / updates
        return collecting * self.collector.rounds(initial=False), average

    def whole(self, iterations: int, collection: float, update: float) -> float:
        """Seconds of a run, the first collection included, from what `rehearse` measured."""
        steps = self.inference_steps + self.policy_steps
        share = self.collector.rounds(initial=True) / self.collector.rounds(initial=False)
        return iterations * (collection + steps * update) + share * collection

    def state_dict(self) -> dict[str, Any]:
        """All but the replay, which the loop saves by itself."""
        return {"counts": dict(self._counts), "collector": self.collector.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._counts = dict(state["counts"])
        self.collector.load_state_dict(state["collector"])

    def refill(self) -> None:
        """Begin the epoch anew, and the first collection with it: the replay was not saved."""
        self._enter(COLLECT)
        self.collector.refill()

    def close(self) -> None:
        """Release the environments."""
        self.collector.rollouts.close()
