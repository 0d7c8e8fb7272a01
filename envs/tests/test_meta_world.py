import hashlib
import json
import pickle
import signal
from dataclasses import replace
from functools import partial
from os import kill
from pathlib import Path

import gymnasium
import metaworld
import numpy as np
import pytest
import torch
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP
from tensordict import TensorDict

from envs import goals as goal_cache
from envs.meta_world import ALL_TASKS, MetaWorldSuite

DATA = Path(__file__).parent / "data"
SCRIPTED = json.loads((DATA / "scripted_policy_mt50.json").read_text())
TWO = ["reach-v3", "drawer-close-v3"]


def suite_of(goals, names, **options):
    """A suite that takes its goals from the stored ones (ten of each task)."""
    suite = MetaWorldSuite(list(names), **options)
    suite._goals = goals
    return suite


def first_goals(suite, count=10):
    return [replace(task, goals=tuple(range(count))) for task in suite.tasks()]


def test_keys_shapes_types_and_both_modes(goals, rollout, same):
    runs = []
    for workers in (0, 2):
        suite = suite_of(goals, TWO, horizon=20, workers=workers)
        with suite.vector(first_goals(suite), seed=3) as vector:
            runs.append(rollout(vector, 45))
    same(*runs)
    td = runs[0]
    assert td["observation"].shape == (45, 2, 39) and td["observation"].dtype == torch.float32
    assert td["next", "reward"].shape == (45, 2, 1) and td["next", "valid"].all()
    assert td["next", "done"][..., 0].nonzero()[:, 0].unique().tolist() == [19, 39]
    assert not torch.equal(td["next", "observation"][19], td["observation"][20])
    chosen = td["observation"][td["is_init"][..., 0]][:, 36:]
    assert chosen.unique(dim=0).shape[0] > 3


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_reward_versions(goals, rollout, version):
    suite = suite_of(goals, ["reach-v3"], reward_version=version, workers=0)
    with suite.vector(first_goals(suite, 1)) as vector:
        td = rollout(vector, 10)
    upstream = ALL_V3_ENVIRONMENTS["reach-v3"](reward_function_version=version)
    data = {
        "rand_vec": goals["train"]["reach-v3"][0],
        "env_cls": type(upstream),
        "partially_observable": False,
    }
    upstream.set_task(metaworld.Task("reach-v3", pickle.dumps(data)))
    upstream.reset()
    rewards = [upstream.step(action.numpy())[1] for action in td["action"][:, 0]]
    assert td["next", "reward"].flatten().tolist() == np.float32(rewards).tolist()


@pytest.mark.parametrize(
    ("horizon", "steps", "workers"),
    [(25, 80, 0), pytest.param(200, 1510, 2, marks=pytest.mark.slow)],
)
def test_equals_upstream_over_vector_steps(rollout, horizon, steps, workers):
    """MT10 as gymnasium makes it, seed 7: observations, rewards, success, auto-reset, goals."""
    env = gymnasium.make_vec("Meta-World/MT10", seed=7, max_episode_steps=horizon)
    suite = MetaWorldSuite(
        "MT10", goal_seed=7, seeding="upstream", horizon=horizon, workers=workers
    )
    suite._goals = {
        "train": {
            task.name: [pickle.loads(drawn.data)["rand_vec"] for drawn in member.env.tasks]
            for task, member in zip(suite.tasks(), env.envs, strict=True)
        }
    }
    with suite.vector(seed=7) as vector:
        td = rollout(vector, steps)
    observation, _ = env.reset()
    for step in range(steps):
        assert np.array_equal(np.float32(observation), td["observation"][step].numpy()), step
        observation, reward, _, truncated, infos = env.step(td["action"][step].numpy())
        now = td["next"][step]
        last = np.stack(infos["final_obs"]) if truncated.any() else observation
        assert np.array_equal(np.float32(last), now["observation"].numpy())
        assert np.array_equal(np.float32(reward), now["reward"][:, 0].numpy())
        assert np.array_equal(truncated, now["truncated"][:, 0].numpy())
        success = infos["final_info"]["success"] if truncated.any() else infos["success"]
        assert np.array_equal(np.array(success, bool), now["success"][:, 0].numpy())
    env.close()


