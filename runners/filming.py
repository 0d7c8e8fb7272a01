"""Episodes of a policy as pictures: played first, then repeated before the camera."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict

from runners.devices import device_of

Act = Callable[[NDArray[np.float32]], NDArray[Any]]
Picture = NDArray[np.uint8]
FRAMES_PER_SECOND = 20.0


@dataclass(frozen=True)
class Episode:
    """What happened, and all it takes to let it happen again."""

    task: Any
    """With the one goal it was played for."""
    actions: tuple[NDArray[Any], ...]
    success: bool
    total: float
    """Sum of rewards."""
    judged: bool = True
    """Whether the tasks say what a success is."""

    @property
    def outcome(self) -> str:
        """One word."""
        if not self.judged:
            return "episode"
        return "success" if self.success else "failure"


@dataclass(frozen=True)
class Film:
    """Pictures of an episode."""

    episode: Episode
    steps: tuple[int, ...]
    """The step after which each picture was taken; 0 is the start."""
    pictures: tuple[Picture, ...]
    rate: float
    """Pictures in a second of what was simulated."""


class Studio:
    """One environment of a task, in which episodes are played and filmed.

    An episode ends at its first success, at the horizon, or where the environment ends it, as in an
    evaluation. Playing is quick; a picture takes 0.1 s without a graphics device, so that only
    episodes that were chosen are played again, by their actions, and filmed.

    Args:
        suite: of the task.
        task: what is played.
        seed: of all that is random in the environment.

    Attributes:
        reward: of the last step; None at the beginning of an episode.
    """

    def __init__(self, suite: Any, task: Any, seed: int = 0) -> None:
        self.suite, self.task, self.seed = suite, task, seed
        self.environment = suite.build((task,))(task)
        self.reward: float | None = None

    def play(self, goal: int, act: Act) -> Episode:
        """Play one episode with a goal of the task."""
        observation, actions, total = self._begin(goal), [], 0.0
        success = over = False
        while not over:
            action = act(observation)
            actions.append(action)
            observation, reward, over, success = self._step(action, len(actions))
            total += reward
        task = replace(self.task, goals=(goal,))
        judged = self.suite.protocol().get("success") != "not defined"
        return Episode(task, tuple(actions), success, total, judged)

    def film(self, episode: Episode, size: int, *, every: int = 0, pictures: int = 0) -> Film:
        """Repeat an episode before the camera.

        Args:
            episode: one that `play` gave.
            size: width and height of the pictures.
            every: steps between two pictures; 0: as many as make 20 pictures a second.
            pictures: instead, so many of the whole episode, evenly spread.

        Raises:
            NotImplementedError: the environment has no pictures.
        """
        length = len(episode.actions)
        every = every or max(1, round(self.environment.rate / FRAMES_PER_SECOND))
        wanted = {*range(0, length, every), length}
        if pictures:
            wanted = set(np.linspace(0, length, pictures).round().astype(int).tolist())
        self._begin(episode.task.goals[0])
        taken = {0: self.environment.picture(size, size)} if 0 in wanted else {}
        for step, action in enumerate(episode.actions, 1):
            self._step(action, step)
            if step in wanted:
                taken[step] = self.environment.picture(size, size)
        rate = self.environment.rate / every
        return Film(episode, tuple(taken), tuple(taken.values()), rate)

    def close(self) -> None:
        """Free the environment."""
        self.environment.close()

    def _begin(self, goal: int) -> NDArray[np.float32]:
        generator = self.suite.seeds(1, self.seed, "evaluation")[0].generator()
        observation, _ = self.environment.reset(options={"goal": goal, "rng": generator})
        self.reward = None
        return np.asarray(observation, np.float32)

    def _step(
        self, action: NDArray[Any], count: int
    ) -> tuple[NDArray[np.float32], float, bool, bool]:
        """Observation, reward, whether the episode is over, and whether by a success."""
        observation, reward, ended, cut, info = self.environment.step(action.copy())
        broken = info.get("unstable", False) or not np.isfinite(observation).all()
        success = bool(info["success"]) and not broken
        self.reward = float(reward)
        over = ended or cut or broken or success or count >= self.suite.spec.horizon
        return np.asarray(observation, np.float32), self.reward, bool(over), success


def policy_act(learner: Any, task: Any, explore: bool = False, latent: Any = None) -> Act:
    """Acting for one environment of a task.

    Args:
        learner: in evaluation mode.
        task: what it is told, by its number.
        explore: sample, as some papers evaluate.
        latent: what a meta-learner is told instead, `[1, latent_dim]`.
    """
    device = device_of(learner)

    @torch.no_grad()
    def act(observation: NDArray[np.float32]) -> NDArray[Any]:
        seen = torch.from_numpy(observation).to(device)[None]
        if latent is None:
            number = torch.tensor([task.task_id], device=device)
            td = TensorDict({"observation": seen, "task_id": number}, [1])
        else:
            td = TensorDict({"observation": seen[None], "latent": latent[:, None]}, [1])
        action = learner.act(td, explore=explore)["action"].cpu().numpy()
        return _allowed(action[0] if latent is None else action[0, 0])

    return act


def random_act(spec: Any, seed: int) -> Act:
    """Uniform actions, for a look at tasks that nothing was trained on yet."""
    generator = np.random.default_rng(seed)

    def act(observation: NDArray[np.float32]) -> NDArray[Any]:
        if spec.num_actions:
            return np.asarray(generator.integers(spec.num_actions))
        return np.asarray(generator.uniform(-1.0, 1.0, spec.action_dim), np.float32)

    return act


def one_of_each(studio: Studio, goals: Sequence[int], act: Act) -> list[Episode]:
    """A success and a failure, if there are both among episodes with these goals in turn."""
    found: dict[bool, Episode] = {}
    for goal in goals:
        episode = studio.play(goal, act)
        found.setdefault(episode.success, episode)
        if len(found) == 2:
            break
    return [found[success] for success in (True, False) if success in found]


def _allowed(action: NDArray[Any]) -> NDArray[Any]:
    """As the vector of environments hands actions on: clipped, unless they are numbers of some."""
    if action.dtype.kind != "f":
        return action
    return np.asarray(action.clip(-1.0, 1.0), np.float32)
