"""What every suite has in common: the keys of a step, tasks by sample, the part of gin it has."""

import json
import os
import pickle
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import gin
import numpy as np
import pytest
import torch

from envs import cores
from envs import suite as suite_module
from envs.arrays import told
from envs.changes import LocationChange, TimedChange
from envs.ct_graph import CTGraphSuite
from envs.half_cheetah import HalfCheetahSuite
from envs.meta_world import MetaWorldSuite
from envs.navigation import NavigationSuite
from envs.point_mass import PointMassSuite
from envs.point_robots import PointRobotSuite
from envs.robots import RobotSuite
from envs.suite import Spec
from envs.tree_graph import TreeGraph
from envs.tree_pictures import PatternPictures

PARTS = Path(__file__).resolve().parents[2] / "gin" / "envs"
ROBOTS = ("cheetah-direction", "cheetah-mass", "ant-families", "ant-limp") + (
    "humanoid-direction",
    "walker-parameters",
    "hopper-velocity",
)
SUITES = {
    "point-mass": PointMassSuite(2),
    "navigation": NavigationSuite(),
    "ct-graph": CTGraphSuite(),
    "ct-graph-images": CTGraphSuite(TreeGraph(delay=0.2), pictures=PatternPictures(noise=3)),
    "half-cheetah-direction": HalfCheetahSuite(workers=0),
    "half-cheetah-velocity": HalfCheetahSuite("velocity", workers=0),
    "reach": MetaWorldSuite(["reach-v3"], horizon=20, workers=0),
    "point-robot": PointRobotSuite(),
    "point-robot-sparse": PointRobotSuite("point-robot-sparse"),
    "point-robot-families": PointRobotSuite("point-robot-families", change_steps=7),
    "cheetah-families-changing": RobotSuite(
        "cheetah-families", horizon=20, change=TimedChange(steps=3, probability=0.5), workers=0
    ),
    "walker-changing": RobotSuite(
        "walker-shifting", horizon=20, change=LocationChange(distance=0.006), workers=0
    ),
    **{name: RobotSuite(name, horizon=20, workers=0) for name in ROBOTS},
}
EIGHT = ("velocity_forward", "velocity_backward", "stand_back", "stand_front") + (
    "goal_forward",
    "goal_backward",
    "flip_forward",
    "jump",
)
NINE = tuple(
    f"{kind}_{way}" for kind in ("velocity", "goal") for way in ("left", "right", "up", "down")
)


def robot(observation_dim, action_dim, horizon, width, *names):
    names = names or ("direction",)
    return Spec(observation_dim, action_dim, len(names), horizon, names, specification_dim=width)


def point(horizon, *names, sparse=False):
    return Spec(2, 2, len(names), horizon, names, specification_dim=2, sparse=sparse)


