"""What learners offer a loop, and what they ask of a suite and of networks."""

import warnings
from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from tensordict import TensorDict
from torch import Tensor, nn

Metrics = dict[str, Tensor]
"""Detached tensors, 0-d or `[tasks]`, still on the learner's device."""


class Sizes(Protocol):
    """The part of a suite's specification a learner needs."""

    @property
    def observation_dim(self) -> int:
        """Numbers in an observation, the task's identity not counted."""

    @property
    def action_dim(self) -> int:
        """Numbers in an action."""

    @property
    def num_tasks(self) -> int:
        """Tasks learnt together."""


class PolicyNetwork(Protocol):
    """What learners ask of a policy; a module, `networks.actor.Actor` for example."""

    def __call__(self, td: TensorDict, explore: bool = True) -> TensorDict:
        """Add `"loc"`, `"scale"` and `"action"`, all `[*, action_dim]`, to td `[*]`.

        The action is tanh(x) with x of N(loc, scale^2), and `"action_log_prob"` `[*]` stands beside
        it, in nats, with the pathwise gradient; without `explore` it is tanh(loc) alone.

        Args:
            td: `"observation"` `[*, observation_dim]`, and `"task_id"` `[*]`, or of learners that
                infer one `"latent"` `[*, latent_dim]`.
            explore: Draw the action, with torch's global generator.
        """


class CriticNetwork(Protocol):
    """What learners ask of their critics; a module, `networks.critic.Critic` for example."""

    num_critics: int
    """How many are stacked: the first dimension of every parameter."""

    def __call__(self, td: TensorDict) -> TensorDict:
        """Add `"state_action_value"` `[*, num_critics]` to td, as of a policy, with `"action"`."""


def check_networks(learner: str, key: str, fix: str, **networks: nn.Module) -> None:
    """Check by what name a learner's networks are told of the task, and that no more is needed.

    Args:
        learner: whose networks these are, for the message.
        key: what the learner's batches hold.
        fix: what to do about it.

    Raises:
        ValueError: a network reads another name, or needs a context that no learner gives.
    """
    for name, network in networks.items():
        if (read := getattr(network, "task_key", key)) != key:
            raise ValueError(f"{learner}.{name} reads {read!r} instead of {key!r}; {fix}")
        if any(getattr(module, "needs_context", False) for module in network.modules()):
            raise ValueError(
                f"{learner}.{name} has TaskContext.source = 'prototype', a context that no learner "
                "gives; bind 'one_hot' or 'input_and_one_hot'"
            )


class Algorithm(nn.Module, ABC):
    """A learner: it owns networks and optimizers, and sees no environment, file or step count.

    `OffPolicyLoop` collects with `act`, shows each step to `observe`, then calls `update` a number
    of times between one `begin_phase` and one `end_phase`. `PosteriorSchedule` calls these two
    likewise, `WindowSchedule` around the steps of inference instead, and `MetaOnPolicyLoop` not at
    all; only `OffPolicyLoop` has contexts for them. `state_dict()` is complete: optimizers and
    counters travel in `get_extra_state`, as nested dicts of tensors and plain values.
    """

    grouped = False
    """Whether `update` takes batches `[tasks, rows]` only, with the same number of rows of each."""
    masked = False
    """Whether `end_phase` can change the policy other than by gradient steps: by new masks."""

    @property
    def commits(self) -> bool:
        """Whether the next `end_phase` will do so; never, unless `masked`.

        `train.commit_evaluator` evaluates just before it and right after.
        """
        return False

    def check_trajectories(self, kept: bool) -> None:
        """See that `begin_phase` gets the trajectories it reads: none here, so a warning if `kept`.

        A learner that needs what the loop has not kept raises ValueError.
        """
        if kept:
            warnings.warn(
                f"OffPolicyLoop.trajectories keeps what {type(self).__name__} does not read; "
                "bind it to None",
                stacklevel=2,
            )

    @abstractmethod
    def act(self, td: TensorDict, explore: bool) -> TensorDict:
        """Add `"action"` `[n, action_dim]` in [-1, 1], or `[n]` where actions are discrete.

        Args:
            td: `[n]`: `"observation"` `[n, observation_dim]` and `"task_id"` `[n]` int64. A
                meta-learner's is another, see `MetaAlgorithm.act`.
            explore: Act as in training; False is deterministic and draws nothing.
        """

    @abstractmethod
    def update(self, batch: TensorDict) -> Metrics:
        """Take one gradient step.

        Args:
            batch: `[tasks, rows]`, row t of task t, or `[rows]` unless `grouped`: `"observation"`,
                `"action"`, `"task_id"`, and of `"next"` `"observation"`, `"reward"` `[*, 1]` and
                `"terminated"` `[*, 1]` bool. A meta-learner's is of its loop's or replay's kind.

        Returns:
            What to log; `"health/nonfinite"` is 1 where a step was refused.
        """

    def observe(self, td: TensorDict) -> None:
        """See one collected vector step `[n]`, `"next"` included; `OffPolicyLoop` alone."""

    def begin_phase(self, context: TensorDict | None) -> Metrics:
        """Prepare for the gradient steps of one iteration.

        Args:
            context: The recent trajectories of each task, where the loop keeps them.
        """
        return {}

    def end_phase(self, context: TensorDict | None) -> Metrics:
        """Close the gradient steps of one iteration; `context` as in `begin_phase`."""
        return {}

    def evaluated(self, success: Tensor) -> None:
        """Take in the success rate of each task, `[tasks]` in [0, 1], after an evaluation."""

    def policy_state(self) -> dict[str, Any]:
        """State that is enough to act: what an exported policy holds."""
        return {k: v for k, v in self.state_dict().items() if isinstance(v, torch.Tensor)}


class MetaAlgorithm(Algorithm):
    """A learner that infers the task from experience, as a latent that `act` is given.

    The latents of tasks are a TensorDict `[tasks]` with `"latent"` `[tasks, latent_dim]` and
    `"adaptations"` `[tasks]` int64, how often each was adapted. They belong to the caller: none is
    kept in the learner or in its state.
    """

    @abstractmethod
    def act(self, td: TensorDict, explore: bool) -> TensorDict:
        """Add `"action"` `[tasks, episodes, action_dim]`, or `[tasks, episodes]` of discrete ones.

        Args:
            td: `[tasks]`: `"observation"` `[tasks, episodes, observation_dim]` and `"latent"`
                `[tasks, 1, latent_dim]`, that of all episodes of a task; no `"task_id"`.
            explore: As in `Algorithm.act`.
        """

    @abstractmethod
    def prior(self, num_tasks: int) -> TensorDict:
        """Return the latents before any experience, `[num_tasks]`."""

    @abstractmethod
    def adapt(self, experience: TensorDict, prior: TensorDict) -> TensorDict:
        """Return the latents after one more adaptation, to experience `[tasks, episodes, time]`."""


class OffPolicyMetaAlgorithm(MetaAlgorithm):
    """A meta-learner that learns from a replay.

    Where `window` is None the latent stays as it is in an episode, and `adapt` takes all
    transitions so far; else it is inferred anew before each step, from the last `window`
    transitions of the episode. What `update` is given is up to the replay of the learner's kind.
    """

    latent_dim: int
    """Width of the latent."""
    window: int | None = None
    """How many transitions the latent is inferred from."""
