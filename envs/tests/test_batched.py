from dataclasses import replace

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from envs.arrays import Rules
from envs.batched import BatchedTasks
from envs.breakdowns import Breakdowns
from envs.ct_graph import CTGraphSuite
from envs.dynamics import Dynamics, Outcome, SingleEnv
from envs.episodes import Seed, Task
from envs.navigation import NavigationSuite
from envs.tree_graph import TreeGraph
from envs.tree_labels import TreeLabels
from envs.vector import VectorTasks


class Counter(Dynamics):
    """Shows the goal, the steps since the start and a random number; ends at the goal's step."""

    observation_dim, action_dim = 3, 1

    def begin(self, goal, rng):
        zero = torch.zeros(len(goal))
        return {"goal": goal[:, 0], "step": zero}, self._see(goal[:, 0], zero, rng)

    def step(self, state, action, rng):
        goal, step = state["goal"], state["step"] + 1
        seen = self._see(goal, step, rng)
        end = step >= goal
        return {"goal": goal, "step": step}, Outcome(seen, action[:, 0] + step, end, step == 2)

    def _see(self, goal, step, rng):
        draw = torch.from_numpy(rng.random(len(goal))).float()
        return torch.stack([goal.float(), step, draw], -1)


def counters(tasks, seed=0, horizon=5, **rules):
    return BatchedTasks(
        Counter(),
        lambda task, number: np.array([number], dtype=np.float32),
        tasks,
        Rules(3, 1, horizon, **rules),
        seed=Seed(seed),
        check=lambda tasks: None,
    )


def goals(*numbers):
    return [Task("count", i, goals=(number,)) for i, number in enumerate(numbers)]


def one_by_one(suite, tasks, **rules):
    """The same environments, each on its own, kept by the engine that steps simulators."""
    spec = suite.spec
    sizes = Rules(
        spec.observation_dim, spec.action_dim, spec.horizon, discrete=spec.discrete, **rules
    )
    return VectorTasks(
        suite.build(tasks),
        tasks,
        sizes,
        seeds=suite.seeds(len(tasks), 0, "train"),
        check=suite.check,
    )


def plain(tree):
    if isinstance(tree, dict):
        return all(isinstance(key, str) and plain(value) for key, value in tree.items())
    if isinstance(tree, list):
        return all(plain(value) for value in tree)
    return tree is None or type(tree) in (bool, int, float, str, torch.Tensor)


@pytest.mark.parametrize("terminate_on_success", [False, True])
@pytest.mark.parametrize("autoreset", [False, True])
@pytest.mark.parametrize("suite", [NavigationSuite(horizon=15), CTGraphSuite()])
def test_equals_environments_one_by_one(suite, autoreset, terminate_on_success, rollout, same):
    """Two engines, one contract: rest, auto-reset, assignment, time limit, step for step."""
    rng = np.random.default_rng(0)
    first, second = (suite.sample(12, split, rng) for split in ("train", "test"))
    rules = {"autoreset": autoreset, "terminate_on_success": terminate_on_success}
    runs = []
    for vector in (suite.vector(first, **rules), one_by_one(suite, first, **rules)):
        with vector:
            parts = [rollout(vector, 20)]
            vector.assign(second)
            parts.append(rollout(vector, 9, seed=1, start=vector.current()))
            parts.append(rollout(vector, 40, seed=2))
            runs.append(torch.cat(parts))
    same(*runs)
    td = runs[0]
    assert td["next", "done"].any() and td["next", "valid"].any()
    assert td["next", "valid"].all() == autoreset


