from itertools import product

import numpy as np
import pytest
import torch

from envs.ct_graph import CTGraphSuite, TreeWalk
from envs.tree_graph import CRASH, DECISION, END, HOME, WAIT, TreeGraph
from envs.tree_labels import TreeLabels
from envs.tree_pictures import OneHotPictures, PatternPictures

BRIGHT = 254 / 255


class PlainGraph:
    """The walk of one agent, from the specification's tables, with a list for the path."""

    def __init__(self, depth, branching, goal, shift=True):
        self.depth, self.branching, self.goal, self.shift = depth, branching, list(goal), shift
        self.waits = sum(branching**k for k in range(depth + 1))
        self.decisions = sum(branching**k for k in range(depth))
        self.kind, self.taken = "home", []

    def step(self, action):
        """Reward and whether the episode ended."""
        kind, full = self.kind, len(self.taken) == self.depth
        if kind == "home":
            self.kind = "wait"
        elif kind == "wait" and action == 0:
            self.kind = "end" if full else "decision"
            if full:
                return float(self.taken == self.goal), False
        elif kind == "decision" and action > 0:
            self.kind = "wait"
            self.taken = [*self.taken, action - 1]
        elif kind in ("wait", "decision"):
            self.kind = "crash"
            return -0.01, True
        else:
            self.kind, self.taken = "home", []
            return 0.0, True
        return 0.0, False

    @property
    def picture(self):
        if self.kind in ("home", "crash"):
            return 0 if self.kind == "home" else 1
        number = sum(
            branch * self.branching**place for place, branch in enumerate(reversed(self.taken))
        )
        if self.kind == "end":
            first = 2 + self.waits + self.decisions
            return first + (number - int(self.shift)) % self.branching**self.depth
        before = sum(self.branching**k for k in range(len(self.taken)))
        return 2 + (self.waits if self.kind == "decision" else 0) + before + number


def steps_of(path):
    """Actions that lead home - wait - decision - ... - end - home."""
    return [0] + [action for branch in path for action in (0, branch + 1)] + [0, 0]


def play(suite, goal_paths, actions):
    """Episodes side by side: pictures, cues, rewards, ends `[steps, n]`, and valid steps."""
    graph = suite.graph
    numbers = [sum(b * graph.branching**i for i, b in enumerate(path[::-1])) for path in goal_paths]
    (task,) = suite.tasks()
    tasks = [type(task)(task.name, 0, "train", (number,)) for number in numbers]
    out = []
    with suite.vector(tasks, autoreset=False) as vector:
        vector.reset()
        for action in torch.tensor(actions).T:
            td = vector.current()
            td["action"] = action
            out.append(vector.step(td)["next"])
    td = torch.stack(out)
    seen = td["observation"]
    assert torch.allclose(seen[..., :-1].sum(-1), torch.tensor(BRIGHT))  # one picture
    return {
        "picture": seen[..., :-1].argmax(-1),
        "cue": seen[..., -1],
        "reward": td["reward"][..., 0],
        "terminated": td["terminated"][..., 0],
        "success": td["success"][..., 0],
        "valid": td["valid"][..., 0],
    }


def test_golden_trace():
    result = play(CTGraphSuite(), [(1, 0), (1, 1)], [[0, 0, 2, 0, 1, 0, 0]] * 2)
    assert result["picture"].T.tolist() == [[2, 9, 4, 11, 7, 13, 0]] * 2
    assert torch.equal(result["cue"].T, torch.tensor([[0] * 5 + [BRIGHT, 0], [0] * 7]))
    assert result["reward"].T.tolist() == [[0, 0, 0, 0, 0, 1, 0], [0] * 7]
    assert result["terminated"].T.tolist() == [[False] * 6 + [True]] * 2
    assert result["success"].T.tolist() == [[False] * 5 + [True, False], [False] * 7]


