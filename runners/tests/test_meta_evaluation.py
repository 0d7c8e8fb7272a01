"""Tests of the evaluation by adaptation step."""

import json
import random

import numpy as np
import pytest
import torch
from scipy import stats
from tensordict import TensorDict
from torch import nn

from envs.ct_graph import CTGraphSuite
from envs.navigation import NavigationSuite
from envs.point_robots import PointRobotSuite
from envs.tree_pictures import OneHotPictures
from runners.meta_evaluation import MetaEvaluator, half_width
from runners.rollouts import Rollouts

SMALL = {"num_tasks": 4, "episodes": 3, "adaptations": 2}


class Halver(nn.Module):
    """Each adaptation halves the distance to a place; actions are noisy."""

    def __init__(self, noise=0.02):
        super().__init__()
        self.noise, self.drop = noise, nn.Dropout(0.5)
        self.weight = nn.Parameter(torch.ones(2) * 0.4)
        self.adapted = []

    def prior(self, num_tasks):
        return TensorDict({"latent": torch.zeros(num_tasks, 2)}, [num_tasks])

    def act(self, td, explore):
        assert explore and not self.training and not torch.is_grad_enabled()
        seen = td["observation"]
        td["action"] = td["latent"] - seen + self.noise * torch.randn_like(seen)
        return td

    def adapt(self, experience, prior):
        self.adapted.append(experience)
        return TensorDict({"latent": 0.5 * (prior["latent"] + self.weight)}, prior.batch_size)


def walked(aim, goals):
    """Returns of five steps from the origin towards (aim, aim), by goal."""
    position, total = torch.zeros(len(goals), 2), torch.zeros(len(goals))
    for _ in range(5):
        position = position + (aim - position).clamp(-0.1, 0.1)
        total -= (position - goals).norm(dim=1)
    return total.double()


def test_numbers_by_step_and_split():
    suite, learner = NavigationSuite(horizon=5), Halver(noise=0.0)
    evaluator = MetaEvaluator(splits=("train", "test"), **SMALL)
    metrics = evaluator(suite, learner)
    assert len(learner.adapted) == 4
    for split in ("train", "test"):
        generator = np.random.default_rng((0, ("train", "test").index(split)))
        tasks = suite.sample(4, split, generator)
        goals = torch.from_numpy(np.stack([suite.goals(t, t.goals[0]) for t in tasks]))
        for step in range(3):
            total = walked(0.4 * (1 - 0.5**step), goals)
            got = evaluator.returns[split][:, step]
            torch.testing.assert_close(got, total[:, None].expand(4, 3))
            name = f"eval/return/{split}/step_{step}"
            assert metrics[name] == pytest.approx(float(total.mean()), rel=1e-5)
            assert metrics[f"eval/success_rate/{split}/step_{step}"] == 0.0
    assert metrics["eval/return"] == metrics["eval/return/test/step_2"]
    assert metrics["eval/return_before"] == metrics["eval/return/test/step_0"]
    assert evaluator.score(metrics) == metrics["eval/return"]
    assert evaluator.success.tolist() == [0.0] * 4


def test_the_same_again_and_nothing_is_disturbed():
    suite, learner = NavigationSuite(horizon=5), Halver().train()
    evaluator = MetaEvaluator(**SMALL)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    metrics = evaluator(suite, learner)
    assert learner.training and learner.drop.training
    assert all(torch.equal(before[k], v) for k, v in learner.state_dict().items())
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    torch.rand(7)
    assert evaluator(suite, learner) == metrics
    assert MetaEvaluator(**SMALL)(NavigationSuite(horizon=5), learner) == metrics
    assert MetaEvaluator(seed=1, **SMALL)(suite, learner) != metrics
    evaluator.close()


def test_each_step_adapts_to_the_newest_episodes():
    learner = Halver()
    MetaEvaluator(splits=("test",), **SMALL)(NavigationSuite(horizon=5), learner)
    first, second = learner.adapted
    ends = [part["observation"][:, :, -1].mean() for part in (first, second)]
    assert abs(ends[0]) < 0.05 < ends[1]


