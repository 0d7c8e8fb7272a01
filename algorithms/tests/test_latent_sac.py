"""SAC with latents against its formulas, row by row in double precision."""

import copy
import math

import pytest
import torch
from tensordict import TensorDict

from algorithms.latent_sac import LatentSAC, view

ROWS, L = 7, 2


@pytest.fixture
def build(inference_parts):
    factory = inference_parts["agent"]

    def agent(**options):
        torch.manual_seed(0)
        return factory(3, 2, L, **options).double()

    return agent


@pytest.fixture
def batch():
    torch.manual_seed(1)
    draw = {"dtype": torch.float64}
    after = {
        "observation": torch.randn(ROWS, 3, **draw),
        "reward": torch.randn(ROWS, 1, **draw),
        "terminated": torch.arange(ROWS).unsqueeze(1) % 3 == 0,
    }
    root = {"observation": torch.randn(ROWS, 3, **draw), "action": torch.rand(ROWS, 2, **draw)}
    return TensorDict({**root, "next": TensorDict(after, [ROWS])}, [ROWS])


def latents(seed=2):
    return torch.randn(2, ROWS, L, dtype=torch.float64, generator=torch.manual_seed(seed)).unbind()


def moved(agent, before):
    after = agent.state_dict()
    return {k for k, v in before.items() if torch.is_tensor(v) and not torch.equal(v, after[k])}


def saved(module):
    return {k: v.clone() for k, v in module.state_dict().items() if torch.is_tensor(v)}


def q_of(critic, *parts):
    """Both values of one row."""
    return critic.weight @ torch.cat(parts) + critic.bias


