"""Tests of the cache keyed on version counters."""

import copy
import pickle

import pytest
import torch

from networks.version_cache import VersionCache, is_vmapped


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_optimizer_steps_are_noticed(optimizer, options):
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    cache = VersionCache()
    assert cache.get([parameter], lambda: parameter * 2).tolist() == [2, 2, 2]
    kept = cache.get([parameter], lambda: pytest.fail("made anew"))
    optimizer([parameter], lr=0.1, **options).step()
    value = cache.get([parameter], lambda: parameter * 2)
    assert value is not kept
    torch.testing.assert_close(value, parameter.detach() * 2)


def test_copies_and_loads_are_noticed():
    layer = torch.nn.Linear(2, 2)
    cache = VersionCache()
    calls = []
    sources = [layer.weight]
    cache.get(sources, lambda: calls.append(1) or 1)
    layer.load_state_dict(torch.nn.Linear(2, 2).state_dict())
    cache.get(sources, lambda: calls.append(2) or 1)
    with torch.no_grad():
        layer.weight.copy_(torch.ones(2, 2))
    cache.get(sources, lambda: calls.append(3) or 1)
    torch._foreach_lerp_([layer.weight.data], [torch.zeros(2, 2)], 0.5)  # invisible by design
    with torch.no_grad():
        torch._foreach_lerp_([layer.weight], [torch.zeros(2, 2)], 0.5)
    cache.get(sources, lambda: calls.append(4) or 1)
    cache.get([torch.nn.Parameter(torch.ones(2, 2))], lambda: calls.append(5) or 1)
    assert calls == [1, 2, 3, 4, 5]


def test_copies_are_empty():
    cache = VersionCache()
    tensor = torch.ones(1)
    cache.get([tensor], lambda: 1)
    for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert other.get([tensor], lambda: 2) == 2
    cache.clear()
    assert cache.get([tensor], lambda: 3) == 3


def test_values_made_under_inference_mode_may_enter_a_graph():
    tensor = torch.ones(2)
    cache = VersionCache()
    with torch.inference_mode():
        value = cache.get([tensor], lambda: tensor * 2)
    parameter = torch.nn.Parameter(torch.ones(2))
    (value * parameter).sum().backward()
    assert parameter.grad.tolist() == [2, 2]


def test_vmapped_tensors_are_recognised():
    seen = []

    def look(x):
        seen.append(is_vmapped(x))
        return x

    look(torch.ones(2))
    torch.func.vmap(look)(torch.ones(2))
    assert seen == [False, True]