def test_ends_by_itself_and_by_time_and_then_rests():
    with counters(goals(2, 5, 9), autoreset=False) as vector:
        vector.reset()
        steps = []
        for _ in range(7):
            td = vector.current()
            td["action"] = torch.tensor([[0.5], [3.0], [-3.0]])
            steps.append(vector.step(td))
    td = torch.stack(steps)
    done, valid = td["next", "done"][..., 0], td["next", "valid"][..., 0]
    assert done.T.int().tolist() == [[0, 1, 1, 1, 1, 1, 1]] + [[0, 0, 0, 0, 1, 1, 1]] * 2
    assert td["next", "terminated"][-1, :, 0].tolist() == [True, True, False]
    assert td["next", "truncated"][-1, :, 0].tolist() == [False, True, True]
    assert valid.sum(0).tolist() == [2, 5, 5]
    reward = td["next", "reward"][..., 0]
    assert reward[:2, 0].tolist() == [1.5, 2.5] and (reward[2:, 0] == 0).all()
    assert reward[:5, 1].tolist() == [2, 3, 4, 5, 6]  # the action is clipped, and kept in td
    assert td["action"][0, 1].item() == 3.0
    assert td["next", "success"][..., 0].sum(0).tolist() == [1, 1, 1]
    resting = td["next", "observation"][2:, 0]
    assert torch.equal(resting, td["next", "observation"][1, 0].expand(5, 3))
    assert torch.equal(td["observation"][2:, 0], resting)
    assert td["is_init"][..., 0].sum(0).tolist() == [1, 1, 1] and td["is_init"][0].all()


def test_autoreset_shows_the_true_last_observation_and_then_the_first():
    with counters(goals(2, 4), autoreset=True) as vector:
        vector.reset()
        steps = []
        for _ in range(9):
            td = vector.current()
            td["action"] = torch.zeros(2, 1)
            steps.append(vector.step(td))
    td = torch.stack(steps)
    assert td["observation"][:, 0, 1].tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert td["next", "observation"][:, 0, 1].tolist() == [1, 2, 1, 2, 1, 2, 1, 2, 1]
    assert td["episode"][:, 1].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert td["is_init"][:, 1, 0].nonzero()[:, 0].tolist() == [0, 4, 8]
    assert td["next", "valid"].all() and not td["next", "truncated"].any()


def test_tasks_take_effect_row_by_row_with_the_next_episode():
    with counters(goals(2, 4), autoreset=True) as vector:
        td = vector.reset()
        vector.assign([Task("count", 7, goals=(3,)), Task("count", 8, goals=(3,))])
        seen = []
        for _ in range(5):
            td = vector.current()
            seen.append((td["observation"][:, 0].tolist(), td["task_id"].tolist()))
            td["action"] = torch.zeros(2, 1)
            vector.step(td)
        # A second assignment while one row still waits for the first.
        vector.assign([Task("count", 5, goals=(1,)), Task("count", 6, goals=(1,))])
        vector.step(vector.current().set("action", torch.zeros(2, 1)))
        assert vector.current()["task_id"].tolist() == [7, 8]
        vector.assign([Task("count", 3, goals=(1,)), Task("count", 4, goals=(1,))])
        vector.step(vector.current().set("action", torch.zeros(2, 1)))
        assert vector.current()["task_id"].tolist() == [7, 4]
        vector.reset()
        vector.assign(goals(5, 5))
        vector.assign(goals(4, 4))
        assert vector.current()["observation"][:, 0].tolist() == [1, 1]
        assert vector.tasks == tuple(goals(4, 4))
        assert vector.reset()["observation"][:, 0].tolist() == [4, 4]
    assert seen[:2] == [([2, 4], [0, 1])] * 2 and seen[2:4] == [([3, 4], [7, 1])] * 2
    assert seen[4] == ([3, 3], [7, 8])


def test_goals_of_a_task_are_drawn_uniformly_at_each_reset():
    tasks = [Task("count", 0, goals=(5, 6, 7))] * 300 + [Task("count", 1, goals=(9,))] * 2
    with counters(tasks, horizon=99) as vector:
        drawn = torch.stack([vector.reset()["observation"][:, 0] for _ in range(20)])
    assert (drawn[:, 300:] == 9).all()
    counts = torch.stack([(drawn[:, :300] == goal).sum() for goal in (5, 6, 7)]).double()
    assert counts.sum() == 6000 and ((counts - 2000) ** 2 / 2000).sum() < 14  # p < 0.001
    assert (drawn[0, :300] != drawn[1, :300]).any() and len(drawn[0].unique()) == 4


