"""The windows of running episodes."""

import pytest
import torch
from tensordict import TensorDict

from buffers.rolling_window import RollingWindow

D, A, N, T = 3, 2, 4, 5


def transition(seed: int) -> TensorDict:
    draw = torch.Generator().manual_seed(seed)
    after = {
        "observation": torch.randn(N, D, generator=draw),
        "reward": torch.randn(N, 1, generator=draw),
        "terminated": torch.zeros(N, 1, dtype=torch.bool),
    }
    td = {"observation": torch.randn(N, D, generator=draw)}
    td |= {"action": torch.randn(N, A, generator=draw), "next": TensorDict(after, [N])}
    return TensorDict(td, [N])


def test_equals_a_list_per_environment() -> None:
    draw = torch.Generator().manual_seed(0)
    window = RollingWindow(D, A, N, T)
    lists: list[list[TensorDict]] = [[] for _ in range(N)]
    for step in range(30):
        begins = torch.rand(N, generator=draw) < 0.2
        window.reset(begins)
        lists = [[] if begins[n] else lists[n] for n in range(N)]
        td = transition(step)
        window.push(td)
        lists = [[*rows, td[n]][-T:] for n, rows in enumerate(lists)]
        context = window.context()
        assert context.batch_size == (N, T)
        for n, rows in enumerate(lists):
            empty = T - len(rows)
            assert context["mask"][n].tolist() == [False] * empty + [True] * len(rows)
            for key in ("observation", "action", ("next", "reward"), ("next", "observation")):
                assert (context[key][n, :empty] == 0).all()
                assert torch.equal(context[key][n, empty:], torch.stack([r[key] for r in rows]))


def test_what_was_returned_stays_as_it_was() -> None:
    window = RollingWindow(D, A, N, T)
    window.push(transition(0))
    context = window.context()
    copy = context.clone()
    window.push(transition(1))
    window.reset()
    for key in ("observation", "mask", ("next", "reward")):
        assert torch.equal(context[key], copy[key])
    assert not window.context()["mask"].any()


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="length is 0"):
        RollingWindow(D, A, N, 0)