def test_result_and_table(tmp_path):
    suite, evaluator = NavigationSuite(horizon=5), MetaEvaluator(splits=("test",), **SMALL)
    metrics = evaluator(suite, Halver())
    path = evaluator.write_result(tmp_path, 30, suite, metrics)
    result = json.loads(path.read_text())
    assert path.name == "30.json" and result == evaluator.result(30, suite, metrics)
    assert result["suite"] == "navigation" and result["horizon"] == 5
    steps = result["splits"]["test"]["steps"]
    assert [step["adaptations"] for step in steps] == [0, 1, 2]
    by_task = evaluator.returns["test"].mean(-1)
    low, high = stats.t.interval(
        0.95, 3, by_task[:, 1].mean().item(), stats.sem(by_task[:, 1].numpy())
    )
    assert steps[1]["return_ci95_over_tasks"] == pytest.approx((high - low) / 2)
    assert [len(task["returns"]) for task in result["splits"]["test"]["tasks"]] == [3] * 4
    table = evaluator.table(result)
    assert len(table.rows) == 3 and all(len(row) == len(table.header) for row in table.rows)
    assert table.rows[2][2] == f"{metrics['eval/return']:.2f}"


def test_result_by_class():
    suite = PointRobotSuite("point-robot-families", sizes=(4, 4), horizon=5)
    evaluator = MetaEvaluator(splits=("test",), **SMALL | {"num_tasks": 9})
    metrics = evaluator(suite, Halver())
    shape = evaluator.returns["test"].shape
    evaluator.successes["test"], evaluator.last_successes["test"] = torch.rand(2, *shape).double()
    there = evaluator.result(1, suite, metrics)["splits"]["test"]
    names = [task["name"] for task in there["tasks"]]
    assert set(there["classes"]) == set(names) == {"goal", "direction"}
    scores = {
        "returns": evaluator.returns,
        "success_rates": evaluator.successes,
        "success_rates_at_the_last_step": evaluator.last_successes,
    }
    for name, told in there["classes"].items():
        assert told.keys() == scores.keys()
        for tag, values in scores.items():
            for step in range(3):
                each = [values["test"][i, step].mean() for i in range(9) if names[i] == name]
                assert told[tag][step] == pytest.approx(float(sum(each) / len(each)))