def test_same_seed_same_trajectory_and_purposes_differ(rollout, same):
    suite = CTGraphSuite(TreeGraph(delay=0.5), TreeLabels(mdp_waits=False))

    def run(seed, purpose="train"):
        with suite.vector([*suite.tasks()] * 20, seed, purpose=purpose) as vector:
            return rollout(vector, 30)

    same(run(1), run(1))
    assert not torch.equal(run(1)["observation"], run(2)["observation"])
    assert not torch.equal(run(1)["observation"], run(1, "evaluation")["observation"])


def test_a_row_does_not_depend_on_the_actions_of_the_others():
    suite = CTGraphSuite(TreeGraph(delay=0.5, reward_std=0.3), TreeLabels(mdp_waits=False))
    seen = []
    for others in (0, 1, 2):
        with suite.vector([*suite.tasks()] * 4, 3, autoreset=False) as vector:
            for _ in range(3):
                vector.reset()
                for _ in range(20):
                    td = vector.current()
                    td["action"] = torch.tensor([0, others, others, others])
                    vector.step(td)
                    seen.append(td["next", "observation"][0])
    runs = torch.stack(seen).view(3, 60, -1)
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


def test_state_is_plain_and_exact(rollout, same):
    suite = CTGraphSuite(TreeGraph(delay=0.4, reward_std=0.2), TreeLabels(mdp_decisions=False))
    rng = np.random.default_rng(0)
    tasks = [*suite.tasks("test"), *suite.sample(5, "train", rng)]
    for autoreset in (True, False):
        with suite.vector(tasks, 5, autoreset=autoreset) as vector:
            fresh_state = vector.state_dict()
            begun = rollout(vector, 3)
            rollout(vector, 14, start=vector.current())
            vector.assign(suite.sample(6, "train", rng))
            rollout(vector, 2, seed=8, start=vector.current())
            state, now, assigned = vector.state_dict(), vector.current(), vector.tasks
            expected = rollout(vector, 20, seed=3, start=vector.current())
            later = rollout(vector, 20, seed=4)
            vector.load_state_dict(state)
            same(rollout(vector, 20, seed=3, start=vector.current()), expected)
        assert plain(state)
        with suite.vector(tasks[::-1], 99, autoreset=autoreset) as fresh:
            rollout(fresh, 5)
            fresh.load_state_dict(state)
            same(fresh.current(), now)
            assert fresh.tasks == assigned
            same(rollout(fresh, 20, seed=3, start=fresh.current()), expected)
            same(rollout(fresh, 20, seed=4), later)
        with suite.vector(tasks, 99, autoreset=autoreset) as fresh:
            fresh.load_state_dict(fresh_state)
            same(rollout(fresh, 3), begun)
            with pytest.raises(ValueError, match="format"):
                fresh.load_state_dict({**state, "format": 7})
        with (
            suite.vector(tasks[:3], autoreset=autoreset) as few,
            pytest.raises(ValueError, match="6 environments"),
        ):
            few.load_state_dict(state)


def test_a_state_is_not_changed_by_what_follows(rollout, same):
    suite = NavigationSuite()
    with suite.vector(suite.sample(4, "train", np.random.default_rng(0))) as vector:
        rollout(vector, 5)
        state = vector.state_dict()
        expected = rollout(vector, 10, seed=1, start=vector.current())
        for _ in range(2):
            vector.load_state_dict(state)
            same(rollout(vector, 10, seed=1, start=vector.current()), expected)


