"""PEARL with its own networks, replay and environments, and the gin parts that put them together.

Numbers of invariants are those of its specification.
"""

import copy
import functools
import importlib
import json
from typing import NamedTuple

import gin
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from algorithms.pearl import PEARL
from buffers.context_replay import ContextReplay
from envs.point_robots import PointRobotSuite
from networks.actor import Actor
from networks.critic import Critic
from networks.latent_mlp import LatentMLP
from networks.neuromodulated_mlp import NeuromodulatedMLP
from networks.set_encoder import SetEncoder
from runners import config, evaluate, train
from runners.meta_off_policy import MetaOffPolicyLoop
from runners.posterior_evaluation import PosteriorEvaluator
from runners.posterior_schedule import PosteriorSchedule

TASKS, ROWS, CONTEXT, HIDDEN = 3, 4, 6, (8, 8)
NETWORKS = pytest.mark.parametrize("gated", [False, True])
VALUES = pytest.mark.parametrize("values", ["state", "twin"])


class Sizes(NamedTuple):
    observation_dim: int = 2
    action_dim: int = 2
    num_tasks: int = TASKS


def build(gated=False, values="state", sizes=None, hidden=HIDDEN, encoder=None, **options):
    torch.manual_seed(0)
    plain = functools.partial(LatentMLP, hidden=hidden)
    policy = functools.partial(NeuromodulatedMLP, hidden=hidden) if gated else plain
    return PEARL(
        sizes or Sizes(),
        encoder=functools.partial(SetEncoder, hidden=hidden, **(encoder or {})),
        actor=functools.partial(Actor, trunk=policy, task_key="latent"),
        critic=functools.partial(Critic, trunk=plain, task_key="latent"),
        value=plain if values == "state" else None,
        **options,
    )


def transitions(rows, seed):
    torch.manual_seed(seed)
    shape = (TASKS, rows)
    following = {
        "observation": torch.randn(*shape, 2),
        "reward": torch.randn(*shape, 1),
        "terminated": torch.rand(*shape, 1) < 0.3,
    }
    fields = {
        "observation": torch.randn(*shape, 2),
        "action": torch.rand(*shape, 2) * 2 - 1,
        "next": TensorDict(following, shape),
    }
    return TensorDict(fields, shape)


def made_up(seed=0):
    parts = {"transitions": transitions(ROWS, seed), "context": transitions(CONTEXT, seed + 1)}
    return TensorDict(parts, [TASKS])


