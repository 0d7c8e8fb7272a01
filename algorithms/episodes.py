"""Experience of many tasks, made ready for losses: padding cleared, advantages computed.

An experience is a TensorDict `[tasks, episodes, time]` with `"observation"`, `"action"`,
`("next", "reward")` and `"mask"` bool, False on the padding after shorter episodes.
"""

from typing import NamedTuple

from tensordict import TensorDict
from torch import Tensor

from algorithms.advantages import generalized_advantages, normalized, returns_to_go
from algorithms.baseline import baseline_values, fit_baseline


class Episodes(NamedTuple):
    """What the losses see, `[tasks, episodes, time, *]`; the padding is zero, and masked."""

    observation: Tensor
    action: Tensor
    mask: Tensor
    advantage: Tensor


def steps(experience: TensorDict) -> tuple[Tensor, Tensor, Tensor]:
    """Return observations, rewards and mask, with zeros on the padding, whatever is there."""
    mask, reward = experience["mask"], experience["next", "reward"].squeeze(-1)
    return _cleared(experience["observation"], mask), _cleared(reward, mask), mask


def fit(experience: TensorDict, discount: float) -> Tensor:
    """Return the baselines fitted on the experience's returns to go, one for each task."""
    observation, reward, mask = steps(experience)
    return fit_baseline(observation, returns_to_go(reward, mask, discount), mask)


def prepare(
    experience: TensorDict, baseline: Tensor, discount: float, gae_lambda: float
) -> Episodes:
    """Return the episodes with their advantages over the baselines, normalised in each task."""
    observation, reward, mask = steps(experience)
    value = baseline_values(observation, mask, baseline)
    advantage = generalized_advantages(reward, value, mask, discount, gae_lambda)
    action = _cleared(experience["action"], mask)
    return Episodes(observation, action, mask, normalized(advantage, mask))


def _cleared(values: Tensor, mask: Tensor) -> Tensor:
    extra = (1,) * (values.dim() - mask.dim())
    return values.masked_fill(~mask.reshape(*mask.shape, *extra), 0)
