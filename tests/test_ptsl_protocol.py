"""The training protocol of "Projected Task-Specific Layers", with real parts on the point mass.

One replay of all tasks, a warm-up that is made up for in one burst, scaled rewards, one fixed goal
for each task. The numbers are those of the invariants of that paper's loop.
"""

import copy
import functools
import json
from pathlib import Path

import gin
import pytest
import torch
from tensordict import TensorDict

from algorithms.sac import SAC
from buffers.task_replay import TaskReplay
from buffers.trajectory_store import TrajectoryStore
from envs.point_mass import PointMassSuite
from networks.actor import Actor
from networks.critic import Critic
from networks.mlp import MLP
from networks.multi_head import MultiHeadMLP
from runners import config, describe, train
from runners.evaluation import Evaluator
from runners.off_policy import OffPolicyLoop
from runners.reward_scaler import RewardScaler

ROOT = Path(__file__).resolve().parents[1]
TASKS, HORIZON, WARMUP = 3, 5, 15
PROTOCOL = """
include 'gin/quick/mtsac_point_mass.gin'
NUM_TASKS = 3
HIDDEN = (16, 16)
BATCH_SIZE = 16
REPLAY_CAPACITY = 3000
WARMUP_STEPS = 15
LOG_INTERVAL = 30
TOTAL_STEPS = 330
EVALUATION_INTERVAL = 150
TaskReplay.stratified = False
OffPolicyLoop.catch_up = True
OffPolicyLoop.warmup = 'uniform'
OffPolicyLoop.reward_scaler = @RewardScaler
Evaluator.explore = True
Evaluator.num_goals = 2
Logger.tensorboard = False
"""


def learner(suite: PointMassSuite, trunk=MLP, **options) -> SAC:
    """A small SAC, always the same."""
    torch.manual_seed(0)
    small = functools.partial(trunk, hidden=(16, 16))
    parts = {"actor": functools.partial(Actor, trunk=small)}
    parts["critic"] = functools.partial(Critic, trunk=small)
    return SAC(suite.spec, **parts, **options)


def loop(**options) -> OffPolicyLoop:
    """The protocol's loop; the learner's draws begin at one place."""
    suite = PointMassSuite(TASKS, horizon=HORIZON)
    stratified = options.pop("stratified", False)
    sizes = {"capacity": 300, "batch_size": 15 if stratified else 16}
    replay = functools.partial(TaskReplay, **sizes, stratified=stratified, seed=1)
    values = {"warmup_steps": WARMUP, "warmup": "uniform", "catch_up": True, "log_interval": 6}
    values |= {"replay": replay, "reward_scaler": RewardScaler, **options}
    made = OffPolicyLoop(suite, learner(suite), **values)
    torch.manual_seed(2)
    return made


def stored(made: OffPolicyLoop) -> TensorDict:
    """All transitions in the replay, `[tasks, steps]`."""
    rows = made.replay.state_dict()["rows"]
    parts = rows.split_with_sizes((6, 2, 1, 1, 6), -1)
    names = ("observation", "action", "reward", "terminated", "following")
    return TensorDict(dict(zip(names, parts, strict=True)), rows.shape[:2])


def test_invariant_15_evaluation_leaves_the_scale_alone() -> None:
    """And training too: with and without evaluations everything stored is the same."""
    one, other = loop(), loop()
    for _ in range(60):
        next(one)
    random = torch.get_rng_state()
    torch.manual_seed(2)
    evaluator = Evaluator(explore=True, num_goals=2)
    for _ in range(60):
        next(other)
        before = other.reward_scaler.state_dict()
        evaluator(other.suite, other.learner)
        after = other.reward_scaler.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(stored(one)["reward"], stored(other)["reward"])
    assert torch.equal(one.reward_scaler.scale, other.reward_scaler.scale)
    for made in (one, other):
        made.close()
    evaluator.close()


