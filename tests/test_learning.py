"""The point mass is learnt: mean final distance to the goal as a share of the first one."""

import dataclasses
from pathlib import Path

import pytest

from runners import train
from runners.saved_run import SavedRun

ROOT = Path(__file__).resolve().parents[1]


def distance_left(run):
    """`[tasks]`: over all goals, deterministic policy, whole episodes."""
    suite, learner = run.suite, run.learner.eval()
    tasks = suite.tasks()
    first = last = 0.0
    with suite.vector(tasks, seed=1, purpose="evaluation", autoreset=False) as vector:
        for goal in tasks[0].goals:
            vector.assign([dataclasses.replace(task, goals=(goal,)) for task in tasks])
            first = first + suite.distance(vector.reset()["observation"])
            for _ in range(suite.spec.horizon):
                td = vector.step(learner.act(vector.current(), explore=False))
            last = last + suite.distance(td["next", "observation"])
    return last / first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "threshold"),
    [("mtsac_point_mass", 0.15), ("must_point_mass_fixed", 0.15), ("must_point_mass", 0.3)],
)
def test_point_mass(experiment, threshold, tmp_path):
    file = ROOT / f"gin/quick/{experiment}.gin"
    flags = ["train", f"--gin_file={file}", f"--workdir={tmp_path}", "--seed=0"]
    assert train.main([*flags, "--gin=Logger.tensorboard = False"]) == 0
    left = distance_left(SavedRun(tmp_path / experiment / "seed_0"))
    assert (left < threshold).all(), left