@pytest.mark.parametrize("name", ALL_TASKS)
def test_snapshot_is_exact(goals, rollout, same, name):
    """75 replayed steps across a reset, in a fresh simulator, from tensors: no difference."""
    suite = suite_of(goals, [name], horizon=60, workers=0)
    with suite.vector(first_goals(suite), seed=1) as vector:
        rollout(vector, 20)
        state = vector.state_dict()
        root = vector.current()
        expected = rollout(vector, 75, seed=1, start=vector.current())
    with suite.vector(first_goals(suite), seed=2) as fresh:
        fresh.reset()
        fresh.load_state_dict(state)
        same(fresh.current(), root)
        same(rollout(fresh, 75, seed=1, start=fresh.current()), expected)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_snapshot_is_exact_under_scripted_policies(goals, version):
    """The same with contact and grasps: policies that solve the tasks, snapshot at step 60."""
    for name in ALL_TASKS:
        suite = suite_of(goals, [name], reward_version=version, workers=0)
        tasks = first_goals(suite, 1)
        with suite.vector(tasks) as vector, suite.vector(tasks) as other:
            scripted(vector, 60)
            other.load_state_dict(vector.state_dict())
            expected = scripted(vector, 75, start=vector.current())
            assert scripted(other, 75, start=other.current()) == expected, name


def scripted(vector, steps, start=None):
    """Follow the scripted policies on what the simulator says in full precision.

    Returns: one list of (reward, success) per environment, in full precision.
    """
    environments = vector._chunk._environments
    exact = [None] * len(environments)
    log = [[] for _ in environments]
    policies = [ENV_POLICY_MAP[task.name]() for task in vector.tasks]
    for i, environment in enumerate(environments):

        def outcome(i=i, environment=environment):
            result = type(environment).outcome(environment)
            exact[i] = result[0]
            log[i].append((result[1], float(result[4]["success"])))
            return result

        def reset(i=i, environment=environment, **options):
            result = type(environment).reset(environment, **options)
            exact[i] = result[0]
            return result

        environment.outcome, environment.reset = outcome, reset
        if start is not None:
            exact[i] = environment.simulator._last_stable_obs
    if start is None:
        vector.reset()
    for _ in range(steps):
        actions = [policy.get_action(seen) for policy, seen in zip(policies, exact, strict=True)]
        action = torch.from_numpy(np.clip(np.stack(actions), -1, 1).astype(np.float32))
        td = vector.step(TensorDict({"action": action}, batch_size=[len(actions)]))
        for i, rows in enumerate(log):
            assert td["next", "reward"][i].item() == np.float32(rows[-1][0])
            assert td["next", "success"][i].item() == bool(rows[-1][1])
    for environment in environments:
        del environment.outcome, environment.reset
    return log


def check_scripted(suite, names, numbers):
    for name in names:
        task = next(task for task in suite.tasks() if task.name == name)
        with suite.vector([replace(task, goals=(g,)) for g in numbers], autoreset=False) as vector:
            episodes = scripted(vector, 500)
        for goal, episode in zip(numbers, episodes, strict=True):
            rewards, success = zip(*episode, strict=True)
            assert round(float(np.sum(rewards)), 6) == pytest.approx(
                SCRIPTED["tasks"][name]["returns"][goal], abs=2e-6
            ), (name, goal)
            assert max(success) == SCRIPTED["tasks"][name]["successes"][goal], (name, goal)


def test_scripted_policy_returns_are_reproduced(goals):
    names = ["pick-place-v3", "basketball-v3", "door-lock-v3"]
    check_scripted(suite_of(goals, names, workers=0), names, [1, 2])


@pytest.mark.slow
def test_all_scripted_policy_returns_are_reproduced():
    suite = MetaWorldSuite("MT50", goal_seed=SCRIPTED["seed"], workers=0)
    stored = json.loads((DATA / "goals_mt50_seed42.json").read_text())
    for name, vectors in suite.goals()["train"].items():
        assert [vector.tolist() for vector in vectors[:10]] == stored[name]
    check_scripted(suite, ALL_TASKS, range(10))


