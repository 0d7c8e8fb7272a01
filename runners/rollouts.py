"""Whole episodes of several tasks at once, for learners that adapt between episodes."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from runners.preflight import too_much

KEPT = ("reward", "success")
"""What is always kept of a step's "next" part."""


class Acting(Protocol):
    """The part of a meta-learner that collecting needs."""

    def act(self, td: TensorDict, explore: bool) -> TensorDict:
        """As `algorithms.base.MetaAlgorithm.act`."""


class Rollouts:
    """Runs a fixed number of episodes of each of several tasks.

    The environments are opened at the first call and stay open. Every episode is run to its end,
    so short ones are as many as long ones.

    Args:
        suite: the tasks.
        num_tasks: tasks of a call.
        episodes: episodes of each.
        at_once: how many of them run side by side; all if None.
        seed: of the environments.
        purpose: "train" or "evaluation", see `envs.suite.Suite.vector`.
        keep: what else of a step's "next" part is kept, by the names of `VectorTasks.step`.

    Raises:
        ValueError: a number below 1, or `at_once` that does not divide `episodes`.
    """

    def __init__(
        self,
        suite: Any,
        num_tasks: int,
        episodes: int,
        *,
        at_once: int | None = None,
        seed: int = 0,
        purpose: str = "train",
        keep: Sequence[str] = (),
    ) -> None:
        check_numbers("Rollouts", {"num_tasks": num_tasks, "episodes": episodes}, at_once)
        self.suite, self.seed, self.purpose = suite, seed, purpose
        self.num_tasks, self.episodes = num_tasks, episodes
        self.at_once = episodes if at_once is None else at_once
        self.kept = tuple(dict.fromkeys((*KEPT, *keep)))
        self._vector: Any = None

    def open(self, tasks: Sequence[Any]) -> Any:
        """The environments, which `tasks` are given to; built if they are not there."""
        rows = [task for task in tasks for _ in range(self.at_once)]
        if self._vector is None:
            self._vector = self.suite.vector(rows, self.seed, purpose=self.purpose, autoreset=False)
        else:
            self._vector.assign(rows)
        return self._vector

    def collect(
        self, learner: Acting, tasks: Sequence[Any], latent: Tensor, explore: bool = True
    ) -> TensorDict:
        """Run the episodes.

        Args:
            learner: acts.
            tasks: `num_tasks`, with one goal each.
            latent: of each task, `[num_tasks, latent_dim]`; where it lies the result will lie.
            explore: sample actions.

        Returns:
            `[tasks, episodes, time]`, time as long as the longest episode: `"observation"`,
            `"action"`, `("next", "reward")`, `("next", "success")`, what else of "next" is kept,
            and `"mask"` bool `[tasks, episodes, time]`: False after the end of an episode, and for
            all of one that its simulator broke off.
        """
        vector = self.open(tasks)
        rounds = [
            self._round(vector, learner, latent, explore)
            for _ in range(self.episodes // self.at_once)
        ]
        return joined(rounds, 1)

    def _round(self, vector: Any, learner: Acting, latent: Tensor, explore: bool) -> TensorDict:
        shape, steps = (self.num_tasks, self.at_once), []
        vector.reset()
        over = torch.zeros(shape, dtype=torch.bool)
        whole = torch.ones(shape, dtype=torch.bool)
        for _ in range(self.suite.spec.horizon):
            td = vector.current()
            observation = td["observation"].view(*shape, -1)
            action = self._act(learner, observation.to(latent.device), latent, explore)
            td["action"] = action.flatten(0, 1)
            vector.step(td)
            valid, done = (td["next", key].view(shape) for key in ("valid", "done"))
            whole &= valid | over
            steps.append(self._kept(td.view(*shape), valid & ~over))
            over |= done
            if bool(over.all()):
                break
        experience: TensorDict = torch.stack(steps, 2)
        experience["mask"] &= whole[..., None]
        return experience.to(latent.device)

    def _act(self, learner: Acting, observation: Tensor, latent: Tensor, explore: bool) -> Tensor:
        """Actions, on the CPU, for observations `[tasks, at_once, observation_dim]`."""
        seen = TensorDict({"observation": observation, "latent": latent[:, None]}, latent.shape[:1])
        action: Tensor = learner.act(seen, explore=explore)["action"]
        return action.to("cpu")

    def _kept(self, td: TensorDict, mask: Tensor) -> TensorDict:
        """What is kept of a step `[tasks, at_once]`; `mask`: it belongs to an episode."""
        return TensorDict(
            {
                "observation": td["observation"],
                "action": td["action"],
                "mask": mask,
                "next": {key: td["next", key] for key in self.kept},
            },
            td.shape,
        )

    def state_dict(self) -> dict[str, Any]:
        """The environments' state; empty before the first call."""
        return {} if self._vector is None else {"vector": self._vector.state_dict()}

    def load_state_dict(self, state: dict[str, Any], tasks: Sequence[Any]) -> None:
        """Go on where `state_dict` was taken; `tasks` are any `num_tasks` of the suite's."""
        if state:
            self.open(tasks).load_state_dict(state["vector"])

    @property
    def faults(self) -> dict[str, int]:
        """Counts of dead workers and of episodes that broke."""
        return {} if self._vector is None else dict(self._vector.faults)

    def close(self) -> None:
        """Release the environments."""
        vector, self._vector = self._vector, None
        if vector is not None:
            vector.close()


def check_numbers(owner: str, numbers: Mapping[str, int], at_once: int | None) -> None:
    """Refuse numbers of tasks and episodes that are out of range.

    Args:
        owner: whose arguments they are.
        numbers: by the argument's name; the last one is the number of episodes.
        at_once: the argument `episodes_at_once`.

    Raises:
        ValueError: a number below 1, or `at_once` that does not divide the episodes.
    """
    given = numbers if at_once is None else {**numbers, "episodes_at_once": at_once}
    for name, value in given.items():
        if value < 1:
            raise ValueError(f"{owner}.{name} must be at least 1, got {value!r}")
    name, episodes = list(numbers.items())[-1]
    if at_once is not None and episodes % at_once:
        raise ValueError(
            f"{owner}.episodes_at_once must divide {owner}.{name} = {episodes}, got {at_once}; "
            "bind EPISODES_AT_ONCE to a divisor, or to None"
        )


def check_fits(
    owner: str,
    suite: Any,
    num_tasks: int,
    episodes: int,
    *,
    copies: int = 1,
    width: int | None = None,
    fix: str,
) -> None:
    """Refuse more episodes than fit into memory, before anything is made for each of them.

    Args:
        owner: who collects them.
        suite: the tasks.
        num_tasks: how many tasks at once.
        episodes: of each.
        copies: how many such collections there are at a time.
        width: numbers kept for a time step; None for those of `Rollouts`.
        fix: the bindings to lower.

    Raises:
        ValueError: with the sizes.
    """
    spec = suite.spec
    numbers = spec.observation_dim + spec.action_dim + len(KEPT) if width is None else width
    if said := too_much(4.0 * numbers * spec.horizon * episodes * num_tasks * copies):
        sizes = f"{num_tasks:,} tasks with {episodes:,} episodes each"
        raise ValueError(f"{owner}, {sizes}: {said}; lower {fix}")


def check_draw(owner: str, suite: Any, num_tasks: int, split: str) -> None:
    """Refuse a number of tasks that the suite cannot draw; `owner` is the argument it comes from.

    Raises:
        ValueError: what the suite says of it.
    """
    try:
        suite.sample(num_tasks, split, np.random.default_rng(0))
    except ValueError as error:
        raise ValueError(f"{owner} (META_BATCH): {error}") from error


def returns(experience: TensorDict) -> Tensor:
    """Undiscounted return of each episode `[tasks, episodes]`; nan for one that was broken off."""
    mask = experience["mask"]
    total: Tensor = (experience["next", "reward"].squeeze(-1) * mask).sum(-1)
    return total.where(mask.any(-1), torch.nan)


def successes(experience: TensorDict, last: bool = False) -> Tensor:
    """1 for each episode `[tasks, episodes]` that succeeded at any step, or at its last one, or 0.

    nan for one that was broken off.
    """
    mask = experience["mask"]
    success = experience["next", "success"].squeeze(-1) & mask
    found: Tensor = success.any(-1)
    if last:
        end = (mask.long().cumsum(-1) * mask).argmax(-1, keepdim=True)
        found = success.gather(-1, end).squeeze(-1)
    return found.double().where(mask.any(-1), torch.nan)


def scores(experience: TensorDict, when: str = "") -> dict[str, Tensor]:
    """`train/return<when>`, `train/success<when>` and `train/episode_length<when>`: their means."""
    return {
        f"train/return{when}": returns(experience).nanmean(),
        f"train/success{when}": successes(experience).nanmean(),
        f"train/episode_length{when}": experience["mask"].sum(-1).double().mean(),
    }


def joined(parts: Sequence[TensorDict], dim: int) -> TensorDict:
    """Experiences `[tasks, episodes, time]` as one, zeros after the shorter ones."""
    longest = max(part.shape[2] for part in parts)
    padded = [
        torch.cat((part, torch.zeros_like(part[:, :, :1]).expand(*part.shape[:2], missing)), 2)
        if (missing := longest - part.shape[2])
        else part
        for part in parts
    ]
    whole: TensorDict = torch.cat(padded, dim)
    return whole
