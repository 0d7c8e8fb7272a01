"""Episodes with a window: what is inferred online is what the replay's windows say later."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from buffers.rolling_window import RollingWindow
from buffers.window_replay import WindowReplay
from envs.navigation import NavigationSuite
from envs.point_robots import PointRobotSuite
from networks.transition_normalizer import TransitionNormalizer
from runners.window_rollouts import WindowRollouts

T = 4


class Summer:
    """Its latent is the sum of the window's normalised transitions, and how many there are."""

    window = T

    def __init__(self, statistics=None):
        self.normalizer = TransitionNormalizer(2, 2)
        if statistics is not None:
            self.normalizer.load(statistics)
        self.contexts, self.explored = [], []

    def prior(self, number):
        td = {"latent": torch.zeros(number, 2), "component": torch.zeros(number).long()}
        return TensorDict({**td, "adaptations": torch.zeros(number).long()}, [number])

    def adapt(self, experience, prior):
        seen = self.normalizer(experience)
        self.contexts.append(seen)
        total = seen["observation"].sum((1, 2)) + seen["next", "reward"].sum((1, 2))
        count = experience["mask"].sum(1)
        td = {"latent": torch.stack((total, count), 1), "component": count}
        return TensorDict({**td, "adaptations": prior["adaptations"] + 1}, prior.batch_size)

    def act(self, td, explore):
        self.explored.append(explore)
        return td.set("action", torch.randn(*td["observation"].shape[:2], 2).clamp(-1, 1))


def run(suite, learner, number=3, at_once=3, **options):
    rollouts = WindowRollouts(suite, at_once, RollingWindow, **options)
    tasks = suite.sample(number, "train", np.random.default_rng(0))
    torch.manual_seed(1)
    experience = rollouts.run_all(learner, tasks, True)
    rollouts.close()
    return tasks, experience


def windows_by_hand(experience, row):
    """The T transitions before each step of an episode, and their mask."""
    steps = int(experience["mask"][row, 0].sum())
    for t in range(steps):
        first = max(0, t - T)
        yield t, experience[row, 0, first:t]


@pytest.mark.parametrize("suite", [PointRobotSuite("point-robot-families"), NavigationSuite()])
def test_invariant_8_windows_hold_the_last_steps_of_the_own_episode(suite):
    """Twice, so that nothing of an episode reaches the next one; navigation ends early."""
    learner = Summer()
    rollouts = WindowRollouts(suite, 3, RollingWindow)
    tasks = suite.sample(3, "train", np.random.default_rng(0))
    for _ in range(2):
        learner.contexts.clear()
        experience = rollouts.run(learner, tasks)
        for row in range(3):
            for t, before in windows_by_hand(experience, row):
                context = learner.contexts[t][row]
                assert context["mask"].tolist() == [False] * (T - len(before)) + [True] * len(
                    before
                )
                for key in ("observation", "action"):
                    assert torch.equal(context[key][T - len(before) :], before[key])
                    assert (context[key][: T - len(before)] == 0).all()
                assert torch.equal(
                    context["next", "reward"][T - len(before) :], before["next", "reward"]
                )
    rollouts.close()


def test_invariant_9_online_contexts_equal_the_replays_windows():
    """Of every transition, under the same statistics, normalised and padded alike."""
    suite = PointRobotSuite("point-robot-families")
    replay = WindowReplay(2, 2, capacity=200, length=T, seed=0)
    _, experience = run(suite, Summer())
    replay.extend(experience)
    learner = Summer(replay.statistics())
    replay = WindowReplay(2, 2, capacity=200, length=T, seed=0)
    tasks, experience = run(suite, learner)
    replay.extend(experience)
    batch = replay.sample(batch_size=4000)
    stored = learner.normalizer(batch[:, :-1])
    found = torch.zeros(3, 20, dtype=torch.bool)
    for row in range(3):
        for t in range(20):
            here = (batch["observation"][:, -1] == experience["observation"][row, 0, t]).all(1)
            here &= (batch["action"][:, -1] == experience["action"][row, 0, t]).all(1)
            context = learner.contexts[t][row]
            for key in ("observation", "action", ("next", "reward"), ("next", "observation")):
                for window in stored[here][key]:
                    torch.testing.assert_close(window, context[key], atol=1e-6, rtol=0)
                    found[row, t] = True
            assert (stored["mask"][here] == context["mask"]).all()
    assert found.all()


def test_what_is_told_of_each_step():
    suite, learner = PointRobotSuite("point-robot-families", change_steps=7), Summer()
    tasks, experience = run(suite, learner, number=5, at_once=5)
    assert experience.shape == (5, 1, 20)
    ids = torch.tensor([task.task_id for task in tasks])
    assert torch.equal(experience["family"][:, 0, :7], ids.unsqueeze(1).expand(5, 7))
    changed = experience["next", "task_changed"].squeeze(-1)
    assert changed.sum() > 0 and not changed[:, :, :7].any()
    assert set(experience["family"].flatten().tolist()) == {0, 1}
    assert experience["component"][0, 0].tolist() == [0, 1, 2, 3] + [4] * 16
    assert torch.equal(experience["latent"][..., 1].long(), experience["component"])
    assert experience["next", "terminated"].shape == (5, 1, 20, 1)
    plain = run(NavigationSuite(horizon=3), Summer())[1]
    assert (plain["family"] == 0).all() and ("next", "task_changed") not in plain.keys(True)


def test_any_number_of_tasks_in_any_number_of_environments():
    suite = PointRobotSuite("point-robot-families")
    tasks = suite.each("train")[:5]
    rollouts = WindowRollouts(suite, 2, RollingWindow)
    experience = rollouts.run_all(Summer(), tasks, False)
    assert experience.shape == (5, 1, 20)
    ids = [task.task_id for task in tasks]
    assert experience["family"][:, 0, 0].tolist() == ids
    rollouts.close()


@pytest.mark.parametrize("explore", [True, False])
def test_policies_are_told_whether_to_explore(explore):
    learner, suite = Summer(), PointRobotSuite("point-robot-families", horizon=2)
    WindowRollouts(suite, 2, RollingWindow).run(learner, suite.each("train")[:2], explore)
    assert learner.explored == [explore] * 2
