"""SequentialSAC against its steps taken one by one."""

import copy

import pytest
import torch
from tensordict import TensorDict

from algorithms.sac import SAC
from algorithms.sequential_sac import SequentialSAC

PLAIN = {"max_norm": None, "actor_lr": 1e-2, "critic_lr": 2e-2, "alpha_lr": 3e-2}


def learner(dims, parts, **options) -> SequentialSAC:
    torch.manual_seed(0)
    made = SequentialSAC(dims, **parts, **PLAIN, **options)
    with torch.no_grad():
        made.log_alpha.copy_(torch.tensor([0.3, -1.0, 0.0, 0.7]))
    return made


def view(td, task, action=None):
    seen = TensorDict({"observation": td["observation"], "task_id": task}, task.shape)
    return seen if action is None else seen.set("action", action)


def by_hand(made: SequentialSAC, batch: TensorDict, on_alpha: bool) -> dict[str, torch.Tensor]:
    """One update with plain Adam steps; `made` is changed."""
    task, alpha = batch["task_id"], made.log_alpha.detach().exp()[batch["task_id"]]
    critics, actor = list(made.critic.parameters()), list(made.actor.parameters())
    then = made.actor(view(batch["next"], task))
    value = made.target(view(batch["next"], task, then["action"]))["state_action_value"].amin(-1)
    alive = (~batch["next", "terminated"]).squeeze(-1)
    soft = value - alpha * then["action_log_prob"]
    y = (batch["next", "reward"].squeeze(-1) + made.discount * alive * soft).detach()
    q = made.critic(view(batch, task, batch["action"]))["state_action_value"]
    critic_loss = sum((q[..., k] - y).square().mean() for k in range(2))

    def step(loss, parameters, lr):
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            with torch.no_grad():
                p -= lr * g / (g.abs() + 1e-8)  # the first step of Adam

    step(critic_loss, critics, 2e-2)
    now = made.actor(view(batch, task))
    value = made.critic(view(batch, task, now["action"]))["state_action_value"].amin(-1)
    actor_loss = (alpha * now["action_log_prob"] - value).mean()
    step(actor_loss, actor, 1e-2)
    scale = made.log_alpha.exp() if on_alpha else made.log_alpha
    alpha_loss = -(scale[task] * (now["action_log_prob"].detach() - 2.0)).mean()
    step(alpha_loss, [made.log_alpha], 3e-2)
    with torch.no_grad():
        for target, online in zip(made.target.parameters(), critics, strict=True):
            target += 0.005 * (online - target)
    return {"loss/critic": critic_loss / 2, "loss/actor": actor_loss, "loss/alpha": alpha_loss}


@pytest.mark.parametrize("temperature_loss", ["log_alpha", "alpha"])
def test_update_equals_its_steps_one_by_one(dims, parts, batch, temperature_loss):
    made = learner(dims, parts, temperature_loss=temperature_loss)
    plain = copy.deepcopy(made)
    torch.manual_seed(5)
    metrics = made.update(batch)
    torch.manual_seed(5)
    expected = by_hand(plain, batch, temperature_loss == "alpha")
    for name, value in expected.items():
        torch.testing.assert_close(metrics[name], value.detach(), rtol=1e-5, atol=1e-6)
    ours, theirs = dict(made.named_parameters()), dict(plain.named_parameters())
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_two_temperature_losses_differ(dims, parts, batch):
    moved = []
    for temperature_loss in ("log_alpha", "alpha"):
        made = learner(dims, parts, temperature_loss=temperature_loss)
        torch.manual_seed(5)
        moved.append(made.update(batch)["loss/alpha"])
    assert not torch.equal(*moved)


@pytest.mark.parametrize("temperature_loss", ["log_alpha", "alpha"])
def test_invariant_13_absent_tasks_keep_their_temperature(dims, parts, batch, temperature_loss):
    made = learner(dims, parts, temperature_loss=temperature_loss)
    before = made.log_alpha.detach().clone()
    rows = batch[1:3].reshape(-1)
    made.update(rows)
    assert torch.equal(made.log_alpha != before, torch.tensor([False, True, True, False]))


@pytest.mark.parametrize("kind", [SAC, SequentialSAC])
def test_invariant_13_without_own_temperatures_all_rows_use_entry_0(dims, parts, batch, kind):
    """The losses are those of equal temperatures, and one entry moves, task 0 there or not."""
    rows, starts = batch[1:3].reshape(-1), torch.tensor([0.4, -1.0, 2.0, 0.0])
    # In `SAC` critics meet temperatures that have stepped, and task 0 of the second has not.
    losses = ("alpha", "critic", "actor") if kind is SequentialSAC else ("alpha",)
    seen = []
    for per_task, start in ((False, starts), (True, starts[:1].expand(4))):
        torch.manual_seed(0)
        made = kind(dims, **parts, alpha_per_task=per_task, weight_tasks=per_task)
        with torch.no_grad():
            made.log_alpha.copy_(start)
        torch.manual_seed(5)
        metrics = made.update(rows)
        seen.append({name: metrics[f"loss/{name}"] for name in losses})
        moved = made.log_alpha != start
        assert moved.tolist() == ([False, True, True, False] if per_task else [True] + 3 * [False])
        if not per_task:
            assert torch.equal(metrics["alpha"], made.log_alpha.detach()[0].exp().expand(4))
    torch.testing.assert_close(*seen)


def test_a_flat_batch_is_the_grouped_one(dims, parts, batch):
    grouped, flat = learner(dims, parts), learner(dims, parts)
    torch.manual_seed(5)
    expected = grouped.update(batch)
    torch.manual_seed(5)
    seen = flat.update(batch.reshape(-1))
    torch.testing.assert_close(seen, expected)
    torch.testing.assert_close(dict(flat.named_parameters()), dict(grouped.named_parameters()))


def test_a_loaded_learner_goes_on_alike(dims, parts, batch):
    made = learner(dims, parts)
    made.update(batch)
    other = SequentialSAC(dims, **parts, **PLAIN)
    other.load_state_dict(copy.deepcopy(made.state_dict()))
    for each in (made, other):
        torch.manual_seed(7)
        each.update(batch)
    for name, value in made.named_parameters():
        assert torch.equal(value, dict(other.named_parameters())[name]), name


def test_errors_name_the_argument(dims, parts):
    with pytest.raises(ValueError, match=r"SequentialSAC\.temperature_loss.*'beta'"):
        SequentialSAC(dims, **parts, temperature_loss="beta")
