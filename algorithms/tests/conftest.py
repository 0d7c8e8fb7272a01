"""Small networks with the doors' keys, so that learners are tested by themselves."""

from dataclasses import dataclass

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn


@dataclass(frozen=True)
class Dims:
    """Sizes as a suite's specification gives them."""

    observation_dim: int = 3
    action_dim: int = 2
    num_tasks: int = 4


class LinearActor(nn.Module):
    """A linear squashed Gaussian."""

    def __init__(self, observation_dim: int, action_dim: int, num_tasks: int) -> None:
        super().__init__()
        self.layer = nn.Linear(observation_dim + num_tasks, 2 * action_dim)
        self.num_tasks = num_tasks

    def forward(self, td: TensorDict, explore: bool = True) -> TensorDict:
        one_hot = nn.functional.one_hot(td["task_id"], self.num_tasks).float()
        loc, log_scale = self.layer(torch.cat((td["observation"], one_hot), -1)).chunk(2, -1)
        td["loc"], td["scale"] = loc, log_scale.exp()
        if not explore:
            td["action"] = loc.tanh()
            return td
        normal = torch.distributions.Normal(loc, td["scale"])
        raw = normal.rsample()
        td["action"] = raw.tanh()
        slope = torch.log(1.0 - td["action"].square() + 1e-6)
        td["action_log_prob"] = (normal.log_prob(raw) - slope).sum(-1)
        return td


class LinearCritic(nn.Module):
    """Two linear critics, stacked."""

    num_critics = 2

    def __init__(self, observation_dim: int, action_dim: int, num_tasks: int) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.weight = nn.Parameter(torch.randn(2, observation_dim + action_dim + num_tasks))
        self.bias = nn.Parameter(torch.randn(2))

    def forward(self, td: TensorDict) -> TensorDict:
        one_hot = nn.functional.one_hot(td["task_id"], self.num_tasks).float()
        x = torch.cat((td["observation"], td["action"], one_hot), -1)
        td["state_action_value"] = x @ self.weight.T + self.bias
        return td


def random_batch(dims: Dims, rows: int = 5, terminated: bool = False) -> TensorDict:
    """A made-up batch `[tasks, rows]`."""
    shape = (dims.num_tasks, rows)

    def observation() -> Tensor:
        return torch.randn(*shape, dims.observation_dim)

    following = {
        "observation": observation(),
        "reward": torch.randn(*shape, 1),
        "terminated": torch.rand(*shape, 1) < (0.5 if terminated else -1.0),
    }
    return TensorDict(
        {
            "observation": observation(),
            "task_id": torch.arange(dims.num_tasks)[:, None].expand(shape),
            "action": torch.rand(*shape, dims.action_dim) * 2 - 1,
            "next": TensorDict(following, shape),
        },
        shape,
    )


@pytest.fixture
def dims() -> Dims:
    """Small sizes."""
    return Dims()


@pytest.fixture
def parts() -> dict[str, type[nn.Module]]:
    """Factories of the small networks."""
    return {"actor": LinearActor, "critic": LinearCritic}


@pytest.fixture
def batch(dims: Dims) -> TensorDict:
    """A batch with some terminations."""
    torch.manual_seed(1)
    return random_batch(dims, terminated=True)
