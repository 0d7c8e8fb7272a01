"""The accelerated layer against upstream's own classes, bit for bit."""

import pickle
from itertools import product

import metaworld
import numpy as np
import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP
from metaworld.utils import reward_utils

from envs import sawyer, snapshot
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
    for array in (*snapshot.DERIVED_ARRAYS, "qacc_warmstart", "mocap_pos", "mocap_quat", "ctrl"):
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
    for environment in (ours, theirs):
        environment.close()


@pytest.mark.parametrize("name", ALL_TASKS)
def test_equals_upstream(goals, name):
    compare(name, goals["train"][name], {"scripted": 120, "noisy": 60, "uniform": 30})


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
