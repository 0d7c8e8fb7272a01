import numpy as np
import pytest
import torch

from envs.point_robots import KINDS, PointRobotSuite


def oracle(seen, goal):
    return 10 * (goal - seen)


def origin(seen, goal):
    return -10 * seen


def still(seen, goal):
    return torch.zeros_like(seen)


def returns(suite, policy, count=5000, key="reward", name=None):
    """Mean return, and mean distance to the goal at the end, of tasks drawn at random."""
    tasks = suite.sample(count, "train", np.random.default_rng(0))
    tasks = [task for task in tasks if name in (None, task.name)]
    goal = torch.from_numpy(np.stack([suite.specification(task) for task in tasks]))
    total = torch.zeros(len(tasks))
    torch.manual_seed(0)
    with suite.vector(tasks, autoreset=False) as vector:
        vector.reset()
        for _ in range(suite.spec.horizon):
            td = vector.current()
            td["action"] = policy(td["observation"], goal)
            after = vector.step(td)["next"]
            total += after[key][:, 0]
    assert after["truncated"].all() and not after["terminated"].any()
    return float(total.mean()), float((after["observation"] - goal).norm(dim=-1).mean())


def exact(policy, steps=20, cells=20):
    """The expected return over the square of starts and goals, by a grid in each coordinate."""
    line = (np.arange(cells) + 0.5) * 2 / cells - 1
    start, goal = (part.ravel() for part in np.meshgrid(line, line))
    total, distance = 0.0, None
    for step in range(1, steps + 1):
        if policy == "oracle":
            left = np.maximum(np.abs(goal - start) - 0.1 * step, 0)
        elif policy == "origin":
            left = np.abs(goal - np.sign(start) * np.maximum(np.abs(start) - 0.1 * step, 0))
        else:
            left = np.abs(goal - start)
        x, y = np.meshgrid(left, left)
        distance = np.hypot(x, y).mean()
        total -= distance
    return total, distance


@pytest.mark.parametrize(
    ("policy", "published"), [("oracle", -5.3), ("origin", -16.0), ("still", -21.0)]
)
def test_invariant_8_bounds_of_the_dense_robot(policy, published):
    """The exact expectation; the specification's figures are samples of it."""
    suite = PointRobotSuite(sizes=(5000, 20))
    moves = {"oracle": oracle, "origin": origin, "still": still}[policy]
    expected, distance = exact(policy)
    mean, end = returns(suite, moves)
    assert mean == pytest.approx(expected, abs=0.3)
    assert expected == pytest.approx(published, abs=0.2)
    assert end == pytest.approx(distance, abs=0.02)
    if policy == "origin":
        assert distance == pytest.approx(0.77, abs=0.01)


def test_bound_of_random_actions():
    suite = PointRobotSuite(sizes=(5000, 20))
    mean, _ = returns(suite, lambda seen, goal: 2 * torch.rand_like(seen) - 1)
    assert mean == pytest.approx(-21.3, abs=0.3)


def test_invariant_8_bounds_of_the_sparse_robot():
    suite = PointRobotSuite("point-robot-sparse")
    assert returns(suite, oracle, key="sparse_reward")[0] == pytest.approx(13.4, abs=0.1)
    assert returns(suite, oracle)[0] == pytest.approx(-3.8, abs=0.1)
    assert returns(suite, still, key="sparse_reward")[0] == 0.0
    assert returns(suite, still)[0] == pytest.approx(-20.0, abs=1e-4)


def test_bounds_of_the_two_families():
    suite = PointRobotSuite("point-robot-families", sizes=(4000, 20))
    expected = {oracle: -3.8, still: -20.0}
    for policy, value in expected.items():
        assert returns(suite, policy, name="goal")[0] == pytest.approx(value, abs=0.15)
    shake = returns(suite, lambda seen, goal: 2 * torch.rand_like(seen) - 1, name="goal")[0]
    assert shake == pytest.approx(-20.6, abs=0.2)
    along = {
        20.0: lambda seen, goal: goal,
        0.0: lambda seen, goal: 2 * torch.rand_like(seen) - 1,
    }
    for value, policy in along.items():
        assert returns(suite, policy, name="direction")[0] == pytest.approx(value, abs=0.15)


def specifications(suite, split):
    return np.stack([suite.specification(task) for task in suite.each(split)])


