"""Updates that are compiled, or of lower precision, with the real networks."""

import copy
import functools

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from algorithms import sac
from algorithms.encoder_sac import EncoderSAC
from algorithms.must import MaskedSAC
from algorithms.precision import products_are_bfloat16
from algorithms.sac import SAC
from algorithms.sequential_sac import SequentialSAC
from envs.suite import Spec
from networks.actor import Actor
from networks.care import CareEncoder
from networks.critic import Critic
from networks.dendritic import DendriticMLP
from networks.mask_generator import MaskGenerator
from networks.masked import MaskedMLP
from networks.mlp import MLP
from networks.multi_head import MultiHeadMLP
from networks.projected import ProjectedMLP
from networks.small_soft_modular import SmallSoftModularMLP
from networks.soft_modular import SoftModularMLP
from networks.state_encoders import FeedforwardEncoder
from networks.task_encoder import TaskEncoder

SPEC = Spec(6, 2, 3, 10, task_names=("a", "b", "c"))
SMALL = {"hidden": (32, 32)}
CODE = functools.partial(TaskEncoder, kind="learned")
SOFT = {"embedding_width": 32, "gating_width": 16, "module_width": 16}
TRUNKS = {
    "mlp": functools.partial(MLP, **SMALL),
    "multi_head": functools.partial(MultiHeadMLP, **SMALL),
    "masked": functools.partial(MaskedMLP, **SMALL),
    "soft_modular": functools.partial(SoftModularMLP, **SOFT),
    "dendritic": functools.partial(DendriticMLP, **SMALL),
    "care": functools.partial(MLP, one_hot=False, init="xavier", **SMALL),
    "projected": functools.partial(ProjectedMLP, rank=4, **SMALL),
    "small_soft_modular": functools.partial(SmallSoftModularMLP, width=16),
}
ENCODERS = {
    "care": functools.partial(CareEncoder, task_encoder=CODE),
    "projected": functools.partial(CareEncoder, task_encoder=CODE),
    "small_soft_modular": functools.partial(FeedforwardEncoder, task_encoder=CODE),
}


def learner(kind: str, **options) -> SAC:
    """A learner with small networks, drawn from the same seed."""
    torch.manual_seed(0)
    parts = {
        "actor": functools.partial(Actor, trunk=TRUNKS[kind]),
        "critic": functools.partial(Critic, trunk=TRUNKS[kind]),
    }
    if kind == "masked":
        generator = functools.partial(MaskGenerator, hidden=8, use_trajectory_info=False)
        return MaskedSAC(SPEC, generator=generator, use_supervised_loss=False, **parts, **options)
    if kind in ENCODERS:
        return EncoderSAC(SPEC, encoder=ENCODERS[kind], **parts, **options)
    return (SequentialSAC if kind == "dendritic" else SAC)(SPEC, **parts, **options)


def batch(rows: int = 16) -> TensorDict:
    """A made-up batch `[tasks, rows]`."""
    shape = (SPEC.num_tasks, rows)
    following = {
        "observation": torch.randn(*shape, SPEC.observation_dim),
        "reward": torch.randn(*shape, 1),
        "terminated": torch.rand(*shape, 1) < 0.1,
    }
    return TensorDict(
        {
            "observation": torch.randn(*shape, SPEC.observation_dim),
            "task_id": torch.arange(SPEC.num_tasks)[:, None].expand(shape),
            "action": torch.rand(*shape, SPEC.action_dim) * 2 - 1,
            "next": TensorDict(following, shape),
        },
        shape,
    )


def updates(made: SAC, number: int) -> list[dict[str, Tensor]]:
    """Updates on the same batches with the same draws; MUST's first ones move its generators."""
    torch.manual_seed(1)
    metrics = []
    made.begin_phase(None)
    for _ in range(number):
        metrics.append(made.update(batch()))
    made.end_phase(None)
    return metrics


