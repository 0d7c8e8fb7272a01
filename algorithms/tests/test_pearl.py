"""PEARL against its formulas written out; numbers of invariants are those of its specification."""

import copy
import functools
import math
from typing import NamedTuple

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from algorithms.optimizers import OptimizerGroups
from algorithms.pearl import PEARL

LATENT, TASKS, ROWS, CONTEXT = 3, 4, 5, 6
VARIANTS = pytest.mark.parametrize("kind", ["value", "twin"])


class Gauss(NamedTuple):
    mean: torch.Tensor
    variance: torch.Tensor


class Encoder(nn.Module):
    """Means over the set of a linear map; the variance does not depend on it."""

    latent_dim = LATENT

    def __init__(self, observation_dim, action_dim):
        super().__init__()
        self.layer = nn.Linear(observation_dim + action_dim + 1, LATENT)
        self.log_variance = nn.Parameter(torch.full((LATENT,), -1.0))

    def forward(self, context):
        parts = (context["observation"], context["action"], context["next", "reward"])
        rows = self.layer(torch.cat(parts, -1))
        mask = context.get("mask", torch.ones(rows.shape[:-1], dtype=torch.bool)).unsqueeze(-1)
        mean = (rows * mask).sum(-2) / mask.sum(-2)
        return Gauss(mean, self.log_variance.exp().expand_as(mean))

    def prior(self, num_tasks):
        return Gauss(torch.zeros(num_tasks, LATENT), torch.ones(num_tasks, LATENT))

    def sample(self, posterior):
        return posterior.mean + posterior.variance.sqrt() * torch.randn_like(posterior.mean)

    def divergence(self, posterior):
        mean, variance = posterior
        return 0.5 * (mean.square() + variance - 1.0 - variance.log()).sum(-1)


def joined(*parts):
    rows = parts[0].shape[:-1]
    return torch.cat([part.expand(*rows, part.shape[-1]) for part in parts], -1)


class Actor(nn.Module):
    task_key = "latent"

    def __init__(self, observation_dim, action_dim, latent_dim):
        super().__init__()
        self.layer = nn.Linear(observation_dim + latent_dim, 2 * action_dim)

    def forward(self, td, explore=True):
        loc, log_scale = self.layer(joined(td["observation"], td["latent"])).chunk(2, -1)
        td["loc"], td["scale"] = loc, log_scale.exp()
        if not explore:
            td["action"] = loc.tanh()
            return td
        normal = torch.distributions.Normal(loc, td["scale"])
        raw = normal.rsample()
        td["action"] = raw.tanh()
        td["action_log_prob"] = (normal.log_prob(raw) - (1 - raw.tanh() ** 2).log()).sum(-1)
        return td


class Critic(nn.Module):
    task_key, num_critics = "latent", 2

    def __init__(self, observation_dim, action_dim, latent_dim, blind=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, observation_dim + action_dim + latent_dim))
        self.blind = blind

    def forward(self, td):
        latent = td["latent"] * (0.0 if self.blind else 1.0)
        x = joined(td["observation"], td["action"], latent)
        td["state_action_value"] = x @ self.weight.T
        return td


class Value(nn.Module):
    def __init__(self, observation_dim, out, latent_dim):
        super().__init__()
        self.layer = nn.Linear(observation_dim + latent_dim, out)

    def forward(self, observation, latent):
        return self.layer(joined(observation, latent))


def build(dims, kind="value", critic=Critic, **options):
    torch.manual_seed(0)
    parts = {"encoder": Encoder, "actor": Actor, "critic": critic}
    return PEARL(dims, value=Value if kind == "value" else None, **{**parts, **options})


def transitions(dims, rows):
    shape = (TASKS, rows)
    following = {
        "observation": torch.randn(*shape, dims.observation_dim),
        "reward": torch.randn(*shape, 1),
        "terminated": torch.rand(*shape, 1) < 0.4,
    }
    fields = {
        "observation": torch.randn(*shape, dims.observation_dim),
        "action": torch.rand(*shape, dims.action_dim) * 2 - 1,
        "next": TensorDict(following, shape),
    }
    return TensorDict(fields, shape)


@pytest.fixture
def batch(dims):
    torch.manual_seed(1)
    parts = {"transitions": transitions(dims, ROWS), "context": transitions(dims, CONTEXT)}
    return TensorDict(parts, [TASKS])


