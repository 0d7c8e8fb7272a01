"""Inference alone: from random actions TIGR tells two families apart and predicts what they pay."""

from pathlib import Path

import gin
import pytest
import torch

from buffers.rolling_window import RollingWindow
from runners import config, training
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
