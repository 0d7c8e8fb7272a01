import numpy as np
import pytest
import torch

from envs.episodes import Task
from envs.point_robot import ALONG, DISTANCE, RELATIVE, PointRobot, point_goal

TABLES = {
    "train": [np.array([[0.3, 0.4], [-0.6, 0.8]]), np.array([[1.0, 0.0], [-1.0, 0.0]])],
    "test": [np.array([[0.0, -0.5]]), np.array([[1.0, 0.0]])],
}
RNG = np.random.default_rng


def robot(kinds=(RELATIVE, ALONG), start=0.0, radius=None, change_steps=0):
    return PointRobot(kinds, start, radius, TABLES, change_steps)


def goals(*places):
    rows = [point_goal(TABLES, Task("", i, split), number) for split, i, number in places]
    return torch.from_numpy(np.stack(rows))


FOUR = goals(("train", 0, 0), ("train", 0, 1), ("train", 1, 0), ("train", 1, 1))


def test_goal_rows():
    assert goals(("test", 0, 0), ("train", 1, 1)).tolist() == [[1, 0, 0, -0.5], [0, 1, -1, 0]]
    assert FOUR.dtype == torch.float32


def test_invariant_1_rewards_by_hand():
    dynamics = robot()
    state, seen = dynamics.begin(FOUR, RNG(0))
    assert torch.equal(seen, torch.zeros(4, 2))
    action = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 1.0], [0.5, 0.0]])
    state, outcome = dynamics.step(state, action, RNG(0))
    assert torch.allclose(outcome.observation, 0.1 * action)
    expected = [-np.hypot(0.2, 0.4) / 0.5, -np.hypot(0.6, 0.7), 0.5, -0.5]
    assert torch.allclose(outcome.reward, torch.tensor(expected).float(), atol=1e-6)
    assert outcome.told["task_id"].tolist() == [0, 0, 1, 1]
    assert torch.equal(outcome.told["specification"], FOUR[:, 2:])
    assert not (outcome.terminated | outcome.success | outcome.told["task_changed"]).any()
    plain = robot(kinds=(DISTANCE, ALONG))
    _, outcome = plain.step(plain.begin(FOUR, RNG(0))[0], action, RNG(0))
    assert float(outcome.reward[0]) == pytest.approx(-np.hypot(0.2, 0.4), abs=1e-6)


def test_equals_a_plain_loop():
    dynamics, rng = robot(start=0.1, change_steps=3), RNG(0)
    pools = {
        split: [(i, *row) for i, rows in enumerate(tables) for row in rows]
        for split, tables in TABLES.items()
    }
    both = torch.cat([FOUR, goals(("test", 0, 0), ("test", 1, 0))])
    stream, own = RNG(7), RNG(7)
    state, seen = dynamics.begin(both, stream)
    position = 0.1 * own.uniform(-1, 1, (6, 2))
    assert torch.allclose(seen.double(), torch.from_numpy(position), atol=1e-7)
    tasks = [(int(row[1]), float(row[2]), float(row[3])) for row in both]
    for t in range(14):
        action = rng.uniform(-1, 1, (6, 2)).astype(np.float32)
        state, outcome = dynamics.step(state, torch.from_numpy(action), stream)
        draws = own.random(6)
        for i in range(6):
            before = tasks[i]
            if t and t % 3 == 0:
                pool = pools["train" if i < 4 else "test"]
                tasks[i] = pool[int(draws[i] * len(pool))]
            base, *goal = tasks[i]
            after = position[i] + 0.1 * action[i]
            reward = -np.linalg.norm(after - goal) / np.linalg.norm(goal)
            if base == 1:
                reward = 10 * goal[0] * (after[0] - position[i][0])
            position[i] = after
            assert float(outcome.reward[i]) == pytest.approx(reward, abs=1e-5)
            assert int(outcome.told["task_id"][i]) == base
            assert bool(outcome.told["task_changed"][i]) == (tasks[i] != before)
        assert torch.allclose(outcome.observation.double(), torch.from_numpy(position), atol=1e-6)


def test_invariant_7_sparse_rewards_inside_the_radius_alone():
    dynamics = robot(kinds=(DISTANCE, DISTANCE), radius=0.2)
    goal = FOUR[:1].expand(300, 4)
    state, _ = dynamics.begin(goal, RNG(0))
    state["position"] = torch.from_numpy(RNG(0).uniform(-0.1, 0.7, (300, 2))).float()
    _, outcome = dynamics.step(state, torch.zeros(300, 2), RNG(0))
    distance = (state["position"] - goal[:, 2:]).norm(dim=-1)
    sparse, inside = outcome.told["sparse_reward"], distance <= 0.2
    assert 20 < inside.sum() < 280
    assert (sparse[~inside] == 0).all() and torch.equal(sparse[inside], 1 - distance[inside])
    assert sparse[inside].min() >= 0.8 - 1e-6 and sparse.max() <= 1
    assert torch.equal(outcome.reward, -distance)  # the dense one is as ever


def test_starts_are_uniform_in_a_square():
    for start in (0.0, 0.1, 1.0):
        _, seen = robot(start=start).begin(FOUR[:1].expand(4000, 4), RNG(0))
        assert seen.abs().max() <= start
        assert seen.std(0).tolist() == pytest.approx([start / 3**0.5] * 2, rel=0.05)


def test_all_rows_draw_the_same_number_of_random_numbers():
    for change_steps in (0, 2):
        dynamics = robot(start=1.0, change_steps=change_steps)
        streams = RNG(1), RNG(1)
        for goal, stream in zip((FOUR[:2], FOUR[2:]), streams, strict=True):
            state, _ = dynamics.begin(goal, stream)
            for _ in range(5):
                state, _ = dynamics.step(state, torch.zeros(2, 2), stream)
        assert streams[0].random() == streams[1].random()


def test_functions_leave_their_arguments_as_they_are():
    dynamics = robot(start=1.0, radius=0.2, change_steps=1)
    state, _ = dynamics.begin(FOUR, RNG(0))
    for _ in range(4):
        before = {name: value.clone() for name, value in state.items()}
        after, outcome = dynamics.step(state, torch.ones(4, 2), RNG(0))
        assert all(torch.equal(state[name], value) for name, value in before.items())
        tensors = (outcome.observation, outcome.reward, outcome.told["sparse_reward"])
        assert {tensor.dtype for tensor in tensors} == {torch.float32}
        state = after