def test_goals_are_upstreams_and_the_cache_is_checked(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    drawn = goal_cache.draw("MT1", 3, "reach-v3")["train"]["reach-v3"]
    upstream = metaworld.MT1("reach-v3", seed=3).train_tasks
    expected = [pickle.loads(task.data)["rand_vec"] for task in upstream]
    assert np.array_equal(drawn, expected) and len(drawn) == 50
    (path,) = tmp_path.rglob("*.json")
    again = partial(goal_cache.draw, "MT1", 3, "reach-v3")
    with monkeypatch.context() as patch:
        patch.setattr(metaworld, "MT1", None)  # the cache must do
        assert np.array_equal(again()["train"]["reach-v3"], expected)
    damaged = path.read_text().replace("0.0", "0.1", 1)
    assert hashlib.sha256(damaged.encode()) and damaged != path.read_text()
    path.write_text(damaged)
    assert np.array_equal(again()["train"]["reach-v3"], expected)
    path.unlink()
    path.mkdir()  # nothing can be written there
    assert np.array_equal(again()["train"]["reach-v3"], expected)
    assert not list(tmp_path.rglob("*.tmp"))


def test_fixed_goal_is_the_first_of_fifty(rollout):
    fixed = MetaWorldSuite("MT1", task="reach-v3", num_goals=1, horizon=3, workers=0)
    many = MetaWorldSuite("MT1", task="reach-v3", horizon=3, workers=0)
    with fixed.vector() as vector:
        td = rollout(vector, 9)
    expected = torch.tensor(many.goals()["train"]["reach-v3"][0][-3:], dtype=torch.float32)
    assert torch.equal(td["observation"][:, 0, 36:].unique(dim=0)[0], expected)
    custom = MetaWorldSuite(TWO, workers=0).goals()["train"]["reach-v3"]
    assert np.array_equal(custom, many.goals()["train"]["reach-v3"])


def test_each_task_draws_its_own_one_of_fifty():
    """By its name and the seed alone: in every benchmark, with any other tasks, in both splits."""
    drawn = {}
    for seed in range(40):
        suite = MetaWorldSuite("MT50", num_goals=1, goal_draw=seed)
        drawn[seed] = {task.name: task.goals for task in suite.tasks()}
        assert all(len(goals) == 1 and 0 <= goals[0] < 50 for goals in drawn[seed].values())
        assert suite.protocol()["fixed_goals"] == [goals[0] for goals in drawn[seed].values()]
    numbers = torch.tensor([[g[0] for g in goals.values()] for goals in drawn.values()])
    counts = numbers.flatten().bincount(minlength=50).double()
    assert ((counts - 40) ** 2 / 40).sum() < 49 + 5 * 98**0.5  # chi-square, 40 of each expected
    assert (numbers[1:] == numbers[:-1]).float().mean() < 0.06
    assert (numbers[:, 1:] == numbers[:, :-1]).float().mean() < 0.06
    for options in ({"benchmark": "MT10"}, {"benchmark": "ML10"}, {"benchmark": TWO}):
        suite = MetaWorldSuite(**options, num_goals=1, goal_draw=3)
        for split in ("train", "test"):
            for task in suite.tasks(split):
                assert task.goals == drawn[3][task.name]
    assert MetaWorldSuite("MT10", num_goals=1).protocol()["fixed_goals"] == [0] * 10
    assert MetaWorldSuite("MT10").protocol()["fixed_goals"] is None


def test_the_drawn_goal_is_the_goal_of_training_and_evaluation(rollout):
    suite = MetaWorldSuite(TWO, num_goals=1, goal_draw=11, horizon=3, workers=0)
    assert all(task.goals != (0,) for task in suite.tasks())  # these two would show a mistake
    for purpose in ("train", "evaluation"):
        with suite.vector(seed=4, purpose=purpose) as vector:
            td = rollout(vector, 9)
        for i, task in enumerate(suite.tasks()):
            seen = td["observation"][:, i, 36:].unique(dim=0)
            with MetaWorldSuite(TWO, horizon=3, workers=0).vector([task]) as other:
                assert torch.equal(seen, other.reset()["observation"][:, 36:])


def test_own_seeding_draws_different_goals_per_task(goals):
    suite = suite_of(goals, ["reach-v3", "push-v3", "reach-v3-twin"][:2], workers=0)
    task = suite.tasks()[0]
    for seeding, distinct in (("own", True), ("upstream", False)):
        suite._seeding = seeding
        twins = [replace(task, goals=tuple(range(10)))] * 4
        with suite.vector(twins, seed=1) as vector:
            drawn = {tuple(row) for row in vector.reset()["observation"][:, 36:].tolist()}
        assert (len(drawn) > 1) == distinct


@pytest.mark.parametrize(
    ("name", "train", "test"), [("ML10", 10, 5), ("ML25", 25, 5), ("ML45", 45, 5)]
)
def test_meta_learning_splits(name, train, test):
    suite = MetaWorldSuite(name)
    names = {split: {task.name for task in suite.tasks(split)} for split in ("train", "test")}
    assert len(names["train"]) == train and len(names["test"]) == test
    shared = names["train"] & names["test"]  # Meta-World 3.1.1's own ML25 has tasks in both
    assert not shared or name == "ML25"
    ids = [task.task_id for split in ("train", "test") for task in suite.tasks(split)]
    assert set(ids) == set(range(train + test - len(shared)))
    assert suite.spec.num_tasks == train and suite.goal_hidden


def test_ml1_hides_the_goal_and_splits_it(rollout):
    suite = MetaWorldSuite("ML1", task="reach-v3", horizon=5, workers=0)
    goals = suite.goals()
    train, test = ({tuple(v) for v in goals[split]["reach-v3"]} for split in ("train", "test"))
    assert len(train) == len(test) == 50 and not train & test
    for split in ("train", "test"):
        with suite.vector(suite.tasks(split)) as vector:
            td = rollout(vector, 12)
        assert (td["observation"][..., 36:] == 0).all()
        assert (td["next", "observation"][..., 36:] == 0).all()
    assert td["task_id"].unique().tolist() == [0]


@pytest.mark.slow
def test_ml10_on_both_splits(rollout):
    suite = MetaWorldSuite("ML10", horizon=5)
    for split in ("train", "test"):
        with suite.vector(suite.tasks(split)) as vector:
            td = rollout(vector, 12)
        assert (td["observation"][..., 36:] == 0).all() and td["next", "valid"].all()


def test_assigning_another_task_builds_its_simulator(goals, rollout, same):
    suite = suite_of(goals, TWO, horizon=4, workers=0)
    reach, drawer = first_goals(suite, 1)
    with suite.vector([reach]) as vector, suite.vector([drawer]) as other:
        rollout(vector, 3)
        vector.assign([drawer])
        vector.reset()
        state = vector.state_dict()
        expected = rollout(vector, 10, start=vector.current())
        other.load_state_dict(state)
        same(rollout(other, 10, start=other.current()), expected)
        vector.assign([reach])
        vector.reset()
        vector.load_state_dict(state)
        same(rollout(vector, 10, start=vector.current()), expected)


def test_a_killed_worker_and_a_snapshot_between_modes(goals, rollout, same):
    suite = suite_of(goals, TWO, workers=2)
    local = suite_of(goals, TWO, workers=0)
    with suite.vector(first_goals(suite)) as vector:
        rollout(vector, 5)
        kill(vector.worker_pids[1], signal.SIGKILL)
        td = rollout(vector, 3, start=vector.current())
        assert td["next", "valid"][..., 0].tolist() == [[True, False], [True, True], [True, True]]
        state = vector.state_dict()
        expected = rollout(vector, 30, start=vector.current())
        with local.vector(first_goals(suite)) as other:
            other.load_state_dict(state)
            same(rollout(other, 30, start=other.current()), expected)
            back = other.state_dict()
            expected = rollout(other, 30, start=other.current())
        vector.load_state_dict(back)
        same(rollout(vector, 30, start=vector.current()), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"benchmark": "MT11"}, "benchmark.*MT10"),
        ({"benchmark": "reach-v3"}, "benchmark.*did you mean"),
        ({"benchmark": ["reach-v2"]}, "benchmark.*'reach-v3'"),
        ({"benchmark": []}, "benchmark"),
        ({"benchmark": ["reach-v3", "reach-v3"]}, "benchmark.*different"),
        ({"benchmark": "MT1"}, "task"),
        ({"benchmark": "MT1", "task": "draw-close-v3"}, "task.*'drawer-close-v3'"),
        ({"benchmark": "MT10", "task": "reach-v3"}, "task"),
        ({"reward_version": "v3"}, "reward_version"),
        ({"reward_version": 2}, "reward_version"),
        ({"horizon": 501}, "horizon.*500"),
        ({"horizon": "500"}, "horizon"),
        ({"num_goals": 10}, "num_goals"),
        ({"goal_seed": -1}, "goal_seed"),
        ({"goal_seed": 1.5}, "goal_seed"),
        ({"goal_seed": 2**32}, "goal_seed.* to 4294967295"),
        ({"benchmark": "ML10", "goal_seed": 2**32 - 1}, "goal_seed.* to 4294967294"),
        ({"goal_draw": -1, "num_goals": 1}, "goal_draw"),
        ({"goal_draw": True, "num_goals": 1}, "goal_draw"),
        ({"goal_draw": 3}, "goal_draw.*num_goals 1"),
        ({"seeding": "mine"}, "seeding"),
        ({"workers": "all"}, "workers"),
        ({"timeout": "long"}, "timeout"),
    ],
)
def test_bad_arguments_name_themselves(arguments, message, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a simulator was built")

    monkeypatch.setattr("metaworld.sawyer_xyz_env.SawyerXYZEnv.__init__", refuse)
    with pytest.raises(ValueError, match=message):
        MetaWorldSuite(**arguments)


def test_protocol_names_what_decides_a_score():
    protocol = MetaWorldSuite("MT1", task="reach-v3", reward_version="v1").protocol()
    assert protocol == json.loads(json.dumps(protocol))
    assert protocol["benchmark"] == "MT1-reach-v3" and protocol["reward_version"] == "v1"
    assert MetaWorldSuite("MT25").spec.num_tasks == 25
    suite = MetaWorldSuite("MT50")
    assert [t.task_id for t in suite.tasks()] == list(range(50))
    assert suite.spec.task_names == tuple(t.name for t in suite.tasks()) == ALL_TASKS
    assert MetaWorldSuite("ML10").spec.task_names == tuple(metaworld.env_dict.ML10_V3["train"])