@pytest.mark.parametrize("at_once", [None, 20, 25, 80])
def test_every_goal_in_groups(at_once):
    suite, learner = NavigationSuite(horizon=5), Halver(noise=0.0)
    evaluator = MetaEvaluator(num_tasks=None, tasks_at_once=at_once, episodes=2, adaptations=1)
    metrics = evaluator(suite, learner)
    size = min(at_once or 50, 50)
    assert [len(seen) for seen in learner.adapted] == [size] * 2 * -(-50 // size)
    for split in ("train", "test"):
        tasks = suite.each(split)
        goals = torch.from_numpy(np.stack([suite.goals(t, t.goals[0]) for t in tasks]))
        for step, aim in enumerate((0.0, 0.2)):
            seen = evaluator.returns[split][:, step]
            torch.testing.assert_close(seen, walked(aim, goals)[:, None].expand(50, 2))
        told = evaluator.result(1, suite, metrics)["splits"][split]["tasks"]
        assert [(t["name"], t["goal"]) for t in told] == [(t.name, t.goals[0]) for t in tasks]
    assert evaluator.rehearse(suite, learner) > 0.0
    evaluator.close()


def test_splits_of_different_numbers_share_the_environments():
    suite = PointRobotSuite("point-robot-families", sizes=(12, 8), horizon=5)
    evaluator = MetaEvaluator(num_tasks=None, episodes=2, adaptations=1, recorder=Watcher())
    evaluator(suite, Halver())
    shapes = [(split, len(seen), len(latent)) for split, seen, latent in evaluator.recorder.seen]
    assert shapes == [("train", 12, 12)] * 2 + [("test", 8, 8)] * 2
    assert [len(evaluator.returns[split]) for split in ("train", "test")] == [12, 8]
    evaluator.tasks_at_once = 5
    evaluator.close()
    evaluator(suite, Halver())
    shapes = [(split, len(seen), len(latent)) for split, seen, latent in evaluator.recorder.seen]
    groups = [("train", 5), ("train", 5), ("train", 2), ("test", 5), ("test", 3)]
    assert shapes == [(split, size, size) for split, size in groups for _ in range(2)]
    assert evaluator.recorder.steps == [0, 1] * 5
    evaluator.close()


def test_a_record_that_does_not_fit_is_refused():
    evaluator = MetaEvaluator(recorder=Watcher(), **SMALL)
    with pytest.raises(ValueError, match="MetaEvaluator.recorder.*of memory.*activation_episodes"):
        evaluator.check(NavigationSuite(horizon=5), Halver())


class Watcher:
    """Keeps what it was shown, and refuses learners without `adapted`."""

    episodes = None

    def __init__(self):
        self.seen, self.steps = [], []

    def begin(self):
        self.seen, self.steps = [], []

    def width(self, learner, observation, latent):
        return 10**9

    def check(self, learner):
        if not hasattr(learner, "adapted"):
            raise TypeError("not this learner")

    def see(self, learner, split, step, experience, latent):
        self.seen.append((split, experience.clone(), latent.clone()))
        self.steps.append(step)

    def summary(self):
        return {f"{split}/latent": latent for split, _, latent in self.seen}


def test_a_recorder_sees_every_step_and_changes_nothing(tmp_path):
    suite, learner, watcher = NavigationSuite(horizon=5), Halver(), Watcher()
    evaluator = MetaEvaluator(recorder=watcher, **SMALL)
    for _ in range(2):  # the second evaluation forgets the first
        metrics = evaluator(suite, learner)
    plain = MetaEvaluator(**SMALL)
    assert plain(suite, Halver()) == metrics
    for kept in ("returns", "successes", "last_successes"):
        for split, value in getattr(plain, kept).items():
            assert torch.equal(value, getattr(evaluator, kept)[split])
    assert [split for split, *_ in watcher.seen] == ["train"] * 3 + ["test"] * 3
    for split, experience, latent in watcher.seen:
        step = round(-np.log2(1 - latent[0, 0].item() / 0.4))
        reward = experience["next", "reward"].squeeze(-1) * experience["mask"]
        assert torch.equal(reward.sum(-1).double(), evaluator.returns[split][:, step])
    path = evaluator.write_result(tmp_path, 30, suite, metrics)
    result = json.loads(path.read_text())
    assert result == plain.result(30, suite, metrics)
    with np.load(path.with_name("30_activations.npz")) as written:
        assert set(written) == {f"{s}/{n}" for s in result["splits"] for n in written_names()}
        for split, there in result["splits"].items():
            assert written[f"{split}/task"].tolist() == [t["name"] for t in there["tasks"]]
            assert written[f"{split}/goal"].tolist() == [t["goal"] for t in there["tasks"]]
            assert written[f"{split}/latent"] == pytest.approx(0.3)
    plain.write_result(tmp_path, 31, suite, metrics)
    assert not (tmp_path / "31_activations.npz").exists()


class Waiter(Halver):
    """Waits, in the CT-graph, and adapts to nothing."""

    def act(self, td, explore):
        td["action"] = torch.zeros(td["observation"].shape[:2], dtype=torch.int64)
        return td


def test_random_streams_are_those_of_evaluation_not_of_training():
    suite, watcher = CTGraphSuite(pictures=OneHotPictures(noise=9)), Watcher()
    evaluator = MetaEvaluator(splits=("train",), recorder=watcher, seed=6, **SMALL)
    evaluator(suite, Waiter())
    seen = watcher.seen[0][1]["observation"]
    for purpose in ("evaluation", "train"):
        tasks, rollouts = evaluator._tasks["train"], Rollouts(suite, 4, 3, seed=6, purpose=purpose)
        rollouts.open(tasks).reset()  # as before the snapshot of an evaluation
        other = rollouts.collect(Waiter(), tasks, torch.zeros(4, 2))
        assert torch.equal(other["observation"], seen) == (purpose == "evaluation")


def written_names():
    return ("latent", "task", "goal")


def test_a_learner_the_recorder_refuses_is_not_evaluated():
    suite, evaluator = NavigationSuite(horizon=5), MetaEvaluator(recorder=Watcher(), **SMALL)
    with pytest.raises(TypeError, match="not this learner"):
        evaluator(suite, nn.Linear(2, 2))
    assert evaluator._rollouts is None


def test_broken_episodes_count_nowhere_and_are_told(monkeypatch):
    suite, learner, broken = NavigationSuite(horizon=5), Halver(noise=0.0), [(1, 2), (3, 0)]
    collect = Rollouts.collect

    def breaks(self, *args, **options):
        experience = collect(self, *args, **options)
        for place in broken:
            experience["mask"][place] = False
        return experience

    whole = MetaEvaluator(splits=("test",), **SMALL)
    expected = whole(suite, learner)
    monkeypatch.setattr(Rollouts, "collect", breaks)
    evaluator = MetaEvaluator(splits=("test",), **SMALL)
    metrics = evaluator(suite, learner)
    assert metrics.pop("eval/broken_episodes") == 3 * len(broken)
    assert "eval/broken_episodes" not in expected and metrics.keys() == expected.keys()
    seen, left = evaluator.returns["test"], whole.returns["test"].clone()
    for task, episode in broken:
        left[task, :, episode] = torch.nan
    torch.testing.assert_close(seen, left, equal_nan=True)
    assert metrics["eval/return"] == pytest.approx(float(left[:, -1].nanmean()))
    assert evaluator.success.tolist() == whole.success.tolist()
    result = evaluator.result(7, suite, metrics)
    assert "NaN" not in json.dumps(result)
    step = result["splits"]["test"]["steps"][0]
    by_task = left[:, 0].nanmean(-1)
    assert step["return"] == pytest.approx(float(by_task.mean()))
    assert step["return_ci95_over_tasks"] == pytest.approx(half_width(by_task))


def test_half_width_of_one_value_is_unknown():
    assert np.isnan(half_width(torch.ones(1)))


def test_due_state_and_changes_from_the_command_line():
    evaluator = MetaEvaluator(interval=10, episodes_at_once=4, **{**SMALL, "episodes": 8})
    assert not evaluator.due(9) and evaluator.due(10)
    evaluator._done()
    other = MetaEvaluator(interval=10, **SMALL)
    other.load_state_dict(evaluator.state_dict())
    assert not other.due(19) and other.due(20)
    evaluator.adjust(None, 6, 5)
    assert (evaluator.episodes, evaluator.at_once, evaluator.seed) == (6, 3, 5)


def test_rehearsal_and_a_failed_evaluation_close_their_environments():
    suite, evaluator = NavigationSuite(horizon=5), MetaEvaluator(**SMALL)
    assert evaluator.rehearse(suite, Halver()) > 0
    learner = Halver()
    learner.adapt = None
    with pytest.raises(TypeError):
        evaluator(suite, learner)
    assert evaluator._rollouts is None
    assert evaluator(suite, Halver())["eval/return"] < 0


@pytest.mark.parametrize(
    "options",
    [
        {"interval": 0},
        {"num_tasks": 0},
        {"tasks_at_once": 0},
        {"seed": 2**63},
        {"episodes": 0},
        {"episodes_at_once": 0},
        {"episodes_at_once": 3},
        {"adaptations": 0},
        {"splits": ()},
        {"splits": ("valid",)},
        {"splits": ("test", "test")},
    ],
)
def test_errors(options):
    with pytest.raises(ValueError, match=f"MetaEvaluator.{next(iter(options))}"):
        MetaEvaluator(**options)


@pytest.mark.parametrize("name", ["num_tasks", "episodes"])
def test_more_episodes_than_fit_into_memory_are_refused_at_once(name):
    evaluator = MetaEvaluator(**{**SMALL, name: 10**9})
    with pytest.raises(ValueError, match=r"GiB of memory.*META_BATCH.*TEST_EPISODES"):
        evaluator.check(NavigationSuite(), Halver())
