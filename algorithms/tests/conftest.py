"""Small networks with the doors' keys, so that learners are tested by themselves."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from algorithms.latent_sac import LatentSAC


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Draw the same in a test whatever ran before it in this process."""
    torch.manual_seed(0)


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


class Gaussians(NamedTuple):
    """Components' means and variances, fields `[*, K, latent_dim]`."""

    mean: Tensor
    variance: Tensor

    def sample(self) -> Tensor:
        return self.mean + self.variance.sqrt() * torch.randn_like(self.mean)


class Mixture(NamedTuple):
    """As the encoders of the networks return them."""

    mean: Tensor
    variance: Tensor
    logits: Tensor

    @property
    def components(self) -> Gaussians:
        return Gaussians(self.mean, self.variance)

    def weights(self) -> Tensor:
        return self.logits.softmax(-1)

    def component(self) -> Tensor:
        return self.logits.argmax(-1)


class WindowEncoder(nn.Module):
    """A linear map of the whole window, or of its steps, to a mixture; means of steps merge.

    With `picks` all components are the first one's merge, as if each step had picked it.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        *,
        length: int = 4,
        num_components: int = 4,
        picks: bool = False,
    ) -> None:
        super().__init__()
        self.picks = picks
        self.length, self.latent_dim, self.num_components = length, 2, num_components
        self.layer = nn.Linear(2 * observation_dim + action_dim + 1, num_components * 5)
        self.merge = nn.Parameter(torch.randn(length))
        self.drop = nn.Dropout(0.5)

    def steps(self, context: TensorDict) -> tuple[Mixture, Gaussians]:
        after = context["next"]
        parts = (context["observation"], context["action"], after["reward"], after["observation"])
        steps = self._mixture(self.layer(self.drop(torch.cat(parts, -1))))
        weights = self.merge.view(-1, 1, 1)
        return steps, Gaussians((steps.mean * weights).sum(-3), steps.variance.mean(-3))

    def forward(self, context: TensorDict) -> Mixture:
        steps, own = self.steps(context)
        if self.picks:
            own = Gaussians(*(x[..., :1, :].expand_as(x) for x in own))
        return Mixture(*own, (steps.logits * self.merge.view(-1, 1)).sum(-2))

    def _mixture(self, numbers: Tensor) -> Mixture:
        numbers = numbers.unflatten(-1, (self.num_components, 5))
        variance = nn.functional.softplus(numbers[..., 2:4])
        return Mixture(numbers[..., :2], variance, numbers[..., 4])

    def latent(self, mixture: Mixture, sample: bool) -> Tensor:
        parts = mixture.components.sample() if sample else mixture.mean
        return (mixture.weights().unsqueeze(-1) * parts).sum(-2)

    def divergence(self, mixture: Mixture) -> Tensor:
        square = mixture.mean.square() + mixture.variance - 1.0 - mixture.variance.log()
        return 0.5 * square.sum(-1)


class LinearDecoder(nn.Module):
    """Linear predictions of the first two numbers of o', and of r."""

    def __init__(self, observation_dim: int, action_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(observation_dim + action_dim + latent_dim, 3)
        self.register_buffer("kept", torch.arange(2), persistent=False)

    def errors(self, context: TensorDict, latent: Tensor) -> tuple[Tensor, Tensor]:
        parts = (context["observation"], context["action"], latent)
        lead = torch.broadcast_shapes(*(x.shape[:-1] for x in parts))
        out = self.layer(torch.cat([x.expand(*lead, x.shape[-1]) for x in parts], -1))
        after = context["next"]
        state = (out[..., :2] - after["observation"][..., :2]).square().mean(-1)
        return state, (out[..., 2] - after["reward"].squeeze(-1)).square()


class Scaler(nn.Module):
    """(x - mean) / std of whole numbers, padding zero."""

    def __init__(self, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def load(self, statistics: TensorDict) -> None:
        self.mean.copy_(statistics["mean"])
        self.std.copy_(statistics["std"])

    def forward(self, context: TensorDict) -> TensorDict:
        mask = context["mask"].unsqueeze(-1)

        def scaled(x: Tensor) -> Tensor:
            return ((x - self.mean) / self.std).masked_fill(~mask, 0.0)

        after = {key: scaled(context["next", key]) for key in ("reward", "observation")}
        td = {key: scaled(context[key]) for key in ("observation", "action")}
        td |= {"next": TensorDict(after, context.batch_size), "mask": context["mask"]}
        return TensorDict(td, context.batch_size)


class LatentActor(LinearActor):
    """A linear squashed Gaussian of the observation and the latent."""

    def forward(self, td: TensorDict, explore: bool = True) -> TensorDict:
        x = torch.cat((td["observation"], td["latent"]), -1)
        loc, log_scale = self.layer(x).chunk(2, -1)
        td["loc"], td["scale"] = loc, log_scale.exp()
        if not explore:
            return td.set("action", loc.tanh())
        normal = torch.distributions.Normal(loc, td["scale"])
        raw = normal.rsample()
        td["action"] = raw.tanh()
        slope = torch.log(1.0 - td["action"].square() + 1e-6)
        return td.set("action_log_prob", (normal.log_prob(raw) - slope).sum(-1))


class LatentCritic(LinearCritic):
    """Two linear critics of observation, action and latent, stacked."""

    def forward(self, td: TensorDict) -> TensorDict:
        x = torch.cat((td["observation"], td["action"], td["latent"]), -1)
        return td.set("state_action_value", x @ self.weight.T + self.bias)


def random_windows(dims: Dims, rows: int = 6, length: int = 4) -> TensorDict:
    """Windows `[rows, length + 1]` in float64; row i has i real transitions before its last."""
    shape = (rows, length + 1)
    back = torch.arange(length, -1, -1)
    mask = back <= torch.arange(rows).unsqueeze(1)

    def numbers(width: int) -> Tensor:
        return torch.randn(*shape, width, dtype=torch.float64).masked_fill(~mask.unsqueeze(-1), 0.0)

    after = {
        "observation": numbers(dims.observation_dim),
        "reward": numbers(1),
        "terminated": (torch.rand(*shape, 1) < 0.4) & mask.unsqueeze(-1),
    }
    family = torch.randint(4, (rows, 1)).expand(shape).masked_fill(~mask, -1)
    return TensorDict(
        {
            "observation": numbers(dims.observation_dim),
            "action": numbers(dims.action_dim).tanh(),
            "next": TensorDict(after, shape),
            "mask": mask,
            "family": family,
        },
        shape,
    )


@pytest.fixture
def inference_parts() -> dict[str, Any]:
    """Factories of the small parts of a learner that infers from windows."""
    agent = partial(LatentSAC, actor=LatentActor, critic=LatentCritic)
    return {
        "encoder": WindowEncoder,
        "decoder": LinearDecoder,
        "normalizer": Scaler,
        "agent": agent,
    }


@pytest.fixture
def windows(dims: Dims) -> TensorDict:
    """Windows with beginnings of episodes, some terminations, and families."""
    torch.manual_seed(2)
    return random_windows(dims)