def test_golden_crashes():
    result = play(CTGraphSuite(), [(1, 0), (1, 0)], [[0, 1, 0], [0, 0, 0]])
    assert result["reward"].T.tolist() == [
        [0, pytest.approx(-0.01), 0],
        [0, 0, pytest.approx(-0.01)],
    ]
    assert result["terminated"].T.tolist() == [[False, True, True], [False, False, True]]
    assert result["picture"].T.tolist() == [[2, 1, 1], [2, 9, 1]]
    assert result["valid"].T.tolist() == [[True, True, False], [True, True, True]]


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_every_goal_and_path(depth):
    """Return, length, cue and picture at every step of all 16, 64 and 256 pairs."""
    paths = list(product(range(2), repeat=depth))
    pairs = list(product(paths, paths))
    suite = CTGraphSuite(TreeGraph(depth=depth))
    assert suite.spec.observation_dim == {2: 17, 3: 33, 4: 65}[depth]
    assert suite.spec.horizon == 2 * depth + 3
    result = play(suite, [goal for goal, _ in pairs], [steps_of(path) for _, path in pairs])
    steps = torch.arange(2 * depth + 3)[:, None]
    hit = torch.tensor([goal == path for goal, path in pairs])
    arrival = hit & (steps == 2 * depth + 1)
    assert torch.equal(result["reward"], arrival.float())
    assert torch.equal(result["success"], arrival)
    assert torch.equal(result["cue"], arrival * torch.tensor(BRIGHT))
    assert torch.equal(result["terminated"], (steps == 2 * depth + 2).expand(-1, len(pairs)))
    assert result["valid"].all() and hit.sum() == 2**depth
    for row, (goal, path) in enumerate(pairs):
        graph = PlainGraph(depth, 2, goal)
        for step, action in enumerate(steps_of(path)):
            graph.step(action)
            assert graph.picture == result["picture"][step, row]
    shown = result["picture"][2 * depth + 1].view(len(paths), -1)
    assert shown[0].unique().numel() == len(paths) and (shown == shown[0]).all()


@pytest.mark.parametrize(
    ("depth", "branching", "shift"), [(1, 2, True), (4, 2, True), (2, 3, False)]
)
def test_equals_the_plain_walk_under_any_actions(depth, branching, shift):
    graph = TreeGraph(depth=depth, branching=branching)
    suite = CTGraphSuite(graph, TreeLabels(leaf_shift=shift))
    rng = np.random.default_rng(0)
    goals = [graph.path(int(leaf)) for leaf in rng.integers(graph.leaves, size=600)]
    actions = rng.integers(branching + 1, size=(600, 2 * depth + 3))
    right = np.array([steps_of(graph.path(int(i))) for i in rng.integers(graph.leaves, size=600)])
    mostly = rng.random(actions.shape) < 0.8
    actions = np.where(mostly, right, actions)  # or few would come far
    result = play(suite, goals, actions.tolist())
    ends = 0
    for row, goal in enumerate(goals):
        plain, ended = PlainGraph(depth, branching, goal, shift), False
        for step, action in enumerate(actions[row]):
            assert bool(result["valid"][step, row]) != ended
            if not ended:
                reward, ended = plain.step(int(action))
                assert result["reward"][step, row] == np.float32(reward)
                assert result["picture"][step, row] == plain.picture
                assert bool(result["terminated"][step, row]) == ended
                cue = BRIGHT if plain.kind == "end" and plain.taken == plain.goal else 0
                assert result["cue"][step, row] == np.float32(cue)
                ends += plain.kind == "end"
    assert ends > 50


def distribution(graph, policy="uniform", steps=None):
    """What a policy comes to, exactly: every outcome of every step with its probability."""
    walk = TreeWalk(graph, TreeLabels(), OneHotPictures())
    rng = np.random.default_rng(0)
    state, _ = walk.begin(torch.zeros(1, 1, dtype=torch.int64), rng)
    weight = torch.ones(1, dtype=torch.float64)
    found = {"return": 0.0, "discounted": 0.0, "end": 0.0, "goal": 0.0, "left": 1.0}
    for step in range(graph.shortest):
        branches = graph.branching + 1
        wide = {name: value.repeat_interleave(branches) for name, value in state.items()}
        action = torch.arange(branches).repeat(len(weight))
        chance = torch.full_like(action, 1 / branches, dtype=torch.float64)
        if policy == "careful":  # never crashes, knows nothing of the goal
            deciding = wide["kind"] == DECISION
            free = deciding & (action > 0)
            chance = free / graph.branching + (~deciding & (action == 0)).double()
        weight = weight.repeat_interleave(branches) * chance
        state, outcome = walk.step(wide, action, rng)
        reward = float((weight * outcome.reward.double()).sum())
        found["return"] += reward
        found["discounted"] += 0.95**step * reward
        arrives = (state["kind"] == END).double()
        found["end"] += float((weight * arrives).sum())
        found["goal"] += float((weight * outcome.success).sum())
        keep = ~outcome.terminated & (weight > 0)
        state = {name: value[keep] for name, value in state.items()}
        weight = weight[keep]
    found["left"] = float(weight.sum())
    return found


