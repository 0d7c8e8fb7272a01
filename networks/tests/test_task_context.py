"""Tests of what the dendrites are told about the task."""

from functools import partial

import pytest
import torch

from networks.k_winners import KWinners
from networks.task_context import PREPROCESSES, TaskContext, append_one_hot

IN, T, B = 4, 3, 6


def rows():
    return torch.randn(B, IN), torch.randint(T, (B,))


def test_append_one_hot():
    x = append_one_hot(torch.tensor([[5.0], [6.0]]), torch.tensor([2, 0]), 3)
    assert x.tolist() == [[5.0, 0.0, 0.0, 1.0], [6.0, 1.0, 0.0, 0.0]]


@pytest.mark.parametrize("preprocess", PREPROCESSES)
@pytest.mark.parametrize(("source", "raw"), [("one_hot", 3), ("input_and_one_hot", 7)])
def test_widths(source, raw, preprocess):
    context = TaskContext(IN, T, source=source, preprocess=preprocess, width=20, winners=KWinners)
    assert context.raw_features == raw
    assert context.features == (raw if preprocess == "none" else 20)
    assert context(torch.randn(B, raw)).shape == (B, context.features)


def test_sources():
    x, task = rows()
    assert TaskContext(IN, T).raw(x, task) is None
    both = TaskContext(IN, T, source="input_and_one_hot").raw(x, task)
    assert torch.equal(both, append_one_hot(x, task, T))
    prototype = TaskContext(IN, T, source="prototype")
    assert prototype.raw_features == IN
    with pytest.raises(ValueError, match="context must be given"):
        prototype.raw(x, task)


@pytest.mark.parametrize("preprocess", PREPROCESSES)
def test_contexts_of_all_tasks_are_those_of_the_rows(preprocess):
    context = TaskContext(IN, T, preprocess=preprocess, width=20, winners=KWinners)
    of_tasks = context.of_tasks()
    assert (of_tasks is None) == (preprocess == "none")
    if of_tasks is not None:
        torch.testing.assert_close(of_tasks, context(torch.eye(T)))


def test_preprocessing_by_hand():
    raw = torch.randn(B, T)
    relu = TaskContext(IN, T, preprocess="relu", width=20)
    dense = raw @ relu.linear.weight.t() + relu.linear.bias
    assert relu.linear.mask.all() and relu.linear.weight.abs().max() <= T**-0.5
    torch.testing.assert_close(relu(raw), dense.relu())
    winners = partial(KWinners, percent_on=0.4)
    kept = TaskContext(IN, T, preprocess="k_winners", width=20, winners=winners)
    kept.linear.load_state_dict(relu.linear.state_dict())
    y = kept(raw)
    assert (torch.count_nonzero(y, -1) == 8).all()
    torch.testing.assert_close(y[y != 0], dense[y != 0])
    assert kept.activation.rows_seen == B
    constant = {name: p.detach() for name, p in kept.named_parameters()}
    torch.func.functional_call(kept, constant, (raw,))
    assert kept.activation.rows_seen == B


def test_errors():
    with pytest.raises(ValueError, match="preprocess must not be 'k_winners'"):
        TaskContext(IN, T, preprocess="k_winners")
    for options in ({"source": "pixels"}, {"preprocess": "tanh"}, {"width": 0}):
        ((name, value),) = options.items()
        with pytest.raises(ValueError, match=f"{name} .* got {value!r}"):
            TaskContext(IN, T, **options)
