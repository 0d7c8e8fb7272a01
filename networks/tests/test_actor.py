"""Tests of the policy door."""

import copy
import math

import pytest
import torch
from tensordict import TensorDict

from networks.actor import Actor
from networks.masked import MaskedMLP
from networks.mlp import MLP
from networks.multi_head import MultiHeadMLP


def small(kind, **options):
    return lambda i, o, t: kind(i, o, t, hidden=(16, 16), **options)


def batch(tasks=3, rows=5, observation_dim=4):
    ids = torch.arange(tasks)[:, None].expand(tasks, rows)
    return TensorDict(
        {"observation": torch.randn(tasks, rows, observation_dim), "task_id": ids}, [tasks, rows]
    )


@pytest.mark.parametrize("kind", [MLP, MultiHeadMLP, MaskedMLP])
def test_keys_shapes_and_rows(kind):
    actor = Actor(4, 2, 3, trunk=small(kind))
    td = actor(batch())
    assert td["loc"].shape == td["scale"].shape == td["action"].shape == (3, 5, 2)
    assert td["action_log_prob"].shape == (3, 5)
    assert td["action"].dtype == torch.float32 and td["action"].abs().max() <= 1
    with torch.no_grad():
        rows = actor(td.select("observation", "task_id").reshape(-1), explore=False)
    torch.testing.assert_close(rows["loc"].view(3, 5, 2), td["loc"])
    torch.testing.assert_close(rows["action"], torch.tanh(rows["loc"]))
    assert "action_log_prob" not in rows.keys()


def test_greedy_action_draws_nothing():
    actor = Actor(4, 2, 3, trunk=small(MLP))
    state = torch.get_rng_state()
    actor(batch().detach(), explore=True)
    before = torch.get_rng_state()
    assert not torch.equal(state, before)
    td = batch()
    before = torch.get_rng_state()
    actor(td, explore=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_initial_policy_is_almost_standard():
    actor = Actor(4, 2, 3, trunk=small(MLP))
    td = actor(batch())
    assert td["loc"].abs().max() < 0.3
    assert (td["scale"] - 1).abs().max() < 0.3


def test_invariant_32_log_std_is_clamped():
    class Extreme(torch.nn.Module):
        def __init__(self, i, o, t):
            super().__init__()
            self.value = torch.nn.Parameter(torch.tensor([0.0, 0.0, -100.0, 100.0]))

        def forward(self, x, task):
            return self.value.expand(*x.shape[:-1], 4)

    td = Actor(4, 2, 3, trunk=Extreme)(batch())
    expected = torch.tensor([-20.0, 2.0]).exp().expand(3, 5, 2)
    torch.testing.assert_close(td["scale"], expected)
    assert td["action_log_prob"].isfinite().all()


@pytest.mark.parametrize("kind", [MLP, MultiHeadMLP, MaskedMLP])
def test_copy_and_state_dict(kind):
    actor = Actor(4, 2, 3, trunk=small(kind))
    td = batch()
    with torch.no_grad():
        expected = actor(td.copy(), explore=False)["action"]
        twin = copy.deepcopy(actor)
        assert torch.equal(twin(td.copy(), explore=False)["action"], expected)
        other = Actor(4, 2, 3, trunk=small(kind))
        other(td.copy(), explore=False)
        other.load_state_dict(actor.state_dict())
        assert torch.equal(other(td.copy(), explore=False)["action"], expected)


def test_masks_through_the_door():
    actor = Actor(4, 2, 3, trunk=small(MaskedMLP))
    assert actor.mask_shapes == ((16, 7), (16, 16), (4, 16))
    masks = [torch.rand(3, *shape) < 0.5 for shape in actor.mask_shapes]
    td = batch()
    given = actor(td.copy(), explore=False, masks=masks)["loc"]
    old = actor.committed()
    actor.commit(masks)
    assert all(mask.all() for mask in old)
    assert all(torch.equal(a, b) for a, b in zip(actor.committed(), masks, strict=True))
    torch.testing.assert_close(actor(td.copy(), explore=False)["loc"], given)
    with pytest.raises(ValueError, match="masks"):
        actor.commit(masks[:-1])


def test_errors():
    dense = Actor(4, 2, 3, trunk=small(MLP))
    with pytest.raises(TypeError, match="MLP"):
        dense.committed()
    with pytest.raises(TypeError, match="MLP"):
        dense.commit([])
    with pytest.raises(TypeError, match="MLP"):
        _ = dense.mask_shapes
    with pytest.raises(ValueError, match="observation_dim"):
        Actor(0, 2, 3, trunk=small(MLP))
    with pytest.raises(ValueError, match="log_std_min"):
        Actor(4, 2, 3, trunk=small(MLP), log_std_min=3.0)
    with pytest.raises(ValueError, match="task_key must be one of .* got 'task'"):
        Actor(4, 2, 3, trunk=small(MLP), task_key="task")


@pytest.mark.parametrize("bound", ["clamp", "tanh"])
def test_bounds_of_log_sigma(bound):
    class Constant(torch.nn.Module):
        def forward(self, x, task):
            return torch.tensor([0.5, -30.0, 0.0, 0.5]).expand(*x.shape[:-1], 4)

    made = Actor(4, 2, 3, trunk=lambda *sizes: Constant(), log_std_bound=bound, log_std_offset=1.0)
    made_log_std = made(batch())["scale"].log()[0, 0]
    s = torch.tensor([1.0, 1.5])
    expected = s if bound == "clamp" else -20.0 + 11.0 * (s.tanh() + 1.0)
    torch.testing.assert_close(made_log_std, expected)

    class Same(torch.nn.Module):
        def forward(self, x, task):
            return x

    low = Actor(4, 1, 3, trunk=lambda *sizes: Same(), log_std_bound=bound)
    for value, limit in ((-1e3, -20.0), (1e3, 2.0)):
        scale = low.distribution(torch.tensor([[0.0, value]]), torch.zeros(1).long()).scale
        torch.testing.assert_close(scale.log(), torch.tensor([[limit]]))


def test_unknown_bound():
    with pytest.raises(ValueError, match="log_std_bound"):
        Actor(4, 2, 3, trunk=small(MLP), log_std_bound="softplus")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("log_std_min", -math.inf),
        ("log_std_max", math.inf),
        ("log_std_offset", math.inf),
        ("epsilon", math.inf),
        ("epsilon", -1e-6),
    ],
)
def test_numbers_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"{name} must be finite.*, got {value}"):
        Actor(4, 2, 3, trunk=small(MLP), **{name: value})