@pytest.mark.parametrize(
    ("depth", "reaches", "expected", "leaf"),
    [
        (2, 0.01646, -0.00572, 0.25),
        (3, 0.00366, -0.00951, 0.125),
        (4, 0.000813, -0.00994, 0.0625),
    ],
)
def test_probabilities_by_enumeration(depth, reaches, expected, leaf):
    graph = TreeGraph(depth=depth)
    random = distribution(graph)
    assert random["end"] == pytest.approx(reaches, rel=2e-3)
    assert random["end"] == pytest.approx((1 / 3) ** (depth + 1) * (2 / 3) ** depth, rel=1e-12)
    assert random["goal"] == pytest.approx(random["end"] / 2**depth, rel=1e-12)
    assert random["return"] == pytest.approx(expected, abs=5e-6)
    assert random["left"] == 0.0  # whatever one does, an episode ends within its horizon
    careful = distribution(graph, "careful")
    assert careful["end"] == pytest.approx(1.0) and careful["return"] == pytest.approx(leaf)


@pytest.mark.parametrize(("depth", "value"), [(2, 0.7738), (3, 0.6983), (4, 0.6302)])
def test_discounted_value_of_the_optimal_path(depth, value):
    path = (0, 1, 1, 0)[:depth]
    result = play(CTGraphSuite(TreeGraph(depth=depth)), [path], [steps_of(path)])
    discount = 0.95 ** torch.arange(2 * depth + 3, dtype=torch.float64)
    assert float((result["reward"][:, 0] * discount).sum()) == pytest.approx(value, abs=5e-5)


@pytest.mark.parametrize(("delay", "depth"), [(0.5, 2), (0.25, 3)])
def test_delays_add_their_expected_number_of_steps(delay, depth):
    """Mean (d+1) p/(1-p) and variance (d+1) p/(1-p)^2 of the steps waited for nothing."""
    num, graph = 4000, TreeGraph(depth=depth, delay=delay)
    suite = CTGraphSuite(graph)
    assert suite.spec.horizon == 10 * (2 * depth + 3)
    (task,) = suite.tasks()
    lengths, earned = torch.zeros(num), torch.zeros(num)
    with suite.vector([type(task)(task.name, 0, "train", (0,))] * num, autoreset=False) as vector:
        vector.reset()
        for _ in range(suite.spec.horizon):
            td = vector.current()
            picture = td["observation"][:, :-1].argmax(-1)
            deciding = (picture >= 2 + graph.waits) & (picture < 2 + graph.waits + graph.decisions)
            td["action"] = deciding.long()
            vector.step(td)
            lengths += td["next", "valid"][:, 0]
            earned += td["next", "reward"][:, 0]
            if td["next", "done"].all():
                break
    extra = lengths - graph.shortest
    spread = ((depth + 1) * delay) ** 0.5 / (1 - delay)
    assert extra.min() >= 0 and (earned == 1).all() and td["next", "terminated"].all()
    mean = (depth + 1) * delay / (1 - delay)
    assert float(extra.mean()) == pytest.approx(mean, abs=5 * spread / num**0.5)
    assert float(extra.std()) == pytest.approx(spread, rel=0.1)


def test_a_delay_without_end_is_cut_by_the_horizon():
    suite = CTGraphSuite(TreeGraph(delay=0.99))
    with suite.vector([*suite.tasks()] * 50, autoreset=False) as vector:
        vector.reset()
        for _ in range(70):
            td = vector.current()
            td["action"] = torch.zeros(50, dtype=torch.int64)
            vector.step(td)
    assert td["next", "done"].all()
    assert (td["next", "truncated"] & ~td["next", "terminated"]).any()


