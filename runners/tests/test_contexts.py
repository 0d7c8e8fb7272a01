"""Tests of what is shown of episodes to a learner that infers the task."""

import torch
from tensordict import TensorDict

from runners.contexts import context_of, drawn, transitions


def episode(steps, length=None, first=0.0):
    """Transitions numbered from `first` in every field, padding after `length`."""
    number = first + torch.arange(steps, dtype=torch.float32)
    following = {
        "reward": -number[:, None],
        "sparse_reward": 100 + number[:, None],
        "observation": number[:, None] + 1,
        "success": torch.zeros(steps, 1, dtype=torch.bool),
    }
    fields = {
        "observation": number[:, None],
        "action": number[:, None],
        "mask": torch.arange(steps) < (steps if length is None else length),
        "next": TensorDict(following, [steps]),
    }
    return TensorDict(fields, [steps])


def test_transitions_are_those_without_padding():
    steps = transitions(episode(5, 3))
    assert steps.shape == (3,) and steps["observation"].flatten().tolist() == [0.0, 1.0, 2.0]
    assert "mask" not in steps.keys()


def test_contexts_show_the_dense_or_the_sparse_reward():
    whole = episode(4, 2)
    for sparse, key in ((False, "reward"), (True, "sparse_reward")):
        context = context_of(whole, sparse)
        assert torch.equal(context["next", "reward"], whole["next", key])
        assert set(context["next"].keys()) == {"reward", "observation"}
        assert torch.equal(context["mask"], whole["mask"])


def test_drawn_rows_are_uniform_and_of_their_pool_alone():
    pools = [transitions(episode(3)), transitions(episode(40, first=50.0))]
    generator = torch.Generator().manual_seed(0)
    contexts = drawn(pools, 6000, generator, True)
    assert contexts.shape == (2, 6000)
    for row, pool in zip(contexts, pools, strict=True):
        values, counts = row["observation"].flatten().unique(return_counts=True)
        assert torch.equal(values, pool["observation"].flatten())
        expected = 6000 / len(pool)
        assert (counts - expected).abs().max() < 6 * expected**0.5
        assert torch.equal(row["next", "reward"], row["observation"] + 100)
    again = drawn(pools, 5, torch.Generator().manual_seed(1), False)
    other = drawn(pools, 5, torch.Generator().manual_seed(1), False)
    assert torch.equal(again["action"], other["action"])
