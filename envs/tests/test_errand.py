from dataclasses import replace

import numpy as np
import pytest

from envs.changes import LocationChange, TimedChange
from envs.errand import Errand
from envs.robots import RobotSuite


def made(benchmark, split="train", name=None, **rest):
    suite = RobotSuite(benchmark, workers=0, **rest)
    tasks = {task.name: task for task in suite.tasks(split)}
    task = tasks[name] if name else suite.tasks(split)[0]
    return suite.build([task])(task)


def actions(environment, steps, seed=0):
    size = (steps, environment.action_space.shape[0])
    return np.random.default_rng(seed).uniform(-1, 1, size).astype(np.float32)


def begin(environment, goal=0, seed=3):
    options = {"goal": goal, "rng": np.random.default_rng(seed)}
    return environment.reset(options=options)[0]


def still(environment):
    return environment.step(np.zeros(environment.action_space.shape, dtype=np.float32))


def told(info):
    return info["task_id"], tuple(info["specification"].tolist()), info["task_changed"]


def test_an_errand_without_change_draws_as_many_numbers_as_the_start_needs():
    stream, other = np.random.default_rng(5), np.random.default_rng(5)
    environment = made("cheetah-velocity")
    environment.reset(options={"goal": 7, "rng": stream})
    other.uniform(size=9)
    other.standard_normal(9)
    assert stream.random() == other.random()
    *_, info = still(environment)
    assert told(info) == (0, (environment._tables[0][7][0],), False)


def test_invariant_5_timed_change_draws_from_the_split_and_reset_restores():
    change = TimedChange(steps=8)
    for split in ("train", "test"):
        environment = made("cheetah-families", split, "jump", change=change)
        known = {(i, *row) for i, rows in enumerate(environment._tables) for row in rows}
        other = made("cheetah-families", "test" if split == "train" else "train")
        foreign = {(i, *row) for i, rows in enumerate(other._tables) for row in rows}
        seen, segments = [], []
        for episode in range(3):
            begin(environment, goal=2, seed=episode)
            for t in range(56):
                *_, info = still(environment)
                task_id, row, changed = told(info)
                seen.append((task_id, *row))
                assert not changed or t % 8 == 0
                if t < 8:
                    assert task_id == 7 and row == tuple(environment._tables[7][2])
                if changed:
                    segments.append((episode, t))
        assert set(seen) <= known - foreign
        assert len(segments) >= 16 and len(set(seen)) > 10  # 6 an episode, but for equal draws


def test_the_reward_is_of_the_new_task_from_the_step_of_the_change_on():
    environment = made("cheetah-families", name="goal_forward", change=TimedChange(steps=5))
    plain = made("cheetah-families", name="goal_forward")
    first, second = begin(environment), begin(plain)
    assert np.array_equal(first, second)
    for t, action in enumerate(actions(environment, 12)):
        observation, reward, *_, info = environment.step(action)
        same, expected, *_ = plain.step(action)
        assert np.array_equal(observation, same)  # the state goes on
        family = environment._plan.families[info["task_id"]]
        paid = family.term(environment._body, info["specification"])
        assert reward == pytest.approx(paid - 0.05 * float(action @ action), abs=1e-6)
        assert (reward == expected) == (t < 5)
        assert info["task_changed"] == (t in (5, 10))


def test_invariant_5_a_mark_turns_a_direction_once():
    change = LocationChange(distance=10.0, interval=2.0)
    environment = made("cheetah-direction", change=change)
    for goal in (0, 1):
        begin(environment, goal)
        ahead = environment._clock["ahead"]
        data, rows = environment._body.data, []
        for t in range(9):
            if t == 3:
                data.qpos[0] = ahead + 0.5  # noticed at the start of step 4
            *_, info = still(environment)
            rows.append(told(info))
        sign = 1.0 if goal == 0 else -1.0
        turned = [(0, (-1.0,), goal == 0)]
        assert rows[:4] == [(0, (sign,), False)] * 4
        assert rows[4:] == turned + [(0, (-1.0,), False)] * 4
        assert ahead + 10 <= environment._clock["ahead"] <= ahead + 12
        data.qpos[0] = environment._clock["behind"] - 0.5
        still(environment)
        assert told(still(environment)[4]) == (0, (1.0,), True)
        assert told(still(environment)[4]) == (0, (1.0,), False)
        begin(environment, goal)
        assert told(still(environment)[4]) == (0, (sign,), False)


def test_marks_give_other_tasks_another_goal_of_the_list():
    environment = made("cheetah-velocity", "test", change=LocationChange(), span=(0.5, 3.0))
    begin(environment, 4)
    goals = set()
    for mark in ("ahead", "behind") * 4:
        factor = 1.0 if mark == "ahead" else -1.0
        environment._body.data.qpos[0] = environment._clock[mark] + factor
        still(environment)
        *_, info = still(environment)
        assert info["task_changed"]
        goals.add(float(info["specification"][0]))
    listed = set(environment._tables[0][:, 0].tolist())
    assert len(goals) > 5 and goals <= listed and len(listed) == 30


