"""SAC against its formulas written out row by row."""

import copy
import math

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from algorithms.normalization import ObservationNormalizer
from algorithms.sac import SAC


def _learner(dims, parts, **options) -> SAC:
    torch.manual_seed(0)
    return SAC(dims, **parts, **options)


def view(batch: TensorDict, seen: TensorDict | None = None) -> TensorDict:
    """What an actor reads."""
    observation = (batch if seen is None else seen)["observation"]
    return TensorDict({"observation": observation, "task_id": batch["task_id"]}, batch.shape)


def _parameters(learner: SAC) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in learner.named_parameters()}


@pytest.mark.parametrize("weight_tasks", [False, True])
@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_losses_equal_the_formulas(dims, parts, batch, weight_tasks, penalty) -> None:
    """Every loss equals a plain loop over rows with the same random numbers."""
    learner = _learner(
        dims, parts, weight_tasks=weight_tasks, scale_penalty=penalty, loc_penalty=penalty
    )
    with torch.no_grad():
        learner.log_alpha.copy_(torch.tensor([0.3, -1.0, 0.0, 0.7]))
    before = copy.deepcopy(learner)
    torch.manual_seed(5)
    metrics = learner.update(batch)
    torch.manual_seed(5)
    now = before.actor(view(batch))
    then = before.actor(view(batch, batch["next"]))
    alpha = learner.log_alpha.exp().tolist()  # the temperature has stepped first
    inverse = [1.0 / a for a in alpha]
    weight = [4 * i / sum(inverse) if weight_tasks else 1.0 for i in inverse]

    def q(critic, td, action):
        return critic(td.copy().set("action", action))["state_action_value"]

    values = q(before.critic, now, batch["action"])
    policy_values = q(before.critic, now, now["action"])
    next_values = q(before.target, then, then["action"])
    alpha_loss, actor_loss, critic_loss, rows = 0.0, 0.0, 0.0, 20
    for t in range(4):
        for i in range(5):
            log_prob = now["action_log_prob"][t, i].item()
            alpha_loss -= before.log_alpha[t].item() * (log_prob - 2.0) / rows
            bootstrap = next_values[t, i].min().item()
            bootstrap -= alpha[t] * then["action_log_prob"][t, i].item()
            alive = 1.0 - float(batch["next", "terminated"][t, i])
            y = batch["next", "reward"][t, i].item() + 0.99 * alive * bootstrap
            for k in range(2):
                critic_loss += weight[t] * (values[t, i, k].item() - y) ** 2 / rows / 2
            gain = policy_values[t, i].min().item()
            actor_loss += weight[t] * (alpha[t] * log_prob - gain) / rows
    actor_loss += penalty * now["scale"].log().square().mean().item()
    actor_loss += penalty * now["loc"].square().mean().item()
    assert metrics["loss/alpha"].item() == pytest.approx(alpha_loss, rel=1e-4, abs=1e-5)
    assert metrics["loss/critic"].item() == pytest.approx(critic_loss, rel=1e-4)
    assert metrics["loss/actor"].item() == pytest.approx(actor_loss, rel=1e-4)


def test_first_step_is_adam_on_the_clipped_gradient(dims, parts, batch) -> None:
    """Each network moves by plain Adam on its own gradient, clipped at 1 by itself."""
    learner = _learner(dims, parts, initial_log_alpha=-2.0)
    plain = copy.deepcopy(learner)
    torch.manual_seed(3)
    learner.update(batch)
    torch.manual_seed(3)
    td = plain.actor(view(batch))
    then = plain.actor(view(batch, batch["next"]))
    alpha = learner.log_alpha.exp().detach()[:, None]
    q = plain.critic(td.copy())["state_action_value"].amin(-1)
    actor_loss = (alpha * td["action_log_prob"] - q).mean()
    target = plain.target(then.copy())["state_action_value"].amin(-1)
    soft = target - alpha * then["action_log_prob"]
    alive = (~batch["next", "terminated"]).squeeze(-1)
    y = (batch["next", "reward"].squeeze(-1) + 0.99 * alive * soft).detach()
    values = plain.critic(td.copy().set("action", batch["action"]))["state_action_value"]
    for k in range(2):
        loss = (values[..., k] - y).square().mean()
        gradients = torch.autograd.grad(loss, list(plain.critic.parameters()), retain_graph=True)
        pieces = [g[k] for g in gradients]
        norm = torch.cat([g.flatten() for g in pieces]).norm()
        clipped = [g * min(1.0, 1.0 / norm) for g in pieces]
        for old, new, g in zip(
            plain.critic.parameters(), learner.critic.parameters(), clipped, strict=True
        ):
            expected = old[k] - 3e-4 * g / (g.abs() + 1e-8)
            torch.testing.assert_close(new[k], expected, atol=2e-6, rtol=1e-4)
    gradients = torch.autograd.grad(actor_loss, list(plain.actor.parameters()))
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    for old, new, g in zip(
        plain.actor.parameters(), learner.actor.parameters(), gradients, strict=True
    ):
        g = g * min(1.0, 1.0 / norm)
        expected = old - 3e-4 * g / (g.abs() + 1e-8)
        torch.testing.assert_close(new, expected, atol=2e-6, rtol=1e-4)


