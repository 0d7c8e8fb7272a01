"""Tests of the zero-shot evaluation."""

import json
import random

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import nn

from buffers.rolling_window import RollingWindow
from envs.point_robots import PointRobotSuite
from runners.latent_records import of_split
from runners.window_evaluation import RUNS, WindowEvaluator
from runners.window_rollouts import WindowRollouts

KIND = "point-robot-families"


class Runner(nn.Module):
    """Goes along x; infers "direction" from rewards of the size of its steps."""

    window, labelled = 3, True

    def __init__(self):
        super().__init__()
        self.weight, self.drop = nn.Parameter(torch.zeros(())), nn.Dropout(0.5)

    def prior(self, number):
        td = {"latent": torch.zeros(number, 2), "component": torch.zeros(number).long()}
        return TensorDict({**td, "weights": torch.full((number, 2), 0.5)}, [number])

    def adapt(self, experience, prior):
        """The direction is paid |action|, along x, at most 1: a goal's reward is never that."""
        assert not self.training and not torch.is_grad_enabled()
        last = experience[:, -1]
        paid = last["next", "reward"].squeeze(-1).abs()
        component = (last["mask"] & ((paid - 1.0).abs() < 1e-5)).long()
        return TensorDict({**prior.to_dict(), "component": component}, prior.batch_size)

    def act(self, td, explore):
        action = torch.zeros_like(td["observation"])
        action[..., 0] = 1.0
        if explore:
            action[..., 1] = 0.1 * torch.randn_like(action[..., 1])
        return td.set("action", action)


def evaluator(**options):
    return WindowEvaluator(window=RollingWindow, **options)


def suite(**options):
    return PointRobotSuite(KIND, sizes=(6, 4), **options)


def test_every_task_of_each_run():
    made, there = evaluator(episodes=2), suite()
    metrics = made(there, Runner())
    assert tuple(made.scores) == made.runs
    for run in made.runs:
        split = run.split("/")[0]
        tasks = there.each(split)
        returned = made.scores[run]["return"]
        assert returned.shape == (len(tasks), 2)
        assert metrics[f"eval/return/{run}"] == pytest.approx(returned.mean().item())
        for name in ("goal", "direction"):
            rows = [i for i, task in enumerate(tasks) if task.name == name]
            assert metrics[f"eval/return/{run}/{name}"] == pytest.approx(
                returned[rows].mean().item()
            )
    directions = [task for task in there.each("test") if task.name == "direction"]
    signs = torch.tensor([there.specification(task)[0] for task in directions])
    got = made.scores["test/deterministic"]["return"][-2:]
    torch.testing.assert_close(got, (20.0 * signs).double().unsqueeze(1).expand(2, 2))
    assert metrics["eval/return"] == metrics["eval/return/test/deterministic"]
    assert made.score(metrics) == metrics["eval/return"]
    assert made.success.tolist() == [0.0] * 4


def test_accuracy_of_the_component():
    metrics = evaluator(burn_in=1)(suite(), Runner())
    assert metrics["eval/accuracy"] == 1.0
    metrics = evaluator(burn_in=0)(suite(), Runner())
    assert metrics["eval/accuracy"] == pytest.approx(1.0 - 0.5 / 20)


def test_the_same_again_and_nothing_is_disturbed():
    learner, made = Runner().train(), evaluator()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    metrics = made(suite(), learner)
    assert learner.training and learner.drop.training
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    torch.rand(7)
    there = suite()
    assert made(there, learner) == metrics == made(there, learner)
    assert evaluator(seed=1)(suite(), learner) != metrics
    made.close()


def test_few_environments_and_few_tasks():
    made = evaluator(episodes_at_once=3, runs=("train/deterministic",))
    made(suite(), Runner())
    assert made._rollouts.num_tasks == 3
    assert made.scores["train/deterministic"]["return"].shape == (6, 1)
    few = evaluator(num_tasks=3, runs=("train/deterministic",))
    few(suite(), Runner())
    assert [task.name for task in few._tasks["train"]] == ["goal", "goal", "direction"]


def test_result_and_table(tmp_path):
    made, there = evaluator(), suite()
    metrics = made(there, Runner())
    result = json.loads(made.write_result(tmp_path, 30, there, metrics).read_text())
    assert result == json.loads(json.dumps(made.result(30, there, metrics)))
    assert result["suite"] == KIND and result["protocol"] == there.protocol()
    assert "empty window" in result["adaptation"] and list(result["runs"]) == list(made.runs)
    last = result["runs"]["test/deterministic"]
    assert last["accuracy"] == metrics["eval/accuracy"] and "reaction" not in last
    assert [len(task["returns"]) for task in last["tasks"]] == [1] * 4
    table = made.table(result)
    assert len(table.rows) == 9 and all(len(row) == len(table.header) for row in table.rows)


