from itertools import product

import numpy as np
import pytest
import torch

from envs.tree_graph import CRASH, DECISION, END, HOME, WAIT, TreeGraph
from envs.tree_labels import Labeller, TreeLabels

STATES = [(HOME, ()), (CRASH, (1,))] + [
    (kind, path)
    for kind in (WAIT, DECISION, END)
    for path in [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1)]
    if (kind != END or len(path) == 2) and (kind != DECISION or len(path) < 2)
]


def pictures(labels, graph=None, states=STATES, seed=0):
    """The picture of each state, given by type and branches taken."""
    graph = graph or TreeGraph()
    kind, paths = zip(*states, strict=True)
    codes = [sum(b * graph.branching**i for i, b in enumerate(path[::-1])) for path in paths]
    labeller = Labeller(graph, labels)
    taken = torch.tensor([len(path) for path in paths])
    rng = np.random.default_rng(seed)
    seen = labeller(torch.tensor(kind), taken, torch.tensor(codes), rng)
    return dict(zip(states, seen.tolist(), strict=True))


def test_the_specifications_table():
    seen = pictures(TreeLabels())
    wait = {(): 2, (0,): 3, (1,): 4, (0, 0): 5, (0, 1): 6, (1, 0): 7, (1, 1): 8}
    decision = {(): 9, (0,): 10, (1,): 11}
    end = {(0, 0): 15, (0, 1): 12, (1, 0): 13, (1, 1): 14}
    expected = {(HOME, ()): 0, (CRASH, (1,)): 1}
    for kind, table in ((WAIT, wait), (DECISION, decision), (END, end)):
        expected |= {(kind, path): picture for path, picture in table.items()}
    assert seen == expected


def test_leaves_in_order_without_the_shift():
    seen = pictures(TreeLabels(leaf_shift=False))
    assert [seen[END, path] for path in [(0, 0), (0, 1), (1, 0), (1, 1)]] == [12, 13, 14, 15]
    shifted = pictures(TreeLabels())
    assert {k: v for k, v in seen.items() if k[0] != END} == {
        k: v for k, v in shifted.items() if k[0] != END
    }


@pytest.mark.parametrize(("depth", "branching"), [(2, 2), (4, 2), (2, 3), (3, 3)])
def test_every_state_has_a_picture_of_its_own(depth, branching):
    graph = TreeGraph(depth=depth, branching=branching)
    states = [(HOME, ()), (CRASH, ())]
    for taken in range(depth + 1):
        kinds = (WAIT, END) if taken == depth else (WAIT, DECISION)
        states += product(kinds, product(range(branching), repeat=taken))
    seen = pictures(TreeLabels(), graph, states)
    assert sorted(seen.values()) == list(range(2 + graph.waits + graph.decisions + graph.leaves))


def test_spans_of_the_published_files():
    published = {2: ((2, 8), (9, 11), (12, 15)), 3: ((2, 16), (17, 23), (24, 31))}
    published[4] = ((2, 32), (33, 47), (48, 63))
    for depth, spans in published.items():
        assert TreeLabels().spans(TreeGraph(depth=depth)) == spans
    three = TreeGraph(branching=3)
    assert TreeLabels().spans(three) == ((2, 14), (15, 18), (19, 27))


@pytest.mark.parametrize(
    ("options", "random"),
    [
        ({"mdp_waits": False}, {WAIT}),
        ({"mdp_decisions": False}, {DECISION}),
        ({"mdp_waits": False, "mdp_decisions": False}, {WAIT, DECISION, END}),
    ],
)
def test_types_that_are_no_mdp_show_any_of_their_span(options, random):
    states = [state for state in STATES for _ in range(400)]
    kind = torch.tensor([kind for kind, _ in states])
    taken = torch.tensor([len(path) for _, path in states])
    code = torch.tensor([int("".join(map(str, path)) or "0", 2) for _, path in states])
    labels, graph = TreeLabels(**options), TreeGraph()
    seen = Labeller(graph, labels)(kind, taken, code, np.random.default_rng(0)).view(-1, 400)
    spans = dict(zip((WAIT, DECISION, END), labels.spans(graph), strict=True))
    for (of_type, path), row in zip(STATES, seen, strict=True):
        if of_type in random:
            low, high = spans[of_type]
            counts = torch.bincount(row - low, minlength=high - low + 1).double()
            mean = 400 / len(counts)
            assert len(counts) == high - low + 1 and (counts > mean / 3).all()
        else:
            assert row.unique().tolist() == [pictures(TreeLabels())[of_type, path]]


def test_spans_given_may_leave_room_and_random_ones_may_be_small():
    labels = TreeLabels(wait_span=(4, 20), decision_span=(30, 32), end_span=(40, 50))
    assert labels.spans(TreeGraph()) == ((4, 20), (30, 32), (40, 50))
    assert pictures(labels)[WAIT, ()] == 4 and pictures(labels)[END, (0, 1)] == 40
    small = TreeLabels(mdp_waits=False, wait_span=(2, 2))
    assert small.spans(TreeGraph()) == ((2, 2), (3, 5), (6, 9))
    assert pictures(small)[WAIT, (1, 1)] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wait_span": (1, 8)}, "wait_span must be two numbers from 2 on"),
        ({"wait_span": (2, 7)}, "wait_span must hold 7 states"),
        ({"wait_span": (2, 8), "decision_span": (8, 11)}, "decision_span.*from 9 on"),
        ({"decision_span": (9, 10)}, "decision_span must hold 3"),
        ({"end_span": (15, 12)}, "end_span"),
        ({"end_span": (12, 14), "mdp_waits": False}, "end_span must hold 4"),
    ],
)
def test_bad_spans_name_themselves(options, message):
    with pytest.raises(ValueError, match=message):
        TreeLabels(**options).spans(TreeGraph())
