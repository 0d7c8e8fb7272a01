"""Transitions as vectors."""

import pytest
import torch
from tensordict import TensorDict

from networks.transitions import join, transition_width

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


def test_order_and_widths():
    td = context(4, 5)
    after = td["next"]
    rows = join(td)
    assert rows.shape == (4, 5, W) and transition_width(D, A) == W
    parts = (td["observation"], td["action"], after["reward"], after["observation"])
    assert torch.equal(rows, torch.cat(parts, -1))
    short = join(td, next_observation=False)
    assert torch.equal(short, rows[..., : transition_width(D, A, next_observation=False)])
    assert short.shape[-1] == D + A + 1
    with pytest.raises(ValueError, match="action_dim.*0"):
        transition_width(D, 0)


def test_padding_is_zero_whatever_lies_there():
    mask = torch.rand(4, 5) < 0.5
    td = context(4, 5, mask=mask)
    td["observation"][~mask] = torch.nan
    td["next", "reward"][~mask] = torch.inf
    rows = join(td)
    assert (rows[~mask] == 0).all() and rows.isfinite().all() and (rows[mask] != 0).all()
