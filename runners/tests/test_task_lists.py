"""Tests of the tasks that a run numbers."""

import pytest

from envs.meta_world import MetaWorldSuite
from envs.point_mass import PointMassSuite
from envs.point_robots import PointRobotSuite
from runners.task_lists import listed_tasks


def test_one_task_for_each_goal_in_suite_order():
    suite = PointRobotSuite(sizes=(7, 3))
    assert [task.goals for task in listed_tasks(suite, "train")] == [(i,) for i in range(7)]
    assert {task.split for task in listed_tasks(suite, "test")} == {"test"}
    assert listed_tasks(suite, "test") == suite.each("test")


def test_the_first_goals_of_each_name():
    suite = MetaWorldSuite("ML45")
    train, test = (listed_tasks(suite, split, 5) for split in ("train", "test"))
    assert (len(train), len(test)) == (225, 25)  # as in neuromodulated PEARL
    names = [task.name for task in suite.tasks()]
    assert [task.name for task in train] == [name for name in names for _ in range(5)]
    assert [task.goals[0] for task in train] == [0, 1, 2, 3, 4] * 45


def test_errors():
    with pytest.raises(ValueError, match="num_goals must be at least 1 or None, got 0"):
        listed_tasks(PointRobotSuite(), "train", 0)
    with pytest.raises(ValueError, match="has no tasks in the split 'test'"):
        listed_tasks(MetaWorldSuite("MT10"), "test")
    assert listed_tasks(PointMassSuite(), "train", 1)
