from math import cos, sin

import numpy as np
import pytest

from envs.body import Physics
from envs.robots import RobotSuite


def cost(row, weight=1e-3):
    return weight * float((row["control"] ** 2).sum())


def speed(row, seconds):
    return (row["after"][0] - row["qpos"][0]) / seconds


@pytest.mark.parametrize("forces", [False, True])
def test_invariant_1_rewards_of_the_humanoid(forces, recorded):
    """0.25 of the centre's way over the simulator's step of 0.003, as the original has it."""
    physics = Physics(contact_forces=forces)
    suite = RobotSuite("humanoid-direction", physics=physics, workers=0)
    (task,) = suite.tasks()
    mass = suite.build([task])(task)._body.model.body_mass
    impacts = []
    for row in recorded(suite, "direction", goal=5, steps=40):
        (angle,) = row["goal"]
        before, after = (mass @ row[key] / mass.sum() for key in ("inertial", "inertial_after"))
        way = (after - before)[:2] @ [cos(angle), sin(angle)]
        impacts.append(min(5e-7 * (row["force"] ** 2).sum(), 10.0))
        expected = 0.25 * way / 0.003 - cost(row, 0.1) - impacts[-1] + 5.0
        assert row["reward"] == pytest.approx(expected, abs=1e-6)
        assert row["ended"] == (not 1.0 <= row["after"][2] <= 2.0)
        assert row["seen"].shape == (376,) and np.abs(row["control"]).max() <= 0.4
    assert (max(impacts) > 0) == forces
    assert len(suite.each()) == 100 and len(suite.each("test")) == 30


@pytest.mark.parametrize(("robot", "width"), [("walker", 65), ("hopper", 41)])
def test_invariant_1_rewards_with_random_parameters(robot, width, recorded):
    suite = RobotSuite(f"{robot}-parameters", workers=0)
    assert suite.spec.specification_dim == width
    assert suite.counts == {"train": [40], "test": [10]}
    for goal in (0, 39):
        for row in recorded(suite, "parameters", goal=goal, steps=40):
            expected = speed(row, 0.016) + 1.0 - cost(row)
            assert row["reward"] == pytest.approx(expected, abs=1e-9)
            seen = [*row["after"][1:], *row["qvel"].clip(-10, 10)]
            assert np.array_equal(row["seen"], seen) and np.abs(row["goal"]).max() <= 3.0
            _, z, pitch = row["after"][:3]
            if robot == "walker":
                alive = 0.8 < z < 2.0 and abs(pitch) < 1.0
            else:
                rest = np.concatenate([row["after"], row["qvel"]])[2:]
                alive = z > 0.7 and abs(pitch) < 0.2 and (abs(rest) < 100).all()
            assert row["ended"] == (not alive)  # the bonus is paid in that step too


@pytest.mark.parametrize(("robot", "bonus"), [("walker", 1.0), ("hopper", 2.5)])
def test_invariant_1_rewards_of_velocities(robot, bonus, recorded):
    suite = RobotSuite(f"{robot}-velocity", span=(0.5, 2.5), workers=0)
    for row in recorded(suite, "velocity", goal=3, steps=60):
        (target,) = row["goal"]
        expected = -abs(speed(row, 0.008) - target) + bonus - cost(row)
        assert row["reward"] == pytest.approx(expected, abs=1e-9)
        assert 0.5 <= target <= 2.5 and not row["ended"]
        seen = [*row["after"][1:], *row["qvel"].clip(-10, 10)]
        seen += row["torso_after"].tolist() if robot == "hopper" else []
        assert np.array_equal(row["seen"], seen)


def test_shifting_walkers(recorded):
    for name, width, limit, seen in (("", 65, 1.0, 17), ("-hidden", 41, 3.0, 8)):
        suite = RobotSuite(f"walker-shifting{name}", workers=0)
        assert (suite.spec.specification_dim, suite.spec.observation_dim) == (width, seen)
        rows = recorded(suite, "parameters", goal=50, steps=30)
        for row in rows:
            expected = speed(row, 0.008) + 1.0 - cost(row)
            assert row["reward"] == pytest.approx(expected, abs=1e-9)
            assert np.abs(row["goal"]).max() <= limit and row["seen"].shape == (seen,)


def test_the_right_foot_is_that_of_each_reference():
    for name, friction in (("walker-parameters", 1.9), ("walker-velocity", 0.9)):
        for physics, expected in ((None, friction), (Physics(legacy_feet=True), 0.9)):
            suite = RobotSuite(name, physics=physics, workers=0)
            (task,) = suite.tasks()
            body = suite.build([task])(task)._body
            foot = body.model.geom("foot_geom").id
            original = body.original.get("geom_friction", body.model.geom_friction)
            assert original[foot, 0] == expected
