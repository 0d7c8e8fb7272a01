"""The soft update against its formula."""

import copy

import torch
from torch import nn

from algorithms.targets import soft_update


def test_each_parameter_moves_by_its_share_of_the_way():
    torch.manual_seed(0)
    online, target = nn.Linear(3, 2), nn.Linear(3, 2)
    before = copy.deepcopy(target.state_dict())
    kept = copy.deepcopy(online.state_dict())
    soft_update(target, online, 0.25)
    for name, value in target.state_dict().items():
        torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * kept[name])
        assert torch.equal(online.state_dict()[name], kept[name])
        assert not torch.equal(value, before[name])


def test_a_network_without_parameters_is_left_alone():
    soft_update(nn.Identity(), nn.Identity(), 0.5)
