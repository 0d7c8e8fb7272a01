"""The accelerated layer against upstream's own classes, bit for bit."""

import copy
import gc
import pickle
import weakref
from itertools import product

import metaworld
import numpy as np
import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP
from metaworld.utils import reward_utils

from envs import cheaper, sawyer, snapshot
from envs.manipulation import ManipulationEnv
from envs.meta_world import ALL_TASKS, MetaWorldSuite

ORDER = [0, 1, 0, 2, 1, 1, 0, 2, 2, 1, 0, 1]  # revisits come right away and after other goals


def upstream_task(name, goal, hidden=False):
    kind = ALL_V3_ENVIRONMENTS[name]
    data = {"rand_vec": goal, "env_cls": kind, "partially_observable": hidden}
    return metaworld.Task(name, pickle.dumps(data))


def pair(name, **options):
    kind = ALL_V3_ENVIRONMENTS[name]
    return kind(**options), sawyer.accelerate(kind)(**options)


def same_step(ours, theirs):
    """Observation, reward, flags and infos are the same values of the same types."""
    assert ours[0].dtype == theirs[0].dtype and np.array_equal(ours[0], theirs[0])
    assert ours[1:4] == theirs[1:4]
    assert [type(value) for value in ours[1:4]] == [type(value) for value in theirs[1:4]]
    assert ours[4] == theirs[4]
    assert [type(value) for value in ours[4].values()] == [type(v) for v in theirs[4].values()]


def same_reset(ours, theirs):
    (seen, info), (expected, expected_info) = ours.reset(), theirs.reset()
    assert seen.dtype == expected.dtype and np.array_equal(seen, expected)
    assert info == expected_info
    derived = [array for array in snapshot.DERIVED_ARRAYS if not array.startswith("site")]
    for array in (*derived, "time", "qpos", "qvel", "ctrl", "qacc_warmstart", "mocap_pos"):
        assert np.array_equal(getattr(ours.data, array), getattr(theirs.data, array)), array
    for array in snapshot.MODEL_ARRAYS:
        assert np.array_equal(getattr(ours.model, array), getattr(theirs.model, array)), array
    return expected


def run(ours, theirs, steps, behaviour, policy, rng):
    """One episode in both, by the same actions; the policy sees what upstream shows."""
    seen = same_reset(ours, theirs)
    for _ in range(steps):
        if behaviour == "uniform":
            action = rng.uniform(-1.5, 1.5, 4).astype(np.float32)
        else:
            action = policy.get_action(seen)  # of double precision, and far beyond [-1, 1]
        if behaviour == "noisy":
            action = (action + rng.normal(0, 0.5, 4)).astype(np.float32)
        expected = theirs.step(action)
        same_step(ours.step(action), expected)
        seen = expected[0]


def compare(name, goals, steps):
    theirs, ours = pair(name)
    policy, rng = ENV_POLICY_MAP[name](), np.random.default_rng(0)
    cases = product(("scripted", "noisy", "uniform"), ("v2", "v1"), (False, True))
    for goal, (behaviour, version, hidden) in zip(ORDER, cases, strict=True):
        for environment in (ours, theirs):
            environment.reward_function_version = version
            environment.set_task(upstream_task(name, goals[goal], hidden))
        run(ours, theirs, steps[behaviour], behaviour, policy, rng)
    assert len(ours._resets) == 7  # five of the twelve were repeated
    for environment in (ours, theirs):
        environment.close()


def test_a_task_is_unpickled_once_and_its_goal_is_nobody_elses():
    data = pickle.dumps({"rand_vec": np.zeros(3), "partially_observable": True})
    one, other = cheaper.loads(data), cheaper.loads(data)
    one["rand_vec"] += 1.0
    assert one.pop("partially_observable") and other["partially_observable"]
    assert not other["rand_vec"].any() and not cheaper.loads(data)["rand_vec"].any()


@pytest.mark.parametrize("name", ALL_TASKS)
def test_equals_upstream(goals, name):
    compare(name, goals["train"][name], {"scripted": 80, "noisy": 40, "uniform": 20})


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_TASKS)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_equals_upstream_over_full_episodes(goals, name, version):
    """Eight episodes of 500 steps: three scripted, three noisy, two uniform."""
    theirs, ours = pair(name, reward_function_version=version)
    policy, rng = ENV_POLICY_MAP[name](), np.random.default_rng(1)
    behaviours = ["scripted", "noisy", "uniform", "noisy", "scripted", "uniform"]
    for i, behaviour in enumerate([*behaviours, "scripted", "noisy"]):
        for environment in (ours, theirs):
            goal = goals["train"][name][(0, 4, 7, 4, 4, 0, 7, 0)[i]]
            environment.set_task(upstream_task(name, goal, hidden=i % 2 == 1))
        run(ours, theirs, 500, behaviour, policy, rng)


