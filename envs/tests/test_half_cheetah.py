from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

from envs.cheetah import build
from envs.half_cheetah import HalfCheetahSuite
from envs.numbered import ENDLESS


def single(kind="direction"):
    suite = HalfCheetahSuite(kind)
    (task,) = suite.tasks()
    return suite.build([task])(task)


def actions(steps, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (steps, 6)).astype(np.float32)


def episode(environment, goal, steps=40, seed=3):
    options = {"goal": goal, "rng": np.random.default_rng(seed)}
    observation, _ = environment.reset(options=options)
    rows = [environment.step(action) for action in actions(steps)]
    return observation, rows


def test_physics_are_those_of_half_cheetah_v5():
    upstream, ours = gymnasium.make("HalfCheetah-v5").unwrapped, single()
    first, _ = upstream.reset(seed=5)
    seen, _ = ours.reset(seed=5)  # the noise is drawn alike
    assert np.array_equal(seen[:17], first)
    for action in actions(200):
        observation, reward, _, _, info = upstream.step(action)
        seen, mine, _, _, own = ours.step(action)
        assert np.array_equal(seen[:17], observation)
        assert own["reward_forward"] == info["reward_forward"]
        assert own["reward_ctrl"] == pytest.approx(info["reward_ctrl"] / 2, rel=1e-6)
        assert mine == own["reward_forward"] + own["reward_ctrl"]
        # The torso's frame as the simulator left it, which is not where qpos is by now.
        assert np.array_equal(seen[17:], upstream.data.body("torso").xpos)
    assert seen[17] != upstream.data.qpos[0]
    upstream.close()


def test_observation_layout():
    environment = single()
    data = environment._data
    for action in (None, *actions(2)):
        if action is None:
            observation, _ = environment.reset(options={"goal": 0})
        else:
            observation = environment.step(action)[0]
        assert observation.shape == (20,)
        assert np.array_equal(observation[:8], data.qpos[1:])
        assert np.array_equal(observation[8:17], data.qvel)
        assert observation[18] == 0.0
    # After a reset nothing lags behind: x as in qpos, z above the floor by the body's offset.
    observation, _ = environment.reset(options={"goal": 0})
    assert observation[17] == data.qpos[0]
    assert observation[19] == pytest.approx(data.qpos[1] + 0.7)


def test_opposite_directions_earn_opposite_rewards_but_for_the_control_cost():
    environment = single()
    (first, forward), (again, backward) = episode(environment, 0), episode(environment, 1)
    assert np.array_equal(first, again)
    for ahead, back, action in zip(forward, backward, actions(40), strict=True):
        assert np.array_equal(ahead[0], back[0])
        control = 0.05 * float((action.astype(float) ** 2).sum())
        assert ahead[1] + back[1] == pytest.approx(-2 * control, abs=1e-12)
        assert ahead[4]["reward_ctrl"] == pytest.approx(-control, abs=1e-12)
        assert (ahead[4]["task"], back[4]["task"]) == (1.0, -1.0)
    x = environment._data.qpos[0]
    environment.reset(options={"goal": 0, "rng": np.random.default_rng(3)})
    start = environment._data.qpos[0]
    gained = sum(row[4]["reward_forward"] for row in forward)
    assert gained == pytest.approx((x - start) / 0.05, rel=1e-9)  # displacement over dt


def test_velocity_rewards():
    environment = single("velocity")
    suite = HalfCheetahSuite("velocity")
    (task,) = suite.tasks()
    for goal in (0, 7, 123456789):
        _, rows = episode(environment, goal)
        target = rows[0][4]["task"]
        direction = single()
        _, plain = episode(direction, 0)
        for row, other in zip(rows, plain, strict=True):
            velocity = other[4]["reward_forward"]
            assert row[4]["reward_forward"] == -abs(velocity - target) and row[1] <= 0
            assert row[4]["reward_ctrl"] == other[4]["reward_ctrl"]
    goals = np.array([environment._goal_of(number) for number in range(2000)])
    assert goals.min() >= 0 and goals.max() <= 2 and abs(goals.mean() - 1) < 0.04
    assert abs(goals.std() - 2 / 12**0.5) < 0.03 and len(set(goals)) == 2000
    sequence = np.random.SeedSequence(42, spawn_key=(0, 7))
    assert goals[7] == np.random.Generator(np.random.PCG64(sequence)).uniform(0, 2)
    faster = build("velocity", 42, 3.0, task)
    assert faster._goal_of(7) == pytest.approx(1.5 * goals[7])
    assert build("velocity", 42, 2.0, replace(task, split="test"))._goal_of(7) != goals[7]


def test_no_action_costs_nothing_and_standing_still_misses_the_velocity():
    environment = single("velocity")
    environment.reset(options={"goal": 3})
    total = 0.0
    for _ in range(200):
        _, reward, terminated, truncated, info = environment.step(np.zeros(6, dtype=np.float32))
        assert info["reward_ctrl"] == 0.0 and not terminated and not truncated
        total += reward
    assert total == pytest.approx(-200 * info["task"], rel=0.25)  # it drifts a little


