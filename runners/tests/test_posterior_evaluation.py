"""Tests of PEARL's evaluation; numbers of invariants are those of its specification."""

import json
import random

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import nn

from envs.point_robots import PointRobotSuite
from runners.latent_records import of_split
from runners.posterior_evaluation import PosteriorEvaluator
from runners.rollouts import Rollouts

HORIZON = 5
SMALL = {"steps": 20, "prior_episodes": 2, "repetitions": 2}


def suite_of(kind="point-robot", sizes=(6, 3)):
    return PointRobotSuite(kind, sizes=sizes, horizon=HORIZON)


class Halver(nn.Module):
    """Latents of the prior are random; each adaptation halves the distance to a place."""

    latent_dim, window = 2, None

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2) * 0.4)
        self.drop = nn.Dropout(0.5)
        self.priors, self.contexts, self.latents = 0, [], []

    def prior(self, num_tasks):
        self.priors += 1
        fields = {"latent": 0.1 * torch.randn(num_tasks, 2)}
        return TensorDict({**fields, "adaptations": torch.zeros(num_tasks).long()}, [num_tasks])

    def adapt(self, experience, prior):
        self.contexts.append(experience)
        count = prior["adaptations"] + 1
        latent = self.weight * (1 - 0.5 ** count[:, None])
        return TensorDict({"latent": latent, "adaptations": count}, prior.batch_size)

    def act(self, td, explore):
        assert not explore and not self.training
        self.latents.append(td["latent"][:, 0].clone())
        return td.set("action", 10 * (td["latent"] - td["observation"]).clamp(-0.1, 0.1))


def test_invariant_17_prior_episodes_then_posteriors_of_all_that_was_collected():
    learner, evaluator = Halver(), PosteriorEvaluator(splits=("test",), **SMALL)
    evaluator(suite_of(), learner)
    assert learner.priors == 2 and len(learner.contexts) == 2  # 4 episodes: 2 + 2
    assert evaluator.returns["test"].shape == (3, 2, 4)
    for number, context in enumerate(learner.contexts):
        length = (2 + number) * HORIZON
        assert context.shape == (6, length) and context["mask"].all()
    assert torch.equal(learner.contexts[0]["action"], learner.contexts[1]["action"][:, :10])
    episodes = torch.stack(learner.latents).view(4, HORIZON, 6, 2)
    assert torch.equal(episodes, episodes[:, :1].expand_as(episodes))  # the same in an episode
    assert not torch.equal(episodes[0, 0], episodes[1, 0])  # drawn anew
    torch.testing.assert_close(episodes[2, 0], torch.full((6, 2), 0.2))
    torch.testing.assert_close(episodes[3, 0], torch.full((6, 2), 0.3))


def test_numbers():
    suite, learner, evaluator = suite_of(), Halver(), PosteriorEvaluator(**SMALL)
    metrics = evaluator(suite, learner)
    tasks = {"test": suite.each("test"), "train": evaluator._tasks["train"]}
    for split in ("train", "test"):
        context = learner.contexts[1 if split == "train" else 3]
        goals = np.stack([suite.specification(task) for task in tasks[split]])
        goals = torch.from_numpy(goals).repeat_interleave(2, 0)
        distance = (context["next", "observation"] - goals[:, None]).norm(dim=-1)
        expected = -distance.view(3, 2, 3, HORIZON).sum(-1).double()
        torch.testing.assert_close(evaluator.returns[split][..., :3], expected, rtol=1e-5, atol=0)
        for i in range(4):
            mean = evaluator.returns[split][..., i].mean()
            assert metrics[f"eval/return/{split}/episode_{i + 1}"] == pytest.approx(float(mean))
        last = metrics[f"eval/return/{split}/last"]
        assert last == metrics[f"eval/return/{split}/episode_4"]
        assert metrics[f"eval/success_rate/{split}/last"] == 0.0
    assert metrics["eval/return"] == metrics["eval/return/test/last"]
    assert metrics["eval/return_before"] == metrics["eval/return/test/episode_1"]
    assert evaluator.score(metrics) == metrics["eval/return"]
    assert evaluator.success.tolist() == [0.0] * 3


