"""What `--dry_run` finds of learners, evaluators and replays.

States that lack something, random acting, exceptions, and metrics that cannot be logged.
"""

import re

import numpy as np
import pytest
import torch
from torch import nn

from algorithms.latent_sac import LatentSAC
from algorithms.pearl import PEARL
from algorithms.sac import SAC
from buffers.context_replay import ContextReplay
from buffers.task_replay import TaskReplay
from buffers.window_replay import WindowReplay
from envs.point_mass import PointMassSuite
from networks.critic import Critic
from runners import rehearsal, train
from runners.evaluation import Evaluator
from runners.learner_checks import difference
from runners.off_policy import OffPolicyLoop
from runners.reward_scaler import RewardScaler

FILES = {
    "sac": "gin/quick/mtsac_point_mass.gin",
    "pearl": "gin/quick/pearl_point_robot.gin",
    "tigr": "gin/quick/tigr_point_robot.gin",
    "cavia": "gin/quick/cavia_navigation.gin",
}


def dry_run(file, tmp_path, capsys, *bindings):
    arguments = [f"--gin_file={FILES[file]}", f"--workdir={tmp_path}", "--dry_run"]
    arguments += [f"--gin={binding}" for binding in bindings]
    code = train.main(["train", *arguments])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return code, said


def forget(patch, kind, verbs=("get_extra_state", "set_extra_state")):
    patch.setattr(kind, verbs[0], lambda part: {})
    patch.setattr(kind, verbs[1], lambda part, state: None)


def optimizers(kind):
    return lambda patch: forget(patch, kind)


def rows(kind):
    return lambda patch: forget(patch, kind, ("state_dict", "load_state_dict"))


def counter(patch):
    update = SAC.update

    def counted(learner, batch):
        learner.tally += 1
        return update(learner, batch)

    begun(patch, lambda learner: setattr(learner, "tally", 0))
    patch.setattr(SAC, "update", counted)


def begun(patch, more):
    begin = SAC.__init__

    def extended(learner, *arguments, **options):
        begin(learner, *arguments, **options)
        more(learner)

    patch.setattr(SAC, "__init__", extended)


def plain_list(patch):
    acting(patch, lambda learner, td, explore: learner.layers[0](td["action"]).tanh())
    begun(patch, lambda learner: setattr(learner, "layers", [nn.Linear(2, 2)]))


def fading_noise(patch):
    update = SAC.update

    def faded(learner, batch):
        learner.noise = learner.noise * 0.5
        return update(learner, batch)

    begun(patch, lambda learner: setattr(learner, "noise", torch.ones(())))
    patch.setattr(SAC, "update", faded)
    acting(patch, lambda learner, td, explore: td["action"] * (1 - learner.noise * explore))


def acting(patch, change):
    act = SAC.act

    def changed(learner, td, explore):
        td = act(learner, td, explore)
        with torch.no_grad():
            return td.set("action", change(learner, td, explore))

    patch.setattr(SAC, "act", changed)


def random(patch):
    acting(patch, lambda learner, td, explore: torch.rand_like(td["action"]))


def draws(patch):
    acting(patch, lambda learner, td, explore: td["action"] + 0 * torch.rand(()))


def returning(change):
    """An update that returns something else of its metrics."""
    update = SAC.update
    return lambda patch: patch.setattr(SAC, "update", lambda *given: change(update(*given)))


def metric(**more):
    return returning(lambda metrics: {**metrics, **more})


def evaluating(change):
    evaluate = Evaluator.__call__
    return lambda patch: patch.setattr(
        Evaluator, "__call__", lambda *given: change(evaluate(*given))
    )


def without_success(metrics):
    return {tag: value for tag, value in metrics.items() if tag != "eval/success_rate"}


def array_in_the_protocol(patch):
    patch.setattr(PointMassSuite, "protocol", lambda suite: {"mass": np.ones(1)})


def flat_critic(patch):
    patch.setattr(Critic, "forward", lambda critic, td: td["nowhere"])


def endless_critic(patch):
    forward = Critic.forward

    def infinite(critic, td):
        td = forward(critic, td)
        return td.set("state_action_value", td["state_action_value"] * torch.inf)

    patch.setattr(Critic, "forward", infinite)