QUICK = ("mlp", "masked")
"""The others, whose layers are compiled in the networks' own tests, take half a minute each."""


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k in QUICK else pytest.mark.slow) for k in TRUNKS]
)
def test_a_compiled_update_equals_the_eager_one(kind, monkeypatch) -> None:
    """One graph without a break: nothing in it waits for the device or depends on values."""
    whole = functools.partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", whole)
    plain, compiled = (learner(kind, compiled=choice) for choice in (False, True))
    for _ in range(2):  # MUST: a phase of the generators and one without
        expected, seen = updates(plain, 3), updates(compiled, 3)
        torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)
    ours, theirs = (dict(made.named_parameters()) for made in (compiled, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    before, copied = copy.deepcopy(compiled.state_dict()), copy.deepcopy(compiled)
    updates(copied, 1)  # a copy trains itself
    for name, value in compiled.actor.state_dict().items():
        assert torch.equal(value, before[f"actor.{name}"])


@pytest.mark.filterwarnings("ignore:SAC.precision")  # where the processor has no bfloat16
@pytest.mark.parametrize("kind", TRUNKS)
@pytest.mark.parametrize("precision", ["bf16_matmul", "autocast"])
def test_lower_precision_stays_near_and_leaves_no_trace(kind, precision) -> None:
    """Gradients point where those of single precision do; nothing else becomes bfloat16."""
    plain, lower = (learner(kind, precision=choice) for choice in ("fp32", precision))
    start = copy.deepcopy(plain.state_dict())
    setting = torch.get_float32_matmul_precision()
    during = set()

    def watch(*_):
        during.add(torch.get_float32_matmul_precision())

    lower.critic.register_forward_pre_hook(watch)
    expected, metrics = updates(plain, 1)[0], updates(lower, 1)[0]
    assert during == {"medium" if precision == "bf16_matmul" else setting}
    assert torch.get_float32_matmul_precision() == setting
    assert {m.dtype for m in metrics.values()} == {torch.float32}
    assert {p.dtype for p in lower.parameters()} == {torch.float32}
    torch.testing.assert_close(metrics, expected, rtol=0.03, atol=3e-3)
    moves = [
        torch.cat(
            [
                (value.detach() - start[name]).flatten()
                for name, value in made.named_parameters()
                if name.startswith("critic.trunk")
            ]
        )
        for made in (plain, lower)
    ]
    assert torch.cosine_similarity(*moves, dim=0) > 0.9  # Adam's first step: signs
    if precision == "autocast":
        assert not torch.equal(*moves)


def test_last_layers_are_of_single_precision() -> None:
    """Under autocast the hidden layers are bfloat16, what leaves a network is not."""
    made = learner("mlp")
    x, task = torch.randn(4, SPEC.observation_dim), torch.zeros(4, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        features, y = made.actor.trunk.features(x, task), made.actor.trunk(x, task)
    assert (features.dtype, y.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("rounds", [False, True])
def test_products_that_stay_of_single_precision_are_told_of(rounds, monkeypatch, recwarn) -> None:
    """Whether they do is tried; setting a precision allows bfloat16 and demands nothing."""
    kind, multiply = torch.bfloat16 if rounds else torch.float64, torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda a, b: multiply(a.to(kind), b.to(kind)).to(a.dtype)
    )
    found = products_are_bfloat16(torch.device("cpu"))
    assert found == rounds and torch.get_float32_matmul_precision() == "highest"
    monkeypatch.undo()
    monkeypatch.setattr(sac, "products_are_bfloat16", lambda device: found)
    updates(learner("mlp", precision="bf16_matmul"), 1)
    told = [str(w.message) for w in recwarn if "in single precision all the same" in str(w.message)]
    assert bool(told) != found


@pytest.mark.parametrize("native", [False, True])
def test_a_processor_without_bfloat16_is_told_of(native, monkeypatch, recwarn) -> None:
    """Only there, and once."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    updates(learner("mlp", precision="autocast"), 2)
    updates(learner("mlp"), 1)
    told = [str(w.message) for w in recwarn if "SAC.precision" in str(w.message)]
    assert len(told) == (0 if native else 1)