def test_invariant_21_everything_moves_at_every_step(dims, parts, batch) -> None:
    """Policy, both critics, both targets and all temperatures change at each gradient step."""
    learner = _learner(dims, parts)
    for _ in range(5):
        old = _parameters(learner)
        learner.update(batch)
        for name, value in learner.named_parameters():
            changed = (value != old[name]).flatten(1) if value.ndim > 1 else value != old[name]
            members = changed.any(1) if changed.ndim > 1 else changed
            if name.startswith(("critic", "target", "log_alpha")):
                assert members.all(), name
            assert members.any(), name


def test_invariant_22_target_update(dims, parts, batch) -> None:
    """Targets move to 0.995 target + 0.005 online, parameter by parameter."""
    learner = _learner(dims, parts)
    learner.update(batch)
    old = [p.clone() for p in learner.target.parameters()]
    learner.update(batch)
    for before, online, after in zip(
        old, learner.critic.parameters(), learner.target.parameters(), strict=True
    ):
        torch.testing.assert_close(after, 0.995 * before + 0.005 * online, atol=1e-7, rtol=1e-6)


def test_invariant_27_temperature_of_a_task_learns_from_its_rows_only(dims, parts) -> None:
    """With only task 2 in the batch, only its log alpha gets a gradient."""
    learner = _learner(dims, parts)
    task = torch.full((7,), 2)
    learner._alpha_loss(torch.randn(7), task).backward()
    assert learner.log_alpha.grad is not None
    assert (learner.log_alpha.grad != 0).tolist() == [False, False, True, False]


def test_invariant_28_task_weights(dims, parts) -> None:
    """Weights average one, fall as a temperature rises and carry no gradient."""
    learner = _learner(dims, parts, weight_tasks=True)
    torch.testing.assert_close(learner._weights(), torch.ones(4))
    with torch.no_grad():
        learner.log_alpha[1] = 1.0
    weights = learner._weights()
    assert not weights.requires_grad and weights.mean().item() == pytest.approx(1.0)
    assert weights[1] < 1.0 < weights[0]


def test_a_non_finite_gradient_is_refused(dims, parts, batch) -> None:
    """A batch with a NaN changes no network and is counted; the next batch trains again."""
    learner = _learner(dims, parts)
    learner.update(batch)
    old = _parameters(learner)
    bad = batch.clone()
    bad["next", "reward"][0, 0] = math.nan
    metrics = learner.update(bad)
    assert metrics["health/nonfinite"] == 1.0
    assert all(torch.equal(v, old[k]) for k, v in learner.critic.named_parameters(prefix="critic"))
    assert learner.update(batch)["health/nonfinite"] == 0.0
    assert all(torch.isfinite(p).all() for p in learner.parameters())


def test_state_round_trip_continues_identically(dims, parts, batch) -> None:
    """A restored learner takes the same steps, bit for bit."""
    learner = _learner(dims, parts, normalizer=ObservationNormalizer)
    learner.update(batch)
    other = _learner(dims, parts, normalizer=ObservationNormalizer)
    other.load_state_dict(learner.state_dict())
    for one in (learner, other):
        torch.manual_seed(9)
        one.update(batch)
    for name, value in learner.state_dict().items():
        if isinstance(value, Tensor):
            assert torch.equal(value, other.state_dict()[name]), name


def test_deterministic_action_draws_nothing(dims, parts, batch) -> None:
    """Evaluation leaves the random stream alone and repeats itself."""
    learner = _learner(dims, parts)
    td = batch[:, 0].clone()
    state = torch.get_rng_state()
    first = learner.act(td.clone(), explore=False)["action"]
    assert torch.equal(first, learner.act(td.clone(), explore=False)["action"])
    assert torch.equal(state, torch.get_rng_state())