def gradients(learner, batch, monkeypatch):
    """Gradients at each of `update`'s steps, by the names of the groups that step."""
    seen, names = [], {p: name for name, p in learner.named_parameters()}
    move = OptimizerGroups.move

    def watched(self, loss, *groups):
        moved = [p for group in groups for p in self[group].parameters]
        torch.autograd.backward(loss, inputs=moved, retain_graph=True)
        found = {names[p]: p.grad.clone() for p in names if p.grad is not None}
        for p in moved:
            p.grad = None
        seen.append((groups, found))
        return move(self, loss, *groups)

    with monkeypatch.context() as patch:
        patch.setattr(OptimizerGroups, "move", watched)
        learner.update(batch)
    return seen


def clones(learner):
    return {name: p.detach().clone() for name, p in learner.named_parameters()}


def by_hand(dims, batch, before, after, kind, scale):
    """Losses by loops over tasks and rows; `after` has the critics that have stepped."""
    rows, log_alpha = batch["transitions"], before.log_alpha.item()
    posterior = before.encoder(batch["context"])
    z = before.encoder.sample(posterior)

    def view(observation):
        return TensorDict({"observation": observation, "latent": z[:, None]}, [TASKS])

    now = before.actor(view(rows["observation"]))
    if kind == "value":
        bootstrap = before.target(rows["next", "observation"], z[:, None]).squeeze(-1)
    else:
        then = before.actor(view(rows["next", "observation"]))
        low = before.target(then)["state_action_value"].amin(-1)
        bootstrap = low - math.exp(log_alpha) * then["action_log_prob"]
    q = before.critic(view(rows["observation"]).set("action", rows["action"]))["state_action_value"]
    gain = after.critic(now.copy())["state_action_value"]
    value = None if kind == "twin" else before.value(rows["observation"], z[:, None]).squeeze(-1)
    losses = dict.fromkeys(("critic", "value", "actor", "alpha", "kl"), 0.0)
    number = TASKS * ROWS
    for i in range(TASKS):
        for d in range(LATENT):
            m, v = posterior.mean[i, d].item(), posterior.variance[i, d].item()
            losses["kl"] += 0.5 * (m * m + v - 1.0 - math.log(v)) / TASKS
        for j in range(ROWS):
            alive = 1.0 - float(rows["next", "terminated"][i, j])
            y = scale * rows["next", "reward"][i, j].item()
            y += 0.99 * alive * bootstrap[i, j].item()
            for k in range(2):
                losses["critic"] += (q[i, j, k].item() - y) ** 2 / number / 2
            log_prob, low = now["action_log_prob"][i, j].item(), gain[i, j].min().item()
            losses["alpha"] -= log_alpha * (log_prob - dims.action_dim) / number
            if value is not None:
                losses["value"] += (value[i, j].item() - (low - log_prob)) ** 2 / number
            losses["actor"] += (math.exp(log_alpha) * log_prob - low) / number
    losses["actor"] += 1e-3 * now["loc"].square().mean().item()
    losses["actor"] += 1e-3 * now["scale"].log().square().mean().item()
    return losses


@VARIANTS
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_losses_equal_the_formulas(dims, batch, kind, scale):
    learner = build(dims, kind, reward_scale=scale)
    if kind == "twin":
        learner.log_alpha.data.fill_(0.3)
    before = copy.deepcopy(learner)
    torch.manual_seed(5)
    metrics = learner.update(batch)
    torch.manual_seed(5)
    with torch.no_grad():
        losses = by_hand(dims, batch, before, learner, kind, scale)
    for name in ("critic", "actor", "value" if kind == "value" else "alpha"):
        expected = pytest.approx(losses[name], rel=1e-4, abs=1e-5)
        assert metrics[f"loss/{name}"].item() == expected, name
    assert metrics["kl"].item() == pytest.approx(losses["kl"], rel=1e-4)
    assert metrics["health/nonfinite"] == 0


PARTS = {
    "value": (("encoder", "critic"), ("value",), ("actor",)),
    "twin": (("encoder", "critic"), ("alpha",), ("actor",)),
}


@VARIANTS
def test_invariant_3_each_loss_moves_its_own_networks(dims, batch, kind, monkeypatch):
    """The gradient map: encoder and critics, then V (or alpha), then the policy; nothing else."""
    learner = build(dims, kind)
    steps = gradients(learner, batch, monkeypatch)
    assert tuple(groups for groups, _ in steps) == PARTS[kind]
    for groups, found in steps:
        reached = {name.split(".")[0].removeprefix("log_") for name in found}
        assert reached == set(groups)
        for name, gradient in found.items():
            assert gradient.abs().sum() > 0, name
    assert all(p.grad is None for p in learner.parameters())


