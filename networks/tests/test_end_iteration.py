"""Actor and Critic pass the end of an iteration on to trunks that have something to do then."""

import functools

import pytest
import torch

from networks.actor import Actor
from networks.critic import Critic
from networks.dendritic import DendriticMLP
from networks.k_winners import KWinners
from networks.mlp import MLP


@pytest.mark.parametrize("wrapper", [Actor, Critic])
def test_boosting_decays_once_per_iteration(wrapper):
    winners = functools.partial(KWinners, boost_strength=2.0, boost_decay=0.5)
    trunk = functools.partial(DendriticMLP, hidden=(8, 8), winners=winners)
    network = wrapper(4, 2, 3, trunk=trunk)
    network.end_iteration()
    strengths = [v for name, v in network.named_buffers() if name.endswith("boost_strength")]
    assert len(strengths) == 2
    for strength in strengths:
        assert torch.equal(strength, torch.ones_like(strength))


@pytest.mark.parametrize("wrapper", [Actor, Critic])
def test_other_trunks_are_left_alone(wrapper):
    wrapper(4, 2, 3, trunk=functools.partial(MLP, hidden=(3,))).end_iteration()
