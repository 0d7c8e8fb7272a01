from dataclasses import replace

import numpy as np
import pytest
import torch

from envs.navigation import Navigation, NavigationSuite, navigation_goal

SIDE = 64  # of the grid of goals


def walk(goal, policy, steps):
    """States, rewards and ends of one point, by a plain loop over the equations."""
    state, rows = np.zeros(2), []
    for _ in range(steps):
        state = state + np.clip(policy(state), -0.1, 0.1)
        ended = bool((np.abs(state - goal) < 0.01).all())
        rows.append((state, -np.sqrt(((state - goal) ** 2).sum()), ended))
        if ended:
            break
    return rows


def episode(goal, policy):
    """The same through the dynamics; observations, rewards, ends."""
    rng, rows = np.random.default_rng(0), []
    state, observation = Navigation().begin(torch.tensor([goal]), rng)
    assert torch.equal(observation, torch.zeros(1, 2))
    for _ in range(100):
        state, outcome = Navigation().step(state, policy(observation), rng)
        observation = outcome.observation
        rows.append([*outcome.observation[0].tolist(), float(outcome.reward)])
        assert torch.equal(outcome.terminated, outcome.success)
        if outcome.terminated:
            break
    return torch.tensor(rows)


def test_golden_trace_straight_to_the_goal():
    goal = torch.tensor([0.25, -0.15])
    rows = episode(goal.tolist(), lambda seen: goal - seen)
    assert torch.allclose(rows[:, 0], torch.tensor([0.1, 0.2, 0.25]))
    assert torch.allclose(rows[:, 1], torch.tensor([-0.1, -0.15, -0.15]))
    assert torch.allclose(rows[:, 2], torch.tensor([-0.158114, -0.05, 0.0]), atol=1e-6)
    assert float(rows[:, 2].sum()) == pytest.approx(-0.208114, abs=1e-6)


def test_golden_return_of_standing_still():
    rows = episode([0.3, 0.4], torch.zeros_like)
    assert len(rows) == 100 and torch.allclose(rows[:, 2], torch.tensor(-0.5))
    assert float(rows[:, 2].sum()) == pytest.approx(-50.0, abs=1e-4)


def test_the_horizon_truncates_and_the_goal_terminates():
    suite = NavigationSuite()
    tasks = suite.sample(3, "train", np.random.default_rng(0))
    goal = torch.from_numpy(np.stack([suite.goals(task, task.goals[0]) for task in tasks]))
    goal[2] = goal[2].clamp(0.4, 0.4)  # the third goes elsewhere
    with suite.vector(tasks, autoreset=False) as vector:
        td, lengths = vector.reset(), torch.zeros(3)
        for _ in range(100):
            td = vector.current()
            td["action"] = goal - td["observation"]
            lengths += vector.step(td)["next", "valid"][:, 0]
    assert td["next", "terminated"][:, 0].tolist() == [True, True, False]
    assert td["next", "truncated"][:, 0].tolist() == [False, False, True]
    assert lengths[2] == 100 and lengths[:2].max() <= 6


def test_the_action_is_clipped_and_not_scaled():
    state, _ = Navigation().begin(torch.zeros(4, 2), np.random.default_rng(0))
    action = torch.tensor([[0.05, -0.02], [0.1, -0.1], [0.5, -1.0], [30.0, 0.0]])
    _, outcome = Navigation().step(state, action, np.random.default_rng(0))
    expected = [[0.05, -0.02], [0.1, -0.1], [0.1, -0.1], [0.1, 0.0]]
    assert torch.equal(outcome.observation, torch.tensor(expected))


def test_goal_box_is_a_square_of_both_coordinates():
    """Closer than 0.01 in each coordinate, not in distance."""
    near = torch.tensor([[0.0095, 0.0095], [0.0105, 0.0], [0.0, -0.0105], [-0.0095, 0.0]])
    state, _ = Navigation().begin(near, np.random.default_rng(0))
    _, outcome = Navigation().step(state, torch.zeros(4, 2), np.random.default_rng(0))
    assert outcome.terminated.tolist() == [True, False, False, True]


def test_the_edge_of_the_goal_box_is_outside():
    edge = torch.tensor(0.01)
    inside = torch.nextafter(edge, torch.tensor(0.0))
    goal = torch.stack([torch.stack([x, y]) for x in (edge, -inside) for y in (-edge, inside)])
    state, _ = Navigation().begin(goal, np.random.default_rng(0))
    _, outcome = Navigation().step(state, torch.zeros(4, 2), np.random.default_rng(0))
    assert outcome.terminated.tolist() == outcome.success.tolist() == [False] * 3 + [True]