def test_upstream_is_untouched_and_the_option_turns_the_layer_off(goals, rollout, same):
    kind = ALL_V3_ENVIRONMENTS["door-open-v3"]
    before = dict(vars(kind)), dict(vars(kind.__mro__[1]))
    fast = sawyer.accelerate(kind)
    assert fast is sawyer.accelerate(kind) and issubclass(fast, kind)
    assert (dict(vars(kind)), dict(vars(kind.__mro__[1]))) == before
    assert kind.step.__module__ == "metaworld.sawyer_xyz_env"
    assert kind._reward_pos.__globals__["np"] is np
    assert fast._reward_pos.__globals__["np"] is not np
    assert fast.compute_reward.__globals__[kind.__name__] is fast
    numbers = goals["train"]["door-open-v3"]
    for accelerated, expected in ((True, fast), (False, kind)):
        made = ManipulationEnv(
            "door-open-v3", goals["train"]["door-open-v3"][:1], accelerated=accelerated
        )
        assert type(made.simulator) is expected
        assert made.simulator.task_name == kind.__name__
    runs = []
    for accelerated in (True, False):
        suite = MetaWorldSuite(["door-open-v3"], horizon=7, workers=0, accelerated=accelerated)
        suite._goals = {"train": {"door-open-v3": numbers * 5}}
        with suite.vector(seed=4) as vector:
            runs.append(rollout(vector, 30))
    same(*runs)


def test_the_limit_of_an_episode_is_upstreams(goals):
    theirs, ours = pair("reach-v3")
    for environment in (ours, theirs):
        with pytest.raises(RuntimeError, match="set_task"):
            environment.step(np.zeros(4, np.float32))
        environment.set_task(upstream_task("reach-v3", goals["train"]["reach-v3"][0]))
        with pytest.raises(AssertionError, match="size 4"):
            environment.step(np.zeros(3, np.float32))
        environment.reset()
    action = np.array([0.3, -0.2, 0.1, 1], np.float32)
    for environment in (ours, theirs):
        environment.curr_path_length = 498
    for truncated in (False, True):
        results = ours.step(action), theirs.step(action)
        same_step(*results)
        assert results[0][3] is truncated
    for environment in (ours, theirs):
        with pytest.raises(ValueError, match="reset"):
            environment.step(action)


@pytest.mark.parametrize("name", ["bin-picking-v3", "peg-insert-side-v3", "door-lock-v3"])
def test_snapshots_pass_between_both_and_survive_the_reset_cache(goals, name):
    """Taken in one kind of class, continued in the other, across resets with a cached goal."""
    numbers = goals["train"][name][:3]
    theirs = ManipulationEnv(name, numbers, accelerated=False)
    ours, fresh = ManipulationEnv(name, numbers), ManipulationEnv(name, numbers)
    rng = np.random.default_rng(2)
    for environment in (theirs, ours):
        for goal in (0, 1, 0):
            environment.reset(options={"goal": goal})
    for _ in range(30):
        action = rng.uniform(-1, 1, 4).astype(np.float32)
        same_step(ours.step(action), theirs.step(action))
    state = ours.snapshot()
    assert set(state["attributes"]) == set(theirs.snapshot()["attributes"])
    fresh.restore(theirs.snapshot())
    theirs.restore(state)
    ours.reset(options={"goal": 2})
    ours.restore(state)
    for goal in (None, 0, 2, 0):
        if goal is not None:
            expected = theirs.reset(options={"goal": goal})[0]
            for environment in (ours, fresh):
                seen, _ = environment.reset(options={"goal": goal})
                assert np.array_equal(seen, expected)
                seen[:] = 0  # the cache keeps its own
        for _ in range(25):
            action = rng.uniform(-1, 1, 4).astype(np.float32)
            expected = theirs.step(action)
            same_step(ours.step(action), expected)
            same_step(fresh.step(action), expected)


