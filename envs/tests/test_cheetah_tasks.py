from math import pi

import numpy as np
import pytest

from envs.robots import RobotSuite

DT = 0.05
EIGHT = {
    # (what is compared, span); section 4.1 of the specification
    "velocity_forward": (lambda row: row["qvel"][0], (1, 5)),
    "velocity_backward": (lambda row: row["qvel"][0], (-5, -1)),
    "goal_forward": (lambda row: row["after"][0], (5, 25)),
    "goal_backward": (lambda row: row["after"][0], (-25, -5)),
    "stand_front": (lambda row: row["after"][2], (pi / 6, pi / 2)),
    "stand_back": (lambda row: row["after"][2], (-pi / 2, -pi / 6)),
    "flip_forward": (lambda row: row["qvel"][2], (2 * pi, 4 * pi)),
    "jump": (lambda row: abs(row["qvel"][1]), (1.5, 3)),
}


def cost(row, weight=0.05):
    return weight * float((row["control"] ** 2).sum())


def mean_speed(row, joint=0):
    return (row["after"][joint] - row["qpos"][joint]) / DT


@pytest.mark.parametrize("name", EIGHT)
def test_invariant_1_rewards_of_the_eight_families(name, recorded):
    suite = RobotSuite("cheetah-families", workers=0)
    value, span = EIGHT[name]
    for split, count in (("train", 10), ("test", 5)):
        (task,) = [task for task in suite.tasks(split) if task.name == name]
        assert task.goals == tuple(range(count))
    goals = [
        suite.specification(task)[0]
        for split in ("train", "test")
        for task in suite.each(split)
        if task.name == name
    ]
    assert np.allclose(sorted(goals), np.linspace(*span, 15))  # both ends are there
    for row in recorded(suite, name, goal=3):
        target = row["goal"][0]
        expected = -abs(value(row) - target) / abs(target) - cost(row)
        assert row["reward"] == pytest.approx(expected, abs=1e-9) and not row["ended"]
        x = row["torso_after"]
        assert np.array_equal(row["seen"], [*row["after"][1:], *row["qvel"], *x])


def test_invariant_1_rewards_of_directions_and_velocities(recorded):
    families = ["direction_forward", "direction_backward", "velocity"]
    suite = RobotSuite("cheetah-families", families=families, workers=0, sizes=(9, 3))
    for name, sign in (("direction_forward", 1), ("direction_backward", -1)):
        for row in recorded(suite, name):
            assert row["goal"].tolist() == [sign]
            assert row["reward"] == pytest.approx(sign * mean_speed(row) - cost(row), abs=1e-9)
    for made in (suite, RobotSuite("cheetah-velocity")):
        for row in recorded(made, "velocity", goal=2):
            expected = -abs(mean_speed(row) - row["goal"][0]) - cost(row)
            assert row["reward"] == pytest.approx(expected, abs=1e-9)
    pearl = RobotSuite("cheetah-direction", workers=0)
    for goal, sign in ((0, 1), (1, -1)):
        for row in recorded(pearl, "direction", goal=goal, steps=30):
            assert row["reward"] == pytest.approx(sign * mean_speed(row) - cost(row), abs=1e-9)


@pytest.mark.parametrize("name", ["velocity", "direction", "goal", "flipping", "jumping"])
def test_invariant_1_rewards_of_the_five_families(name, recorded):
    suite = RobotSuite("cheetah-five", workers=0)
    for goal in (0, 11):
        for row in recorded(suite, name, goal=goal, steps=50):
            target = row["goal"][0]
            paid = {
                "velocity": -abs(mean_speed(row) - target),
                "direction": target * mean_speed(row),
                "goal": -abs(row["after"][0] - target),
                "flipping": target * mean_speed(row, 2),
                "jumping": row["after"][1],
            }[name]
            assert row["reward"] == pytest.approx(paid - cost(row), abs=1e-9)
    goals = np.array([suite.specification(task)[0] for task in suite.each() if task.name == name])
    assert len(goals) == 12
    if name in ("direction", "flipping"):
        assert sorted(goals) == [-1] * 6 + [1] * 6


@pytest.mark.parametrize("benchmark", ["cheetah-mass", "cheetah-damping"])
def test_rewards_where_one_element_is_altered(benchmark, recorded):
    suite = RobotSuite(benchmark, workers=0)
    name = suite.spec.task_names[-1]
    assert name == ("mass_7" if benchmark == "cheetah-mass" else "damping_8")
    for row in recorded(suite, name, goal=1, steps=50):
        assert row["reward"] == pytest.approx(mean_speed(row) - cost(row, 0.1), abs=1e-9)
        assert row["seen"].shape == (17,)
        assert 1.5**-7 <= row["goal"][0] <= 1.5**7


def test_the_velocities_are_those_of_pearl():
    """130 draws of numpy's seed 1337: the first 100 to train, the last 30 to test."""
    suite = RobotSuite("cheetah-velocity")
    given = [
        suite.specification(task)[0] for split in ("train", "test") for task in suite.each(split)
    ]
    expected = np.random.RandomState(1337).uniform(0.0, 3.0, 130)
    assert np.array_equal(given, expected.astype(np.float32))
    assert expected[:3] == pytest.approx([0.786074, 0.476052, 0.834380], abs=1e-5)
    # A cheetah that does not move loses the mean velocity 200 times: -1.5 * 200 but for the sample.
    assert -320 < -200 * expected.mean() < -260


def settled(suite, name, goal):
    """Terms of the steps 100 to 200 without action."""
    (task,) = [task for task in suite.tasks() if task.name == name]
    environment = suite.build([task])(task)
    environment.reset(options={"goal": goal, "rng": np.random.default_rng(goal)})
    zero = np.zeros(6, dtype=np.float32)
    return np.array([environment.step(zero)[1] for _ in range(200)])[100:]


@pytest.mark.parametrize("name", EIGHT)
def test_invariant_4_a_resting_cheetah_loses_about_one_in_each_step(name):
    suite = RobotSuite("cheetah-families", workers=0)
    low, high = (-1.4, -0.6) if "stand" in name else (-1.1, -0.9)
    for goal in (0, 4, 9):
        terms = settled(suite, name, goal)
        assert low <= terms.min() and terms.max() <= high


def test_level_of_random_actions_on_the_eight_families(recorded):
    """About -1 in each step, and -0.1 for the control: -220 an episode."""
    suite = RobotSuite("cheetah-families", workers=0)
    totals = []
    for seed, name in enumerate(EIGHT):
        rows = recorded(suite, name, steps=200, goal=seed, seed=seed)
        totals.append(sum(row["reward"] for row in rows))
        assert sum(cost(row) for row in rows) == pytest.approx(20.0, abs=1.0)
    assert np.mean(totals) == pytest.approx(-220, abs=12)


def test_the_end_of_an_episode_is_optional():
    for terminates in (False, True):
        suite = RobotSuite("cheetah-families", terminates=terminates, workers=0)
        (task, *_) = suite.tasks()
        environment = suite.build([task])(task)
        environment.reset(seed=0)
        zero = np.zeros(6, dtype=np.float32)
        assert not environment.step(zero)[2]
        environment._body.data.qpos[2] = 2.7
        assert environment.step(zero)[2] == terminates