def test_reaction_where_tasks_change():
    """Inferred from the step before, so one step late."""
    made = evaluator(suite=suite(change_steps=5), runs=("test/deterministic",), episodes=5)
    plain = suite()
    metrics = made(plain, Runner())
    result = made.result(1, plain, metrics)
    assert result["protocol"]["change_steps"] == 5
    told = result["runs"]["test/deterministic"]["reaction"]
    place = {k: i for i, k in enumerate(told["step"])}
    assert told["changes"] > 20
    assert told["accuracy"][place[-1]] == told["accuracy"][place[1]] == 1.0
    assert told["accuracy"][place[0]] < 1.0
    assert sum(told["count"][place[k]] for k in (5, 6, 7)) <= told["changes"]
    json.dumps(result)


def test_latents_of_every_step(tmp_path):
    """As they were when the step was taken, and nothing else is changed by keeping them."""
    there, plain = suite(change_steps=5), evaluator(episodes=2, seed=3)
    made = evaluator(episodes=2, seed=3, latents=True)
    assert made(there, Runner()) == plain(suite(change_steps=5), Runner())
    path = made.write_result(tmp_path, 7, there, {"eval/return": 0.0, **made._metrics()})
    with np.load(tmp_path / "7_latents.npz") as loaded:
        arrays = dict(loaded)
    assert path is not None and {name.rpartition("/")[0] for name in arrays} == set(made.runs)
    told = of_split(arrays)[1]
    tasks = there.each("test")
    assert told["latent"].shape == (4, 2, 20, 2) and told["mask"].all()
    assert told["weights"].shape == (4, 2, 20, 2) and (told["weights"] == 0.5).all()
    assert told["task"].tolist() == [task.name for task in tasks]
    assert told["goal"].tolist() == [task.goals[0] for task in tasks]
    assert told["names"].tolist() == ["goal", "direction"]
    changed, family = told["changed"], told["family"]
    assert changed.any() and not changed[..., 0].any()
    assert ((family[..., 1:] != family[..., :-1]) <= changed[..., 1:]).all()
    width = there.spec.specification_dim
    assert told["specification"].shape == (4, 2, 20, width)
    same = (told["specification"][..., 1:, :] == told["specification"][..., :-1, :]).all(-1)
    assert (same | changed[..., 1:]).all()
    own = np.stack([there.specification(task) for task in tasks])
    assert (told["specification"][:, 0, 0] == own).all()
    total = told["reward"].sum(-1)
    assert total == pytest.approx(made.scores["test/deterministic"]["return"].numpy(), rel=1e-5)
    assert plain.write_result(tmp_path, 8, there, plain._metrics()) is not None
    assert not (tmp_path / "8_latents.npz").exists()


def test_mismatches():
    learner = Runner()
    evaluator().check(suite(), learner)
    with pytest.raises(ValueError, match="WindowEvaluator.suite: num_tasks is 1, .* is 2"):
        evaluator(suite=PointRobotSuite("point-robot")).check(suite(), learner)
    with pytest.raises(ValueError, match="WindowEvaluator: Linear"):
        evaluator().check(suite(), nn.Linear(1, 1))


def test_rehearsal_and_a_failed_evaluation_close_their_environments():
    made, learner = evaluator(), Runner()
    assert made.rehearse(suite(), learner) > 0 and made._rollouts is None
    learner.act = None
    with pytest.raises(TypeError):
        made(suite(), learner)
    assert made._rollouts is None


def test_due_state_and_changes_from_the_command_line():
    made = evaluator(interval=10)
    assert not made.due(9) and made.due(10)
    made._done()
    other = evaluator(interval=10)
    other.load_state_dict(made.state_dict())
    assert not other.due(19) and other.due(20)
    made.adjust(None, 3, 5)
    assert (made.episodes, made.seed) == (3, 5)


@pytest.mark.parametrize(
    "options",
    [
        {"interval": 0},
        {"episodes": 0},
        {"episodes_at_once": 0},
        {"num_tasks": 0},
        {"reaction_steps": 0},
        {"burn_in": -1},
        {"runs": ()},
        {"runs": ("test",)},
        {"runs": (RUNS[0], RUNS[0])},
    ],
)
def test_errors(options):
    with pytest.raises(ValueError, match=f"WindowEvaluator.{next(iter(options))}"):
        evaluator(**options)


def test_broken_episodes_count_nowhere_and_are_told(monkeypatch):
    run_all = WindowRollouts.run_all

    def breaks(self, *arguments):
        experience = run_all(self, *arguments)
        experience["mask"][0] = False
        return experience

    there, options = suite(), {"episodes": 2, "runs": ("test/deterministic",)}
    whole, made = evaluator(**options), evaluator(**options)
    expected = whole(there, Runner())
    monkeypatch.setattr(WindowRollouts, "run_all", breaks)
    metrics = made(there, Runner())
    assert metrics.pop("eval/broken_episodes") == 2 and metrics.keys() == expected.keys()
    seen, left = (one.scores["test/deterministic"]["return"] for one in (made, whole))
    assert seen[0].isnan().all() and torch.equal(seen[1:], left[1:])
    assert metrics["eval/return"] == pytest.approx(float(left[1:].mean()))
    result = made.result(3, there, metrics)["runs"]["test/deterministic"]
    assert result["return"] == pytest.approx(metrics["eval/return"])
    assert result["tasks"][0]["returns"] == [] and result["success_rate"] == 0.0