def test_named_access_is_live_and_lets_the_simulation_go(goals):
    theirs, ours = pair("pick-place-v3")
    for environment in (theirs, ours):
        environment.set_task(upstream_task("pick-place-v3", goals["train"]["pick-place-v3"][0]))
        for _ in range(2):
            environment.reset()
            before = environment.init_left_pad.copy()
            environment.step(np.ones(4, np.float32))
            pad = environment.data.xpos[environment.model.body("leftpad").id]
            assert np.array_equal(environment.init_left_pad, pad) and not np.array_equal(
                pad, before
            )
    data = ours.data
    assert data.body("hand").xpos is data.body("hand").xpos
    data.site("goal").xpos = [1, 2, 3]
    assert data.site_xpos[ours.model.site("goal").id].tolist() == [1, 2, 3]
    for lookup in (data.body, theirs.data.body):
        with pytest.raises(KeyError, match="nobody"):
            lookup("nobody")
    gone = weakref.ref(data)
    ours.close()
    del ours, environment, data, lookup
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_copies_are_upstreams(goals, copied):
    """A copy must not reset to views of the simulation it was copied from."""
    copies = []
    for environment in pair("pick-place-v3"):
        environment.set_task(upstream_task("pick-place-v3", goals["train"]["pick-place-v3"][0]))
        environment.reset()
        copies.append(copied(environment))
        assert type(copies[-1]) is type(environment)
    theirs, ours = copies
    for _ in range(2):
        same_reset(ours, theirs)
        for _ in range(5):
            action = np.ones(4, np.float32)
            same_step(ours.step(action), theirs.step(action))


def test_without_compiled_rotations(goals, monkeypatch):
    theirs, ours = pair("push-v3")
    monkeypatch.setattr(cheaper, "compiled_rotation", None)
    for environment in (theirs, ours):
        environment.set_task(upstream_task("push-v3", goals["train"]["push-v3"][0]))
    run(ours, theirs, 5, "uniform", None, np.random.default_rng(0))


@pytest.mark.parametrize("sigmoid", ["long_tail", "gaussian", "hyperbolic", "cosine"])
def test_tolerance_is_upstreams(sigmoid):
    """On both sides of the bounds and on them, with numbers of every kind; errors too."""
    rng = np.random.default_rng(0)
    points = [*rng.uniform(-1, 2, 300), -0.1, 0.0, 0.3, np.inf, np.nan, 1e200]
    for kind, margin in product((float, np.float64, np.float32), (0.0, 0.2, np.float64(0.7), 1)):
        for point in map(kind, points):
            arguments = (point, (0.0, 0.3), margin, sigmoid)
            with np.errstate(all="ignore"):
                ours = cheaper.tolerance(*arguments)
                theirs = reward_utils.tolerance(*arguments)
            assert type(ours) is type(theirs) and np.array_equal(ours, theirs, equal_nan=True)
    for bounds, margin in (((1.0, 0.0), 0.1), ((0.0, 1.0), -0.1)):
        with pytest.raises(ValueError):
            cheaper.tolerance(0.5, bounds, margin, sigmoid)


def test_norm_clip_and_hstack_are_numpys():
    rng = np.random.default_rng(0)
    block = rng.normal(size=(200, 3))
    for row in (*block, *block.T[:, ::7], block, np.float32(block[0]), block[0, 0], 2.5, [3, 4.0]):
        for ours, theirs in (
            (cheaper.norm(row), np.linalg.norm(row)),
            (cheaper.clip(row, -0.5, 0.5), np.clip(row, -0.5, 0.5)),
            (cheaper.hstack((row, row)), np.hstack((row, row))),
        ):
            assert type(ours) is type(theirs) and np.array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype
    assert cheaper.norm(block[0], ord=2) == np.linalg.norm(block[0], ord=2)
    assert cheaper.norm(block[0], 1) == np.linalg.norm(block[0], 1)


def test_without_a_frozen_goal_every_reset_is_upstreams():
    theirs, ours = pair("push-v3")
    for environment in (theirs, ours):
        environment.set_task(upstream_task("push-v3", np.zeros(6)))
        environment._freeze_rand_vec, environment.seeded_rand_vec = False, True
        environment.seed(5)
    for _ in range(3):
        same_reset(ours, theirs)
    assert not ours._resets


@pytest.mark.gl
def test_pictures_are_the_same(goals, gl):
    theirs, ours = pair("drawer-open-v3", render_mode="rgb_array", width=64, height=48)
    pictures = []
    for environment in (theirs, ours):
        environment.set_task(upstream_task("drawer-open-v3", goals["train"]["drawer-open-v3"][0]))
        for _ in range(2):
            environment.reset()
            environment.step(np.ones(4, np.float32))
        pictures.append(environment.render())
        environment.close()
    assert pictures[0].any() and np.array_equal(*pictures)
