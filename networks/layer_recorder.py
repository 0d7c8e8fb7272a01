"""Keeps what the layers of a meta-learner's policy compute in the episodes of an evaluation."""

from collections.abc import Sequence
from typing import Any, Protocol

import gin
import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.func import functional_call, vmap


class Watched(Protocol):
    """What is asked of a learner; its policy has `representations`, as `ContextPolicy` has."""

    policy: Any
    adapts_weights: bool
    """Whether a latent is a vector of all weights, and not a context."""

    weights: Any
    """Its `unflatten` turns such a vector into weights by name."""


class _Teller(nn.Module):
    """A policy that is called for its representations: `functional_call` calls modules only."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Tensor, context: Tensor) -> dict[str, Tensor]:
        told: dict[str, Tensor] = self.policy.representations(observation, context)
        return told


@gin.configurable
class LayerRecorder:
    """Every tensor of every layer, by name, for each task, adaptation step, episode and time step.

    The layers are computed anew from the episodes' observations, after these were run: neither what
    the policy does nor anything random depends on it. Latents may be contexts (CAVIA) or weights of
    each task's own (MAML).

    Four bytes are kept for each number, so tasks x steps x episodes x time x all widths of them:
    with many or long episodes, record a few.
    """

    def __init__(self, *, episodes: int | None = None) -> None:
        """Begin without episodes.

        Args:
            episodes: how many of each task and step to keep, the first ones; all if None.

        Raises:
            ValueError: if `episodes` is below 1.
        """
        if episodes is not None and episodes < 1:
            raise ValueError(f"LayerRecorder.episodes must be at least 1, got {episodes}")
        self.episodes = episodes
        self.begin()

    def begin(self) -> None:
        """Forget everything."""
        self._steps: dict[str, list[list[dict[str, Tensor]]]] = {}  # by adaptation step, group

    def check(self, learner: Watched) -> None:
        """TypeError unless the learner's policy tells its representations."""
        policy = getattr(learner, "policy", None)
        if not hasattr(policy, "representations"):
            owner = type(learner if policy is None else policy).__name__
            raise TypeError(
                f"{owner} does not tell what its layers compute: leave LayerRecorder out, or use "
                "ContextPolicy or NeuromodulatedPolicy"
            )

    @torch.no_grad()
    def width(self, learner: Watched, observation: Tensor, latent: Tensor) -> int:
        """How many numbers are kept for a time step.

        Args:
            learner: the policy's owner.
            observation: `[tasks, episodes, time, observation_dim]`, any.
            latent: `[tasks, latent_dim]`, any.
        """
        told = _representations(learner, observation, latent).values()
        others = observation.shape[-1] + 3  # reward, success and mask
        return others + sum(value[:1, :1, :1].numel() for value in told)

    @torch.no_grad()
    def see(
        self, learner: Watched, split: str, step: int, experience: TensorDict, latent: Tensor
    ) -> None:
        """Keep the episodes of some more tasks at an adaptation step.

        Args:
            learner: the policy's owner.
            split: what to keep them under.
            step: adaptations before; for each group of tasks 0, 1, 2 and so on.
            experience: `[tasks, episodes, time]` with "observation", ("next", "reward"),
                ("next", "success") and "mask", False after the end of an episode.
            latent: `[tasks, latent_dim]`, those that the episodes were run with.

        Raises:
            TypeError: if the policy does not tell its representations.
        """
        self.check(learner)
        experience = experience[:, : self.episodes]
        observation, mask = experience["observation"], experience["mask"]
        told = _representations(learner, observation, latent)
        told |= {"observation": observation}
        for key in ("reward", "success"):
            told[key] = experience["next", key].squeeze(-1)
        # What a simulator does after the end of an episode is of no interest, and packs badly.
        told = {name: _cleared(value, mask).cpu() for name, value in told.items()}
        told["mask"] = mask.cpu()
        if not learner.adapts_weights:
            told["context"] = latent.cpu()
        steps = self._steps.setdefault(split, [])
        if step == len(steps):
            steps.append([])
        steps[step].append(told)

    def summary(self) -> dict[str, Tensor]:
        """All that was seen; time is that of the longest episode, and zeros stand after the ends.

        Returns:
            For each split, as `<split>/<name>`:
            `layer_<l>/output` `[tasks, steps, episodes, time, width]`, l from 1; for neuromodulated
            layers `layer_<l>/drive` (before the gate), `/modulators` and `/gates` too.
            `head/mean` and `head/std`, or `head/logits`, and `observation`, of the same form.
            `reward`, `success`, `mask` `[tasks, steps, episodes, time]`.
            `context` `[tasks, steps, num_context]`, if there are contexts.
        """
        return {
            f"{split}/{name}": _stacked(
                [[told[name] for told in step] for step in steps], timed=name != "context"
            )
            for split, steps in self._steps.items()
            for name in steps[0][0]
        }


def _representations(learner: Watched, observation: Tensor, latent: Tensor) -> dict[str, Tensor]:
    """Of observations `[tasks, episodes, time, observation_dim]`, each `[*, width]`."""
    if not learner.adapts_weights:
        told: dict[str, Tensor] = learner.policy.representations(observation, latent[:, None, None])
        return told
    teller = _Teller(learner.policy)

    def of_one_task(weights: Tensor, observation: Tensor) -> Any:
        named = {f"policy.{k}": v for k, v in learner.weights.unflatten(weights).items()}
        return functional_call(teller, named, (observation, weights[:0]))

    told = vmap(of_one_task)(latent, observation)
    return told


def _cleared(values: Tensor, mask: Tensor) -> Tensor:
    extra = (1,) * (values.dim() - mask.dim())
    return values.masked_fill(~mask.view(*mask.shape, *extra), 0)


def _stacked(steps: Sequence[Sequence[Tensor]], timed: bool) -> Tensor:
    """Groups of tasks one after the other, the steps after them; shorter times filled up."""
    if not timed:
        return torch.stack([torch.cat(list(step)) for step in steps], 1)
    tasks = sum(len(group) for group in steps[0])
    longest = max(group.shape[2] for step in steps for group in step)
    _, episodes, _, *width = steps[0][0].shape
    whole = steps[0][0].new_zeros(tasks, len(steps), episodes, longest, *width)
    for number, step in enumerate(steps):
        first = 0
        for group in step:
            rows = slice(first, first + len(group))
            whole[rows, number, :, : group.shape[2]] = group
            first += len(group)
    return whole
