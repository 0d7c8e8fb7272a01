from itertools import product

import numpy as np
import pytest
import torch

from envs.tree_graph import TreeGraph


def share(graph, leaf, goal, seed=0):
    rng = np.random.default_rng(seed)
    return graph.share(torch.as_tensor(leaf), torch.as_tensor(goal), rng)


@pytest.mark.parametrize(
    ("depth", "branching", "waits", "decisions", "leaves"),
    [(2, 2, 7, 3, 4), (3, 2, 15, 7, 8), (4, 2, 31, 15, 16), (2, 3, 13, 4, 9), (1, 5, 6, 1, 5)],
)
def test_counts(depth, branching, waits, decisions, leaves):
    graph = TreeGraph(depth=depth, branching=branching)
    assert (graph.waits, graph.decisions, graph.leaves) == (waits, decisions, leaves)
    assert graph.shortest == 2 * depth + 3
    if branching == 2:
        assert 2 + waits + decisions + leaves == 2 * waits + 2 == {1: 8, 2: 16, 3: 32, 4: 64}[depth]


def test_paths_are_digits_the_first_the_most_significant():
    graph = TreeGraph(depth=3, branching=3)
    paths = [graph.path(leaf) for leaf in range(27)]
    assert paths == list(product(range(3), repeat=3))


@pytest.mark.parametrize(("depth", "branching"), [(2, 2), (3, 2), (2, 3)])
@pytest.mark.parametrize("reward", ["needle_in_haystack", "linear"])
def test_reward_of_every_pair_against_its_formula(depth, branching, reward):
    graph = TreeGraph(depth=depth, branching=branching, reward=reward)
    leaves = range(graph.leaves)
    pairs = list(product(leaves, leaves))
    shares = share(graph, [leaf for leaf, _ in pairs], [goal for _, goal in pairs])
    assert shares.dtype == torch.float32
    clipped = TreeGraph(depth=depth, branching=branching, reward=reward, clip_linear=True)
    positive = share(clipped, [leaf for leaf, _ in pairs], [goal for _, goal in pairs])
    for (leaf, goal), value, other in zip(pairs, shares.tolist(), positive.tolist(), strict=True):
        taken, wanted = graph.path(leaf), graph.path(goal)
        differences = [abs(a - b) for a, b in zip(taken, wanted, strict=True)]
        if reward == "linear":
            weights = range(depth, 0, -1)
            total = sum(w * (1 - x) for w, x in zip(weights, differences, strict=True))
            expected = total / sum(weights)
        else:
            expected = np.floor(1 - np.mean(differences) / (branching - 1))
        assert value == np.float32(expected)
        assert other == max(0.0, np.float32(expected))
        assert (value == 1.0) == (leaf == goal)
    assert (shares.min() < 0) == (reward == "linear" and branching == 3)


def test_random_rewards_vary_around_theirs():
    graph = TreeGraph(reward="linear", reward_std=0.1)
    shares = share(graph, torch.full((5000,), 1), torch.zeros(5000, dtype=torch.int64))
    assert float(shares.mean()) == pytest.approx(2 / 3, abs=0.005)
    assert float(shares.std()) == pytest.approx(0.2 / 3, rel=0.05)
    needle = TreeGraph(reward_std=0.1)
    assert (share(needle, torch.full((50,), 1), torch.zeros(50, dtype=torch.int64)) == 0).all()
    twice = [share(graph, [1, 2], [1, 2], seed=4) for _ in range(2)]
    assert torch.equal(*twice) and not torch.equal(twice[0], share(graph, [1, 2], [1, 2], seed=5))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("depth", 0),
        ("depth", 60),
        ("branching", 1),
        ("branching", 2.0),
        ("delay", 1.0),
        ("delay", -0.1),
        ("delay", "0"),
        ("high_reward", 0.0),
        ("high_reward", -1.0),
        ("crash_reward", float("nan")),
        ("reward", "needle"),
        ("reward_std", -0.1),
    ],
)
def test_bad_arguments_name_themselves(argument, value):
    with pytest.raises(ValueError, match=argument):
        TreeGraph(**{argument: value})