def test_bad_actions_and_order():
    suite = CTGraphSuite()
    with suite.vector([*suite.tasks()] * 2) as vector:
        td = TensorDict({"action": torch.zeros(2, dtype=torch.int64)}, batch_size=[2])
        with pytest.raises(RuntimeError, match="reset"):
            vector.step(td)
        vector.reset()
        for action, message in (
            (torch.tensor([0, 3]), r"below 3 and not negative, got \[3\] in rows \[1\]"),
            (torch.tensor([-1, 0]), r"got \[-1\] in rows \[0\]"),
            (torch.tensor([0.0, 1.0]), "whole numbers"),
            (torch.tensor([[0], [1]]), "shape"),
        ):
            with pytest.raises(ValueError, match=message):
                vector.step(TensorDict({"action": action}, batch_size=[2]))
        with pytest.raises(ValueError, match="tasks must be 2"):
            vector.assign(suite.tasks())
        with pytest.raises(ValueError, match="goals"):
            vector.assign([replace(suite.tasks()[0], goals=(4,))] * 2)
    with pytest.raises(RuntimeError, match="closed"):
        vector.reset()
    navigation = NavigationSuite()
    with navigation.vector() as vector:
        td = vector.reset()
        td["action"] = torch.full((1, 2), torch.nan)
        with pytest.raises(ValueError, match="non-finite"):
            vector.step(td)


@pytest.mark.parametrize("suite", [NavigationSuite(), CTGraphSuite(TreeGraph(delay=0.2))])
def test_functions_leave_their_arguments_as_they_are(suite):
    (task,) = suite.tasks()
    goal = torch.from_numpy(np.stack([suite.goals(task, number) for number in task.goals]))
    rng = np.random.default_rng(0)
    state, _ = suite.dynamics.begin(goal, rng)
    for _ in range(5):
        before = {name: value.clone() for name, value in state.items()}
        size = (len(goal),) if suite.spec.discrete else (len(goal), suite.spec.action_dim)
        action = torch.zeros(size, dtype=torch.int64 if suite.spec.discrete else torch.float32)
        after, _ = suite.dynamics.step(state, action, rng)
        assert all(torch.equal(state[name], value) for name, value in before.items())
        state = after


def test_gymnasium_face_of_discrete_actions():
    env = CTGraphSuite().gymnasium([*CTGraphSuite().tasks()] * 3)
    observation, _ = env.reset()
    assert env.observation_space.contains(observation)
    assert env.single_action_space.n == 3 and env.action_space.contains(np.zeros(3, dtype=int))
    _, reward, terminated, _, infos = env.step(np.array([0, 1, 2]))
    assert reward.tolist() == [0, 0, 0] and not terminated.any()
    _, reward, terminated, _, infos = env.step(np.array([0, 1, 2]))
    assert terminated.tolist() == [False, True, True] and infos["final_obs"][1][1] > 0.9
    env.close()


class Failing(Dynamics):
    """Counts steps; shows nan in the step that its goal says, or is paid without bound there."""

    observation_dim, action_dim = 1, 1

    def __init__(self, where):
        self.where = where

    def begin(self, goal, rng):
        return {"goal": goal[:, 0], "step": torch.zeros(len(goal))}, torch.zeros(len(goal), 1)

    def step(self, state, action, rng):
        step, never = state["step"] + 1, torch.zeros(len(action), dtype=torch.bool)
        bad = step == state["goal"]
        seen, reward = step.clone(), torch.ones_like(step)
        if self.where == "observation":
            step = seen = seen.where(~bad, torch.nan)  # and so for ever
        else:
            reward = reward.where(~bad, torch.inf)
        outcome = Outcome(seen[:, None], reward, never, seen > 0)
        return {"goal": state["goal"], "step": step}, outcome


