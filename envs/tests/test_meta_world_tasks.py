"""Meta-World as a meta-learner uses it: many tasks drawn, assigned and assigned again."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from envs import manipulation
from envs.episodes import Chunk
from envs.meta_world import MetaWorldSuite


def suite_of(goals, names, **options):
    """A suite that takes its goals from the stored ones (ten of each task)."""
    suite = MetaWorldSuite(list(names), **options)
    suite._goals = goals
    return suite


def numbered(suite, *choices):
    """Tasks given as (index of the class, goal)."""
    tasks = suite.tasks()
    return [replace(tasks[index], goals=(goal,)) for index, goal in choices]


@pytest.fixture
def built(monkeypatch):
    """The names of the simulators built."""
    names, kind = [], manipulation.ManipulationEnv

    def make(name, *args, **options):
        names.append(name)
        return kind(name, *args, **options)

    monkeypatch.setattr(manipulation, "ManipulationEnv", make)
    return names


@pytest.mark.parametrize(
    ("benchmark", "split", "classes", "num_tasks"),
    [("ML45", "train", 45, 90), ("ML45", "test", 5, 45), ("ML10", "train", 10, 20)],
)
def test_classes_come_equally_often_in_random_order(benchmark, split, classes, num_tasks):
    suite, rng = MetaWorldSuite(benchmark), np.random.default_rng(0)
    names = [task.name for task in suite.tasks(split)]
    draws = [suite.sample(num_tasks, split, rng) for _ in range(40)]
    for tasks in draws:
        assert Counter(task.name for task in tasks) == dict.fromkeys(names, num_tasks // classes)
        assert all(task.split == split and len(task.goals) == 1 for task in tasks)
    suite.check(draws[0])
    counts = np.bincount([task.goals[0] for tasks in draws for task in tasks], minlength=50)
    mean = 40 * num_tasks / 50
    assert len(counts) == 50 and ((counts - mean) ** 2 / mean).sum() < 86  # p < 0.001
    assert len({tuple(task.name for task in tasks) for tasks in draws}) == 40
    orders = [[task.name for task in tasks] for tasks in draws]
    assert orders[0] != sorted(orders[0], key=names.index)
    again = suite.sample(num_tasks, split, np.random.default_rng(0))
    assert again == draws[0]


def test_test_classes_never_appear_in_training():
    for benchmark in ("ML10", "ML45"):
        suite, rng = MetaWorldSuite(benchmark), np.random.default_rng(0)
        held_out = {task.name for task in suite.sample(5, "test", rng)}
        if benchmark == "ML45":
            classes = ("bin-picking", "box-close", "hand-insert", "door-lock", "door-unlock")
            assert held_out == {f"{name}-v3" for name in classes}
            assert "push-v3" in {task.name for task in suite.tasks()}
        for _ in range(5):
            tasks = suite.sample(suite.spec.num_tasks, "train", rng)
            assert not {task.name for task in tasks} & held_out


def test_ml1_draws_with_replacement_from_fifty():
    suite, rng = MetaWorldSuite("ML1", task="push-v3"), np.random.default_rng(0)
    for split in ("train", "test"):
        drawn = [task.goals[0] for _ in range(50) for task in suite.sample(40, split, rng)]
        counts = np.bincount(drawn, minlength=50)
        assert len(counts) == 50 and ((counts - 40) ** 2 / 40).sum() < 86
    assert any(len({t.goals for t in suite.sample(40, "train", rng)}) < 40 for _ in range(3))


def test_numbers_of_tasks_that_cannot_be():
    rng, suite = np.random.default_rng(0), MetaWorldSuite("ML45")
    for count, split, message in (
        (44, "train", "num_tasks must be a multiple of the 45 classes of ML45.*'train', got 44"),
        (46, "train", "got 46"),
        (4, "test", "multiple of the 5 classes"),
        (0, "train", "num_tasks"),
        (45.0, "train", "num_tasks"),
        (45, "validation", "split"),
    ):
        with pytest.raises(ValueError, match=message):
            suite.sample(count, split, rng)
    with pytest.raises(ValueError, match="MT10 has no tasks"):
        MetaWorldSuite("MT10").sample(10, "test", rng)


def test_ml1_push_goals_are_as_described():
    goals = MetaWorldSuite("ML1", task="push-v3").goals()
    for split in ("train", "test"):
        vectors = np.array(goals[split]["push-v3"])
        start, goal = vectors[:, :3], vectors[:, 3:]
        assert (np.abs(vectors[:, [0, 3]]) <= 0.1).all()
        assert ((start[:, 1] >= 0.6) & (start[:, 1] <= 0.7)).all()
        assert ((goal[:, 1] >= 0.8) & (goal[:, 1] <= 0.9)).all()
        assert (np.linalg.norm(start[:, :2] - goal[:, :2], axis=1) >= 0.15).all()
    train, test = ({tuple(vector) for vector in goals[split]["push-v3"]} for split in goals)
    assert len(train) == len(test) == 50 and not train & test


def test_hidden_goal_fixed_start_and_horizon(rollout):
    """A task always begins alike; goal slots are zero; the horizon is the suite's, not 500."""
    suite = MetaWorldSuite("ML1", task="push-v3", horizon=200, workers=0)
    task = suite.tasks("test")[0]
    tasks = [replace(task, goals=(goal,)) for goal in (4, 9, 4)]
    with suite.vector(tasks, seed=1, autoreset=False) as vector:
        first = vector.reset()["observation"]
        td = rollout(vector, 201)
        second = vector.reset()["observation"]
        vector.assign([tasks[1], tasks[0], tasks[1]])
        third = vector.reset()["observation"]
    for seen in (first, second, third, td["observation"], td["next", "observation"]):
        assert (seen[..., 36:39] == 0).all()
    assert torch.equal(first, second) and torch.equal(first[0], first[2])
    assert torch.equal(third, first[[1, 0, 1]]) and not torch.equal(first[0], first[1])
    assert td["next", "valid"][..., 0].sum(0).tolist() == [200] * 3
    assert td["next", "truncated"][199].all() and not td["next", "terminated"].any()
    reward = td["next", "reward"]
    assert reward.min() >= 0 and reward.max() <= 10


