"""Contexts: what is shown of collected episodes to a learner that infers a task from them."""

from collections.abc import Sequence

import torch
from tensordict import TensorDict

KEPT = ("observation", "terminated")
"""What replays and contexts need of a step's "next" part, besides what is always kept."""
SPARSE = "sparse_reward"


def transitions(episode: TensorDict) -> TensorDict:
    """Those of an episode `[time]` with "mask": `[steps]`, without the padding."""
    steps: TensorDict = episode[episode["mask"]]
    return steps.exclude("mask")


def context_of(steps: TensorDict, sparse: bool) -> TensorDict:
    """Transitions `[*]` as an encoder sees them, with the sparse reward for the reward if so."""
    reward = steps["next", SPARSE if sparse else "reward"]
    after = {"reward": reward, "observation": steps["next", "observation"]}
    fields = {key: steps[key] for key in ("observation", "action", "mask") if key in steps.keys()}
    return TensorDict({**fields, "next": TensorDict(after, steps.shape)}, steps.shape)


def drawn(
    pools: Sequence[TensorDict], length: int, generator: torch.Generator, sparse: bool
) -> TensorDict:
    """Contexts `[pools, length]`: from each pool, transitions `[n]`, uniform with replacement."""
    rows = []
    for pool in pools:
        at = torch.randint(len(pool), (length,), generator=generator)
        rows.append(context_of(pool[at.to(pool["observation"].device)], sparse))
    contexts: TensorDict = torch.stack(rows)
    return contexts