def shaken(learner):
    """Last layers begin so small that hardly a gradient comes through them."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return learner


@NETWORKS
@VALUES
@pytest.mark.parametrize("bottleneck", [True, False])
def test_invariant_3_who_moves(gated, values, bottleneck):
    """An update with one learning rate at a time: that group moves, and no other."""
    learner = shaken(build(gated, values, encoder={"bottleneck": bottleneck}))
    for moving in learner.groups:
        one = copy.deepcopy(learner)
        for name, group in one.groups.items():
            group.optimizer.param_groups[0]["lr"] = 0.1 if name == moving else 0.0
        one.smoothing = 1e-30
        one.update(made_up())
        part = "log_alpha" if moving == "alpha" else f"{moving}."
        for (name, old), new in zip(learner.named_parameters(), one.parameters(), strict=True):
            changed = not torch.equal(old, new)
            assert not changed or name.startswith(part), (moving, name)
        mine = [n for n, p in one.named_parameters() if n.startswith(part)]
        start = dict(learner.named_parameters())
        assert any(not torch.equal(start[n], dict(one.named_parameters())[n]) for n in mine)


@pytest.mark.parametrize("next_observation", [False, True])
def test_invariant_3_critics_that_ignore_the_latent_teach_the_encoder_nothing(next_observation):
    learner = shaken(build(kl_weight=0.0, encoder={"next_observation": next_observation}))
    for blind in (False, True):
        if blind:
            with torch.no_grad():  # the columns of the first layer that read z
                learner.critic.trunk.linears()[0].weight[..., 4:] = 0.0
        seen = {}
        for group in learner.groups.values():
            group.optimizer.param_groups[0]["lr"] = 0.0
        norms = learner.update(made_up())
        seen[blind] = norms["grad_norm/encoder"]
        assert (seen[blind] == 0) == blind


def test_all_tasks_at_once_equal_one_by_one():
    learner, batch = shaken(build()), made_up()
    experience = batch["context"]
    whole = learner.adapt(experience, learner.prior(TASKS))
    for i in range(TASKS):
        alone = learner.adapt(experience[i : i + 1], learner.prior(1))
        for key in ("mean", "variance"):
            torch.testing.assert_close(whole[key][i : i + 1], alone[key])


def test_more_experience_narrows_the_posterior():
    learner, experience = build(), transitions(40, 0)
    few, many = (learner.adapt(experience[:, :n], learner.prior(TASKS)) for n in (4, 40))
    assert (many["variance"] < few["variance"]).all()
    assert (few["variance"] < learner.prior(TASKS)["variance"]).all()


def run_of(learner, suite, **options):
    """A loop at a size for tests."""
    replay = functools.partial(
        ContextReplay, capacity=40_000, meta_batch=16, batch_size=64, context_size=32, seed=0
    )
    schedule = functools.partial(PosteriorSchedule, replay=replay, **options)
    return MetaOffPolicyLoop(suite, learner, schedule=schedule)


SMALL = {"initial_steps": 10, "prior_steps": 10, "extra_steps": 10, "updates_per_iteration": 4}


def same(one, other, path=""):
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            same(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other, strict=True)):
            same(*pair, f"{path}/{index}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other, path


@NETWORKS
@pytest.mark.parametrize("extra", [0, 2])
def test_resume_is_exact(gated, extra):
    """Four iterations, or some pieces of one more, equal two, a restart and two."""
    suite = PointRobotSuite(sizes=(4, 2), horizon=5)
    ends = []
    for restart in (False, True):
        torch.manual_seed(1)
        learner = build(gated)
        loop = run_of(learner, suite, **SMALL)
        told = []
        while loop.step < 2:
            told.append(next(loop))
        told += [next(loop) for _ in range(extra)]
        if restart:
            states = copy.deepcopy((loop.state_dict(), learner.state_dict()))
            stream = torch.get_rng_state()
            loop.close()
            torch.manual_seed(99)
            learner = build(gated)
            loop = run_of(learner, suite, **SMALL)
            loop.load_state_dict(states[0])
            learner.load_state_dict(states[1])
            torch.set_rng_state(stream)
        while loop.step < 4:
            told.append(next(loop))
        metrics = [
            (step, {k: float(v) for k, v in values.items() if not k.startswith("perf/")})
            for step, values in told
        ]
        ends.append((loop.state_dict(), learner.state_dict(), torch.get_rng_state(), metrics))
        loop.close()
    same(*ends)


def assembled(tmp_path, *parts):
    importlib.import_module("runners.training")  # as the entry point does
    file = tmp_path / "parts.gin"
    file.write_text("".join(f"include 'gin/{part}.gin'\n" for part in parts))
    config.parse([file])
    return gin.query_parameter("train.algorithm").scoped_configurable_fn(Sizes(17, 3))


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("network", ["latent_mlp", "neuromodulated_mlp"])
def test_parts_stand_in_any_order(network, order, tmp_path):
    made = assembled(tmp_path, *(f"networks/{network}", "algorithms/pearl")[::order])
    gated = network == "neuromodulated_mlp"
    assert type(made.actor.trunk) is (NeuromodulatedMLP if gated else LatentMLP)
    assert type(made.critic.trunk) is type(made.value) is LatentMLP
    assert made.latent_dim == 5 and made.prior(2)["latent"].shape == (2, 5)
    bounds = [made.value.linears()[-1].weight.abs().max().item()]
    last = made.actor.trunk.last if gated else made.actor.trunk.linears()[-1]
    bounds.append(last.weight.abs().max().item())
    assert 0.002 < bounds[0] <= 0.003 and 0.0009 < bounds[1] <= 0.001
    unread = [line for line in config.unused_bindings() if "train.algorithm" not in line]
    assert not unread


TINY = {
    "PointRobotSuite.sizes": "(6, 3)",
    "HORIZON": 5,
    "ITERATIONS": 2,
    "TASKS_PER_ITERATION": 2,
    "INITIAL_STEPS": 5,
    "PRIOR_STEPS": 5,
    "POSTERIOR_STEPS": 0,
    "EXTRA_STEPS": 10,
    "UPDATES": 2,
    "META_BATCH": 2,
    "BATCH_SIZE": 4,
    "CONTEXT_SIZE": 4,
    "EVALUATION_STEPS": 15,
    "HIDDEN": HIDDEN,
    "ENCODER_HIDDEN": HIDDEN,
    "Logger.tensorboard": False,
}


def test_a_run_is_evaluated_from_its_folder(tmp_path, capsys):
    file = "gin/quick/pearl_point_robot.gin"
    flags = [f"--gin={name} = {value}" for name, value in TINY.items()]
    assert train.main(["train", f"--gin_file={file}", f"--workdir={tmp_path}", *flags]) == 0
    run = tmp_path / "pearl_point_robot" / "seed_0"
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-2])
    assert last["step"] == 2 and last["updates"] == 4 and last["env_steps"] == 6 * 5 + 2 * 30
    capsys.readouterr()
    assert evaluate.main(["evaluate", str(run)]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["split", "episode", "latent", "return", "±95 %", "success"]
    assert [line[:3] for line in lines[-2:]] == [
        [s, "last", "posterior"] for s in ("train", "test")
    ]
    result = json.loads((run / "eval/evaluate_2_seed_0.json").read_text())
    assert result == json.loads((run / "eval/2.json").read_text())  # of the run itself
    assert [len(task["returns"]) for task in result["splits"]["test"]["tasks"]] == [2] * 3
    assert evaluate.main(["evaluate", str(run), "--episodes=1", "--seed=3"]) == 0
    other = json.loads((run / "eval/evaluate_2_episodes_1_seed_3.json").read_text())
    assert other["repetitions"] == 1 and other["seed"] == 3
    shown_with_latents(run, result)
    capsys.readouterr()
    assert evaluate.main(["evaluate", str(run), "--activations"]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1
    assert "--activations: the evaluation of PEARL records no layers; --latents" in error


def shown_with_latents(run, result):
    """The same result, the posteriors of every task, and a picture of them."""
    assert evaluate.main(["evaluate", str(run), "--latents"]) == 0
    name = run / "eval/evaluate_2_seed_0"
    assert json.loads(name.with_suffix(".json").read_text()) == result
    with np.load(f"{name}_latents.npz") as arrays:
        assert arrays["test/mean"].shape == (3, 2, 3, 5)
        assert (arrays["test/variance"] > 0).all()
        there = result["splits"]["test"]["tasks"]
        returns = np.array([task["returns"] for task in there])
        assert arrays["test/return"] == pytest.approx(returns)
    made = {path.name for path in name.parent.glob("*_latent_space.*")}
    assert made == {f"{name.name}_latent_space.{kind}" for kind in ("png", "svg")}


ROBOTS = {"sizes": (40, 10), "horizon": 20}
WIDE = (64, 64)
FAST = {"hidden": WIDE, "learning_rate": 1e-3, "reward_scale": 20.0, "discount": 0.9}
STEPS = {"initial_steps": 60, "prior_steps": 40, "posterior_steps": 40, "extra_steps": 40}
QUICK = {"tasks_per_iteration": 20, **STEPS, "updates_per_iteration": 300}
"""As in gin/quick/pearl_point_robot.gin."""


def trained(learner, iterations):
    """Returns of the first and the tenth episode of test tasks, after training."""
    torch.manual_seed(0)
    suite = PointRobotSuite(**ROBOTS)
    loop = run_of(learner, suite, **QUICK)
    while loop.step < iterations:
        next(loop)
    loop.close()
    evaluator = PosteriorEvaluator(steps=200, repetitions=4, splits=("test",))
    metrics = evaluator(suite, learner)
    evaluator.close()
    return metrics["eval/return_before"], metrics["eval/return"]


@pytest.mark.slow
def test_posterior_episodes_find_the_goal():
    """-21 at random, -16 without the task, -5.3 with the goal: near that in the tenth episode.

    The specification hoped for -10 in the third; docs/results/inference.md has what came of it.
    """
    before, after = trained(build(**FAST), 30)
    assert after >= -10.0 and after >= before + 4.0


@pytest.mark.slow
def test_invariant_21_without_information_it_is_no_better_than_one_who_knows_no_task():
    """An encoder that is shown zeros alone."""
    learner = build(**FAST)
    forward = learner.encoder.forward
    learner.encoder.forward = lambda context: forward(context.apply(torch.zeros_like))
    _, after = trained(learner, 15)
    assert after < -14.5


@pytest.mark.slow
def test_invariant_19_with_the_goal_for_a_latent_it_solves_the_task():
    """The half that is reinforcement learning: the encoder's answer is the task itself."""
    suite = PointRobotSuite(**ROBOTS)
    goals = torch.tensor([suite.specification(task).tolist() for task in suite.each()])
    learner = build(encoder={"latent_dim": 2, "bottleneck": False}, **FAST)
    loop = run_of(learner, suite, **QUICK)
    schedule = loop.schedule
    replay, sample = schedule.replay, schedule.replay.sample
    told = {}

    def remembered(tasks=None):
        batch = sample(tasks)
        told["latent"] = goals[batch["task_id"]]
        return batch

    replay.sample = remembered
    zero = learner.encoder.layers.linears()[-1]
    learner.encoder.sample = lambda posterior: told["latent"] + 0.0 * zero.bias.sum()
    run, places = schedule.collector._run, {}

    def watched(ledger, numbers, latent, rows, when):
        return run(ledger, numbers, goals[list(numbers)], rows, when)

    schedule.collector._run = watched
    learner.prior = lambda n: TensorDict({"latent": torch.zeros(n, 2)}, [n])
    learner.adapt = lambda experience, prior: prior
    torch.manual_seed(0)
    while loop.step < 15:
        next(loop)
    evaluator = PosteriorEvaluator(steps=20, repetitions=4, splits=("test",))
    tested = torch.tensor([suite.specification(task).tolist() for task in suite.each("test")])
    places["latent"] = tested.repeat_interleave(4, 0)
    learner.prior = lambda n: TensorDict({"latent": places["latent"]}, [n])
    assert evaluator(suite, learner)["eval/return"] > -7.0
    loop.close(), evaluator.close()