def test_a_leg_fails_once():
    change = TimedChange(steps=11, probability=0.2)
    lengths, legs = [], []
    environment = made("ant-limp", change=change, terminates=False)
    for seed in range(12):
        begin(environment, seed=seed)
        rows = [told(still(environment)[4]) for _ in range(60)]
        changes = [t for t, row in enumerate(rows) if row[2]]
        assert len(changes) == 1  # and it does not heal
        assert all(row[:2] == (0, (0.0,) * 4) for row in rows[: changes[0]])
        assert {row[:2] for row in rows[changes[0] :]} == {rows[-1][:2]} and rows[-1][0] == 1
        lengths.append(changes[0])
        legs.append(rows[-1][1].index(1.0))
        dead = environment._plan.families[1].outfit.legs[legs[-1]]
        assert np.flatnonzero(environment._body.strength == 0).tolist() == list(dead)
    assert min(lengths) >= 11 and len(set(lengths)) > 3 and set(legs) == {0, 1, 2}
    test = made("ant-limp", "test", change=TimedChange(steps=1))
    begin(test)
    still(test)
    assert told(still(test)[4]) == (1, (0.0, 0.0, 0.0, 1.0), True)


CASES = {
    "cheetah-families": {"change": TimedChange(steps=7, probability=0.5)},
    "cheetah-mass": {"change": TimedChange(steps=6)},
    "cheetah-direction": {"change": LocationChange(distance=0.04, interval=0.02)},
    "ant-limp": {"change": TimedChange(steps=5, probability=0.3), "terminates": False},
    "walker-parameters": {"change": TimedChange(steps=9), "terminates": False},
    "hopper-velocity": {"change": TimedChange(steps=9)},
    "humanoid-direction": {"terminates": False},
}


@pytest.mark.parametrize("benchmark", CASES)
def test_snapshots_are_exact_in_the_middle_of_a_changing_episode(benchmark):
    environment, other = (made(benchmark, **CASES[benchmark]) for _ in range(2))
    begin(environment)
    changes = 0
    for moment in range(5):
        for action in actions(environment, 4, seed=moment):
            environment.step(action)
        state = environment.snapshot()
        runs = []
        for again in (environment, other, environment):
            begin(again, seed=9)
            again.step(actions(again, 1)[0])
            again.restore(state)
            again._body.data.qvel[0] = 2.0  # a push towards the mark
            rows = [again.step(action) for action in actions(again, 12, seed=70 + moment)]
            runs.append([(*row[0], row[1], row[2], *told(row[4])) for row in rows])
            changes += sum(row[4]["task_changed"] for row in rows)
        assert runs[0] == runs[1] == runs[2]
        environment.restore(state)
    assert changes > 0 or "change" not in CASES[benchmark]


def test_a_state_of_tasks_that_change_in_another_way_is_refused():
    ways = {"never": {}, "timed": {"change": TimedChange()}, "placed": {"change": LocationChange()}}
    made_of = {name: made("cheetah-direction", **options) for name, options in ways.items()}
    states = {}
    for name, environment in made_of.items():
        begin(environment)
        states[name] = environment.snapshot()
    for name, environment in made_of.items():
        for other, state in states.items():
            if name == other:
                environment.restore(state)
                continue
            with pytest.raises(ValueError, match="change in another way"):
                environment.restore(state)


def test_the_stream_of_an_episode_decides_its_changes():
    environment = made("cheetah-velocity", change=TimedChange(steps=2))
    runs = []
    for seed in (1, 2, 1):
        begin(environment, seed=seed)
        runs.append([told(still(environment)[4]) for _ in range(12)])
    assert runs[0] == runs[2] != runs[1]


@pytest.mark.parametrize(
    ("benchmark", "own"), [("walker-parameters", True), ("cheetah-mass", True), ("ant-limp", False)]
)
def test_a_model_is_shared_unless_tasks_alter_it(benchmark, own):
    first, second = made(benchmark), made(benchmark)
    assert (first._body.model is not second._body.model) == own


def test_an_episode_ends_where_the_plan_says_so():
    environment = made("walker-parameters")
    begin(environment)
    environment._body.data.qpos[1] = 0.5
    assert still(environment)[2]
    assert Errand(replace(environment._plan, alive=None), "train", 0).reset(seed=0)
    lasting = made("walker-parameters", terminates=False)
    begin(lasting)
    lasting._body.data.qpos[1] = 0.5
    *_, terminated, truncated, _ = still(lasting)
    assert not terminated and not truncated
