"""The clip of a gradient's norm against its formula, on gradients written by hand."""

import pytest
import torch
from torch import nn

from algorithms.optimizers import ClippedOptimizer

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