@pytest.mark.parametrize("learn_alpha", [False, True])
def test_losses_by_a_loop(build, batch, learn_alpha):
    agent = build(alpha=0.3, learn_alpha=learn_alpha, discount=0.9, lr=1e-3)
    with torch.no_grad():
        agent.target.weight += 0.1
    old = copy.deepcopy(agent)
    z, following = latents()
    torch.manual_seed(5)
    metrics = agent.step(batch, z, following)
    torch.manual_seed(5)
    now = old.actor(view(batch["observation"], z))
    then = old.actor(view(batch["next", "observation"], following))
    alpha = agent.log_alpha.exp() if learn_alpha else torch.tensor(0.3).double()
    critic, actor = 0.0, 0.0
    for i in range(ROWS):
        after = batch["next"][i]
        value = q_of(old.target, after["observation"], then["action"][i], following[i]).min()
        soft = value - alpha * then["action_log_prob"][i]
        y = after["reward"] + (0.0 if after["terminated"] else 0.9) * soft
        q = q_of(old.critic, batch["observation"][i], batch["action"][i], z[i])
        critic += ((q - y) ** 2).mean() / ROWS
        best = q_of(old.critic, batch["observation"][i], now["action"][i], z[i]).min()
        actor += (alpha * now["action_log_prob"][i] - best) / ROWS
    torch.testing.assert_close(metrics["loss/critic"], critic.detach(), atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(metrics["loss/actor"], actor.detach(), atol=1e-7, rtol=1e-7)
    log_prob = now["action_log_prob"].detach()
    entropy_loss = -(old.log_alpha * (log_prob - 2.0)).mean().detach()
    torch.testing.assert_close(metrics["loss/alpha"], entropy_loss)


def test_the_first_step_of_each_network_is_that_of_its_own_loss(build, batch):
    """Adam's first step is the gradient's sign times the learning rate."""
    agent = build(lr=1e-3)
    old = copy.deepcopy(agent)
    z, following = latents()
    torch.manual_seed(5)
    agent.step(batch, z, following)
    torch.manual_seed(5)
    policy = old.actor(view(batch["observation"], z))
    then = old.actor(view(batch["next", "observation"], following))
    soft = old.target(then)["state_action_value"].amin(-1) - 0.2 * then["action_log_prob"]
    after = batch["next"]
    y = after["reward"][:, 0] + 0.99 * (~after["terminated"][:, 0]) * soft
    q = old.critic(view(batch["observation"], z).set("action", batch["action"]))
    loss = (q["state_action_value"] - y.detach().unsqueeze(-1)).square().mean(0).sum()
    slopes = torch.autograd.grad(loss, list(old.critic.parameters()))
    values = old.critic(policy)["state_action_value"].amin(-1)
    loss = (0.2 * policy["action_log_prob"] - values).mean()
    slopes = slopes + torch.autograd.grad(loss, list(old.actor.parameters()))
    online = [*agent.critic.parameters(), *agent.actor.parameters()]
    start = [*old.critic.parameters(), *old.actor.parameters()]
    for new, p, slope in zip(online, start, slopes, strict=True):
        torch.testing.assert_close(new, p - 1e-3 * slope.sign(), atol=1e-6, rtol=0)
    for new, p, target in zip(
        agent.critic.parameters(), old.critic.parameters(), agent.target.parameters(), strict=True
    ):
        torch.testing.assert_close(target, torch.lerp(p, new, 0.005))


def test_invariant_14_truncated_transitions_bootstrap_and_terminated_do_not(build, batch):
    """There is no word of a time limit in a batch: only a termination cuts the target."""
    agent, (z, following) = build(), latents()
    losses = []
    for terminated in (False, True):
        for far in (0.0, 100.0):
            other = batch.clone()
            other["next", "terminated"][:] = terminated
            other["next", "observation"] += far
            torch.manual_seed(3)
            losses.append(agent._critic_loss(other, z, following, torch.tensor(0.2))[1])
    assert not torch.equal(losses[0], losses[1]) and torch.equal(losses[2], losses[3])


@pytest.mark.parametrize("learn_alpha", [False, True])
def test_gradient_map(build, batch, learn_alpha):
    """A step moves all parameters of policy, critics, targets and, if learnt, the temperature."""
    agent, (z, following) = build(learn_alpha=learn_alpha), latents()
    before = saved(agent)
    agent.step(batch, z, following)
    assert moved(agent, before) == set(before) - (set() if learn_alpha else {"log_alpha"})


def test_latents_are_numbers(build, batch):
    agent = build()
    z, following = (x.requires_grad_() for x in latents())
    agent.step(batch, z, following)
    assert z.grad is None and following.grad is None
    assert all(p.grad is None for p in agent.parameters())


def test_targets_start_as_the_critics(build):
    agent = build()
    for one, two in zip(agent.critic.parameters(), agent.target.parameters(), strict=True):
        assert torch.equal(one, two) and one is not two and not two.requires_grad


def test_actions(build):
    agent = build()
    observation, z = torch.randn(4, 5, 3).double(), torch.randn(4, 1, L).double()
    state = torch.get_rng_state()
    mode = agent.act(observation, z, explore=False)
    assert mode.shape == (4, 5, 2) and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(mode, agent.act(observation, z, explore=False))
    assert not torch.equal(mode, agent.act(observation, z, explore=True))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("discount", 1.0),
        ("smoothing", 0.0),
        ("lr", 0.0),
        ("lr", math.inf),
        ("alpha", 0.0),
        ("max_norm", -1.0),
    ],
)
def test_errors_name_the_argument(inference_parts, name, value):
    with pytest.raises(ValueError, match=f"LatentSAC.{name}"):
        inference_parts["agent"](3, 2, L, **{name: value})


def test_a_non_finite_batch_changes_nothing_and_is_counted(build, batch):
    agent, (z, following) = build(), latents()
    before = saved(agent)
    batch["next", "reward"][0] = torch.nan
    metrics = agent.step(batch, z, following)
    assert metrics["health/nonfinite"] == 1
    critics = {name for name in before if name.startswith(("critic", "target"))}
    assert not moved(agent, before) & critics


def test_the_state_is_complete(build, batch):
    one, (z, following) = build(learn_alpha=True), latents()
    one.step(batch, z, following)
    two = build(learn_alpha=True)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for agent in (one, two):
        torch.manual_seed(9)
        agent.step(batch, z, following)
    assert not moved(two, saved(one))
    assert isinstance(one, LatentSAC)