def test_invariant_3_the_goals_are_those_of_pearl():
    """The first two kinds: numpy's seed 1337, goal by goal, the last 20 for the test."""
    suite = PointRobotSuite()
    given = np.concatenate([specifications(suite, split) for split in ("train", "test")])
    expected = np.random.RandomState(1337).uniform(-1, 1, (100, 2)).astype(np.float32)
    assert np.array_equal(given, expected) and len(suite.each("test")) == 20
    sparse = PointRobotSuite("point-robot-sparse")
    given = np.concatenate([specifications(sparse, split) for split in ("train", "test")])
    angle = np.linspace(0, np.pi, 100)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    np.random.RandomState(1337).shuffle(points)
    assert np.array_equal(given, points.astype(np.float32))
    assert [-1.0, 0.0] in np.round(given, 6).tolist() and [1.0, 0.0] in given.tolist()
    assert not {tuple(row) for row in given[:80]} & {tuple(row) for row in given[80:]}


def test_other_kinds_split_one_draw():
    suite = PointRobotSuite("point-robot-origin")
    train, test = (specifications(suite, split) for split in ("train", "test"))
    assert len(train) == 100 and len(test) == 40 and np.abs(train).max() <= 0.5
    assert not {tuple(row) for row in train} & {tuple(row) for row in test}
    families = PointRobotSuite("point-robot-families")
    assert families.counts == {"train": [20, 20], "test": [10, 10]}
    assert [task.name for task in families.tasks()] == ["goal", "direction"]
    both = np.concatenate([families._tables[split][0] for split in ("train", "test")])
    assert np.allclose(np.sort(np.linalg.norm(both, axis=1)), np.linspace(0.5, 1.5, 30))
    for split, half in (("train", 10), ("test", 5)):
        assert sorted(families._tables[split][1][:, 0]) == [-1] * half + [1] * half
    assert not np.array_equal(train, specifications(PointRobotSuite(goal_seed=1), "train")[:100])


def test_horizons():
    assert [PointRobotSuite(kind).spec.horizon for kind in KINDS] == [20, 20, 100, 20]


def test_the_sparse_reward_is_a_key_of_the_sparse_robot_alone(rollout):
    for kind in KINDS:
        suite = PointRobotSuite(kind)
        with suite.vector(suite.each()[:3]) as vector:
            td = rollout(vector, 3)
        assert ("sparse_reward" in td["next"].keys()) == suite.spec.sparse
        assert suite.spec.sparse == (kind == "point-robot-sparse")


def test_tasks_change_every_ten_steps_within_their_split(rollout, same):
    suite = PointRobotSuite("point-robot-families", horizon=40, change_steps=10)
    tasks = [*suite.each("train")[:6], *suite.each("test")[:6]]
    with suite.vector(tasks, seed=1) as vector:
        td = rollout(vector, 25)
        state = vector.state_dict()
        later = rollout(vector, 30, seed=2, start=vector.current())
        vector.load_state_dict(state)
        same(rollout(vector, 30, seed=2, start=vector.current()), later)
    with suite.vector(tasks[::-1], seed=5) as vector:
        vector.load_state_dict(state)
        same(rollout(vector, 30, seed=2, start=vector.current()), later)
    changed = torch.cat([td, later])["next", "task_changed"][..., 0].any(1)
    assert changed.nonzero()[:, 0].tolist() == [10, 20, 30, 50]  # 40 begins an episode
    told = td["next", "specification"]
    for column, split in ((slice(0, 6), "train"), (slice(6, 12), "test")):
        known = {tuple(row) for row in specifications(suite, split).tolist()}
        seen = {tuple(row) for row in told[:, column].reshape(-1, 2).tolist()}
        assert seen <= known and len(seen) > 6
    first = torch.from_numpy(np.stack([suite.specification(task) for task in tasks]))
    assert torch.equal(told[0], first)
    assert torch.equal(torch.cat([td, later])["next", "specification"][40], first)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"kind": "point"}, "kind"),
        ({"sizes": (0, 1)}, "sizes"),
        ({"kind": "point-robot-families", "sizes": (1, 2)}, "sizes"),
        ({"horizon": 0}, "horizon"),
        ({"goal_seed": -1}, "goal_seed"),
        ({"change_steps": -1}, "change_steps"),
    ],
)
def test_bad_arguments_name_themselves(arguments, word):
    with pytest.raises(ValueError, match=word):
        PointRobotSuite(**arguments)
