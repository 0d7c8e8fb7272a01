"""The recorder: what it samples, and whom it leaves alone."""

import functools
import types

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from networks.activity_recorder import ActivityRecorder
from networks.dendrites import Dendrites
from networks.dendritic import DendriticMLP
from networks.masked import MaskedMLP
from networks.mlp import MLP
from networks.task_context import TaskContext

TRUNKS = {
    "mlp": lambda: MLP(4, 2, 3, hidden=(16, 12)),
    "masked": lambda: MaskedMLP(4, 2, 3, hidden=(16, 12)),
    "dendritic": lambda: DendriticMLP(4, 2, 3, hidden=(16, 12)),
}


def learner(trunk):
    return types.SimpleNamespace(
        actor=types.SimpleNamespace(trunk=trunk),
        num_tasks=3,
        seen_by_policy=lambda observation, task: 2.0 * observation,
    )


def step():
    return TensorDict({"observation": torch.randn(3, 4), "task_id": torch.tensor([2, 0, 1])}, [3])


@pytest.mark.parametrize("kind", TRUNKS)
def test_figures_are_those_of_the_sampled_steps(kind):
    trunk = TRUNKS[kind]().eval()
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    recorder, kept = ActivityRecorder(stride=3), []
    for number in range(9):
        td, active = step(), torch.tensor([True, number < 5, True])
        recorder.see(learner(trunk), td, number, active)
        if number % 3 == 0:
            hidden = trunk.hidden_activations(2.0 * td["observation"], td["task_id"])
            kept.append((hidden, active))
    seen = recorder.summary()
    for layer, width in enumerate((16, 12)):
        rows = torch.stack([hidden[layer][0] for hidden, _ in kept])  # the row of task 2
        assert seen[f"layer_{layer}/activation"].shape == (3, width)
        torch.testing.assert_close(seen[f"layer_{layer}/activation"][2], rows.mean(0))
        rows = torch.stack([hidden[layer][1] for hidden, active in kept if active[1]])
        assert len(rows) == 2
        torch.testing.assert_close(seen[f"layer_{layer}/activation"][0], rows.detach().mean(0))
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, before[name])


def test_segments_of_a_dendritic_layer():
    trunk = TRUNKS["dendritic"]().eval()
    recorder = ActivityRecorder(stride=1)
    for number in range(4):
        recorder.see(learner(trunk), step(), number, torch.ones(3, dtype=torch.bool))
    seen = recorder.summary()
    d = trunk.dendrites["1"].segments()  # [tasks, units, segments]
    torch.testing.assert_close(seen["segments_1/segment"], d.detach().permute(1, 2, 0))
    winner = d.abs().argmax(-1)
    wins = nn.functional.one_hot(winner, 10).permute(1, 2, 0).float()
    assert torch.equal(seen["segments_1/win_share"], wins)
    gates = d.gather(-1, winner.unsqueeze(-1)).squeeze(-1).sigmoid()
    torch.testing.assert_close(seen["segments_1/gate"], gates.detach())
    assert seen["layer_1/percent_on"] == 3 / 12


@pytest.mark.parametrize("gating", ["signed_abs_max", "max"])
@pytest.mark.parametrize("source", ["one_hot", "input_and_one_hot"])
def test_segments_of_any_context_are_those_of_the_forward_pass(source, gating):
    torch.manual_seed(0)
    context = functools.partial(TaskContext, source=source, preprocess="relu", width=5)
    dendrites = functools.partial(Dendrites, num_segments=4, gating=gating)
    trunk = DendriticMLP(4, 2, 3, hidden=(16, 12), context=context, dendrites=dendrites).eval()
    td = step()
    x, task = td["observation"], td["task_id"]
    raw = nn.functional.one_hot(task, 3).float()
    raw = raw if source == "one_hot" else torch.cat((x, raw), -1)
    c = nn.functional.relu(nn.functional.linear(raw, *trunk.context.linear.parameters()))
    (sample,) = trunk.segment_use(x, task).values()
    weight = trunk.dendrites["1"].weight
    for row in range(3):
        for unit in range(12):
            d = weight[unit] @ c[row]
            best = (d.abs() if gating == "signed_abs_max" else d).argmax()
            torch.testing.assert_close(sample.d[row, unit], d)
            assert sample.winner[row, unit] == best
            torch.testing.assert_close(sample.gate[row, unit], d[best].sigmoid())


def test_begin_forgets():
    trunk, recorder = TRUNKS["mlp"](), ActivityRecorder(stride=1)
    recorder.see(learner(trunk), step(), 0, torch.ones(3, dtype=torch.bool))
    recorder.begin()
    assert recorder.summary() == {}
    recorder.see(learner(trunk), step(), 0, torch.zeros(3, dtype=torch.bool))
    assert recorder.summary() == {}


def test_errors():
    with pytest.raises(ValueError, match=r"ActivityRecorder\.stride.*0"):
        ActivityRecorder(stride=0)
    with pytest.raises(TypeError, match="Linear does not tell.*recorder"):
        everyone = torch.ones(3, dtype=torch.bool)
        ActivityRecorder().see(learner(nn.Linear(4, 2)), step(), 0, everyone)