@VARIANTS
def test_invariant_3_policy_and_value_losses_reach_no_latent(dims, batch, kind, monkeypatch):
    """Even where every leaf may receive a gradient, they have none for encoder or target."""
    learner, reached = build(dims, kind), []
    names = {p: name.split(".")[0] for name, p in learner.named_parameters()}
    move = OptimizerGroups.move

    def watched(self, loss, *groups):
        leaves = [p for p in names if p.requires_grad]
        found = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
        pairs = zip(leaves, found, strict=True)
        reached.append({names[p] for p, gradient in pairs if gradient is not None})
        return move(self, loss, *groups)

    monkeypatch.setattr(OptimizerGroups, "move", watched)
    learner.update(batch)
    first, second, third = reached
    assert first == {"encoder", "critic"}
    assert second == {"value" if kind == "value" else "log_alpha"}
    assert third == {"actor", "critic"}  # of which the policy's step moves the first alone


def test_invariant_3_without_divergence_the_encoder_learns_from_critics_alone(
    dims, batch, monkeypatch
):
    for blind in (False, True):
        critic = functools.partial(Critic, blind=blind)
        learner = build(dims, critic=critic, kl_weight=0.0)
        ((_, found), *_) = gradients(learner, batch, monkeypatch)
        encoder = [g for name, g in found.items() if name.startswith("encoder")]
        assert encoder and all((g.abs().sum() == 0) == blind for g in encoder)


def test_the_divergence_moves_the_encoder_alone(dims, batch, monkeypatch):
    """With blind critics it is all that the encoder sees; summed over tasks, or their mean."""
    found = {}
    for reduction in ("sum", "mean_tasks"):
        critic = functools.partial(Critic, blind=True)
        learner = build(dims, critic=critic, kl_weight=2.0, kl_reduction=reduction)
        posterior = learner.encoder(batch["context"])
        divergence = learner.encoder.divergence(posterior)
        total = divergence.sum() if reduction == "sum" else divergence.mean()
        expected = torch.autograd.grad(2.0 * total, list(learner.encoder.parameters()))
        ((_, seen), *_) = gradients(learner, batch, monkeypatch)
        found[reduction] = seen["encoder.layer.weight"]
        names = [name for name, _ in learner.encoder.named_parameters()]
        for name, gradient in zip(names, expected, strict=True):
            torch.testing.assert_close(seen[f"encoder.{name}"], gradient)
    torch.testing.assert_close(found["sum"], TASKS * found["mean_tasks"])


@VARIANTS
def test_the_new_critics_judge_the_policy(dims, batch, kind, monkeypatch):
    """`gain` is taken after the critics' step: frozen critics give another loss."""
    moving, frozen = build(dims, kind), build(dims, kind)
    frozen.groups["critic"].optimizer.param_groups[0]["lr"] = 0.0
    moving.groups["critic"].optimizer.param_groups[0]["lr"] = 0.5
    losses = []
    for learner in (moving, frozen):
        torch.manual_seed(3)
        losses.append(learner.update(batch)["loss/actor"])
    assert abs(losses[0] - losses[1]) > 1e-2


@VARIANTS
def test_targets_follow_and_everything_moves(dims, batch, kind):
    learner = build(dims, kind, smoothing=0.25)
    followed = learner.critic if kind == "twin" else learner.value
    pairs = list(zip(learner.target.parameters(), followed.parameters(), strict=True))
    assert all(torch.equal(a, b) and a is not b for a, b in pairs)
    old, start = [a.clone() for a, _ in pairs], clones(learner)
    learner.update(batch)
    for was, (target, online) in zip(old, pairs, strict=True):
        torch.testing.assert_close(target, 0.75 * was + 0.25 * online)
    for name, parameter in learner.named_parameters():
        assert not torch.equal(parameter, start[name]), name


def test_first_step_is_plain_adam_without_a_clip(dims, batch):
    learner = build(dims, reward_scale=1000.0, learning_rate=0.01)
    start = clones(learner)
    metrics = learner.update(batch)
    assert metrics["grad_norm/critic"] > 100
    for name in ("critic.weight", "value.layer.bias", "encoder.layer.bias"):
        step = (dict(learner.named_parameters())[name] - start[name]).abs()
        torch.testing.assert_close(step, torch.full_like(step, 0.01), rtol=1e-3, atol=1e-6)


@VARIANTS
def test_invariant_14_truncated_rows_bootstrap_and_terminated_ones_do_not(dims, batch, kind):
    learner, rows = build(dims, kind, reward_scale=2.0), batch["transitions"]
    z = torch.randn(TASKS, 1, LATENT)
    torch.manual_seed(0)
    y = learner._bellman_target(rows["next"], z)
    ended = rows["next", "terminated"].squeeze(-1)
    reward = 2.0 * rows["next", "reward"].squeeze(-1)
    assert torch.equal(y[ended], reward[ended])
    assert (y - reward)[~ended].abs().min() > 0
    with_limit = rows["next"].clone().set("truncated", torch.ones(TASKS, ROWS, 1).bool())
    torch.manual_seed(0)
    assert torch.equal(learner._bellman_target(with_limit, z), y)


