"""Tests of the plain state encoders and of the contract that all of them keep."""

import copy

import pytest
import torch
from torch.nn.functional import linear, relu

from networks.state_encoders import FeedforwardEncoder, IdentityEncoder
from networks.task_encoder import TaskEncoder

NAMES = ["reach-v3", "push-v3", "door-open-v3"]
CLASSES = (IdentityEncoder, FeedforwardEncoder)
FACTORIES = (None, TaskEncoder)


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("observation_dim", "count"), [(12, 5_750), (39, 7_100)])
def test_parameter_counts(observation_dim, count):
    encoder = FeedforwardEncoder(observation_dim, NAMES)
    assert size(encoder) == count
    with_code = FeedforwardEncoder(observation_dim, NAMES, task_encoder=TaskEncoder)
    assert size(with_code) == count + 89_600
    assert size(IdentityEncoder(observation_dim, NAMES)) == 0


def test_feedforward_by_hand():
    encoder = FeedforwardEncoder(4, NAMES, task_encoder=TaskEncoder, width=6).double()
    x, task = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0])
    code = encoder.code(task)
    one, two, three = encoder.layers.layers
    f = relu(linear(relu(linear(x, one.weight, one.bias)), two.weight, two.bias))
    f = linear(f, three.weight, three.bias)
    wanted = torch.cat((f, code), -1)
    torch.testing.assert_close(encoder(x, code), wanted, atol=1e-10, rtol=0)
    assert encoder.out_features == 56


def test_identity_is_the_observation():
    x, task = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    blind = IdentityEncoder(4, NAMES)
    assert blind.code(task).shape == (5, 0)
    assert blind(x, blind.code(task)) is x
    encoder = IdentityEncoder(4, NAMES, task_encoder=TaskEncoder)
    assert torch.equal(encoder(x, encoder.code(task)), torch.cat((x, encoder.code(task)), -1))


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("factory", FACTORIES)
def test_contract(cls, factory):
    encoder = cls(4, NAMES, task_encoder=factory)
    task = torch.arange(3)[:, None].expand(3, 5)
    x = torch.randn(3, 5, 4)
    code = encoder.code(task)
    assert code.shape == (3, 5, encoder.code_dim)
    y = encoder(x, code)
    assert y.shape == (3, 5, encoder.out_features)
    assert torch.equal(encoder.for_actor(x, code), y)
    rows = encoder(x.view(15, 4), code.reshape(15, -1) if factory else code.view(15, 0))
    torch.testing.assert_close(rows.view_as(y), y)
    single = encoder(x[1, 2], encoder.code(task[1, 2]))
    torch.testing.assert_close(single, y[1, 2])
    torch.testing.assert_close(encoder(x, encoder.code(task[:, :1])), y)
    deep = encoder(x[None, :, :, None], encoder.code(task[None, :, :, None]))
    torch.testing.assert_close(deep[0, :, :, 0], y)


@pytest.mark.parametrize("cls", CLASSES)
def test_gradient_reaches_state_and_task_encoder(cls):
    encoder = cls(4, NAMES, task_encoder=TaskEncoder)
    x, task = torch.randn(3, 5, 4), torch.arange(3)[:, None].expand(3, 5)
    encoder(x, encoder.code(task)).square().sum().backward()
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in encoder.parameters())


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("factory", FACTORIES)
def test_copies_states_and_compiling(cls, factory):
    encoder = cls(4, NAMES, task_encoder=factory)
    x, task = torch.randn(3, 5, 4), torch.arange(3)[:, None].expand(3, 5)
    y = encoder(x, encoder.code(task))
    clone = copy.deepcopy(encoder)
    assert torch.equal(clone(x, clone.code(task)), y)
    other = cls(4, NAMES, task_encoder=factory)
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(x, other.code(task)), y)

    def both(x, task):
        return encoder(x, encoder.code(task))

    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, task), y)


def test_errors():
    with pytest.raises(ValueError, match="observation_dim must be at least 1, got 0"):
        IdentityEncoder(0, NAMES)
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        FeedforwardEncoder(4, NAMES, width=0)
