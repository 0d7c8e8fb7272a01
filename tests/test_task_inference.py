"""Inference alone: from random actions TIGR tells two families apart and predicts what they pay.

And what `python -m runners.evaluate --latents` writes and draws of such a run.
"""

import json
from pathlib import Path

import gin
import numpy as np
import pytest
import torch

from buffers.rolling_window import RollingWindow
from runners import config, evaluate, train, training
from runners.evaluation import evaluating
from runners.inference_scores import accuracy, confusion, matching
from runners.window_rollouts import WindowRollouts

ROOT = Path(__file__).resolve().parents[1]
BINDINGS = ["TASKS_PER_EPOCH = 40", "TRANSITIONS = 100", "HIDDEN = (64, 64)"]


def inferring(steps, label_weight):
    """A learner after one collection with its first policy, noise, and so many inference steps."""
    assert training.LOOPS  # registers the loops, as the entry point does
    bindings = [f"INFERENCE_STEPS = {steps}", f"LABEL_WEIGHT = {label_weight}", *BINDINGS]
    config.parse([ROOT / "gin/quick/tigr_point_robot.gin"], bindings)
    torch.manual_seed(0)
    parts = gin.get_bindings("train")
    suite = parts["suite"]
    learner = parts["algorithm"](suite.spec)
    loop = parts["loop"](suite, learner, seed=0)
    while loop.schedule.phase != "update":
        next(loop)
    loop.close()
    return suite, learner, loop.schedule.replay


def episodes_of(suite, learner, split="test"):
    """Of every task of a split, with that policy."""
    rollouts = WindowRollouts(suite, 20, RollingWindow)
    with evaluating(learner):
        experience = rollouts.run_all(learner, suite.each(split), True)
    rollouts.close()
    return experience


def explained(learner, replay):
    """The share of the rewards' variance that is predicted, of transitions for validation."""
    windows = learner.normalised(replay.sample("validation", 2000))
    with torch.no_grad():
        latent = learner.encoder.latent(learner.encoder(windows[:, :-1]), sample=False)
        # a window of fewer than 5 transitions may not tell the task
        told = windows["mask"].sum(1) > 5
        error = learner.decoder.errors(windows[:, -1], latent)[1][told].mean()
    return 1.0 - float(error / windows["next", "reward"][:, -1][told].var())


def told_by_latents(suite, learner):
    """Share of test steps whose nearest latent of training tasks is of their family."""
    known, new = (_latents(suite, learner, split) for split in ("train", "test"))
    nearest = torch.cdist(new[0], known[0]).argmin(1)
    return float((known[1][nearest] == new[1]).double().mean())


def _latents(suite, learner, split):
    experience = episodes_of(suite, learner, split)
    late = [experience[key][:, 0, 5:].flatten(0, 1) for key in ("latent", "family")]
    return late[0], late[1]


@pytest.mark.slow
@pytest.mark.parametrize("label_weight", [0.1, 0.0])
def test_invariant_20_families_and_rewards_from_random_actions(label_weight):
    """1,000 steps of 256 windows.

    With labels the components are the families. Without, one component may serve all of them,
    since z is a convex combination: then it is z that tells the families.
    """
    suite, learner, replay = inferring(1000, label_weight)
    experience = episodes_of(suite, learner)
    counts = confusion(experience, 5, 2).double()
    purity = float(counts.amax(1).sum() / counts.sum())
    right = accuracy(experience, matching(experience, 5, 2, learner.labelled), 5)
    near, share = told_by_latents(suite, learner), explained(learner, replay)
    print(
        f"{label_weight}: accuracy {right:.3f}, purity {purity:.3f}, z {near:.3f}, R2 {share:.3f}"
    )
    assert (right if label_weight else near) > 0.95
    assert share > 0.9


def test_invariant_20_in_a_few_seconds():
    """200 steps are enough for the families."""
    suite, learner, _ = inferring(200, 0.1)
    experience = episodes_of(suite, learner)
    assert accuracy(experience, matching(experience, 5, 2, True), 5) > 0.8


TINY = {
    "ITERATIONS": 2,
    "TASKS_PER_EPOCH": 4,
    "INFERENCE_STEPS": 2,
    "INFERENCE_BATCH": 8,
    "POLICY_STEPS": 2,
    "BATCH_SIZE": 8,
    "HIDDEN": (8, 8),
    "EVALUATION_INTERVAL": 10,
    "PointRobotSuite.sizes": (6, 4),
    "HORIZON": 12,
    "Logger.tensorboard": False,
}


def test_latents_of_a_run(tmp_path, capsys):
    flags = [f"--gin={name} = {value}" for name, value in TINY.items()]
    file = "gin/quick/tigr_point_robot.gin"
    assert train.main(["train", f"--gin_file={file}", f"--workdir={tmp_path}", *flags]) == 0
    run = tmp_path / "tigr_point_robot" / "seed_0"
    capsys.readouterr()
    assert evaluate.main(["evaluate", str(run), "--latents", "--episodes=2", "--seed=3"]) == 0
    error = capsys.readouterr().err
    name = run / "eval" / "evaluate_2_episodes_2_seed_3"
    made = [f"{name}_latents.npz"]
    for what in ("latent_space", "responsibilities"):
        made += [f"{name}_{what}.{kind}" for kind in ("png", "svg")]
    assert [f"written to {path}" for path in made] == error.splitlines()[-5:]
    assert all(Path(path).stat().st_size > 0 for path in made)
    result = json.loads(name.with_suffix(".json").read_text())
    with np.load(made[0]) as loaded:
        arrays = dict(loaded)
    assert {place.rpartition("/")[0] for place in arrays} == set(result["runs"])
    for place, there in result["runs"].items():
        told = {key: arrays[f"{place}/{key}"] for key in ("latent", "weights", "reward", "mask")}
        count = len(there["tasks"])
        assert told["latent"].shape == told["weights"].shape == (count, 2, 12, 2)
        assert told["weights"].sum(-1) == pytest.approx(1.0, abs=1e-5)
        returns = np.array([task["returns"] for task in there["tasks"]])
        assert (told["reward"] * told["mask"]).sum(-1) == pytest.approx(returns, rel=1e-4)
    assert evaluate.main(["evaluate", str(run), "--episodes=2", "--seed=3"]) == 0
    assert json.loads(name.with_suffix(".json").read_text()) == result
    capsys.readouterr()
    assert evaluate.main(["evaluate", str(run), "--activations"]) == 2
    assert "TIGR records no layers; --latents" in capsys.readouterr().err