def test_a_simulator_given_up_serves_another_environment(goals, built, rollout, same):
    suite = suite_of(goals, ["reach-v3", "drawer-close-v3"], workers=0)
    one, two = numbered(suite, (0, 1), (1, 2)), numbered(suite, (1, 3), (0, 4))
    with suite.vector(one) as vector:
        rollout(vector, 5)
        vector.assign(two)
        rotated = rollout(vector, 20)
        vector.assign(one)
        back = rollout(vector, 20)
        assert built == ["reach-v3", "drawer-close-v3"]
        assert vector.current()["task_id"].tolist() == [0, 1]
    for tasks, seen in ((two, rotated), (one, back)):
        with suite.vector(tasks) as fresh:
            expected = rollout(fresh, 20)
        same(seen.exclude("episode"), expected.exclude("episode"))


def test_idle_simulators_are_kept_within_bounds(goals, built, monkeypatch, rollout):
    monkeypatch.setattr(Chunk, "max_spares", 1)
    names = ["reach-v3", "drawer-close-v3", "push-v3"]
    suite = suite_of(goals, names, workers=0, horizon=3)
    with suite.vector(numbered(suite, (0, 1)), autoreset=True) as vector:
        vector.reset()
        chunk = vector._chunk
        for index in (1, 0, 2, 1):  # row by row, as episodes end
            vector.assign(numbered(suite, (index, 1)))
            rollout(vector, 3, start=vector.current())
            assert len(chunk._spares) == 1
            assert vector.current()["task_id"].tolist() == [index]
    assert built == ["reach-v3", "drawer-close-v3", "push-v3", "drawer-close-v3"]
    assert len(chunk._spares) == 0


@pytest.mark.slow
def test_no_reset_depends_on_what_was_before():
    """Why an idle simulator may serve another environment: all 50 classes, bit for bit."""
    suite = MetaWorldSuite("MT50")
    build = suite.build(suite.tasks())
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 4)).astype(np.float32)

    def episode(environment, goal):
        first, _ = environment.reset(options={"goal": goal})
        rows = [environment.step(action)[:2] for action in actions]
        return np.stack([first, *(seen for seen, _ in rows)]), [reward for _, reward in rows]

    for task in suite.tasks():
        fresh, used = build(task), build(task)
        episode(used, 1)
        for one, other in zip(episode(fresh, 3), episode(used, 3), strict=True):
            assert np.array_equal(one, other), task.name
        fresh.close()
        used.close()
