"""Tests of whole episodes of several tasks."""

import numpy as np
import pytest
import torch

from envs.ct_graph import CTGraphSuite
from envs.navigation import NavigationSuite
from envs.point_mass import PointMassSuite
from envs.point_robots import PointRobotSuite
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


def places(suite, tasks):
    """Where the goals lie, [tasks, 2]."""
    return torch.from_numpy(np.stack([suite.goals(task, task.goals[0]) for task in tasks]))


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
    distance = places(suite, tasks).norm(dim=1)
    torch.testing.assert_close(returns(experience), -6 * distance[:, None].expand(3, 4))
    assert not successes(experience).any()
    rollouts.close()


@pytest.mark.parametrize("suite", [NavigationSuite(horizon=4), PointMassSuite(horizon=4)])
def test_actions_are_kept_as_they_were_sampled(suite):
    sampled = []

    class Wild:
        def act(self, td, explore):
            td["action"] = 5.0 * torch.randn(3, 2, suite.spec.action_dim)
            sampled.append(td["action"].clone())
            return td

    experience = Rollouts(suite, 3, 2).collect(Wild(), drawn(suite, 3), torch.zeros(3, 1))
    assert torch.stack(sampled).abs().max() > 1.0
    assert torch.equal(experience["action"], torch.stack(sampled, 2))


def test_padding_behind_episodes_of_different_lengths():
    suite = NavigationSuite(horizon=20)
    tasks = drawn(suite, 5)
    goal = places(suite, tasks)
    goal[0] = 9.0  # the first one walks past its goal and on
    rollouts = Rollouts(suite, 5, 2)
    experience = rollouts.collect(Walker(), tasks, goal)
    lengths = experience["mask"].sum(-1)
    expected = (goal.abs().amax(1) / 0.1).ceil().clamp(max=20).long()
    assert torch.equal(lengths, expected[:, None].expand(5, 2))
    assert experience.shape[2] == 20
    assert successes(experience).tolist() == [[False] * 2] + [[True] * 2] * 4
    assert torch.equal(successes(experience), successes(experience, last=True))
    position, total = torch.zeros(2), 0.0
    for _ in range(int(expected[1])):  # one episode by hand
        position = position + (goal[1] - position).clamp(-0.1, 0.1)
        total -= float((position - goal[1]).norm())
    torch.testing.assert_close(returns(experience)[1], torch.full((2,), total))
    short = rollouts.collect(Walker(), tasks[1:2] * 5, goal[1:2].repeat(5, 1))
    assert short.shape == (5, 2, int(expected[1]))  # no longer than the longest
    rollouts.close()


def test_rounds_of_different_lengths_are_padded_alike():
    suite = NavigationSuite(horizon=20)
    tasks, steps = drawn(suite, 1), iter([0.3, 9.0])
    goal = places(suite, tasks)

    class Turns(Walker):
        """Goes to the goal in the first round, elsewhere in the second."""

        def act(self, td, explore):
            if (td["observation"] == 0).all():
                self.factor = next(steps)
            td["latent"] = td["latent"] if self.factor < 1 else td["latent"] + 9.0
            return super().act(td, explore)

    experience = Rollouts(suite, 1, 2, at_once=1).collect(Turns(), tasks, goal)
    first = int((goal.abs().amax() / 0.1).ceil())
    assert experience["mask"].sum(-1).tolist() == [[first, 20]]
    assert not experience["next", "reward"][0, 0, first:].any()


def test_discrete_actions_and_success_at_the_last_step():
    suite = CTGraphSuite()
    tasks = drawn(suite, 40)
    experience = Rollouts(suite, 40, 1).collect(Script(), tasks, torch.zeros(40, 1))
    assert experience["action"].dtype == torch.int64 and experience["action"].shape == (40, 1, 7)
    paid = returns(experience).squeeze(1)
    assert set(paid.tolist()) == {0.0, 1.0}
    assert torch.equal(successes(experience).squeeze(1), paid > 0)


def test_an_episode_that_breaks_off_is_masked_as_a_whole():
    suite = NavigationSuite(horizon=4)
    rollouts = Rollouts(suite, 2, 1)
    tasks = drawn(suite, 2)
    vector = rollouts.open(tasks)
    step, calls = vector.step, []

    def breaks(td):
        td = step(td)
        calls.append(1)
        if len(calls) == 3:
            td["next", "valid"][1] = False
            td["next", "done"][1] = True
        return td

    vector.step = breaks
    experience = rollouts.collect(Walker(), tasks, torch.zeros(2, 2))
    assert experience["mask"].sum(-1).tolist() == [[4], [0]]
    for scores in (returns(experience), successes(experience), successes(experience, last=True)):
        assert scores.isnan().tolist() == [[False], [True]]


def test_success_at_any_step_and_at_the_last_one_differ():
    experience = Rollouts(NavigationSuite(horizon=3), 1, 2).collect(
        Walker(), drawn(NavigationSuite(horizon=3), 1), torch.zeros(1, 2)
    )
    experience["next", "success"][0, 0, 1] = True
    experience["next", "success"][0, 1, 2] = True
    assert successes(experience).tolist() == [[True, True]]
    assert successes(experience, last=True).tolist() == [[False, True]]


def test_state_continues_exactly():
    suite = PointMassSuite(horizon=5)
    tasks = drawn(suite, 3)

    class Pusher:
        def act(self, td, explore):
            td["action"] = td["observation"][..., :2].clamp(-1, 1)
            return td

    one = Rollouts(suite, 3, 2, seed=4)
    one.collect(Pusher(), tasks, torch.zeros(3, 1))
    other = Rollouts(suite, 3, 2, seed=4)
    other.load_state_dict(one.state_dict(), drawn(suite, 3, seed=1))
    results = [part.collect(Pusher(), tasks, torch.zeros(3, 1)) for part in (one, other)]
    assert (results[0] == results[1]).all()
    assert one.faults == {"worker_restarts": 0, "unstable_episodes": 0}
    one.close(), other.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4, None), "num_tasks"),
        ((2, 0, None), "episodes"),
        ((2, 4, 0), "episodes_at_once"),
        ((2, 4, 3), "Rollouts.episodes_at_once must divide Rollouts.episodes = 4, got 3"),
    ],
)
def test_errors(arguments, message):
    tasks, episodes, at_once = arguments
    with pytest.raises(ValueError, match=message):
        Rollouts(NavigationSuite(), tasks, episodes, at_once=at_once)


def test_more_of_what_follows_is_kept_on_demand():
    suite = PointRobotSuite("point-robot-sparse", horizon=6)
    told = {"observation": 2, "terminated": 1, "sparse_reward": 1, "specification": 2, "task_id": 0}
    rollouts = Rollouts(suite, 3, 2, keep=(*told, "reward"))
    tasks = suite.each()[:3]
    experience = rollouts.collect(Walker(), tasks, torch.zeros(3, 2))
    assert set(experience["next"].keys()) == {"reward", "success", *told}
    for key, width in told.items():
        assert experience["next", key].shape == (3, 2, 6, *[width] * (width > 0)), key
    following = experience["next", "observation"]
    assert torch.equal(following[:, :, :-1], experience["observation"][:, :, 1:])
    goals = torch.from_numpy(np.stack([suite.specification(task) for task in tasks]))
    expected = goals[:, None, None].expand_as(following)
    torch.testing.assert_close(experience["next", "specification"], expected)
    distance = (following - expected).norm(dim=-1, keepdim=True)
    torch.testing.assert_close(experience["next", "reward"], -distance)
    rollouts.close()
