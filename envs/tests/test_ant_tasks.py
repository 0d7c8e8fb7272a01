from math import cos, pi, sin

import numpy as np
import pytest

from envs.body import Physics
from envs.robots import RobotSuite

DT = 0.05


def cost(row, weight):
    return weight * float((row["control"] ** 2).sum())


def drift(row):
    return (row["torso_after"] - row["torso"])[:2] / DT


NINE = {
    # name: (what is compared, axis, span)
    "velocity_left": ("qvel", 0, (-3, -1)),
    "velocity_right": ("qvel", 0, (1, 3)),
    "velocity_up": ("qvel", 1, (1, 3)),
    "velocity_down": ("qvel", 1, (-3, -1)),
    "goal_left": ("after", 0, (-15, -5)),
    "goal_right": ("after", 0, (5, 15)),
    "goal_up": ("after", 1, (5, 15)),
    "goal_down": ("after", 1, (-15, -5)),
}


@pytest.mark.parametrize("name", NINE)
def test_invariant_1_rewards_of_planar_velocities_and_goals(name, recorded):
    suite = RobotSuite("ant-families", workers=0)
    field, axis, span = NINE[name]
    goals = np.array(
        [
            suite.specification(task)
            for split in ("train", "test")
            for task in suite.each(split)
            if task.name == name
        ]
    )
    assert np.allclose(np.sort(goals[:, axis]), np.linspace(*span, 15))
    assert not goals[:, 1 - axis].any()
    for row in recorded(suite, name, goal=4, steps=40):
        x, y = row[field][:2] - row["goal"]
        paid = -(x**2 + y**2) / (row["goal"] ** 2).sum()
        assert row["reward"] == pytest.approx(paid - cost(row, 0.05), abs=1e-9)
        assert np.array_equal(row["seen"], [*row["after"], *row["qvel"]]) and not row["ended"]


def test_one_planar_family_alone_is_still_planar(recorded):
    suite = RobotSuite("ant-families", families=["velocity_left"], workers=0)
    assert suite.spec.specification_dim == 2
    for row in recorded(suite, "velocity_left", steps=5):
        paid = -((row["qvel"][:2] - row["goal"]) ** 2).sum() / row["goal"][0] ** 2
        assert row["reward"] == pytest.approx(paid - cost(row, 0.05), abs=1e-9)


def test_invariant_1_rewards_of_jumps_and_of_the_extra_families(recorded):
    families = ["jump", "goal_2d", "direction_forward", "direction_backward"]
    suite = RobotSuite("ant-families", families=families, sizes=(40, 20), workers=0)
    for row in recorded(suite, "jump", goal=2, steps=40):
        w = row["goal"][0]
        assert 0.5 <= w <= 2 and row["goal"][1] == 0
        paid = -abs(abs(row["qvel"][2]) - w) / w
        assert row["reward"] == pytest.approx(paid - cost(row, 0.05), abs=1e-9)
    for row in recorded(suite, "goal_2d", goal=2, steps=40):
        paid = -abs(row["torso_after"][:2] - row["goal"]).sum()
        assert row["reward"] == pytest.approx(paid - cost(row, 0.1), abs=1e-9)
    for name, sign in (("direction_forward", 1), ("direction_backward", -1)):
        for row in recorded(suite, name, steps=20):
            paid = sign * drift(row)[0] + 1
            assert row["reward"] == pytest.approx(paid - cost(row, 0.5), abs=1e-9)


def test_invariant_1_rewards_of_directions(recorded):
    for suite, goal in ((RobotSuite("ant-direction"), 9), (RobotSuite("ant-forward-back"), 1)):
        for row in recorded(suite, "direction", goal=goal, steps=60):
            (angle,) = row["goal"]
            paid = drift(row) @ [cos(angle), sin(angle)] + 1.0
            assert row["reward"] == pytest.approx(paid - cost(row, 0.5), abs=1e-9)
            assert row["ended"] == (not 0.2 <= row["after"][2] <= 1.0)
            assert np.array_equal(row["seen"], [*row["after"][2:], *row["qvel"]])
    two = RobotSuite("ant-forward-back")
    assert [two.specification(task)[0] for task in two.each("test")] == pytest.approx([0, pi])
    angles = np.array(
        [
            RobotSuite("ant-direction").specification(task)[0]
            for task in RobotSuite("ant-direction").each()
        ]
    )
    assert 0 <= angles.min() < 0.4 and 5.9 < angles.max() < 2 * pi


def test_invariant_1_rewards_of_goals_in_a_disc(recorded):
    suite = RobotSuite("ant-goal", workers=0)
    goals = np.array([suite.specification(task) for task in suite.each()])
    assert goals.shape == (150, 2) and len(suite.each("test")) == 30
    assert 2.8 < np.linalg.norm(goals, axis=1).max() <= 3
    for row in recorded(suite, "goal", goal=8, steps=60):
        paid = -abs(row["torso_after"][:2] - row["goal"]).sum()
        assert row["reward"] == pytest.approx(paid - cost(row, 0.1), abs=1e-9)
        assert row["seen"].shape == (29,) and not row["ended"]


def test_contact_terms_are_charged_where_they_are_on(recorded):
    physics = Physics(contact_forces=True, observe_contacts=True)
    suite = RobotSuite("ant-goal", physics=physics, workers=0)
    assert suite.spec.observation_dim == 113
    charges = []
    for row in recorded(suite, "goal", goal=8, steps=60):
        paid = -abs(row["torso_after"][:2] - row["goal"]).sum()
        charges.append(5e-4 * (row["force"].clip(-1, 1) ** 2).sum())
        expected = paid - cost(row, 0.1) - charges[-1]
        assert row["reward"] == pytest.approx(expected, abs=1e-9)
    assert max(charges) > 1e-3
    padded = RobotSuite("ant-goal", physics=Physics(observe_contacts=True), workers=0)
    for row in recorded(padded, "goal", steps=5):
        assert row["seen"].shape == (113,) and not row["seen"][29:].any()


def test_invariant_1_rewards_of_cemrl(recorded):
    suite = RobotSuite("ant-reversal", workers=0)
    for goal, sign in ((0, 1), (1, -1)):
        for row in recorded(suite, "direction", goal=goal, steps=40):
            expected = 10 * sign * drift(row)[0] - cost(row, 0.5) + 1
            assert row["reward"] == pytest.approx(expected, abs=1e-9)
            place = row["torso_after"]
            assert np.array_equal(row["seen"], [*row["after"][2:], *row["qvel"], *place])
            assert row["ended"] == (not 0.3 <= row["after"][2] <= 10.0)
    suite = RobotSuite("ant-velocity", workers=0)
    for row in recorded(suite, "velocity", goal=7, steps=40):
        (target,) = row["goal"]
        assert 1 <= target <= 5 and not row["ended"]
        expected = -abs(drift(row)[0] - target) - cost(row, 0.5) + 1
        assert row["reward"] == pytest.approx(expected, abs=1e-9)


def test_a_lame_ant_is_paid_for_going_ahead(recorded):
    suite = RobotSuite("ant-limp", workers=0)
    assert suite.counts == {"train": [1, 3], "test": [1, 1]}
    for name, split in (("sound", "train"), ("limp", "test")):
        for row in recorded(suite, name, split=split, steps=30):
            expected = drift(row)[0] - cost(row, 0.5) + 1
            assert row["reward"] == pytest.approx(expected, abs=1e-9)
            assert (row["control"][:2] == 0).all() == (name == "limp")
            assert row["control"][2:].all()