@pytest.mark.parametrize("autoreset", [False, True])
@pytest.mark.parametrize("where", ["observation", "reward"])
def test_numbers_that_are_not_finite(where, autoreset, monkeypatch):
    """End the episode as they do in the engine that steps simulators."""

    def goal(task, number):
        return np.array([number], dtype=np.float32)

    dynamics, tasks = Failing(where), goals(3, 9, 1)
    rules, seed = Rules(1, 1, 5, autoreset=autoreset), Seed(0)
    batch = BatchedTasks(dynamics, goal, tasks, rules, seed=seed, check=lambda tasks: None)
    single = VectorTasks(
        lambda task: SingleEnv(dynamics, goal, task),
        tasks,
        rules,
        seeds=[seed] * 3,
        check=lambda tasks: None,
    )
    with batch, single:
        for vector in (batch, single):
            vector.reset()
        for _ in range(8):
            told = []
            for vector in (batch, single):
                told.append(vector.step(vector.current().set("action", torch.zeros(3, 1))))
            for key, value in told[0].items(include_nested=True, leaves_only=True):
                assert torch.equal(value, told[1][key]), key
        assert batch.faults == single.faults and batch.faults["unstable_episodes"] > 1
        monkeypatch.setattr(Breakdowns, "most", 1)
        for vector in (batch, single) if autoreset else ():
            with pytest.raises(RuntimeError, match="broke down.* in .* last in count"):
                for _ in range(3):
                    vector.step(vector.current().set("action", torch.zeros(3, 1)))


def test_one_row_takes_the_actions_a_vector_takes():
    suite = NavigationSuite()
    task = replace(suite.tasks("train")[0], goals=(3,))
    single = suite.build([task])(task)
    with pytest.raises(RuntimeError, match="before the first reset"):
        single.step(np.zeros(2))
    with suite.vector([task], autoreset=False) as vector:
        vector.reset()
        start, _ = single.reset(options={"goal": 3})
        for action in ([5.0, -0.03], [-0.2, 0.1], [0.1, np.float64(1) / 3]):
            step = vector.step(vector.current().set("action", torch.tensor([action])))["next"]
            seen, reward, *_ = single.step(np.array(action))
            assert (seen - start == step["observation"][0].double().numpy()).all()
            assert reward == step["reward"].item()
        for wrong in (np.array([np.nan, 0.0]), np.zeros(3), np.zeros((1, 2)), np.zeros(2) * 1j):
            with pytest.raises(ValueError, match="action (must|has)"):
                single.step(wrong)

    suite = CTGraphSuite()
    task = suite.tasks("train")[0]
    single = suite.build([task])(task)
    single.reset(seed=0)
    single.step(np.int64(suite.spec.action_dim - 1))
    for wrong in (suite.spec.action_dim, -1, 0.0, np.zeros(1, int), True):
        with pytest.raises(ValueError, match="action must"):
            single.step(wrong)


def test_one_row_without_a_state():
    class Bandit(Dynamics):
        observation_dim, action_dim, discrete = 1, 2, True

        def begin(self, goal, rng):
            return {}, torch.zeros(1, 1)

        def step(self, state, action, rng):
            ended = torch.ones(1, dtype=torch.bool)
            return {}, Outcome(torch.zeros(1, 1), action.float(), ended, ended)

    single = SingleEnv(Bandit(), lambda task, number: np.zeros(1), Task("bandit", 0))
    with pytest.raises(RuntimeError, match="before the first reset"):
        single.step(1)
    single.reset()
    again = SingleEnv(Bandit(), lambda task, number: np.zeros(1), Task("bandit", 0))
    again.restore(single.snapshot())
    assert single.step(1)[1] == again.step(1)[1] == 1.0


def test_a_first_observation_that_is_not_finite():
    class Lost(Failing):
        def begin(self, goal, rng):
            state, seen = super().begin(goal, rng)
            return state, seen.where(goal < 9, torch.nan)

    def goal(task, number):
        return np.array([number], dtype=np.float32)

    for tasks, lost in ((goals(3, 1), False), (goals(3, 9), True)):
        options = {"seed": Seed(0), "check": lambda tasks: None}
        with BatchedTasks(Lost("reward"), goal, tasks, Rules(1, 1, 5), **options) as vector:
            if not lost:
                vector.reset()
                continue
            with pytest.raises(RuntimeError, match="count: the first observation is not finite"):
                vector.reset()