def test_the_same_again_and_nothing_is_disturbed():
    suite, learner = suite_of(), Halver().train()
    evaluator = PosteriorEvaluator(**SMALL)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    metrics = evaluator(suite, learner)
    assert learner.training and learner.drop.training
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    torch.rand(7)
    assert evaluator(suite, learner) == metrics
    assert PosteriorEvaluator(**SMALL)(suite_of(), Halver()) == metrics
    assert PosteriorEvaluator(seed=1, **SMALL)(suite, learner) != metrics
    evaluator.close()


def test_training_tasks_are_drawn_and_test_tasks_are_all_of_them():
    evaluator = PosteriorEvaluator(**SMALL)
    suite = suite_of(sizes=(30, 7))
    evaluator(suite, Halver())
    assert evaluator._tasks["test"] == suite.each("test")
    drawn = evaluator._tasks["train"]
    assert len(drawn) == 7 and set(drawn) <= set(suite.each("train"))
    few = PosteriorEvaluator(num_tasks=2, train_goals=1, **SMALL)
    few(suite, Halver())
    assert few._tasks["test"] == suite.each("test")[:2]
    assert set(few._tasks["train"]) == {suite.each("train")[0]}


@pytest.mark.parametrize("at_once", [1, 4, 6])
def test_groups_of_environments_cover_every_task_and_repetition(at_once):
    """4 does not divide the 6 rows: the last group is filled up, and counts once."""
    evaluator = PosteriorEvaluator(at_once=at_once, splits=("test",), **SMALL)
    suite, learner = suite_of("point-robot-sparse"), Halver()  # these start at the origin
    evaluator(suite, learner)
    assert evaluator.returns["test"].shape == (3, 2, 4)
    assert learner.priors == 2 * -(-6 // at_once)
    goals = torch.tensor([suite.specification(task).tolist() for task in suite.each("test")])
    path = torch.tensor([0.1, 0.2, 0.3, 0.3, 0.3])[:, None].expand(HORIZON, 2)
    expected = -(path[:, None] - goals).norm(dim=-1).sum(0).double()  # the latent is 0.3 for all
    got = evaluator.returns["test"][..., 3]
    torch.testing.assert_close(got, expected[:, None].expand(3, 2), rtol=1e-4, atol=1e-4)


def test_sparse_rewards_are_what_is_shown_and_counted():
    suite, learner = suite_of("point-robot-sparse"), Halver()
    evaluator = PosteriorEvaluator(sparse=True, splits=("test",), **SMALL)
    metrics = evaluator(suite, learner)
    assert metrics["eval/return"] >= 0
    context = learner.contexts[-1]
    assert (context["next", "reward"] >= 0).all()
    total = context["next", "reward"].view(3, 2, 3, HORIZON).sum(-1)
    torch.testing.assert_close(evaluator.returns["test"][..., :3], total.double())
    dense = PosteriorEvaluator(splits=("test",), **SMALL)
    assert dense(suite, Halver())["eval/return"] < 0
    with pytest.raises(ValueError, match=r"sparse is True, and point-robot pays no sparse"):
        evaluator.check(suite_of(), learner)


class Brief:
    """Episodes of given lengths in place of those of environments, rewards of 1."""

    def __init__(self, lengths):
        self.lengths, self.num_tasks, self.suite = iter(lengths), 2, None

    def collect(self, learner, tasks, latent, explore):
        shape = (2, 1, HORIZON)
        following = {
            "observation": torch.zeros(*shape, 2),
            "reward": torch.ones(*shape, 1),
            "success": torch.ones(*shape, 1, dtype=torch.bool),
        }
        length = torch.tensor(next(self.lengths))
        fields = {
            "observation": torch.zeros(*shape, 2),
            "action": torch.zeros(*shape, 2),
            "mask": torch.arange(HORIZON) < length[:, None, None],
            "next": TensorDict(following, shape),
        }
        return TensorDict(fields, shape)


def test_episodes_that_end_early_are_as_many_as_it_takes():
    evaluator, learner = PosteriorEvaluator(steps=8, repetitions=1), Halver()
    evaluator._tasks = {"test": (0, 1)}
    lengths = [(5, 2), (4, 2), (5, 3), (5, 5)]  # the first task is done after two episodes
    learner.eval()
    evaluator._run("test", Brief(lengths), learner)
    nan = torch.nan
    expected = torch.tensor([[[5, 4, nan, nan]], [[2, 2, 3, 5]]]).double()
    torch.testing.assert_close(evaluator.returns["test"], expected, equal_nan=True)
    assert learner.contexts[-1]["mask"].sum(-1).tolist() == [9, 7]


@pytest.mark.parametrize("size", [None, 4])
def test_posteriors_of_fewer_transitions(size):
    learner = Halver()
    PosteriorEvaluator(context_size=size, splits=("test",), **SMALL)(suite_of(), learner)
    assert [c.shape[1] for c in learner.contexts] == ([10, 15] if size is None else [4, 4])


def test_result_and_table(tmp_path):
    suite, evaluator = suite_of(), PosteriorEvaluator(**SMALL)
    metrics = evaluator(suite, Halver())
    path = evaluator.write_result(tmp_path, 30, suite, metrics)
    result = json.loads(path.read_text())
    assert path.name == "30.json" and result == evaluator.result(30, suite, metrics)
    assert result["policy"] == "deterministic" and result["prior_episodes"] == 2
    there = result["splits"]["test"]
    assert [e["latent"] for e in there["episodes"]] == ["prior"] * 2 + ["posterior"] * 2
    assert there["last"]["return"] == pytest.approx(metrics["eval/return"])
    assert [len(task["returns"]) for task in there["tasks"]] == [2] * 3
    assert there["tasks"][1]["specification"] == suite.specification(suite.each("test")[1]).tolist()
    table = evaluator.table(result)
    assert len(table.rows) == 8 and len(table.foot) == 2
    assert all(len(row) == len(table.header) for row in (*table.rows, *table.foot))


class Teller(Halver):
    """The mean is that of the rewards so far, and the draw another one."""

    def adapt(self, experience, prior):
        td = super().adapt(experience, prior)
        mask = experience.get("mask", torch.ones(experience.shape))
        count = mask.sum(1, keepdim=True)
        reward = experience["next", "reward"].squeeze(-1) * mask
        mean = (reward.sum(1, keepdim=True) / count).expand_as(td["latent"])
        td["latent"] = td["latent"] + 0.01 * torch.randn_like(td["latent"])
        return td.update({"mean": mean, "variance": 1.0 / count.expand_as(mean)})


@pytest.mark.parametrize("size", [None, 4])
def test_posteriors_after_each_episode(tmp_path, size):
    """Of the first ones too, whose latents are of the prior; the evaluation stays as it is."""
    options = {**SMALL, "context_size": size}
    suite, plain = suite_of(), PosteriorEvaluator(**options)
    evaluator = PosteriorEvaluator(latents=True, **options)
    metrics = evaluator(suite, Teller())
    assert metrics == plain(suite_of(), Teller())
    assert evaluator.write_result(tmp_path, 7, suite, metrics) is not None
    with np.load(tmp_path / "7_latents.npz") as loaded:
        arrays = dict(loaded)
    assert {name.split("/")[0] for name in arrays} == {"train", "test"}
    place, told = of_split(arrays)
    tasks = suite.each("test")
    assert place == "test" and told["mean"].shape == told["variance"].shape == (3, 2, 4, 2)
    assert (told["return"] == evaluator.returns["test"].numpy()).all()
    assert (told["specification"] == [suite.specification(task) for task in tasks]).all()
    assert told["task"].tolist() == ["goal"] * 3 and told["goal"].tolist() == [0, 1, 2]
    if size is None:
        steps = HORIZON * np.arange(1, 5)
        expected = told["return"].cumsum(-1) / steps
        assert told["mean"][..., 0] == pytest.approx(expected, rel=1e-4)
        assert told["variance"][..., 1] == pytest.approx(
            np.broadcast_to(1.0 / steps, expected.shape)
        )


def test_posteriors_of_tasks_that_are_done_are_nan():
    evaluator, learner = PosteriorEvaluator(steps=8, repetitions=1, latents=True), Teller()
    suite = suite_of()
    evaluator._tasks = {"test": suite.each("test")[:2]}
    brief = Brief([(5, 2), (4, 2), (5, 3), (5, 5)])
    brief.suite = suite
    learner.eval()
    evaluator._run("test", brief, learner)
    there = ~np.isnan(evaluator.posteriors["test"]["mean"]).any(-1)
    assert there.tolist() == [[[True, True, False, False]], [[True] * 4]]
    assert evaluator.posteriors["test"]["variance"][1, 0, :, 0] == pytest.approx(
        [1 / 2, 1 / 4, 1 / 7, 1 / 12]
    )


def test_due_adjusting_and_rehearsing():
    evaluator = PosteriorEvaluator(interval=10, **SMALL)
    assert not evaluator.due(9) and evaluator.due(10)
    evaluator.adjust(None, 6, 5)
    assert (evaluator.repetitions, evaluator.seed) == (6, 5)
    assert evaluator.rehearse(suite_of(), Halver()) > 0
    assert evaluator._rollouts is None and evaluator.returns == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"prior_episodes": 0}, "prior_episodes must be at least 1, got 0"),
        ({"at_once": 0}, "at_once must be at least 1, got 0"),
        ({"splits": ("train", "train")}, "splits must be among"),
        ({"interval": 0}, r"PosteriorEvaluator\.interval"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        PosteriorEvaluator(**options)


def test_steps_that_end_before_any_adaptation_are_warned_of(caplog):
    PosteriorEvaluator(**SMALL).check(suite_of(), Halver())
    assert not caplog.records
    PosteriorEvaluator(**SMALL | {"steps": 10}).check(suite_of(), Halver())
    assert "(EVALUATION_STEPS) is 10, and the first 2 (PRIOR_EPISODES)" in caplog.text


@pytest.mark.parametrize("context_size", [None, 8])
def test_a_broken_episode_counts_nowhere(context_size, monkeypatch):
    """The very first episode of the first task shows nothing to adapt to, and has no return."""
    collect, calls = Rollouts.collect, []

    def breaks(self, *args, **options):
        experience = collect(self, *args, **options)
        if not calls:
            experience["mask"][0] = False
        calls.append(experience)
        return experience

    learner = Halver()
    options = SMALL | {"prior_episodes": 1, "context_size": context_size}
    with monkeypatch.context() as patched:
        patched.setattr(Rollouts, "collect", breaks)
        evaluator = PosteriorEvaluator(splits=("test",), **options)
        metrics = evaluator(suite_of(), learner)
    assert metrics["eval/broken_episodes"] == 1.0
    scores = evaluator.returns["test"]
    assert scores[0, 0, 0].isnan() and not scores[..., 1].isnan().any()
    assert metrics["eval/return_before"] == pytest.approx(float(scores[..., 0].nanmean()))
    assert not learner.contexts[0]["mask"][0].any() and learner.contexts[0]["mask"][1].all()
    last = torch.stack([row[~row.isnan()][-1] for row in scores.flatten(0, 1)])
    assert metrics["eval/return"] == pytest.approx(float(last.mean()))
    result = evaluator.result(3, suite_of(), metrics)
    assert len(result["splits"]["test"]["episodes"]) == scores.shape[-1]


def test_a_learner_of_another_regime_is_refused():
    with pytest.raises(ValueError, match=r"Linear .*train\.evaluator = @Evaluator\(\)"):
        PosteriorEvaluator().check(suite_of(), nn.Linear(1, 1))
