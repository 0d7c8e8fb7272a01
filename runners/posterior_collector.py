"""Episodes of several tasks side by side, with latents of the prior or adapted to what they saw."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from runners.contexts import KEPT, SPARSE, drawn, transitions
from runners.ledger import Ledger
from runners.rollouts import Rollouts, scores
from runners.seeding import CONTEXT_STREAM

Pools = list[list[TensorDict]]
"""The episodes of each task, transitions `[steps]` each."""


class PosteriorCollector:
    """Runs one episode in every environment at a time, each of them of any task.

    Args:
        suite: the tasks.
        learner: a meta-learner whose latent stays as it is in an episode.
        tasks: those that numbers stand for.
        num_environments: episodes side by side.
        seed: of the environments and of contexts.
        context_size: transitions of a context.
        sparse: contexts show the sparse reward.
    """

    def __init__(
        self,
        suite: Any,
        learner: Any,
        tasks: Sequence[Any],
        num_environments: int,
        *,
        seed: int,
        context_size: int,
        sparse: bool,
    ) -> None:
        self.learner, self.tasks = learner, tuple(tasks)
        self.horizon: int = suite.spec.horizon
        self.context_size, self.sparse = context_size, sparse
        keep = (*KEPT, SPARSE) if sparse else KEPT
        self.rollouts = Rollouts(suite, num_environments, 1, seed=seed, keep=keep)
        words = np.random.SeedSequence(seed, spawn_key=CONTEXT_STREAM).generate_state(1, np.uint64)
        self._generator = torch.Generator().manual_seed(int(words[0]) >> 1)

    def round(
        self, ledger: Ledger, numbers: Sequence[int], collected: Sequence[int], wanted: int
    ) -> list[tuple[int, TensorDict]]:
        """An episode with a new latent of the prior in every environment.

        Args:
            ledger: counts what is kept.
            numbers: of the tasks.
            collected: steps that there are of each.
            wanted: steps of each.

        Returns:
            Places in `numbers`, and an episode of each; the first that lack steps have their turn,
            as often as whole episodes are missing.
        """
        slots, missing = self.rollouts.num_tasks, []
        for place, steps in enumerate(collected):
            missing += [place] * math.ceil(max(0, wanted - steps) / self.horizon)
        missing = missing[:slots]
        tasks = [numbers[missing[slot % len(missing)]] for slot in range(slots)]
        latent = self.learner.prior(slots)["latent"]
        episodes = self._run(ledger, tasks, latent, range(len(missing)), "prior")
        return list(zip(missing, episodes, strict=True))

    def with_prior(self, ledger: Ledger, numbers: Sequence[int], wanted: int) -> Pools:
        """Episodes of each task, with latents of the prior, of at least `wanted` steps together."""
        pools: Pools = [[] for _ in numbers]
        collected = [0] * len(numbers)
        while min(collected) < wanted:
            for place, steps in self.round(ledger, numbers, collected, wanted):
                pools[place].append(steps)
                collected[place] += len(steps)
        return pools

    def with_posterior(
        self,
        ledger: Ledger,
        numbers: Sequence[int],
        seen: Pools,
        wanted: int,
        *,
        kept: Pools,
        carry: bool,
    ) -> None:
        """Episodes of each task, one by one, each with a latent adapted to contexts from `seen`.

        Args:
            ledger: counts what is kept.
            numbers: of the tasks, one for each environment.
            seen: what contexts are drawn from.
            wanted: steps of each task, at least.
            kept: where the episodes go; it may be `seen`.
            carry: adapt before the first episode as well, if there is something to adapt to.
        """
        latents, when = self.learner.prior(len(numbers)), "prior"
        if carry and _filled(seen):
            latents, when = self._adapted(seen, latents), "posterior"
        collected = [0] * len(numbers)
        while min(collected) < wanted:
            rows = [place for place, steps in enumerate(collected) if steps < wanted]
            episodes = self._run(ledger, numbers, latents["latent"], rows, when)
            for place, steps in zip(rows, episodes, strict=True):
                kept[place].append(steps)
                collected[place] += len(steps)
            if _filled(seen):
                latents, when = self._adapted(seen, latents), "posterior"

    def _run(
        self, ledger: Ledger, numbers: Sequence[int], latent: Tensor, rows: Sequence[int], when: str
    ) -> list[TensorDict]:
        """An episode of each task; the transitions `[steps]` of those in `rows`."""
        tasks = [self.tasks[number] for number in numbers]
        experience = self.rollouts.collect(self.learner, tasks, latent)[list(rows)]
        ledger.collected(experience["mask"])
        ledger.note(scores(experience, f"_{when}"))
        return [transitions(episode) for episode in experience.flatten(0, 1)]

    def _adapted(self, seen: Pools, latents: TensorDict) -> TensorDict:
        """Latents adapted to contexts drawn from what there is of each task."""
        pools = [torch.cat(parts) for parts in seen]
        contexts = drawn(pools, self.context_size, self._generator, self.sparse)
        adapted: TensorDict = self.learner.adapt(contexts, latents)
        return adapted

    def state_dict(self) -> dict[str, Any]:
        """Environments and stream."""
        return {"rollouts": self.rollouts.state_dict(), "contexts": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._generator.set_state(state["contexts"].cpu())
        slots = range(self.rollouts.num_tasks)
        tasks = [self.tasks[slot % len(self.tasks)] for slot in slots]
        self.rollouts.load_state_dict(state["rollouts"], tasks)


def _filled(pools: Pools) -> bool:
    """Whether there is something of each task."""
    return all(sum(map(len, parts)) for parts in pools)