def test_invariant_15_the_scale_follows_what_the_environments_paid() -> None:
    """Environments stepped anew with the stored actions, and a scaler of its own."""
    made = loop()
    for _ in range(WARMUP):
        next(made)
    seen, scaler = stored(made), RewardScaler(TASKS)
    with made.suite.vector(seed=0) as vector:
        vector.reset()
        for step in range(WARMUP):
            td = vector.step(vector.current().set("action", seen["action"][:, step]))
            scaled = scaler(td["next", "reward"], td["next", "valid"])
            assert torch.equal(scaled, seen["reward"][:, step])
            assert not torch.equal(scaled, td["next", "reward"])
    made.close()


def test_invariant_16_the_last_transition_holds_the_observation_before_the_reset() -> None:
    """Environments that rest at their end, stepped with the stored actions, show the same."""
    made = loop()
    for _ in range(WARMUP):
        next(made)
    seen = stored(made)
    assert seen.shape == (TASKS, WARMUP) and not seen["terminated"].any()
    with made.suite.vector(seed=0, autoreset=False) as vector:
        for step in range(WARMUP):
            if step % HORIZON == 0:
                vector.reset()
            td = vector.step(vector.current().set("action", seen["action"][:, step]))
            assert torch.equal(td["observation"], seen["observation"][:, step])
            assert torch.equal(td["next", "observation"], seen["following"][:, step])
    for last in range(HORIZON - 1, WARMUP - 1, HORIZON):
        assert not torch.equal(seen["following"][:, last], seen["observation"][:, last + 1])
    made.close()


def test_invariant_17_updates_are_steps_minus_one_after_a_burst() -> None:
    """The reference stops with its last step, as here; a run of ours adds the update due for it."""
    made = loop()
    at_first = None
    while made.counts["steps"] < 40:
        next(made)
        if made.updates and at_first is None:
            at_first = made.counts["steps"]
        assert made.updates <= made.counts["steps"]
        assert made.pending or made.updates in (0, made.counts["steps"])
    assert (at_first, made.updates) == (WARMUP, 40 - 1)
    made.close()


def test_invariant_18_same_seed_same_losses_other_seed_other_folder(tmp_path, monkeypatch) -> None:
    """The first 100 losses of two runs, from the command line."""
    file = tmp_path / "protocol.gin"
    file.write_text(PROTOCOL)
    losses: dict[tuple[str, int], list[list[float]]] = {}
    update = SAC.update

    def watched(self, batch):
        metrics = update(self, batch)
        losses[run].append([metrics[f"loss/{name}"].item() for name in ("critic", "actor")])
        return metrics

    monkeypatch.setattr(SAC, "update", watched)
    for run in (("one", 1), ("two", 1), ("one", 2)):
        losses[run] = []
        flags = [f"--gin_file={file}", f"--workdir={tmp_path / run[0]}", f"--seed={run[1]}"]
        assert train.main(["train", *flags]) == 0
    assert len(losses["one", 1]) >= 100
    assert losses["one", 1] == losses["two", 1]
    assert losses["one", 1][0] != losses["one", 2][0]
    folders = sorted(tmp_path / "one" / "protocol" / f"seed_{seed}" for seed in (1, 2))
    assert sorted((tmp_path / "one" / "protocol").iterdir()) == folders
    text = (folders[0] / "operative.gin").read_text()
    assert "SEED = 1" in text and "RewardScaler.rate = 0.001" in text
    assert json.loads((folders[0] / "eval/330.json").read_text())["policy"] == "stochastic"
    assert '"reward_scale/turn-2"' in (folders[0] / "metrics.jsonl").read_text()


@pytest.mark.parametrize("stop", [1, WARMUP, WARMUP + 1, WARMUP + 7, 2 * WARMUP, 2 * WARMUP + 5])
def test_resuming_anywhere_in_the_burst_changes_nothing(stop) -> None:
    """Parameters, rows, scale and streams, from a state that was taken in the midst of it."""
    one = loop()
    for _ in range(stop):
        next(one)
    state, weights = copy.deepcopy(one.state_dict()), copy.deepcopy(one.learner.state_dict())
    random = torch.get_rng_state()
    for _ in range(40):
        next(one)
    other = loop()
    other.learner.load_state_dict(weights)
    other.load_state_dict(state)
    torch.set_rng_state(random)
    for _ in range(40):
        next(other)
    assert one.counts == other.counts
    for (name, ours), theirs in zip(
        one.learner.named_parameters(), other.learner.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    ours, theirs = one.replay.state_dict(), other.replay.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ("rows", "stored", "generator"))
    assert torch.equal(one.reward_scaler.scale, other.reward_scaler.scale)
    for made in (one, other):
        made.close()