def test_reset_statistics():
    environment, rng = single(), np.random.default_rng(0)
    states = []
    for _ in range(1500):
        environment.reset(options={"goal": 0, "rng": rng})
        states.append(np.concatenate([environment._data.qpos, environment._data.qvel]))
    position, velocity = np.split(np.array(states), 2, axis=1)
    assert np.abs(position).max() <= 0.1 and np.abs(position).max() > 0.0999
    assert np.abs(position.mean(0)).max() < 5 * 0.1 / 3**0.5 / 1500**0.5
    assert np.abs(position.std(0) / (0.1 / 3**0.5) - 1).max() < 0.06
    assert np.abs(velocity.mean(0)).max() < 5 * 0.1 / 1500**0.5
    assert np.abs(velocity.std(0) / 0.1 - 1).max() < 0.1 and np.abs(velocity).max() > 0.3


def test_a_reset_depends_on_nothing_before():
    fresh, used = single(), single()
    episode(used, 1, seed=8)
    (a, rows), (b, others) = episode(fresh, 0), episode(used, 0)
    assert np.array_equal(a, b)
    for row, other in zip(rows, others, strict=True):
        assert np.array_equal(row[0], other[0]) and row[1] == other[1]


def test_snapshot_is_exact():
    """At 30 moments in a row, in the air and on the floor."""
    environment, other = single(), single()
    episode(environment, 1)
    for moment in range(30):
        state = environment.snapshot()
        expected = [environment.step(action) for action in actions(15, seed=moment)]
        for restored in (other, environment):
            restored.reset(options={"goal": 0})
            restored.restore(state)
            for action, wanted in zip(actions(15, seed=moment), expected, strict=True):
                row = restored.step(action)
                assert np.array_equal(row[0], wanted[0]) and row[1:] == wanted[1:]
        environment.restore(state)
        environment.step(actions(1, seed=100 + moment)[0])


def test_both_modes_and_snapshots_across_them(rollout, same):
    runs, states = [], []
    for workers in (0, 2):
        suite = HalfCheetahSuite("velocity", horizon=15, workers=workers)
        tasks = suite.sample(4, "train", np.random.default_rng(0))
        with suite.vector(tasks, seed=3) as vector:
            first = rollout(vector, 20)
            states.append(vector.state_dict())
            vector.assign(suite.sample(4, "test", np.random.default_rng(1)))
            runs.append([first, rollout(vector, 20, start=vector.current()), rollout(vector, 5)])
            vector.load_state_dict(states[0])
            runs[-1].append(rollout(vector, 20, seed=2, start=vector.current()))
    for one, other in zip(*runs, strict=True):
        same(one, other)
    td = runs[0][0]
    assert td["next", "done"][..., 0].any(1).nonzero()[:, 0].tolist() == [14]
    assert td["next", "truncated"][14].all() and not td["next", "terminated"].any()
    assert not td["next", "success"].any() and td["next", "valid"].all()
    assert len(td["observation"][0].unique(dim=0)) == 4  # a stream of starts each


def test_episodes_last_two_hundred_steps_and_then_rest(rollout):
    suite = HalfCheetahSuite(workers=0)
    with suite.vector(
        suite.sample(2, "train", np.random.default_rng(0)), autoreset=False
    ) as vector:
        td = rollout(vector, 203)
    assert td["next", "valid"][..., 0].sum(0).tolist() == [200, 200]
    assert td["observation"].shape == (203, 2, 20)


def test_directions_are_two_goals():
    suite = HalfCheetahSuite()
    for split in ("train", "test"):
        (task,) = suite.tasks(split)
        assert task.goals == (0, 1) and task.name == "half-cheetah-direction"
        drawn = [task.goals[0] for task in suite.sample(400, split, np.random.default_rng(0))]
        assert set(drawn) == {0, 1} and abs(sum(drawn) - 200) < 40
    velocity = HalfCheetahSuite("velocity")
    assert len(velocity.numbers(velocity.tasks()[0])) == ENDLESS
    assert velocity.name == "half-cheetah-velocity"


def test_a_simulation_that_explodes_is_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MuJoCo writes its log
    environment = single()
    environment.reset(options={"goal": 0})
    assert not environment.step(actions(1)[0])[4]["unstable"]
    environment._data.qvel[3] = 1e12
    assert environment.step(actions(1)[0])[4]["unstable"]
    environment.reset(options={"goal": 0})
    assert not environment.step(actions(1)[0])[4]["unstable"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"kind": "sideways"}, "kind"),
        ({"horizon": 0}, "horizon"),
        ({"max_velocity": -1.0}, "max_velocity"),
        ({"max_velocity": "2"}, "max_velocity"),
        ({"goal_seed": -1}, "goal_seed"),
        ({"workers": -1}, "workers"),
    ],
)
def test_bad_arguments_name_themselves(arguments, word):
    with pytest.raises(ValueError, match=word):
        HalfCheetahSuite(**arguments)


def test_clipping_comes_before_the_control_cost():
    suite = HalfCheetahSuite(workers=0)
    task = replace(suite.tasks()[0], goals=(0,))
    rewards = []
    for scale in (1.0, 5.0):
        with suite.vector([task]) as vector:
            td = vector.reset()
            td["action"] = torch.full((1, 6), scale)
            rewards.append(vector.step(td)["next", "reward"].item())
    assert rewards[0] == rewards[1]