def test_equals_a_plain_loop():
    suite, rng = NavigationSuite(horizon=60), np.random.default_rng(3)
    tasks = suite.sample(50, "test", rng)
    noise = rng.normal(size=(60, 50, 2)).astype(np.float32)
    with suite.vector(tasks, autoreset=False) as vector:
        vector.reset()
        steps = []
        for action in noise:
            td = vector.current()
            td["action"] = torch.from_numpy(action)
            steps.append(vector.step(td)["next"])
    td = torch.stack(steps)
    for row, task in enumerate(tasks):
        goal = suite.goals(task, task.goals[0]).astype(np.float64)
        actions = iter(noise[:, row].astype(np.float64))
        expected = walk(goal, lambda state, actions=actions: next(actions), 60)
        valid = int(td["valid"][:, row].sum())
        assert valid == len(expected)
        states, rewards, ends = zip(*expected, strict=True)
        assert np.allclose(td["observation"][:valid, row], np.stack(states), atol=1e-5)
        assert np.allclose(td["reward"][:valid, row, 0], rewards, atol=1e-5)
        assert td["terminated"][:valid, row, 0].tolist() == list(ends)


@pytest.mark.parametrize(
    ("aim", "std", "expected", "error"),
    [
        ("origin", 0.0, -38.4, 0.25),
        ("origin", 0.1, -39.1, 0.25),
        ("origin", 0.3, -41.0, 0.25),
        ("goal", 0.0, -0.51, 0.01),
        ("goal", 0.01, -0.54, 0.01),
        ("goal", 0.03, -1.03, 0.02),
        ("goal", 0.05, -2.36, 0.04),
        ("goal", 0.1, -5.75, 0.1),
    ],
)
def test_reference_returns_of_simple_policies(aim, std, expected, error):
    """The specification's figures for staying at the origin and for going to the known goal.

    Goals lie on a grid in place of random ones.
    """
    line = (torch.arange(SIDE) + 0.5) / SIDE - 0.5
    goal = torch.cartesian_prod(line, line)
    target = goal if aim == "goal" else torch.zeros_like(goal)
    noise, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    state, observation = Navigation().begin(goal, rng)
    returns, lengths = torch.zeros(len(goal)), torch.zeros(len(goal))
    going = torch.ones(len(goal), dtype=torch.bool)
    for _ in range(100):
        wish = torch.randn(len(goal), 2, generator=noise) * std
        state, outcome = Navigation().step(state, target - observation + wish, rng)
        observation = outcome.observation
        returns += outcome.reward * going
        lengths += going
        going &= ~outcome.terminated
    assert float(returns.mean()) == pytest.approx(expected, abs=error)
    if (aim, std) == ("origin", 0.0):
        mean = (2**0.5 + np.log(1 + 2**0.5)) / 6  # distance from the middle of a unit square
        assert float(returns.mean()) == pytest.approx(-100 * mean, abs=0.02)
    if (aim, std) == ("goal", 0.0):
        assert float(lengths.mean()) == pytest.approx(3.7, abs=0.05)


def test_goals_fill_the_square_and_depend_on_seed_split_and_number_alone():
    suite = NavigationSuite()
    (task,) = suite.tasks()
    goals = np.stack([suite.goals(task, number) for number in range(2000)])
    assert goals.dtype == np.float32 and (np.abs(goals) <= 0.5).all()
    assert np.abs(goals.mean(0)).max() < 0.03 and np.abs(goals.var(0) * 12 - 1).max() < 0.08
    assert abs(np.corrcoef(goals.T)[0, 1]) < 0.08 and len(np.unique(goals, axis=0)) == 2000
    sequence = np.random.SeedSequence(42, spawn_key=(1, 7))
    draw = np.random.Generator(np.random.PCG64(sequence)).uniform(-0.5, 0.5, 2)
    assert np.array_equal(navigation_goal(42, replace(task, split="test"), 7), np.float32(draw))
    assert not np.array_equal(suite.goals(task, 7), np.float32(draw))
    assert not np.array_equal(NavigationSuite(goal_seed=1).goals(task, 7), goals[7])


def test_everything_is_single_precision():
    state, observation = Navigation().begin(torch.rand(3, 2), np.random.default_rng(0))
    state, outcome = Navigation().step(state, torch.rand(3, 2), np.random.default_rng(0))
    tensors = (observation, outcome.observation, outcome.reward, *state.values())
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


@pytest.mark.parametrize("arguments", [{"horizon": 0}, {"goal_seed": -1}, {"horizon": 2.5}])
def test_bad_arguments_name_themselves(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        NavigationSuite(**arguments)