def test_latents_of_the_prior_are_drawn_anew(dims):
    learner = build(dims)
    one, other = learner.prior(5), learner.prior(5)
    assert one["latent"].shape == (5, LATENT) and one["adaptations"].tolist() == [0] * 5
    assert not torch.equal(one["latent"], other["latent"])
    assert not one["mean"].any() and (one["variance"] == 1).all()
    assert learner.latent_dim == LATENT and learner.window is None


def test_adapting_takes_all_transitions_whatever_their_shape(dims):
    torch.manual_seed(4)
    learner, flat = build(dims), transitions(dims, 6)
    flat["mask"] = torch.rand(TASKS, 6) < 0.6
    flat["mask"][:, 0] = True
    prior, results = learner.prior(TASKS), []
    for experience in (flat, flat.view(TASKS, 2, 3)):
        torch.manual_seed(2)
        results.append(learner.adapt(experience, prior))
    one, other = results
    torch.testing.assert_close(one["mean"], other["mean"])
    torch.testing.assert_close(one["latent"], other["latent"])
    assert one["adaptations"].tolist() == [1] * TASKS
    for i in range(TASKS):
        mean = learner.encoder(flat[i : i + 1][:, flat["mask"][i]]).mean
        torch.testing.assert_close(one["mean"][i : i + 1], mean)
    again = learner.adapt(flat, one)
    torch.testing.assert_close(again["mean"], one["mean"])
    assert not torch.equal(again["latent"], one["latent"])
    assert again["adaptations"].tolist() == [2] * TASKS


def test_acting_samples_or_takes_the_mode(dims):
    learner = build(dims)
    latent = torch.randn(TASKS, 1, LATENT)
    td = TensorDict({"observation": torch.randn(TASKS, 2, 3), "latent": latent}, [TASKS])
    state = torch.get_rng_state()
    mode = learner.act(td.clone(), False)["action"]
    assert torch.equal(torch.get_rng_state(), state)
    assert mode.shape == (TASKS, 2, 2) and not mode.requires_grad
    for i in range(TASKS):
        alone = TensorDict({"observation": td["observation"][i], "latent": latent[i]}, [])
        torch.testing.assert_close(learner.act(alone, False)["action"], mode[i])
    torch.manual_seed(0)
    sampled = learner.act(td.clone(), True)
    assert set(sampled.keys()) == {"observation", "latent", "action"}
    assert not torch.equal(sampled["action"], learner.act(td.clone(), True)["action"])


@VARIANTS
def test_state_is_complete(dims, batch, kind):
    learner = build(dims, kind)
    learner.update(batch)
    other = build(dims, kind)
    other.load_state_dict(copy.deepcopy(learner.state_dict()))
    for each in (learner, other):
        torch.manual_seed(9)
        each.update(batch)
        each.update(batch)
    for (name, one), two in zip(learner.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name
    acting = learner.policy_state()
    assert {name.split(".")[0] for name in acting} == {"actor", "encoder"}


@VARIANTS
def test_a_non_finite_gradient_is_refused(dims, batch, kind):
    learner = build(dims, kind)
    start = clones(learner)
    batch["transitions"]["next", "reward"][0, 0] = torch.inf
    metrics = learner.update(batch)
    assert metrics["health/nonfinite"] == 1
    for name, parameter in learner.named_parameters():
        if name.startswith(("encoder", "critic")):
            assert torch.equal(parameter, start[name]), name
        assert parameter.isfinite().all(), name


@VARIANTS
def test_metrics_are_detached(dims, batch, kind):
    metrics = build(dims, kind).update(batch)
    assert all(value.dim() == 0 and not value.requires_grad for value in metrics.values())


class Labelled(Actor):
    task_key = "task_id"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"discount": 1.0}, r"PEARL\.discount .*1\.0"),
        ({"smoothing": 0.0}, r"PEARL\.smoothing .*0\.0"),
        ({"learning_rate": 0.0}, r"PEARL\.learning_rate .*0\.0"),
        ({"reward_scale": -1.0}, r"PEARL\.reward_scale .*-1\.0"),
        ({"kl_weight": -0.1}, r"PEARL\.kl_weight .*-0\.1"),
        ({"kl_reduction": "mean"}, r"PEARL\.kl_reduction .*'mean'"),
        ({"actor": Labelled}, r"PEARL\.actor reads 'task_id'.*gin/networks/latent_mlp\.gin"),
    ],
)
def test_errors_name_the_argument(dims, options, message):
    with pytest.raises(ValueError, match=message):
        build(dims, **options)
