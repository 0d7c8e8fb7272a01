"""An exported policy, ready to act: read from its folder alone, without the run and its tasks.

    from runners.policy import load_policy
    policy = load_policy("runs/must_mt10/seed_0/policy")
    action = policy(observation, "reach-v3")

Neither the simulators of the tasks nor gin's configuration are touched, and nothing is unpickled;
the modules that the card names are imported.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gin
import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import Tensor, nn

from envs.suite import Spec
from runners.devices import device_of
from runners.evaluation import untouched_randomness
from runners.isolation import own_configuration
from runners.manifest import DamagedError
from runners.policy_file import check_card, read_policy

Observation = Tensor | NDArray[Any] | Sequence[float]


class Policy(nn.Module):
    """What a run has learnt to do; `act` does the same, bit for bit, as the run's learner.

    Attributes:
        card: what is known of the policy: configuration, protocol, success, versions.
        sizes: of observation and action, and the names of the tasks.

    Args:
        learner: with the weights of the policy; the rest of it (critics, say) was never trained.
        sizes: what it was built with.
        card: see `runners.policy_card`.
    """

    def __init__(self, learner: Any, sizes: Spec, card: dict[str, Any]) -> None:
        super().__init__()
        self.learner, self.sizes, self.card = learner, sizes, card

    def act(self, td: TensorDict, explore: bool = False) -> TensorDict:
        """As the learner's: add `"action"` to a TensorDict of the keys that the learner reads."""
        done: TensorDict = self.learner.act(td, explore=explore)
        return done

    @torch.no_grad()
    def forward(
        self, observation: Observation, task: Any = 0, *, explore: bool = False
    ) -> Tensor | NDArray[Any]:
        """The actions for observations.

        Args:
            observation: `[observation_dim]` or `[rows, observation_dim]`.
            task: its name or number, or one of them for each row.
            explore: sample, with torch's global generator, instead of the policy's mode.

        Returns:
            `[action_dim]` or `[rows, action_dim]`; a tensor for a tensor, else an array.

        Raises:
            ValueError: an observation of another width, or a task that there is not.
        """
        seen = self._tensor(observation)
        rows = seen.reshape(-1, seen.shape[-1])
        numbers = torch.as_tensor(self._numbers(task), device=rows.device).expand(len(rows))
        td = TensorDict({"observation": rows, "task_id": numbers}, [len(rows)])
        action = self.act(td, explore)["action"]
        return self._given_back(action.reshape((*seen.shape[:-1], *action.shape[1:])), observation)

    def _tensor(self, observation: Observation) -> Tensor:
        seen = torch.as_tensor(observation).to(device_of(self), torch.float32)
        if seen.shape[-1:] != (self.sizes.observation_dim,):
            raise ValueError(
                f"observation must be {self.sizes.observation_dim} numbers wide, "
                f"got {tuple(seen.shape)}"
            )
        return seen

    @staticmethod
    def _given_back(action: Tensor, observation: Observation) -> Tensor | NDArray[Any]:
        return action if isinstance(observation, Tensor) else action.cpu().numpy()

    def _numbers(self, task: Any) -> Any:
        if isinstance(task, Tensor):
            task = task.tolist()
        if isinstance(task, list | tuple | np.ndarray):
            return [self._numbers(one) for one in task]
        names = self.sizes.task_names
        if isinstance(task, str):
            if task not in names:
                raise ValueError(f"task must be among {names}, got {task!r}")
            return names.index(task)
        if not 0 <= int(task) < self.sizes.num_tasks:
            raise ValueError(f"task must be below {self.sizes.num_tasks}, got {task!r}")
        return int(task)


class MetaPolicy(Policy):
    """A policy that is told the task by a latent, which it infers from experience.

    `prior`, `adapt` and `act` are the learner's, see `algorithms.base.MetaAlgorithm`.
    """

    def prior(self, num_tasks: int) -> TensorDict:
        """The latents before any experience, `[num_tasks]`."""
        latents: TensorDict = self.learner.prior(num_tasks)
        return latents

    def adapt(self, experience: TensorDict, prior: TensorDict) -> TensorDict:
        """The latents one adaptation further, from experience `[tasks, episodes, time]`."""
        latents: TensorDict = self.learner.adapt(experience, prior)
        return latents

    @torch.no_grad()
    def forward(
        self, observation: Observation, task: Any = None, *, explore: bool = False
    ) -> Tensor | NDArray[Any]:
        """The actions for observations.

        Args:
            observation: `[observation_dim]`, `[rows, observation_dim]`, all of one task, or
                `[tasks, rows, observation_dim]`.
            task: latents of the tasks, as from `prior` and `adapt`; the prior if None.
            explore: sample, as the learner does in training, instead of the policy's mode.

        Returns:
            As `observation` with the action in its last dimension (without it, where actions are
            discrete).
        """
        seen = self._tensor(observation)
        grouped = seen.reshape((1, 1, *seen.shape)[-3:] if seen.dim() < 3 else seen.shape)
        latent = self.prior(grouped.shape[0]) if task is None else task
        latents = latent["latent"].to(seen.device)
        td = TensorDict({"observation": grouped, "latent": latents[:, None]}, [len(grouped)])
        action = self.act(td, explore)["action"]
        lead = seen.shape[:-1]
        return self._given_back(action.reshape((*lead, *action.shape[2:])), observation)


def load_policy(folder: Path | str, device: str | torch.device = "cpu") -> Policy:
    """The policy that `python -m runners.export`, or a finished run, wrote into `folder`.

    Global random generators and gin's configuration are left as they are.

    Returns:
        A `MetaPolicy` where the learner adapts; in evaluation mode, without gradients.

    Raises:
        DamagedError: a file is missing or damaged, or does not fit the code as it is now.
        ValueError: the run was not put together by gin.
    """
    state, card = read_policy(folder)
    check_card(card, folder, learner=dict | None, sizes=dict)
    if card["learner"] is None:
        raise ValueError(
            f"{folder}: the run was not put together by gin, so its card cannot say how; build "
            "the learner yourself, and give it the state of runners.policy_file.read_policy"
        )
    sizes = dict(card["sizes"])
    spec = Spec(**{**sizes, "task_names": tuple(sizes["task_names"])})
    with own_configuration(), untouched_randomness(0):
        gin.parse_config("\n".join(card["learner"]["config"]))
        gin.finalize()
        learner: Any = gin.get_configurable(card["learner"]["name"])(spec)
    give(learner, state, folder)
    kind = MetaPolicy if hasattr(learner, "adapt") else Policy
    policy = kind(learner, spec, card).to(device).eval()
    return policy.requires_grad_(False)


def give(learner: Any, state: dict[str, Any], folder: Path | str) -> None:
    """Load an exported policy's state into a learner.

    Raises:
        DamagedError: if the learner's policy is made of other tensors.
    """
    expected, found = (
        {name: tuple(getattr(value, "shape", ())) for name, value in one.items()}
        for one in (learner.policy_state(), state)
    )
    wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    if wrong:
        raise DamagedError(
            f"{folder}: {wrong[0]} is {found.get(wrong[0], 'missing')}, and the learner of its "
            f"configuration has {expected.get(wrong[0], 'none')}; use the version it was made with"
        )
    learner.load_state_dict(state, strict=False)
