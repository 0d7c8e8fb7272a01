"""Films of learners that adapt: before and after adaptation, or adapting as they go."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict

from runners.contexts import KEPT, SPARSE, context_of
from runners.devices import device_of
from runners.evaluation import evaluating
from runners.filming import Episode, Studio, policy_act
from runners.regimes import ON_POLICY, POSTERIOR, regime
from runners.rollouts import Rollouts


def adaptations(suite: Any, learner: Any, evaluator: Any) -> int:
    """How many come before the last episode of an evaluation; 0 if none come between episodes."""
    fit = regime(learner)
    if fit is ON_POLICY:
        return int(evaluator.adaptations)
    if fit is POSTERIOR:
        episodes = -(-evaluator.steps // suite.spec.horizon)
        return max(1, int(episodes - evaluator.prior_episodes))
    return 0


def before_and_after(
    learner: Any, evaluator: Any, studio: Studio, count: int, seed: int
) -> list[tuple[str, Episode]]:
    """An episode with the prior, and one after `count` adaptations, with the task's first goal.

    In between the learner collects and adapts as in its evaluations.

    Returns:
        For each of the two what its file's name says of it, "_adapted-<number>", and the episode.
    """
    task = replace(studio.task, goals=studio.task.goals[:1])
    on_policy = regime(learner) is ON_POLICY
    episodes = evaluator.episodes if on_policy else 1
    keep = () if on_policy else (*KEPT, SPARSE) if evaluator.sparse else KEPT
    rollouts = Rollouts(
        studio.suite, 1, episodes, at_once=1, seed=seed, purpose="evaluation", keep=keep
    )
    if on_policy:
        latents = _by_gradient(rollouts, learner, task)
    else:
        latents = _by_posterior(rollouts, learner, evaluator, task, seed)
    marked = []
    try:
        with evaluating(learner):
            for number, latent in zip(range(count + 1), latents, strict=False):
                if number in (0, count):
                    act = policy_act(learner, task, on_policy, latent["latent"])
                    marked.append((f"_adapted-{number}", studio.play(task.goals[0], act)))
    finally:
        rollouts.close()
    return marked


def _by_gradient(rollouts: Rollouts, learner: Any, task: Any) -> Iterator[TensorDict]:
    """Latents after no adaptation, one, two and so on, each on episodes of the one before."""
    latents = learner.prior(1)
    while True:
        yield latents
        experience = rollouts.collect(learner, (task,), latents["latent"])
        latents = learner.adapt(experience, latents)


def _by_posterior(
    rollouts: Rollouts, learner: Any, evaluator: Any, task: Any, seed: int
) -> Iterator[TensorDict]:
    """Latents of the prior, then of the posterior of one episode more each time.

    The first posterior is of `prior_episodes`, which have latents of the prior.
    """
    generator = torch.Generator().manual_seed(seed)
    seen: list[TensorDict] = []
    latents = learner.prior(1)
    yield latents
    for number in itertools.count(1):
        experience = rollouts.collect(learner, (task,), latents["latent"], explore=False)
        seen.append(context_of(experience, evaluator.sparse))
        if number < evaluator.prior_episodes:
            latents = learner.prior(1)
        else:
            latents = learner.adapt(evaluator.context(seen, generator), latents)
            yield latents


class WindowAct:
    """Acting for one environment on what is inferred from the last transitions of its episode.

    Args:
        learner: in evaluation mode.
        evaluator: whose `window` holds the transitions.
        studio: where the episode is played.
        explore: sample.
    """

    def __init__(self, learner: Any, evaluator: Any, studio: Studio, explore: bool) -> None:
        self._learner, self._evaluator = learner, evaluator
        self._studio, self._explore = studio, explore
        self._window: Any = None
        self._latents: Any = None
        self._last: tuple[NDArray[Any], NDArray[Any]]

    @torch.no_grad()
    def __call__(self, observation: NDArray[np.float32]) -> NDArray[Any]:
        """An action; a new episode begins with an empty window."""
        learner, reward = self._learner, self._studio.reward
        if reward is None:
            spec, device = self._studio.suite.spec, device_of(learner)
            sizes = spec.observation_dim, spec.action_dim, 1, learner.window
            self._window = self._evaluator.window(*sizes, device=device)
            self._latents = learner.prior(1)
        else:
            before, action = (torch.from_numpy(array)[None] for array in self._last)
            after = {
                "observation": torch.from_numpy(observation)[None],
                "reward": torch.tensor([[reward]]),
                "terminated": torch.tensor([[False]]),
            }
            fields = {"observation": before, "action": action, "next": TensorDict(after, [1])}
            self._window.push(TensorDict(fields, [1]))
        self._latents = learner.adapt(self._window.context(), self._latents)
        act = policy_act(learner, self._studio.task, self._explore, self._latents["latent"])
        self._last = observation, act(observation)
        return self._last[1]