def test_normalizer_statistics_equal_numpy() -> None:
    """Pooled mean and standard deviation, invalid rows left out, frozen at the limit."""
    torch.manual_seed(0)
    normalizer = ObservationNormalizer(3, 2, steps_per_task=50)
    rows = torch.randn(60, 2, 3) * torch.tensor([1.0, 5.0, 0.001]) + 2.0
    valid = torch.ones(60, 2, 1, dtype=torch.bool)
    valid[7, 1] = False
    for x, v in zip(rows, valid, strict=True):
        normalizer.observe(x, v)
    kept = rows.flatten(0, 1)[valid.flatten()][: int(normalizer.count)].double()
    assert 100 <= normalizer.count <= 101
    std = kept.std(0, unbiased=False).clamp(min=0.02)
    expected = ((rows - kept.mean(0)) / std).clamp(-5.0, 5.0).float()
    torch.testing.assert_close(normalizer(rows), expected)
    loaded = ObservationNormalizer(3, 2)
    assert torch.equal(loaded(rows), rows)
    assert set(normalizer.state_dict()) == {"mean", "square", "count"}
    loaded.load_state_dict(normalizer.state_dict())
    assert torch.equal(loaded(rows), normalizer(rows))


@pytest.mark.parametrize(
    "option",
    [{"discount": 1.0}, {"smoothing": 0.0}, {"actor_lr": 0.0}, {"critic_lr": -1.0}]
    + [{"precision": "fp16"}, {"scale_penalty": -0.1}, {"loc_penalty": -1.0}]
    + [{"alpha_lr": math.inf}, {"loc_penalty": math.inf}, {"max_norm": -1.0}]
    + [{"initial_log_alpha": math.inf}, {"initial_log_alpha": 90.0}, {"target_entropy": math.nan}],
)
def test_bad_arguments_are_named(dims, parts, option) -> None:
    """The message names the argument."""
    with pytest.raises(ValueError, match=f"SAC.{next(iter(option))}"):
        _learner(dims, parts, **option)


def test_weights_that_one_temperature_cannot_give_are_refused(dims, parts) -> None:
    """Softmax over equal temperatures is one for every task."""
    with pytest.raises(ValueError, match=r"SAC.weight_tasks = True .*SAC.alpha_per_task = False"):
        _learner(dims, parts, weight_tasks=True, alpha_per_task=False)


@pytest.mark.parametrize("option", ["steps_per_task", "floor", "bound"])
@pytest.mark.parametrize("value", [0, math.inf])
def test_a_normaliser_that_would_give_nan_or_constants_is_refused(option, value) -> None:
    """Observations of one value are divided by the floor."""
    with pytest.raises(ValueError, match=f"ObservationNormalizer.{option} .*got {value}"):
        ObservationNormalizer(3, 2, **{option: value})


def test_a_context_that_nobody_gives_is_refused(dims, parts) -> None:
    """Prototypes are the supervised study's alone."""

    class Modulated(torch.nn.Linear):
        needs_context = True

    def critic(*sizes: int) -> torch.nn.Module:
        made = parts["critic"](*sizes)
        made.inner = Modulated(1, 1)
        return made

    with pytest.raises(ValueError, match=r"SAC.critic .*'prototype'.*'one_hot'"):
        _learner(dims, parts | {"critic": critic})


class Rhythmic(torch.nn.Module):
    """Critics with a buffer that changes once per iteration."""

    num_critics = 2

    def __init__(self, observation_dim: int, action_dim: int, num_tasks: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(2, observation_dim + action_dim))
        self.register_buffer("strength", torch.ones(2))

    def forward(self, td: TensorDict) -> TensorDict:
        x = torch.cat((td["observation"], td["action"]), -1)
        td["state_action_value"] = x @ self.weight.T * self.strength
        return td

    def end_iteration(self) -> None:
        self.strength.mul_(0.5)


def test_networks_hear_of_the_end_of_an_iteration(dims, parts, batch) -> None:
    """Once each; the targets take over what changed, but no parameter."""
    learner = _learner(dims, {**parts, "critic": Rhythmic})
    learner.begin_phase(None)
    learner.update(batch)
    target = learner.target.weight.clone()
    assert torch.equal(learner.critic.strength, torch.ones(2))
    assert learner.end_phase(None) == {}
    assert torch.equal(learner.critic.strength, torch.full((2,), 0.5))
    assert torch.equal(learner.target.strength, torch.full((2,), 0.5))
    assert torch.equal(learner.target.weight, target)
    assert not torch.equal(learner.critic.weight, target)
