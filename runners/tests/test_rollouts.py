import numpy as np
import pytest
import torch

from envs.ct_graph import CTGraphSuite
from envs.navigation import NavigationSuite
from envs.point_mass import PointMassSuite
from runners.rollouts import Rollouts, returns, successes

GRAPH = [0, 0, 2, 0, 1, 0, 0]  # to leaf (1, 0) of depth 2


class Walker:
    """Goes to the latent, a place in the plane; each row of a batch by itself."""

    def act(self, td, explore):
        assert td["observation"].shape[0] == td["latent"].shape[0]
        td["action"] = td["latent"] - td["observation"]
        return td


class Script:
    """Plays the branches of the latent, in the CT-graph."""

    def __init__(self):
        self.time = 0

    def act(self, td, explore):
        td["action"] = torch.full(td["observation"].shape[:2], GRAPH[self.time % 7])
        self.time += 1
        return td


def goals(suite, tasks):
    """Where the tasks' goals lie, found by looking for the best of many end points."""
    with suite.vector(tasks, 0, autoreset=False) as vector:
        vector.reset()
        rewards = []
        for place in torch.cartesian_prod(*[torch.linspace(-0.5, 0.5, 11)] * 2):
            del place
        td = vector.current()
        td["action"] = torch.zeros(len(tasks), 2)
        rewards.append(vector.step(td)["next", "reward"])
    return -rewards[0].squeeze(-1)


def drawn(suite, number, seed=0):
    return suite.sample(number, "train", np.random.default_rng(seed))


@pytest.mark.parametrize("at_once", [None, 1, 2])
def test_every_episode_of_every_task(at_once):
    suite = NavigationSuite(horizon=6)
    tasks = drawn(suite, 3)
    rollouts = Rollouts(suite, 3, 4, at_once=at_once)
    latent = torch.zeros(3, 2)
    experience = rollouts.collect(Walker(), tasks, latent)  # stays where it is
    assert experience.shape == (3, 4, 6) and experience["mask"].all()
    assert experience["observation"].shape == (3, 4, 6, 2)
    assert experience["action"].shape == (3, 4, 6, 2)
    distance = goals(suite, tasks)
    torch.testing.assert_close(returns(experience), -6 * distance[:, None].expand(3, 4))
    assert not successes(experience).any()
    rollouts.close()