GIN = {
    "navigation": Spec(2, 2, 1, 100, ("navigation",)),
    "ct_graph_d2": Spec(17, 3, 1, 7, ("ct-graph-d2",), discrete=True),
    "ct_graph_d3": Spec(33, 3, 1, 9, ("ct-graph-d3",), discrete=True),
    "ct_graph_d4": Spec(65, 3, 1, 11, ("ct-graph-d4",), discrete=True),
    "half_cheetah_direction": Spec(20, 6, 1, 200, ("half-cheetah-direction",)),
    "half_cheetah_velocity": Spec(20, 6, 1, 200, ("half-cheetah-velocity",)),
    "ml1_push": Spec(39, 4, 1, 200, ("push-v3",)),
    "ml10": Spec(39, 4, 10, 200, MetaWorldSuite("ML10").spec.task_names),
    "ml45": Spec(39, 4, 45, 200, MetaWorldSuite("ML45").spec.task_names),
    "point_robot": point(20, "goal"),
    "point_robot_sparse": point(20, "goal", sparse=True),
    "point_robot_origin": point(100, "goal"),
    "point_robot_families": point(20, "goal", "direction"),
    "point_robot_families_changing": point(20, "goal", "direction"),
    "pearl_cheetah_direction": robot(20, 6, 200, 1),
    "pearl_cheetah_velocity": robot(20, 6, 200, 1, "velocity"),
    "pearl_ant_direction": robot(27, 8, 200, 1),
    "pearl_ant_forward_back": robot(27, 8, 200, 1),
    "pearl_ant_goal": robot(29, 8, 200, 2, "goal"),
    "pearl_humanoid_direction": robot(376, 17, 200, 1),
    "pearl_walker_parameters": robot(17, 6, 200, 65, "parameters"),
    "pearl_hopper_parameters": robot(11, 3, 200, 41, "parameters"),
    "tigr_cheetah_eight": robot(20, 6, 200, 1, *EIGHT),
    "tigr_cheetah_eight_changing": robot(20, 6, 560, 1, *EIGHT),
    "tigr_cheetah_velocity": robot(20, 6, 200, 1, "velocity"),
    "tigr_cheetah_direction": robot(20, 6, 200, 1, "direction_forward", "direction_backward"),
    "tigr_ant_nine": robot(29, 8, 200, 2, *NINE, "jump"),
    "cemrl_cheetah_direction": robot(20, 6, 800, 1),
    "cemrl_cheetah_velocity": robot(20, 6, 800, 1, "velocity"),
    "cemrl_cheetah_continual": robot(20, 6, 800, 1),
    "cemrl_cheetah_five": robot(
        20, 6, 200, 1, "velocity", "direction", "goal", "flipping", "jumping"
    ),
    "cemrl_cheetah_mass": robot(17, 6, 400, 1, *(f"mass_{i}" for i in range(1, 8))),
    "cemrl_cheetah_damping": robot(17, 6, 400, 1, *(f"damping_{i}" for i in range(3, 9))),
    "cemrl_ant_direction": robot(30, 8, 800, 1),
    "cemrl_ant_velocity": robot(30, 8, 800, 1, "velocity"),
    "cemrl_ant_limp": robot(27, 8, 200, 4, "sound", "limp"),
    "cemrl_walker_velocity": robot(17, 6, 200, 1, "velocity"),
    "cemrl_walker_velocity_changing": robot(17, 6, 800, 1, "velocity"),
    "cemrl_hopper_velocity": robot(14, 3, 200, 1, "velocity"),
    "cemrl_hopper_velocity_changing": robot(14, 3, 800, 1, "velocity"),
    "cemrl_walker_parameters": robot(17, 6, 800, 65, "parameters"),
    "cemrl_walker_parameters_hidden": robot(8, 6, 400, 41, "parameters"),
}


@pytest.fixture(params=SUITES)
def suite(request, goals):
    if request.param == "reach":
        SUITES["reach"]._goals = {"train": {"reach-v3": goals["train"]["reach-v3"] * 5}}
    return SUITES[request.param]


def sampled(suite, count=3, split="train", seed=0):
    return suite.sample(count, split, np.random.default_rng(seed))


