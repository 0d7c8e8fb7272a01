"""EncoderSAC: what is trained by which loss, and in which order."""

import copy
import math
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from algorithms.encoder_sac import EncoderSAC
from algorithms.normalization import ObservationNormalizer


@dataclass(frozen=True)
class Named:
    """Sizes with names."""

    observation_dim: int = 3
    action_dim: int = 2
    num_tasks: int = 4
    task_names: tuple[str, ...] = ("a", "b", "c", "d")


class LinearEncoder(nn.Module):
    """f = tanh(W [s, c]), c a row of a table."""

    def __init__(self, observation_dim: int, task_names: tuple[str, ...]) -> None:
        super().__init__()
        self.out_features = 5
        self.task_encoder = nn.Embedding(len(task_names), 2)
        self.layer = nn.Linear(observation_dim + 2, 5)

    def code(self, task: Tensor) -> Tensor:
        return self.task_encoder.weight[task]

    def forward(self, observation: Tensor, code: Tensor) -> Tensor:
        code = code.expand(*observation.shape[:-1], -1)
        return self.layer(torch.cat((observation, code), -1)).tanh()

    def for_actor(self, observation: Tensor, code: Tensor) -> Tensor:
        return 2.0 * self(observation, code)


class Identity(nn.Module):
    """Nothing to train."""

    def __init__(self, observation_dim: int, task_names: tuple[str, ...]) -> None:
        super().__init__()
        self.out_features, self.task_encoder = observation_dim, None

    def code(self, task: Tensor) -> Tensor:
        return torch.zeros(*task.shape, 0)

    def forward(self, observation: Tensor, code: Tensor) -> Tensor:
        return observation

    for_actor = forward


def learner(parts, encoder=LinearEncoder, **options) -> EncoderSAC:
    torch.manual_seed(0)
    return EncoderSAC(Named(), encoder=encoder, max_norm=None, **parts, **options)


def names(made: EncoderSAC, group: str) -> set[str]:
    members = {id(p) for p in made.groups[group].parameters}
    return {name for name, p in made.named_parameters() if id(p) in members}


def test_groups_hold_every_trained_parameter_once(parts):
    made = learner(parts)
    assert names(made, "encoder") == {"encoder.layer.weight", "encoder.layer.bias"}
    assert names(made, "task_encoder") == {"encoder.task_encoder.weight"}
    held = [id(p) for group in made.groups.values() for p in group.parameters]
    trained = [id(p) for p in made.parameters() if p.requires_grad]
    assert sorted(held) == sorted(trained)


def test_invariant_10_the_critics_train_the_encoder_and_the_policy_does_not(parts, batch):
    made = learner(parts)
    alpha = made.log_alpha.detach().exp()
    encoder = list(made.encoder.parameters())
    loss, _ = made._critic_pass(batch, alpha)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(loss, encoder))
    loss, _ = made._actor_pass(batch, alpha)
    assert torch.autograd.grad(loss, encoder, allow_unused=True) == (None,) * len(encoder)


def test_invariant_14_targets_follow_at_their_own_rates(parts, batch):
    made = learner(parts)
    old = {name: p.clone() for name, p in made.named_parameters()}
    made.update(batch)
    new = dict(made.named_parameters())
    pairs = [("target_encoder.layer.weight", "encoder.layer.weight", 0.05)]
    pairs += [("target.weight", "critic.weight", 0.005)]
    for target, online, rate in pairs:
        expected = old[target] + rate * (new[online] - old[target])
        torch.testing.assert_close(new[target], expected, rtol=1e-5, atol=1e-8)
        assert not torch.equal(new[target], old[target])
    held = {id(p) for group in made.groups.values() for p in group.parameters}
    assert not held & {id(p) for p in made.target_encoder.parameters()}
    assert not held & {id(p) for p in made.target.parameters()}


