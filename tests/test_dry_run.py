"""What `--dry_run` finds: environments and learners that break the rules, in one line each."""

import json
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from envs.environment import Environment
from envs.errors import TaskError
from envs.plane import PointMass
from envs.point_mass import PointMassSuite
from envs.suite import Spec
from runners import train
from runners.config import ConfigError
from runners.environment_checks import check_environments


def made(kind, task):
    return kind(task.task_id, (42,))


def suite_of(kind, workers=0, name="turn-1"):
    """The point mass, with an environment of another kind for the task of this name."""

    class Suite(PointMassSuite):
        def build(self, tasks):
            return partial(mixed, kind, name)

    return Suite(2, workers=workers)


def mixed(kind, name, task):
    return made(kind if task.name == name else PointMass, task)


class Forgetful(PointMass):
    """Nothing is kept."""

    def snapshot(self):
        return {}

    def restore(self, state):
        pass


class Tired(PointMass):
    """Pushes less from step to step, and keeps to itself how many there were."""

    def reset(self, **options):
        self.pushes = 0
        return super().reset(**options)

    def step(self, action):
        self.pushes += 1
        return super().step(action / self.pushes)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [Forgetful, Tired])
def test_a_snapshot_that_leaves_something_out(kind, workers):
    said = "task turn-1: after a restored snapshot .* snapshot and restore must hold everything"
    with pytest.raises(ConfigError, match=said):
        check_environments(suite_of(kind, workers))


def test_environments_that_keep_the_rules():
    check_environments(suite_of(PointMass))


class Told(PointMass):
    """Steps tell something else of what is in `changes`, by its place among the five values."""

    changes = {}

    def step(self, action):
        outcome = list(super().step(action))
        for place, value in self.changes.items():
            outcome[place] = value(outcome[place])
        return tuple(outcome)


def telling(**changes):
    places = {"observation": 0, "reward": 1, "info": 4}
    return type("Telling", (Told,), {"changes": {places[k]: v for k, v in changes.items()}})


class Bare:
    """No more than gymnasium asks for; without a class of Polytask."""

    def __init__(self, *arguments):
        self.inner = PointMass(*arguments)
        self.action_space = self.inner.action_space

    def reset(self, **options):
        return self.inner.reset(**options)

    def step(self, action):
        return self.inner.step(action)

    def close(self):
        pass


class Old(PointMass):
    """As before gymnasium 0.26: `reset` returns the observation alone."""

    def reset(self, **options):
        return super().reset(**options)[0]


class Four(PointMass):
    """Likewise: `step` returns four values."""

    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


class Unsaved(PointMass):
    snapshot = Environment.snapshot


def acting(space):
    def begin(self, *arguments):
        PointMass.__init__(self, *arguments)
        self.action_space = space

    return type("Acting", (PointMass,), {"__init__": begin})


FAULTS = {
    "narrow": (
        telling(observation=lambda seen: seen[:1]),
        r"observation of shape \(1,\), the spec says \(6,\)",
    ),
    "wide": (telling(observation=lambda seen: np.zeros(9)), r"observation of shape \(9,\)"),
    "list": (telling(observation=list), r"observation a list, no array, the spec says \(6,\)"),
    "no reward": (telling(reward=lambda reward: None), "reward must be one number, got None"),
    "rewards": (telling(reward=lambda reward: np.zeros(2)), "one number, got array"),
    "reward in an array": (telling(reward=lambda reward: np.zeros(1)), "one number, got array"),
    "no success": (telling(info=lambda info: {}), 'info of a step has no "success"'),
    "nan": (
        telling(info=lambda info: {"success": float("nan")}),
        r'info\["success"\] must be True or False, got nan',
    ),
    "reset": (Old, r"reset must return an observation and a dict, got array\("),
    "step": (Four, "a step must return gymnasium's five values"),
    "bare": (Bare, "has no simulate; derive it from envs.environment.Environment"),
    "unsaved": (Unsaved, "has no snapshot"),
    "discrete": (acting(Discrete(2)), r"action_space is Discrete\(2\), the spec asks for Box"),
    "half": (acting(Box(-0.5, 0.5, (2,))), r"the spec asks for Box\(-1.0, 1.0, \(2,\)\)"),
    "three": (acting(Box(-1.0, 1.0, (3,))), r"the spec asks for Box\(-1.0, 1.0, \(2,\)\)"),
}


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite(reward):
    said = f"task turn-1: the reward is {reward}; it must be finite"
    with pytest.raises(ConfigError, match=said):
        check_environments(suite_of(telling(reward=lambda given: reward)))


class Unrestorable(PointMass):
    def restore(self, state):
        raise KeyError("wheels")


def test_a_snapshot_that_cannot_be_restored():
    with pytest.raises(ConfigError, match=r"a task of .*turn-1.*: KeyError: 'wheels'") as told:
        check_environments(suite_of(Unrestorable))
    assert "test_dry_run.py:" in told.value.line()


