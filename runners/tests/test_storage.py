import math
import random

import pytest
import torch
from safetensors.torch import load_file

from runners.policy_file import export_policy, read_policy
from runners.storage import DTYPES, load_state, save_state


def same(a, b):
    assert type(a) is type(b) or isinstance(a, torch.Tensor), (a, b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape
        flat_a, flat_b = (x.detach().resolve_conj().contiguous().reshape(-1) for x in (a, b))
        assert torch.equal(flat_a.view(torch.uint8), flat_b.view(torch.uint8))
    elif isinstance(a, dict):
        assert list(a) == list(b)
        assert [type(key) for key in a] == [type(key) for key in b]
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif isinstance(a, float) and math.isnan(a):
        assert math.isnan(b)
    else:
        assert a == b


def round_trip(tmp_path, state):
    save_state(tmp_path, "part", state)
    loaded = load_state(tmp_path, "part")
    same(state, loaded)
    return loaded


def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    state = {}
    for dtype in DTYPES:
        raw = torch.randint(0, 2 if dtype == torch.bool else 256, (3, 4, 8), dtype=torch.uint8)
        state[str(dtype)] = raw.view(dtype) if dtype != torch.bool else raw.bool()
        state[f"{dtype} 0-d"] = state[str(dtype)].reshape(-1)[0]
        state[f"{dtype} empty"] = state[str(dtype)][:0]
    round_trip(tmp_path, state)


def test_awkward_tensors(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    round_trip(
        tmp_path,
        {
            "not finite": torch.tensor([math.nan, math.inf, -math.inf, -0.0]),
            "transposed": base.t(),
            "strided": base[::2, ::3],
            "shared": [base, base, base[1]],
            "expanded": torch.zeros(1).expand(5),
            "parameter": torch.nn.Parameter(base),
            "conjugate": torch.tensor([1 + 2j, 3 - 1j]).conj(),
        },
    )


def test_plain_values_and_keys(tmp_path):
    round_trip(
        tmp_path,
        {
            "big": 2**200 + 1,
            "negative": -(2**70),
            "floats": [0.1, 1e-320, math.nan, math.inf, -math.inf, -0.0],
            "bools": (True, False, None),
            "empty": [{}, [], (), ""],
            "nested tuple": ((1, (2.0,)), [("a",)]),
            "numbers as keys": {0: {"step": torch.tensor(1.0)}, 17: [], -1: None},
            "mixed keys": {1: "int", "1": "str", None: 0, False: 2} | {"1": torch.ones(1)},
            "!tensor": {"!tensor": "no tensor"},
            "ünï\n\x00": "ünï\n\x00\ud800",
            "__metadata__": torch.ones(2),
            "python": random.Random(0).getstate(),
        },
    )
    round_trip(tmp_path, torch.ones(2))
    round_trip(tmp_path, 3)


def test_names_that_would_collide(tmp_path):
    round_trip(tmp_path, {"a/b": torch.ones(1), "a": {"b": torch.zeros(1)}, 1: torch.tensor(5)})


def test_optimizer_and_module_round_trip(tmp_path):
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    loaded = round_trip(tmp_path, {"net": dict(net.state_dict()), "adam": optimizer.state_dict()})
    optimizer.load_state_dict(loaded["adam"])


def test_the_file_is_safetensors(tmp_path):
    save_state(tmp_path, "part", {"x": torch.ones(3, dtype=torch.bool), "y": torch.rand(5)})
    assert set(load_file(tmp_path / "part.safetensors")) == {"x", "y"}


@pytest.mark.parametrize("value", [object(), {1.5: 0}, {1, 2}, b"x", torch.ones(2).to_sparse()])
def test_what_cannot_be_stored_is_named(tmp_path, value):
    with pytest.raises(TypeError, match="loop/inner/0"):
        save_state(tmp_path, "part", {"loop": {"inner": [value]}})


def test_policy_export(tmp_path):
    class Learner:
        def policy_state(self):
            return {"actor.weight": torch.rand(3, 2), "count": 2**65}

    learner = Learner()
    state = learner.policy_state()
    learner.policy_state = lambda: state
    files = export_policy(tmp_path / "out", learner, 50, suite="mt10")
    assert sorted(path.name for path in files) == ["policy.json", "policy.safetensors"]
    loaded, facts = read_policy(tmp_path / "out")
    same(state, loaded)
    assert facts["step"] == 50 and facts["suite"] == "mt10"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "policy.json",
        "policy.safetensors",
    ]
