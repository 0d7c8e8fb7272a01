"""Tests of the scores of inferred components."""

import pytest
import torch
from tensordict import TensorDict

from runners.inference_scores import (
    BEFORE,
    accuracy,
    confusion,
    matching,
    reaction,
    separation,
)


def experience(family, component, mask=None, reward=None, changed=None):
    """One task, one episode: lists of numbers by step."""
    shape = (1, 1, len(family))

    def tensor(values, default, dtype):
        values = [default] * len(family) if values is None else values
        return torch.tensor(values, dtype=dtype).view(shape)

    after = {
        "reward": tensor(reward, 0.0, torch.float32).unsqueeze(-1),
        "task_changed": tensor(changed, False, torch.bool).unsqueeze(-1),
    }
    td = {
        "family": tensor(family, 0, torch.int64),
        "component": tensor(component, 0, torch.int64),
        "mask": tensor(mask, True, torch.bool),
        "next": TensorDict(after, shape),
    }
    return TensorDict(td, shape)


def test_confusion_leaves_out_padding_and_the_first_steps():
    seen = experience([0, 0, 1, 1, 1], [2, 1, 0, 0, 2], mask=[1, 1, 1, 1, 0])
    assert confusion(seen, 0, 3).tolist() == [[0, 2], [1, 0], [1, 0]]
    assert confusion(seen, 2, 3).tolist() == [[0, 2], [0, 0], [0, 0]]


def test_without_labels_the_best_matching_counts():
    seen = experience([0, 0, 0, 1, 1, 1], [3, 3, 0, 0, 0, 0])
    own = matching(seen, 0, 4, labelled=False)
    assert own.tolist() == [3, 0]
    assert accuracy(seen, own, 0) == pytest.approx(5 / 6)
    own = matching(seen, 0, 4, labelled=True)
    assert own.tolist() == [0, 1]
    assert accuracy(seen, own, 0) == pytest.approx(1 / 6)


@pytest.mark.parametrize("labelled", [True, False])
def test_more_families_than_components(labelled):
    """Components are one family's alone."""
    seen = experience([0, 0, 1, 1, 2], [0, 0, 0, 0, 0])
    own = matching(seen, 0, 1, labelled)
    assert sorted(own.tolist()) == [-1, -1, 0]
    assert accuracy(seen, own, 0) == pytest.approx(2 / 5)


def test_episodes_shorter_than_the_burn_in_count_as_a_whole():
    seen = experience([0, 0], [0, 1])
    assert accuracy(seen, matching(seen, 5, 2, labelled=True), 5) == 0.5


def test_reaction_step_by_step():
    """The task changes at steps 3 and 8; the component follows two steps later."""
    family = [0, 0, 0, 1, 1, 1, 1, 1, 0, 0]
    component = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    reward = [float(t) for t in range(10)]
    changed = [t in (3, 8) for t in range(10)]
    seen = experience(family, component, None, reward, changed)
    told = reaction(seen, torch.tensor([0, 1]), 4)
    assert told["changes"] == 2 and told["step"] == [*range(-BEFORE, 0), 0, 1, 2, 3]
    place = {k: i for i, k in enumerate(told["step"])}

    def at(name, k):
        return told[name][place[k]]

    assert (at("reward", -1), at("reward", 0), at("reward", 1)) == (4.5, 5.5, 6.5)
    assert at("reward", -5) == 3.0 and at("count", -5) == 1  # of the second change alone
    assert (at("count", 2), at("reward", 2)) == (1, 5.0)
    assert (at("accuracy", -1), at("accuracy", 0), at("accuracy", 1)) == (1.0, 0.0, 0.0)
    assert at("accuracy", 2) == 1.0
    short = reaction(experience([0, 1], [0, 0], changed=[False, True]), torch.tensor([0, 1]), 4)
    assert short["reward"][place[3]] is None and short["count"][place[3]] == 0


def test_separation_is_the_distance_of_means_in_pooled_deviations():
    latent = torch.tensor([[0.0], [2.0], [10.0], [12.0], [14.0]])
    group = torch.tensor([0, 0, 4, 4, 4])
    pooled = ((1 + 1 + 4 + 0 + 4) / 3) ** 0.5
    assert separation(latent, group) == pytest.approx(11.0 / pooled)
    torch.manual_seed(0)
    turned = torch.linalg.qr(torch.randn(3, 3).double())[0]
    wide = torch.cat((latent, torch.randn(5, 2) * 1e-9), 1).double() @ turned
    assert separation(wide, group) == pytest.approx(11.0 / pooled)


def test_separation_is_that_of_the_nearest_two_groups():
    latent = torch.tensor([[0.0], [1.0], [5.0], [6.0], [5.5], [6.5]])
    group = torch.arange(6) // 2
    assert separation(latent, group) == pytest.approx(separation(latent[2:], group[2:]))
    assert separation(latent[[0, 1, 0, 1]], torch.tensor([0, 0, 1, 1])) == 0.0
    assert separation(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])) == float("inf")
    one = separation(latent, torch.zeros(6))
    assert one != one
