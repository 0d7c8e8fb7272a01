"""Learners keep to the device of what they are given, and read nothing back from it.

No GPU is needed. Calls that a short run makes of its learner are repeated on a copy whose tensors
say that they lie elsewhere: these have shapes but no numbers, and refuse to meet tensors of the
CPU. What reads a number (`item`, `bool`) is an error too, but for the few decisions in `DECIDE`.
"""

import copy
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensor, FakeTensorMode

from algorithms import cavia, cemrl, encoder_sac, must, pearl, sac, sequential_sac, tigr
from algorithms.base import Algorithm
from algorithms.optimizers import ClippedOptimizer
from runners import train

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = torch.device("meta")  # autograd knows it everywhere, as it does not know CUDA
MODULES = (cavia, cemrl, encoder_sac, must, pearl, sac, sequential_sac, tigr)
CALLS = ("act", "adapt", "update", "infer", "observe", "begin_phase", "end_phase", "prior")
EACH = 3
DECIDE = {
    "baseline.py": False,  # does a fit fail?
    "trust_region.py": True,  # is a step taken?
    "must.py": True,  # has every task a trajectory?
}
SHORT = {
    "off policy": {"TOTAL_STEPS": 48, "WARMUP_STEPS": 4, "EVALUATION_INTERVAL": 10**9},
    "masked": {"TOTAL_STEPS": 96, "WARMUP_STEPS": 4, "STEPS_PER_ITERATION": 4}
    | {"UPDATE_INTERVAL": 2, "EVALUATION_INTERVAL": 10**9},
    "on policy": {"ITERATIONS": 1, "META_BATCH": 2, "EPISODES": 2, "TEST_EPISODES": 1},
    "posterior": {"ITERATIONS": 1, "UPDATES": 2, "INITIAL_STEPS": 5, "EVALUATION_STEPS": 5},
    "windows": {"ITERATIONS": 1, "INFERENCE_STEPS": 2, "POLICY_STEPS": 2, "TRANSITIONS": 5},
}
FILES = {
    "quick/mtsac_point_mass": "off policy",
    "quick/must_point_mass": "masked",
    "quick/care_point_mass": "off policy",
    "quick/dendrites_point_mass": "off policy",
    "cavia_navigation": "on policy",
    "papers/nm_cavia/ctd2_nm_maml": "on policy",
    "quick/pearl_point_robot": "posterior",
    "quick/tigr_point_robot": "windows",
    "quick/cemrl_point_robot": "windows",
}


def moved(value, mode):
    """The same, elsewhere and without numbers."""
    if isinstance(value, TensorDict):
        parts = {name: moved(part, mode) for name, part in value.items()}
        return TensorDict(parts, value.batch_size)
    if isinstance(value, torch.Tensor):
        value = mode.from_tensor(value)
        value.fake_device = ELSEWHERE
    return value


def moved_learner(learner, mode):
    """A copy; parameters and buffers are elsewhere, and nothing else is, as after `learner.to`."""
    generators = [g for g in vars(learner).values() if isinstance(g, torch.Generator)]
    with FakeCopyMode(mode):
        learner = copy.deepcopy(learner, {id(g): g for g in generators})
    made = getattr(learner, "_best", [])  # by begin_phase, of the parameters
    for tensor in (*learner.parameters(), *learner.buffers(), *made):
        tensor.fake_device = ELSEWHERE
    return learner


def decide(tensor):
    """`bool` of a tensor without numbers, where the host may ask for it."""
    file = Path(sys._getframe(1).f_code.co_filename).name
    if file not in DECIDE:
        raise AssertionError(f"{file} reads a number back from the device")
    return DECIDE[file]


def take_step(group):
    """`ClippedOptimizer.step`, whose fused optimizers know real devices only."""
    gradients = [p.grad for p in group.parameters if p.grad is not None]
    assert gradients and {g.device for g in gradients} == {ELSEWHERE}
    for parameter in group.parameters:
        parameter.grad = None
    return torch.zeros((), device=ELSEWHERE), torch.zeros((), device=ELSEWHERE)


def repeat(learner, name, arguments, options):
    """The call elsewhere; every tensor that comes back is there."""
    mode, real = FakeTensorMode(), torch.autocast
    learner = moved_learner(learner, mode)
    with pytest.MonkeyPatch.context() as patch, mode:
        patch.setattr(FakeTensor, "__bool__", decide)
        patch.setattr(ClippedOptimizer, "step", take_step)
        # A device that is not there has no generator of random numbers.
        patch.setattr(must.MaskedSAC, "_random", lambda self: self._stream)
        patch.setattr(torch, "autocast", lambda device, *rest, **o: real("cpu", *rest, **o))
        patch.setattr(torch, "is_autocast_enabled", lambda device: False)
        result = getattr(learner, name)(*[moved(x, mode) for x in arguments], **options)
    values = (
        result.values(True, True) if isinstance(result, TensorDict) else (result or {}).values()
    )
    assert {value.device for value in values if isinstance(value, torch.Tensor)} <= {ELSEWHERE}


@pytest.mark.parametrize("name", FILES)
def test_calls_of_a_learner_elsewhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    seen, within = Counter(), []

    def watched(call, method):
        def run(learner, *arguments, **options):
            place = call, getattr(learner, "generating", False)
            if not within and seen[place] < EACH:
                seen[place] += 1
                within.append(call)
                repeat(learner, call, arguments, options)
                within.pop()
            return method(learner, *arguments, **options)

        return run

    kinds = {kind for file in MODULES for kind in vars(file).values() if learns(kind)}
    for kind in kinds:
        for call in set(CALLS) & set(vars(kind)):
            monkeypatch.setattr(kind, call, watched(call, vars(kind)[call]))
    flags = [f"--gin={key} = {value}" for key, value in SHORT[FILES[name]].items()]
    flags += ["--gin=Logger.tensorboard = False", f"--workdir={tmp_path}"]
    assert train.main(["train", f"--gin_file=gin/{name}.gin", *flags]) == 0
    assert seen["act", False] and seen["update", False]
    assert bool(seen["update", True]) == ("must" in name)


def learns(kind):
    return isinstance(kind, type) and issubclass(kind, Algorithm)