def test_keys_shapes_and_types_of_a_step(suite, rollout):
    spec = suite.spec
    with suite.vector(sampled(suite), autoreset=False) as vector:
        root = vector.reset()
        td = rollout(vector, 4)
        extras = told(vector.rules)
    assert set(root.keys()) == {"observation", "task_id", "is_init", "episode"}
    assert root.batch_size == (3,) and root["observation"].shape == (3, spec.observation_dim)
    assert root["observation"].dtype == torch.float32 and root["task_id"].dtype == torch.int64
    assert root["task_id"].shape == root["episode"].shape == (3,)
    assert root["is_init"].shape == (3, 1) and root["is_init"].all()
    flags = {"terminated", "truncated", "done", "success", "valid"}
    assert set(td["next"].keys()) == {"observation", "reward", *flags, *extras}
    for name, (shape, dtype) in extras.items():
        value = td["next", name]
        assert value.shape == (4, 3, *shape) and value.numpy().dtype == dtype
    assert ("sparse_reward" in extras) == spec.sparse
    assert ("task_id" in extras) == bool(spec.specification_dim)
    assert td["next", "observation"].shape == (4, 3, spec.observation_dim)
    assert td["next", "observation"].dtype == torch.float32
    assert td["next", "reward"].shape == (4, 3, 1) and td["next", "reward"].dtype == torch.float32
    for flag in flags:
        assert td["next", flag].shape == (4, 3, 1) and td["next", flag].dtype == torch.bool
    assert td["next"].isfinite().all() and td["next", "valid"][0].all()
    done = td["next", "terminated"] | td["next", "truncated"]
    assert torch.equal(td["next", "done"], done)
    if spec.discrete:
        assert td["action"].shape == (4, 3) and td["action"].dtype == torch.int64
        assert spec.num_actions == spec.action_dim
    else:
        assert td["action"].shape == (4, 3, spec.action_dim) and spec.num_actions == 0


def test_sampled_tasks_are_records_with_one_goal(suite):
    splits = ("train",) if suite.name.startswith("custom") else ("train", "test")
    for split in splits:
        tasks = sampled(suite, 60, split)
        assert len(tasks) == 60 and tasks == sampled(suite, 60, split)
        many = len(suite.each(split)) > 1
        assert (tasks != sampled(suite, 60, split, seed=1)) == many
        suite.check(tasks)
        for task in tasks:
            assert task.split == split and len(task.goals) == 1 and type(task.goals[0]) is int
            assert task.task_id == {t.name: t.task_id for t in suite.tasks(split)}[task.name]
        assert pickle.loads(pickle.dumps(tasks)) == tasks and {hash(task) for task in tasks}
        assert (len({(task.name, task.goals) for task in tasks}) > 1) == many
    rng = np.random.default_rng(0)
    draws = [suite.sample(30, "train", rng) for _ in range(2)]
    assert (draws[0] != draws[1]) == (len(suite.each()) > 1)
    for count in (0, True, 2.0, "3"):
        with pytest.raises(ValueError, match="num_tasks"):
            suite.sample(count, "train", rng)
    with pytest.raises(ValueError, match="split"):
        suite.sample(2, "validation", rng)


def test_a_task_means_the_same_in_every_vector(suite, rollout, same):
    """The goal follows from its number: whatever was drawn before, in whichever vector."""
    tasks = sampled(suite, 4, seed=5)
    with suite.vector(tasks, seed=1, autoreset=False) as vector:
        expected = rollout(vector, 6)
    with suite.vector(sampled(suite, 4, seed=6), seed=1, autoreset=False) as vector:
        vector.assign(tasks)
        same(rollout(vector, 6), expected)


def test_rounds_of_a_meta_learner(suite):
    """Assign, reset, step until all are done; those that are done rest, invalid, until the next."""
    spec = suite.spec
    with suite.vector(sampled(suite), autoreset=False) as vector:
        for phase in range(3):
            vector.assign(sampled(suite, seed=phase))
            root = vector.reset()
            assert root["episode"].tolist() == [phase] * 3 and root["is_init"].all()
            lengths, alive = torch.zeros(3), torch.ones(3, dtype=torch.bool)
            for _ in range(spec.horizon):
                td = vector.current()
                size = (3,) if spec.discrete else (3, spec.action_dim)
                kind = torch.int64 if spec.discrete else torch.float32
                td["action"] = torch.zeros(size, dtype=kind)
                now = vector.step(td)["next"]
                assert torch.equal(now["valid"][:, 0], alive)
                lengths += now["valid"][:, 0]
                alive = alive & ~now["done"][:, 0]
                if not alive.any():
                    break
            assert not alive.any() and lengths.min() >= 1


