"""The normalisation of transitions."""

import copy
import math

import pytest
import torch
from tensordict import TensorDict

from networks.transition_normalizer import TransitionNormalizer
from networks.transitions import join

D, A, W = 3, 2, 9


def context(*shape, mask=None):
    after = {"observation": torch.randn(*shape, D), "reward": torch.randn(*shape, 1)}
    td = {
        "observation": torch.randn(*shape, D) * 3 + 7,
        "action": torch.randn(*shape, A),
        "next": TensorDict(after, shape),
    }
    td = TensorDict(td, shape)
    return td if mask is None else td.set("mask", mask)


def statistics(td):
    keys = ("observation", "action", ("next", "reward"), ("next", "observation"))
    made = {"mean": TensorDict({}, []), "std": TensorDict({}, [])}
    for key in keys:
        rows = td[key].flatten(0, -2)
        made["mean"][key], made["std"][key] = rows.mean(0), rows.std(0, correction=0)
    return TensorDict(made, [])


def test_invariant_10_the_stored_set_has_mean_0_and_std_1():
    td = context(50, 20).double()
    normalizer = TransitionNormalizer(D, A).double()
    normalizer.load(statistics(td))
    rows = join(normalizer(td)).flatten(0, 1)
    torch.testing.assert_close(rows.mean(0), torch.zeros(W).double(), atol=1e-10, rtol=0)
    torch.testing.assert_close(rows.std(0, correction=0), torch.ones(W).double(), atol=1e-6, rtol=0)


def test_invariant_10_constant_features_are_finite():
    td = context(50, 20)
    td["action"][..., 0] = 1234.5678
    normalizer = TransitionNormalizer(D, A)
    normalizer.load(statistics(td.double()))
    rows = join(normalizer(td))
    assert rows.isfinite().all() and (rows[..., D] == 0).all()


def test_invariant_10_by_a_loop_with_padding_exactly_zero():
    mask = torch.rand(4, 6) < 0.6
    td = context(4, 6).double().set("mask", mask)
    normalizer = TransitionNormalizer(D, A).double()
    numbers = statistics(td)
    normalizer.load(numbers)
    seen = normalizer(td)
    assert set(seen.keys(True, True)) == set(td.keys(True, True)) and seen["mask"] is mask
    for key in ("observation", "action", ("next", "reward"), ("next", "observation")):
        for row in range(4):
            for step in range(6):
                expected = (td[key][row, step] - numbers["mean"][key]) / (
                    numbers["std"][key] + 1e-8
                )
                if not mask[row, step]:
                    expected = torch.zeros_like(expected)
                torch.testing.assert_close(seen[key][row, step], expected, atol=1e-10, rtol=0)


def test_without_statistics_nothing_changes():
    td = context(4, 6)
    normalizer = TransitionNormalizer(D, A)
    assert torch.equal(join(normalizer(td)), join(td)) and "mask" not in normalizer(td).keys()
    assert not list(normalizer.parameters())


def test_statistics_travel_with_the_state():
    td = context(4, 6)
    one, two = TransitionNormalizer(D, A), TransitionNormalizer(D, A)
    one.load(statistics(td))
    two.load_state_dict(one.state_dict())
    assert set(one.state_dict()) == {"mean", "std"}
    for other in (two, copy.deepcopy(one)):
        assert torch.equal(join(one(td)), join(other(td)))
    compiled = torch.compile(lambda td: join(one(td)), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(td), join(one(td)))


@pytest.mark.parametrize("epsilon", [0.0, math.inf])
def test_epsilon_is_checked(epsilon):
    with pytest.raises(ValueError, match=f"epsilon.*{epsilon}"):
        TransitionNormalizer(D, A, epsilon=epsilon)