@pytest.mark.parametrize(("trunk", "compiled"), [(MLP, False), (MultiHeadMLP, False), (MLP, True)])
def test_an_update_on_mixed_rows_equals_one_on_rows_by_task(trunk, compiled, monkeypatch) -> None:
    """Equal rows in equal order, `[tasks * rows]` and `[tasks, rows]`; compiled, as one graph."""
    whole = functools.partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", whole)
    suite = PointMassSuite(TASKS, horizon=HORIZON)
    grouped = learner(suite, trunk, weight_tasks=True)
    flat = learner(suite, trunk, weight_tasks=True, compiled=compiled)
    made = loop(stratified=True)
    for _ in range(WARMUP):
        next(made)
    made.close()
    for step in range(3):
        batch = made.replay.sample()
        metrics = []
        for one, rows in ((grouped, batch), (flat, batch.flatten(0, 1))):
            torch.manual_seed(step)
            metrics.append(one.update(rows.clone()))
        torch.testing.assert_close(*metrics, rtol=1e-4, atol=1e-5)
    pair = (dict(made.named_parameters()) for made in (grouped, flat))
    torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)


def test_the_bound_of_the_published_loss() -> None:
    """Of the sum of both critics' losses, whose mean is logged."""
    config.parse([ROOT / "gin/papers/ptsl/ptsl_mt10_200k_ptsl_3h.gin"])
    assert 2 * gin.query_parameter("OffPolicyLoop.max_critic_loss") == 1e8


def test_mixed_batches_are_refused_beside_trajectories() -> None:
    with pytest.raises(ValueError, match="trajectories needs .* TaskReplay.stratified is False"):
        loop(trajectories=TrajectoryStore)


def test_dry_run_and_describe_know_the_protocol(tmp_path, capsys) -> None:
    """The memory is that of any replay of this capacity."""
    file = tmp_path / "protocol.gin"
    file.write_text(PROTOCOL)
    arguments = [f"--gin_file={file}", f"--workdir={tmp_path / 'runs'}", "--dry_run"]
    assert train.main(["train", *arguments]) == 0
    assert "all parts work" in capsys.readouterr().out
    sizes = []
    for choice in (True, False):
        flags = [f"--gin_file={file}", f"--gin=TaskReplay.stratified = {choice}"]
        assert describe.main(["describe", *flags, "--gin=BATCH_SIZE = 18"]) == 0
        out = capsys.readouterr().out
        assert "made up for" in " ".join(out.split()) and "RewardScaler" in out
        assert "never read" not in out
        sizes.append(out[out.index("sizes") :])
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("suite", ["mt10", "tasks"])
def test_a_runs_seed_draws_the_goals_of_its_tasks(suite, tmp_path) -> None:
    """`--seed` binds SEED, from which a gin file may draw each task's one goal."""
    file = tmp_path / "fixed.gin"
    parts = (f"envs/{suite}", "methods/mtsac", "runners/off_policy")
    includes = "".join(f"include 'gin/{part}.gin'\n" for part in parts)
    file.write_text(f"{includes}NUM_GOALS = 1\nMetaWorldSuite.goal_draw = %SEED\n")
    drawn = []
    for seed in (1, 2, 2):
        config.parse([file], [f"SEED = {seed}", "GOAL_SEED = 7"])
        made = gin.get_bindings("train")["suite"]
        drawn.append([task.goals for task in made.tasks()])
        assert made.protocol()["goal_draw"] == seed and made.protocol()["goal_seed"] == 7
    assert drawn[0] != drawn[1] == drawn[2]