def test_what_a_worker_is_handed_can_be_pickled(suite):
    (task, *_) = sampled(suite, 1)
    build = pickle.loads(pickle.dumps(suite.build([task])))
    environment = build(task)
    observation, _ = environment.reset(options={"goal": task.goals[0]})
    assert observation.shape == (suite.spec.observation_dim,)
    assert environment.observation_space.contains(observation)
    row = environment.step(environment.action_space.sample())
    assert row[0].shape == observation.shape and "success" in row[4]
    with suite.vector([task]) as vector:
        assert set(told(vector.rules)) <= set(row[4])
    environment.close()


def test_the_true_task(suite, rollout):
    """Each task of one goal has a specification, which is what the first step tells."""
    each, width = suite.each(), suite.spec.specification_dim
    assert len(each) == sum(len(task.goals) for task in suite.tasks())
    suite.check(each)
    tasks = sampled(suite, 3, seed=2)
    given = [suite.specification(task) for task in tasks]
    assert all(vector.shape == (width,) and vector.dtype == np.float32 for vector in given)
    assert set(suite.positions) <= set(range(suite.spec.observation_dim))
    if width:
        with suite.vector(tasks, autoreset=False) as vector:
            first = rollout(vector, 1)["next"][0]
        assert torch.equal(first["specification"], torch.from_numpy(np.stack(given)))
        assert first["task_id"].tolist() == [task.task_id for task in tasks]
        assert not first["task_changed"].any()


def test_protocol_is_json(suite):
    protocol = suite.protocol()
    assert protocol == json.loads(json.dumps(protocol))
    assert protocol["benchmark"] == suite.name and protocol["horizon"] == suite.spec.horizon


@pytest.mark.skipif(not PARTS.is_dir(), reason="the package stands alone")
@pytest.mark.parametrize("part", GIN)
def test_gin_part_builds_its_suite(part):
    text = (PARTS / f"{part}.gin").read_text()
    assert "train.suite = @" in text
    gin.parse_config(text, skip_unknown=["train"])
    (name,) = [line.split("@")[1][:-2] for line in text.splitlines() if "train.suite" in line]
    made = gin.get_configurable(name)()
    assert made.spec == GIN[part]
    for split in ("train", "test"):
        count = len(made.tasks(split)) * 2
        assert len(sampled(made, count, split)) == count


@pytest.mark.parametrize(
    ("mask", "quota", "usable"),
    [
        ({0}, "max 100000", 1.0),  # a job that owns one core of many
        (set(range(64)), "max 100000", 64.0),
        (set(range(64)), "250000 100000", 2.5),  # a container that may use a share of them all
        ({0, 1}, "400000 100000", 2.0),
        ({0, 1}, "", 2.0),
        ({0, 1}, None, 2.0),
    ],
)
def test_cores_that_may_be_used(monkeypatch, tmp_path, mask, quota, usable):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: mask, raising=False)
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        cores.QUOTA.write_text(quota + "\n")
    assert cores.usable_cores() == usable


@pytest.mark.parametrize(("usable", "workers"), [(0.5, 1), (1.9, 1), (2.7, 2)])
def test_the_default_is_a_worker_for_each_core_the_process_may_use(monkeypatch, usable, workers):
    monkeypatch.setattr(suite_module, "usable_cores", lambda: usable)
    suite = PointMassSuite(2, workers=None)
    with closing(suite.vector(suite.tasks(), 0)) as vector:
        assert len(vector.worker_pids) == workers


class Unsearched(tuple):
    def __contains__(self, goal):
        raise AssertionError(f"looked through all goals for {goal}")


def test_goals_are_not_searched_for_one_by_one(monkeypatch):
    suite = PointMassSuite()
    task = suite.tasks()[0]
    monkeypatch.setattr(suite, "numbers", lambda task: Unsearched(range(4)))
    suite.check([replace(task, goals=(0, 3, 3))])
    with pytest.raises(ValueError, match="must be among 0 to 3"):
        suite.check([replace(task, goals=(0, 4))])
