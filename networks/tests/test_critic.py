"""Tests of the critic door."""

import copy

import pytest
import torch
from tensordict import TensorDict

from networks.actor import Actor
from networks.critic import Critic
from networks.dendritic import DendriticMLP
from networks.masked import MaskedMLP
from networks.mlp import MLP
from networks.multi_head import MultiHeadMLP
from networks.projected import ProjectedMLP
from networks.soft_modular import SoftModularMLP


class Foreign(MLP):
    """A trunk that does not compute with stacked weights itself."""

    stackable = False


KINDS = [MLP, MultiHeadMLP, MaskedMLP, Foreign]


def small(kind, **options):
    return lambda i, o, t: kind(i, o, t, hidden=(16, 16), **options)


def batch(tasks=3, rows=5):
    ids = torch.arange(tasks)[:, None].expand(tasks, rows)
    values = {"observation": torch.randn(tasks, rows, 4), "action": torch.randn(tasks, rows, 2)}
    return TensorDict({**values, "task_id": ids}, [tasks, rows])


@pytest.mark.parametrize("kind", KINDS)
def test_stack_equals_separate_networks(kind):
    torch.manual_seed(3)
    critic = Critic(4, 2, 3, trunk=small(kind))
    torch.manual_seed(3)
    separate = [small(kind)(6, 1, 3) for _ in range(2)]
    td = batch()
    x = torch.cat((td["observation"], td["action"]), -1)
    expected = torch.cat([network(x, td["task_id"]) for network in separate], -1)
    value = critic(td)["state_action_value"]
    assert value.shape == (3, 5, 2)
    torch.testing.assert_close(value, expected)
    rows = critic(td.select("observation", "action", "task_id").reshape(-1))
    torch.testing.assert_close(rows["state_action_value"].view(3, 5, 2), expected)
    value.square().sum().backward()
    expected.square().sum().backward()
    for name, stacked in critic.trunk.named_parameters():
        gradients = torch.stack([dict(n.named_parameters())[name].grad for n in separate])
        torch.testing.assert_close(stacked.grad, gradients, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [*KINDS, DendriticMLP, ProjectedMLP, SoftModularMLP])
@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_no_rows_are_no_values(kind, shape):
    td = TensorDict(
        {
            "observation": torch.randn(*shape, 4),
            "action": torch.randn(*shape, 2),
            "task_id": torch.zeros(shape, dtype=torch.long),
        },
        shape,
    )
    trunk = kind if kind is SoftModularMLP else small(kind)
    assert Critic(4, 2, 3, trunk=trunk)(td)["state_action_value"].shape == (*shape, 2)
    assert Actor(4, 2, 3, trunk=trunk)(td)["loc"].shape == (*shape, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_copy_state_dict_and_target_update(kind):
    critic = Critic(4, 2, 3, trunk=small(kind))
    if kind is MaskedMLP:
        critic.commit([torch.rand(2, 3, *shape) < 0.5 for shape in critic.mask_shapes])
    td = batch()
    expected = critic(td.copy())["state_action_value"]
    target = copy.deepcopy(critic).requires_grad_(False)
    assert torch.equal(target(td.copy())["state_action_value"], expected)
    other = Critic(4, 2, 3, trunk=small(kind))
    other(td.copy())
    other.load_state_dict(critic.state_dict())
    assert torch.equal(other(td.copy())["state_action_value"], expected)
    old = [parameter.clone() for parameter in target.parameters()]
    with torch.no_grad():
        torch._foreach_add_(list(critic.parameters()), 1.0)
        torch._foreach_lerp_(list(target.parameters()), list(critic.parameters()), 0.005)
    for before, now, goal in zip(old, target.parameters(), critic.parameters(), strict=True):
        torch.testing.assert_close(now, 0.995 * before + 0.005 * goal)


@pytest.mark.parametrize("num_critics", [1, 3])
def test_number_of_critics(num_critics):
    critic = Critic(4, 2, 3, trunk=small(MLP), num_critics=num_critics)
    assert critic(batch())["state_action_value"].shape == (3, 5, num_critics)


@pytest.mark.parametrize("options", [{}, {"granularity": "neuron"}, {"mask_output_layer": False}])
def test_masks_through_the_door(options):
    critic = Critic(4, 2, 3, trunk=small(MaskedMLP, **options))
    masks = [torch.rand(2, 3, *shape) < 0.5 for shape in critic.mask_shapes]
    td = batch()
    full = critic(td.copy())["state_action_value"]
    given = critic(td.copy(), masks=masks)["state_action_value"]
    assert not torch.allclose(full, given)
    critic.commit(masks)
    torch.testing.assert_close(critic(td.copy())["state_action_value"], given)
    only = [mask.clone() for mask in masks]
    for mask, other in zip(only, critic.committed(), strict=True):
        assert torch.equal(mask, other)
        mask[0] = True
    mixed = critic(td.copy(), masks=only)["state_action_value"]
    torch.testing.assert_close(mixed[..., 0], full[..., 0])
    torch.testing.assert_close(mixed[..., 1], given[..., 1])


def test_gradient_reaches_given_masks():
    critic = Critic(4, 2, 3, trunk=small(MaskedMLP))
    masks = [torch.ones(2, 3, *shape, requires_grad=True) for shape in critic.mask_shapes]
    critic(batch(), masks=masks)["state_action_value"][1, :, 0].sum().backward()
    for mask in masks:
        assert mask.grad[0, 1].abs().sum() > 0
        mask.grad[0, 1] = 0
        assert (mask.grad == 0).all()


def test_errors():
    dense = Critic(4, 2, 3, trunk=small(MLP))
    with pytest.raises(TypeError, match="MLP"):
        dense.committed()
    with pytest.raises(TypeError, match="MLP"):
        dense.commit([])
    with pytest.raises(TypeError, match="MLP"):
        _ = dense.mask_shapes
    with pytest.raises(ValueError, match="num_critics"):
        Critic(4, 2, 3, trunk=small(MLP), num_critics=0)
    with pytest.raises(ValueError, match="task_key must be one of .* got 'task'"):
        Critic(4, 2, 3, trunk=small(MLP), task_key="task")


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_parameters_stay_frozen(kind):
    def frozen(inputs, outputs, tasks):
        trunk = kind(inputs, outputs, tasks, hidden=(16, 16))
        next(trunk.parameters()).requires_grad_(False)
        return trunk

    moved = [parameter.requires_grad for parameter in Critic(4, 2, 3, trunk=frozen).parameters()]
    assert moved == [False, *[True] * (len(moved) - 1)]