def test_three_branches_share_no_picture():
    graph = TreeGraph(depth=2, branching=3)
    suite = CTGraphSuite(graph)
    assert suite.spec.observation_dim == 29 and suite.spec.action_dim == 4
    paths = list(product(range(3), repeat=2))
    result = play(suite, paths, [steps_of(path) for path in paths])
    kinds = {1: WAIT, 2: DECISION, 3: WAIT, 4: DECISION, 5: WAIT, 6: END, 7: HOME}
    known = {}
    for row, path in enumerate(paths):
        for step, kind in kinds.items():
            state = (kind, path[: (step - 1) // 2] if kind not in (END, HOME) else path)
            state = (HOME,) if kind == HOME else state
            known.setdefault(int(result["picture"][step - 1, row]), set()).add(state)
    assert all(len(states) == 1 for states in known.values())
    assert len(known) == 1 + 13 + 4 + 9 and 1 not in known


def test_high_and_crash_rewards_are_those_of_the_configuration():
    graph = TreeGraph(high_reward=5.0, crash_reward=-2.0)
    result = play(CTGraphSuite(graph), [(1, 0)] * 2, [[0, 0, 2, 0, 1, 0, 0], [0, 2, 0, 0, 0, 0, 0]])
    assert result["reward"].T.tolist() == [[0, 0, 0, 0, 0, 5, 0], [0, -2, 0, 0, 0, 0, 0]]
    assert result["cue"][5, 0] == np.float32(BRIGHT)  # the cue shows the share of the highest


def test_small_images():
    suite = CTGraphSuite(pictures=PatternPictures())
    assert suite.spec.observation_dim == 144
    (task,) = suite.tasks()
    tasks = [type(task)(task.name, 0, "train", (number,)) for number in (2, 3)]
    seen = []
    with suite.vector(tasks, autoreset=False) as vector:
        seen.append(vector.reset()["observation"])
        for action in (0, 0, 2, 0, 1, 0, 0):
            td = vector.current()
            td["action"] = torch.full((2,), action)
            seen.append(vector.step(td)["next", "observation"])
    table = PatternPictures().table(16) / 255
    expected = table[[0, 2, 9, 4, 11, 7, 13, 0]]
    shown = torch.stack(seen)
    assert shown.min() >= 0 and shown.max() <= 1
    for row, cue in ((0, BRIGHT), (1, 0.0)):
        wanted = expected.clone().view(8, 12, 12)
        wanted[6, 3:9, 3:9] = cue
        assert torch.equal(shown[:, row].view(8, 12, 12), wanted)


def test_tasks_are_the_leaves_the_same_ones_in_both_splits():
    suite = CTGraphSuite(TreeGraph(depth=3))
    assert suite.name == "ct-graph-d3" and suite.spec.num_tasks == 1 and suite.spec.discrete
    for split in ("train", "test"):
        (task,) = suite.tasks(split)
        assert task.goals == tuple(range(8)) and task.split == split
        drawn = suite.sample(800, split, np.random.default_rng(0))
        counts = np.bincount([task.goals[0] for task in drawn], minlength=8)
        assert len(counts) == 8 and ((counts - 100) ** 2 / 100).sum() < 24.3  # p < 0.001
    assert [suite.graph.path(leaf) for leaf in (0, 1, 6)] == [(0, 0, 0), (0, 0, 1), (1, 1, 0)]
    deep = CTGraphSuite(TreeGraph(depth=10))
    assert deep.spec.observation_dim == 2 + 2047 + 1023 + 1024 + 1
    assert max(task.goals[0] for task in deep.sample(200, "train", np.random.default_rng(0))) > 900


def test_a_crash_leads_home_if_one_goes_on():
    walk, rng = TreeWalk(TreeGraph(), TreeLabels(), OneHotPictures()), np.random.default_rng(0)
    state, _ = walk.begin(torch.zeros(1, 1, dtype=torch.int64), rng)
    moves = [(2, WAIT), (0, DECISION), (2, WAIT), (1, CRASH), (2, HOME)]
    for (action, kind), ended in zip(moves, [False] * 3 + [True] * 2, strict=True):
        state, outcome = walk.step(state, torch.tensor([action]), rng)
        assert state["kind"].item() == kind and bool(outcome.terminated) == ended
    assert outcome.reward.item() == 0.0 and outcome.observation.argmax().item() == 0
    assert state["taken"].item() == state["code"].item() == 0


@pytest.mark.parametrize("depth", [13, 20, 40])
def test_more_pictures_than_can_be_kept(depth):
    with pytest.raises(ValueError, match=f"depth: with 2 branches a tree of {depth} shows"):
        CTGraphSuite(TreeGraph(depth=depth))


def test_too_few_pictures():
    with pytest.raises(ValueError, match="num_pictures must be at least 16, got 15"):
        CTGraphSuite(pictures=OneHotPictures(num_pictures=15))
    assert CTGraphSuite(pictures=OneHotPictures(num_pictures=20)).spec.observation_dim == 21