@pytest.mark.parametrize("case", FAULTS)
def test_an_environment_that_breaks_a_rule(case):
    kind, said = FAULTS[case]
    with pytest.raises(ConfigError, match=f"task turn-1: .*{said}"):
        check_environments(suite_of(kind))
    with (
        pytest.raises(TaskError, match=f"task turn-1: .*{said}"),
        suite_of(kind).vector() as vector,
    ):
        vector.reset()
        vector.step(vector.current().set("action", torch.zeros(2, 2)))


@pytest.mark.parametrize("number", [1.0, np.ones(1), np.ones(4)])
def test_an_entry_of_another_size_than_promised(number, monkeypatch):
    entries = {"specification": number, "task_id": 0, "task_changed": False}
    suite = suite_of(telling(info=lambda info: info | entries), name="turn-0")
    spec = replace(suite.spec, specification_dim=3)
    monkeypatch.setattr(type(suite), "spec", spec)
    said = r'task turn-0: info\["specification"\] must have the size 3, got'
    with pytest.raises(ConfigError, match=said):
        check_environments(suite)
    with pytest.raises(TaskError, match=said), suite.vector() as vector:
        vector.reset()
        vector.step(vector.current().set("action", torch.zeros(2, 2)))


class Flat(PointMass):
    """Shows less than the spec says from the first observation on."""

    def reset(self, **options):
        observation, info = super().reset(**options)
        return observation[:3], info


class Blind(PointMass):
    """Shows less in every step; of a module, so that workers can build it."""

    def step(self, action):
        observation, *rest = super().step(action)
        return observation[:3], *rest


@pytest.mark.parametrize("kind", [Flat, Blind, Bare])
def test_a_worker_hands_the_line_on_at_once(kind):
    with pytest.raises(TaskError, match="^task turn-1: .*$") as caught:
        vector = suite_of(kind, workers=2).vector()
        vector.reset()
        vector.step(vector.current().set("action", torch.zeros(2, 2)))
    assert len(str(caught.value).splitlines()) == 1


class Lambda(PointMassSuite):
    def build(self, tasks):
        return lambda task: made(PointMass, task)


def test_what_no_worker_can_be_sent():
    check_environments(Lambda(2))
    with pytest.raises(ConfigError, match="task turn-0: .* worker process .* or bind workers = 0"):
        check_environments(Lambda(2, workers=1))


class Broken(PointMass):
    def step(self, action):
        return self.nothing


def test_an_error_of_the_environment_itself():
    """The line says what and, since the code is the user's, where."""
    with pytest.raises(ConfigError) as caught:
        check_environments(suite_of(Broken))
    said = r"task turn-1: .*'nothing' \(AttributeError at .*test_dry_run.py:\d+\)"
    assert re.fullmatch(said, caught.value.line())


@pytest.mark.parametrize("name", ["observation_dim", "action_dim", "num_tasks", "horizon"])
def test_sizes_of_nothing(name):
    sizes = {"observation_dim": 6, "action_dim": 2, "num_tasks": 1, "horizon": 30}
    with pytest.raises(ValueError, match=f"Spec.{name} must be at least 1, got 0"):
        Spec(**{**sizes, name: 0})


@pytest.mark.parametrize(
    ("changed", "said"), [({"goals": ()}, "has no goals"), ({"name": None}, "must be a string")]
)
def test_tasks_that_cannot_be_run(changed, said, monkeypatch):
    suite = suite_of(PointMass)
    tasks = tuple(replace(task, **changed) for task in suite.tasks())
    monkeypatch.setattr(suite, "tasks", lambda: tasks)
    with pytest.raises(ConfigError, match=said):
        check_environments(suite)


def test_a_horizon_that_no_evaluation_would_reach():
    with pytest.raises(ValueError, match="Spec.horizon must be at most 1000000, got 1000001"):
        Spec(6, 2, 1, 1_000_001)


@pytest.mark.parametrize("dry", [[], ["--dry_run"]])
@pytest.mark.parametrize("case", ["blind", "empty"])
def test_one_line_of_a_run(case, dry, tmp_path, capsys, monkeypatch):
    if case == "blind":
        made_by = partial(mixed, Blind, "turn-1")
        monkeypatch.setattr(PointMassSuite, "build", lambda suite, tasks: made_by)
        said = "task turn-1: observation of shape (3,), the spec says (6,)"
    else:
        monkeypatch.setattr(PointMassSuite, "spec", property(lambda suite: Spec(6, 2, 2, 0)))
        said = "Spec.horizon must be at least 1, got 0"
    file = "--gin_file=gin/quick/mtsac_point_mass.gin"
    assert train.main(["train", file, f"--workdir={tmp_path}", "--seed=0", *dry]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert lines == [f"error: {said}"]
    if case == "blind" and not dry:
        status = json.loads((tmp_path / "mtsac_point_mass" / "seed_0" / "status.json").read_text())
        assert (status["reason"], status["exit_code"]) == (said, 2)
