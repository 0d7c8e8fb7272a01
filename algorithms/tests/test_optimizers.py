"""The clip of a gradient's norm against its formula, on gradients written by hand."""

import pytest
import torch
from torch import nn

from algorithms.optimizers import ClippedOptimizer, OptimizerGroups

MAX_NORM = 1.0


@pytest.mark.parametrize("members", [1, 2])
def test_gradients_that_share_memory_are_clipped_once(members: int) -> None:
    """Autograd may give two parameters views of one tensor as their gradients."""
    parameters = [nn.Parameter(torch.zeros(2, 3)) for _ in range(2)]
    group = ClippedOptimizer(
        parameters, torch.optim.SGD, lr=1.0, max_norm=MAX_NORM, members=members
    )
    shared = torch.arange(1.0, 7.0).view(2, 3)
    raw = shared.clone()
    for parameter in parameters:
        parameter.grad = shared.view_as(shared)
    norm, refused = group.step()
    rows = raw.view(members, -1)
    norms = (2 * rows.square().sum(1, keepdim=True)).sqrt()  # of both parameters
    wanted = -(rows * (MAX_NORM / (norms + 1e-6))).view(2, 3)
    for parameter in parameters:
        torch.testing.assert_close(parameter.detach(), wanted)
        assert parameter.grad is None
    torch.testing.assert_close(norm, norms.max())
    assert refused == 0.0


def test_a_small_gradient_is_not_stretched() -> None:
    """The bound is one from above."""
    parameter = nn.Parameter(torch.zeros(3))
    group = ClippedOptimizer([parameter], torch.optim.SGD, lr=1.0, max_norm=MAX_NORM)
    parameter.grad = torch.tensor([0.1, 0.0, -0.2])
    group.step()
    torch.testing.assert_close(parameter.detach(), torch.tensor([-0.1, 0.0, 0.2]))


def test_groups_move_by_their_own_losses_alone():
    """Also where a loss reaches the parameters of another group."""
    one, two = (nn.Parameter(torch.full((2,), value)) for value in (1.0, 2.0))
    groups = OptimizerGroups(
        one=ClippedOptimizer([one], torch.optim.SGD, lr=0.1, max_norm=100.0),
        two=ClippedOptimizer([two], torch.optim.SGD, lr=0.1, max_norm=100.0),
    )
    step = groups.move((one * two).sum(), "one")
    assert torch.equal(one.data, torch.full((2,), 0.8)) and two.grad is None
    assert set(step.norms) == {"grad_norm/one"} and step.refused == 0.0
    assert torch.isclose(step.norms["grad_norm/one"], torch.tensor(8.0).sqrt())
    step = groups.move((one + two).sum() * torch.tensor([1.0, torch.nan]).sum(), "one", "two")
    assert step.refused == 1.0 and torch.equal(two.data, torch.full((2,), 2.0))


def test_states_of_groups_go_by_name():
    def made():
        parameters = {name: nn.Parameter(torch.ones(2)) for name in ("one", "two")}
        return parameters, OptimizerGroups(
            {n: ClippedOptimizer([p]) for n, p in parameters.items()}
        )

    (parameters, groups), (_, fresh) = made(), made()
    groups.move(parameters["two"].sum(), "two")
    fresh.load_state_dict(groups.state_dict())
    assert not fresh["one"].state_dict()["state"]
    taken, given = (each["two"].state_dict()["state"][0] for each in (fresh, groups))
    assert taken["step"] == 1.0 and torch.equal(taken["exp_avg"], given["exp_avg"])