FAULTS = {
    "a wide metric": ("sac", metric(wide=torch.ones(7)), ["SAC.update: wide: a metric is"]),
    "a metric called step": ("sac", metric(step=1.0), ["SAC.update: metric 'step' has the name"]),
    "a word for a metric": ("sac", metric(word="high"), ["SAC.update: could not convert"]),
    "no metrics": ("sac", returning(lambda metrics: None), ["SAC.update must return a dict"]),
    "gradients": ("sac", endless_critic, ["SAC.update: the first gradients are not finite"]),
    "a network": (
        "sac",
        flat_critic,
        ['with SAC: KeyError: \'key "nowhere"', "test_dry_run_learners.py:"],
    ),
    "no evaluation": ("sac", evaluating(lambda metrics: None), ["Evaluator: ", "dict of metrics"]),
    "no success": ("sac", evaluating(without_success), ["Evaluator: ", "'eval/success_rate'"]),
    "protocol": ("sac", array_in_the_protocol, ["Suite.protocol: ", "not JSON serializable"]),
    "optimizers": ("sac", optimizers(SAC), ["SAC: ", "differs after the same update"]),
    "optimizers of PEARL": ("pearl", optimizers(PEARL), ["PEARL: ", "after the same update"]),
    "optimizers of TIGR": ("tigr", optimizers(LatentSAC), ["TIGR: agent.", "the same update"]),
    "counter": ("sac", counter, ["SAC: tally changes in training", "get_extra_state"]),
    "list": ("sac", plain_list, ["SAC: act False", "layers into a ModuleList"]),
    "tensor": ("sac", fading_noise, ["SAC: act True", "differs"]),
    "replay": ("sac", rows(TaskReplay), ["TaskReplay: ", "in a second replay"]),
    "replay of PEARL": ("pearl", rows(ContextReplay), ["ContextReplay: ", "a second replay"]),
    "replay of TIGR": ("tigr", rows(WindowReplay), ["WindowReplay: ", "a second replay"]),
    "random": ("sac", random, ["SAC.act: ", "other actions with explore=False"]),
    "draws": ("sac", draws, ["SAC.act draws random numbers with explore=False"]),
}


@pytest.mark.parametrize("case", FAULTS)
def test_one_line_names_what_is_wrong(case, tmp_path, capsys, monkeypatch):
    file, spoil, words = FAULTS[case]
    spoil(monkeypatch)
    code, said = dry_run(file, tmp_path, capsys)
    assert code == 2 and len(said) == 1, said
    for word in words:
        assert word in said[0]


@pytest.mark.parametrize(
    ("binding", "words"),
    [
        ("SAC.actor = @MLP", "OffPolicyLoop with SAC: .*see SAC.actor = @MLP, .*Critic.trunk = "),
        ("Actor.trunk = @Critic", "Critic.forward.* see .*Actor.trunk = @Critic"),
        ("Actor.trunk = @Actor", "built of itself .*: Actor.trunk = @Actor; bind a part that fits"),
        ("OffPolicyLoop.replay = @RewardScaler", "see OffPolicyLoop.replay = @RewardScaler, and"),
        ("train.loop = @SAC", "keyword argument 'seed'; see .*train.loop = @SAC, and bind a part"),
    ],
)
def test_parts_in_the_wrong_place_are_named(binding, words, tmp_path, capsys):
    code, said = dry_run("sac", tmp_path, capsys, binding)
    assert code == 2 and len(said) == 1 and re.search(words, said[0]), said


def test_parts_of_the_loop_are_named_too(tmp_path, capsys, monkeypatch):
    def fail(scaler, reward, valid):
        raise KeyError("scale")

    monkeypatch.setattr(RewardScaler, "__call__", fail)
    code, said = dry_run("sac", tmp_path, capsys, "OffPolicyLoop.reward_scaler = @RewardScaler")
    assert code == 2 and len(said) == 1
    assert re.search("KeyError.*see .*OffPolicyLoop.reward_scaler = @RewardScaler", said[0]), said


@pytest.mark.parametrize("file", FILES)
def test_methods_that_keep_the_rules(file, tmp_path, capsys):
    assert dry_run(file, tmp_path, capsys) == (0, [])


def test_a_network_that_training_leaves_in_evaluation_mode_is_no_fault(
    tmp_path, capsys, monkeypatch
):
    update = SAC.update

    def resting(learner, batch):
        learner.actor.eval()
        return update(learner, batch)

    monkeypatch.setattr(SAC, "update", resting)
    assert dry_run("sac", tmp_path, capsys) == (0, [])


@pytest.mark.parametrize(("slow", "updates"), [(60.0, [1, 3]), (0.0, [1, 1])])
def test_one_update_is_enough_to_measure_a_slow_one(slow, updates, tmp_path, capsys, monkeypatch):
    rehearse, asked = OffPolicyLoop.rehearse, []

    def counted(loop, steps, updates):
        asked.append(updates)
        return rehearse(loop, steps, updates)

    monkeypatch.setattr(OffPolicyLoop, "rehearse", counted)
    monkeypatch.setattr(rehearsal, "SLOW", slow)
    assert dry_run("sac", tmp_path, capsys) == (0, []) and asked == updates


def test_difference():
    one = {"a": [torch.tensor([1.0, float("nan")]), 2], "b": {"c": (None, "x", float("nan"))}}
    assert difference(one, {"a": [torch.tensor([1.0, float("nan")]), 2], "b": one["b"]}) is None
    assert difference(one, {**one, "a": [torch.tensor([1.0, 2.0]), 2]}) == "a[0]"
    assert difference(one, {**one, "b": {"c": (None, "y", 0.0)}}) == "b.c[1]"
    assert difference(one, {**one, "a": [one["a"][0]]}) == "a"
    assert difference(one, {"a": one["a"]}) == "a key"
    assert difference(torch.zeros(2), torch.zeros(2, dtype=torch.int64), "a") == "a"
