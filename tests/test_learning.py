"""The point mass is learnt, and 2D navigation meta-learnt, as far as short runs go."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from runners import train
from runners.saved_run import SavedRun

ROOT = Path(__file__).resolve().parents[1]


def distance_left(run):
    """`[tasks]`: mean final distance to the goal as a share of the first one.

    Over all goals, deterministic policy, whole episodes.
    """
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


@pytest.mark.slow
def test_cavia_on_navigation(tmp_path):
    """Twenty iterations from a random policy, about -100 (seed 0: -168); steps inside the bound."""
    file = ROOT / "gin/quick/cavia_navigation.gin"
    flags = ["train", f"--gin_file={file}", f"--workdir={tmp_path}", "--seed=1"]
    changes = ["ITERATIONS = 20", "EVALUATION_INTERVAL = 1000", "Logger.tensorboard = False"]
    assert train.main([*flags, *(f"--gin={change}" for change in changes)]) == 0
    lines = (tmp_path / "cavia_navigation/seed_1/metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "kl" in row]
    assert [row["step"] for row in rows] == list(range(1, 21))
    numbers = [value for row in rows for value in row.values() if isinstance(value, float)]
    assert all(map(math.isfinite, numbers))
    assert not any(row["health/nonfinite"] for row in rows)
    assert all(row["kl"] < 0.01 for row in rows)
    assert sum(row["accepted"] for row in rows) >= 15
    returns = [row["train/return_before"] for row in rows]
    assert -115.0 < returns[0] < -80.0
    assert sum(returns[-3:]) / 3 > -80.0, returns