def test_losses_see_the_features_they_should(parts, batch):
    made = learner(parts)
    plain = copy.deepcopy(made)
    torch.manual_seed(5)
    metrics = made.update(batch)
    torch.manual_seed(5)
    task, alpha = batch["task_id"], plain.log_alpha.detach().exp()[batch["task_id"]]
    code = plain.encoder.code(task)

    def view(observation, action=None):
        td = TensorDict({"observation": observation, "task_id": task}, task.shape)
        return td if action is None else td.set("action", action)

    then = batch["next", "observation"]
    after = plain.actor(view(plain.encoder.for_actor(then, code)))
    seen = plain.target_encoder(then, code)
    value = plain.target(view(seen, after["action"]))["state_action_value"].amin(-1)
    alive = (~batch["next", "terminated"]).squeeze(-1)
    soft = value - alpha * after["action_log_prob"]
    y = batch["next", "reward"].squeeze(-1) + 0.99 * alive * soft
    features = plain.encoder(batch["observation"], code)
    q = plain.critic(view(features, batch["action"]))["state_action_value"]
    expected = (q - y.unsqueeze(-1)).square().mean()
    torch.testing.assert_close(metrics["loss/critic"], expected.detach())
    # The policy: stepped critics and encoder, the code from before the step.
    plain.critic.load_state_dict(made.critic.state_dict())
    plain.encoder.layer.load_state_dict(made.encoder.layer.state_dict())
    assert not torch.equal(plain.encoder.task_encoder.weight, made.encoder.task_encoder.weight)
    now = plain.actor(view(plain.encoder.for_actor(batch["observation"], code)))
    seen = plain.encoder(batch["observation"], code)
    value = plain.critic(view(seen, now["action"]))["state_action_value"].amin(-1)
    expected = (alpha * now["action_log_prob"] - value).mean()
    torch.testing.assert_close(metrics["loss/actor"], expected.detach())


def test_trunks_that_take_features_and_code_apart_otherwise(parts):
    made, encoder = learner(parts), SimpleNamespace(out_features=5, code_dim=2)
    actor, critic = SimpleNamespace(parts=(3, 2, 0)), SimpleNamespace(parts=(3, 2, 2))
    made.actor, made.critic = nn.Module(), nn.Module()
    made.actor.trunk, made.critic.trunk = actor, critic
    made._check_parts(encoder, action_dim=2)
    critic.parts = (3, 2, 1)
    with pytest.raises(ValueError, match=r"\(3, 2, 2\) numbers, but SAC.critic's .* \(3, 2, 1\)"):
        made._check_parts(encoder, action_dim=2)
    actor.parts = (2, 3, 0)
    with pytest.raises(ValueError, match=r"\(3, 2, 0\) numbers, but SAC.actor's .* \(2, 3, 0\)"):
        made._check_parts(encoder, action_dim=2)


def test_acting_goes_through_the_encoder(parts):
    made = learner(parts, normalizer=ObservationNormalizer)
    td = TensorDict({"observation": torch.randn(4, 3), "task_id": torch.arange(4)}, [4])
    made.normalizer.observe(td["observation"], torch.ones(4, 1, dtype=torch.bool))
    seen = made.normalizer(td["observation"])
    seen = made.encoder.for_actor(seen, made.encoder.code(td["task_id"]))
    view = TensorDict({"observation": seen, "task_id": td["task_id"]}, [4])
    expected = made.actor(view, False)["action"]
    assert torch.equal(made.act(td, explore=False)["action"], expected)
    other = learner(parts, normalizer=ObservationNormalizer)
    for p in other.parameters():
        p.data.add_(1.0)
    other.load_state_dict(made.policy_state(), strict=False)
    assert torch.equal(other.act(td, explore=False)["action"], expected)


def test_an_encoder_without_parameters(parts, batch):
    made = learner(parts, Identity)
    assert set(made.groups) == {"alpha", "actor", "critic"}
    assert "grad_norm/critic" in made.update(batch)


def test_a_loaded_learner_goes_on_alike(parts, batch):
    made = learner(parts)
    made.update(batch)
    other = learner(parts)
    other.load_state_dict(copy.deepcopy(made.state_dict()))
    for each in (made, other):
        torch.manual_seed(7)
        each.update(batch)
    for name, value in made.named_parameters():
        assert torch.equal(value, dict(other.named_parameters())[name]), name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("encoder_lr", 0.0),
        ("encoder_lr", math.inf),
        ("encoder_smoothing", 0.0),
        ("encoder_smoothing", 2.0),
    ],
)
def test_errors_name_the_argument(parts, name, value):
    with pytest.raises(ValueError, match=f"EncoderSAC.{name}.*{value}"):
        learner(parts, **{name: value})
