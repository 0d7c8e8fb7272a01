import errno
import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch

from envs.plane import PointMass
from runners import config, evaluate, evaluating, evaluation_results, saved_run
from runners.checkpoint import Checkpointer
from runners.saved_run import SavedRun

CONFIG = """
import envs.point_mass
import runners.evaluation
import runners.training
import {module}

train.suite = @PointMassSuite()
train.algorithm = @ConstantLearner
train.evaluator = @Evaluator()
PointMassSuite.num_tasks = 2
PointMassSuite.num_goals = 4
Evaluator.interval = 100
Evaluator.seed = 5
"""

LEARNER = """
import gin
import torch


@gin.configurable
class ConstantLearner(torch.nn.Module):
    def __init__(self, sizes, more=0):
        super().__init__()
        self.action = torch.nn.Parameter(torch.zeros(sizes.action_dim + more))

    def act(self, td, explore):
        td["action"] = self.action.expand(*td.batch_size, -1).clone()
        return td
"""


class Constant(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.action = torch.nn.Parameter(torch.full((2,), float(value)))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder of a learner that always does the same, with three checkpoints."""
    module = f"constant_learner_{os.getpid()}"
    (tmp_path / f"{module}.py").write_text(LEARNER)
    monkeypatch.syspath_prepend(tmp_path)
    yield_folder = tmp_path / "run"
    yield_folder.mkdir()
    (yield_folder / "config.gin").write_text(CONFIG.format(module=module))
    saver = Checkpointer().bind(yield_folder / "checkpoints")
    saver.save(10, learner=Constant(0.1))
    saver.save(20, learner=Constant(0.2))
    saver.mark_best(15, 0.5, learner=Constant(0.15))
    return yield_folder


def call(*arguments):
    return evaluate.main(["evaluate", *map(str, arguments)])


def test_prints_a_table_and_writes_json(run, capsys):
    assert call(run) == 0
    out, error = capsys.readouterr()
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == ["task", "success", "return", "length", "episodes"]
    assert [line[0] for line in lines[1:]] == ["turn-0", "turn-1", "mean"]
    path = run / "eval" / "evaluate_20_seed_5.json"
    assert str(path) in error
    result = json.loads(path.read_text())
    assert result["step"] == 20 and result["seed"] == 5 and result["episodes_per_task"] == 4
    assert result["protocol"]["horizon"] == 30


def test_a_result_that_cannot_be_written_leaves_the_table(run, capsys, caplog, monkeypatch):
    assert call(run) == 0
    wanted = capsys.readouterr().out
    shutil.rmtree(run / "eval")
    (run / "eval").write_text("")  # a file in the folder's place
    assert call(run) == 0
    assert capsys.readouterr().out == wanted
    assert [f"no {run / 'eval'}" in r.message for r in caplog.records] == [True]
    (run / "eval").unlink()

    def refuse(path, content):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(evaluation_results, "write_atomically", refuse)  # root may write everywhere
    assert call(run) == 0
    assert capsys.readouterr().out == wanted
    assert caplog.messages[1].startswith("Permission denied: no ") and len(caplog.records) == 2


@pytest.mark.parametrize("which, step, value", [("latest", 20, 0.2), ("10", 10, 0.1)])
def test_chooses_the_checkpoint(run, which, step, value):
    saved = SavedRun(run, which)
    assert saved.step == step
    assert saved.learner.action.tolist() == pytest.approx([value, value])


def test_best(run):
    saved = SavedRun(run, "best")
    assert saved.step == 15 and saved.learner.action[0].item() == pytest.approx(0.15)


def test_a_damaged_checkpoint_gives_way(run):
    path = run / "checkpoints" / "step_000000000020" / "learner.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert SavedRun(run).step == 10


def test_damaged_checkpoints_without_a_whole_one_are_one_line(run, caplog):
    for path in run.glob("checkpoints/step_*/learner.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(config.ConfigError, match="damaged: .*000020.*000010.*there are: best$"):
        SavedRun(run)
    assert not caplog.records


def test_a_configuration_that_does_not_fit_is_one_line(run, monkeypatch):
    path = run / "config.gin"
    text = path.read_text()
    path.write_text(text + "\nConstantLearner.more = 1\n")
    with pytest.raises(config.ConfigError, match="does not fit .*config.gin: .*size mismatch"):
        SavedRun(run)
    path.write_text(text.replace("train.suite =", "SUITE ="))
    with pytest.raises(config.ConfigError, match="binds no train.suite; put back"):
        SavedRun(run)


def test_a_run_that_may_not_be_read_is_one_line(run, monkeypatch):
    def refuse(folder):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(saved_run, "steps_in", refuse)  # root may read everything
    with pytest.raises(config.ConfigError, match="run: .*checkpoints: Permission denied; see that"):
        SavedRun(run)


def test_episodes_and_seed(run):
    evaluator = SavedRun(run).evaluator(episodes=3, seed=8)
    assert (evaluator.num_goals, evaluator.episodes_per_goal, evaluator.seed) == (3, 1, 8)
    evaluator = SavedRun(run).evaluator(episodes=8)
    assert (evaluator.num_goals, evaluator.episodes_per_goal) == (4, 2)
    with pytest.raises(config.ConfigError, match="--episodes=6"):
        SavedRun(run).evaluator(episodes=6)


def test_wrong_input_is_one_line_and_2(run, capsys, tmp_path):
    checkpoint = run / "checkpoints"
    for arguments, says in [
        ((), "one run folder"),
        ((run, run), "one run folder"),
        ((tmp_path / "nothing",), "no config.gin"),
        ((run, "--checkpoint=30"), "there are: 10, 20, best"),
        ((run, "--checkpoint=newest"), "latest, best or a step"),
        ((run, "--episodes=0"), "episodes"),
        ((run, "--episodes=6"), "--episodes=6"),
        ((run, "--device=tpux"), "--device=tpux"),
        ((run, "--activations"), "--activations: this run has no meta-learner"),
        ((run, "--activation_episodes=2"), "without --activations"),
        ((run, "--tasks=2"), "--tasks is for runs of CAVIA and MAML"),
        ((run, "--tasks=0"), "tasks"),
        ((run, f"--seed={2**63}"), f"{2**63 - 1}]"),
        ((run, "--latents"), "--latents: this run's evaluator is none of a learner that infers"),
        ((checkpoint, "--latents"), "no config.gin"),
        ((run, "--activations", "--activation_episodes=0"), "activation_episodes"),
        ((run, "--unknown=1"), "unknown"),
    ]:
        assert call(*arguments) == 2, arguments
        out, error = capsys.readouterr()
        assert out == "" and error.count("\n") == 1 and says in error, (arguments, error)
    for path in checkpoint.glob("*/learner.json"):
        path.unlink()
    assert call(run) == 2
    assert "learner.json" in capsys.readouterr().err
    shutil.rmtree(checkpoint)
    assert call(run) == 2
    assert "there are: none" in capsys.readouterr().err


RECORDER = """
import torch
import gin


@gin.configurable
class Steps:
    def begin(self):
        self.count = 0

    def see(self, learner, td, step, active):
        self.count += 1

    def summary(self):
        return {"layer_0/steps": torch.tensor([self.count])}
"""


def test_a_run_with_a_recorder_of_its_own_keeps_it(run, capsys, tmp_path):
    module = f"steps_{os.getpid()}"
    (tmp_path / f"{module}.py").write_text(RECORDER)
    with (run / "config.gin").open("a") as file:
        file.write(f"\nimport {module}\nEvaluator.recorder = @Steps()\n")
    assert call(run, "--activations", "--activation_episodes=2") == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and "--activation_episodes" in error
    assert call(run, "--activations") == 0
    path = run / "eval" / "evaluate_20_seed_5_activity.npz"
    assert str(path) in capsys.readouterr().err and path.exists()


def test_episodes_whose_simulator_broke_down_are_told(run, monkeypatch, caplog):
    """The scores by themselves would not show it."""
    step = PointMass.step

    def unstable(environment, action):
        *outcome, info = step(environment, action)
        return *outcome, {**info, "unstable": True}

    assert evaluate.main(["evaluate", str(run)]) == 0 and "broke off" not in caplog.text
    monkeypatch.setattr(PointMass, "step", unstable)
    assert evaluate.main(["evaluate", str(run)]) == 0
    assert "8 episodes of this evaluation broke off" in caplog.text


def test_a_recorder_of_masks_writes_no_activations():
    recording = SimpleNamespace(recorder=SimpleNamespace(kind="masks"))
    said = evaluating._unfit(recording, torch.nn.Identity(), ["MetaEvaluator.recorder"])
    assert "--activations" in said and "writes its masks" in said
    watching = SimpleNamespace(recorder=SimpleNamespace())
    assert evaluating._unfit(watching, torch.nn.Identity(), ["MetaEvaluator.recorder"]) == ""
