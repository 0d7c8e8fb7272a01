"""Tests of the off-policy meta loop, with a schedule that only counts."""

import copy
import functools

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from envs.navigation import NavigationSuite
from runners.meta_off_policy import MetaOffPolicyLoop

PIECES = 4  # of an iteration: one collection, then updates


class Learner(nn.Module):
    window = None

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def adapt(self, experience, prior):
        return prior


class Rows:
    """A replay: how often something was stored."""

    nbytes, device = 8, "cpu"

    def __init__(self):
        self.stored = 0

    def state_dict(self):
        return {"stored": self.stored}

    def load_state_dict(self, state):
        self.stored = state["stored"]


class Counting:
    about, faults = "counts", {"worker_restarts": 0}

    def __init__(self, suite, learner, *, seed=0):
        self.learner, self.seed, self.replay, self.place = learner, seed, Rows(), 0
        self.closed = self.refilled = False

    @property
    def pending(self):
        return self.place > 0

    def advance(self, ledger):
        if self.place == 0:
            with ledger.timed("collect"):
                self.replay.stored += 1
                ledger.collected(torch.ones(3, 5))
        else:
            with ledger.timed("update"), torch.no_grad():
                self.learner.weight += self.replay.stored + torch.rand(())
                loss = self.learner.weight.detach().clone()
                ledger.updated({"loss": loss}, TensorDict({}, []))
        self.place = (self.place + 1) % PIECES
        return self.place == 0

    def rehearse(self, ledger, updates):
        return 3.0, updates / 4

    def whole(self, iterations, collection, update):
        return iterations * (collection + (PIECES - 1) * update)

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]

    def refill(self):
        self.refilled = True

    def close(self):
        self.closed = True


def build(**options):
    learner = Learner()
    return MetaOffPolicyLoop(NavigationSuite(), learner, schedule=Counting, **options), learner


def run(loop, number):
    return [next(loop) for _ in range(number)]


def timeless(metrics):
    return {name: float(v) for name, v in metrics.items() if not name.startswith("perf/")}


def test_pieces_and_iterations():
    loop, learner = build(seed=7)
    assert (loop.step, loop.updates, loop.unit, loop.pending) == (0, 0, "iterations", False)
    assert loop.schedule.seed == 7 and loop.about == "counts" and loop.replay.nbytes == 8
    steps = run(loop, PIECES - 1)
    assert steps == [(0, {})] * (PIECES - 1) and loop.pending
    ((step, metrics),) = run(loop, 1)
    assert step == loop.step == 1 and not loop.pending and loop.updates == PIECES - 1
    assert metrics["env_steps"] == 15 and metrics["updates"] == PIECES - 1
    assert metrics["health/worker_restarts"] == 0
    shares = [metrics[f"perf/{phase}_fraction"] for phase in ("collect", "update")]
    assert abs(sum(shares) - 1.0) < 1e-9
    loop.close()
    assert loop.schedule.closed


def test_metrics_are_means_over_the_interval():
    loop, _ = build(log_interval=2)
    told = [step for step, metrics in run(loop, 4 * PIECES) if metrics]
    assert told == [2, 4]


@pytest.mark.parametrize("number", range(1, 2 * PIECES))
def test_resumed_equals_uninterrupted_at_every_piece(number):
    torch.manual_seed(3)
    loop, learner = build(log_interval=2)
    run(loop, number)
    saved = copy.deepcopy((loop.state_dict(), learner.state_dict(), torch.get_rng_state()))
    expected = run(loop, 3 * PIECES)
    again, other = build(log_interval=2)
    again.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    torch.set_rng_state(saved[2])
    for (step, metrics), (wanted, values) in zip(run(again, 3 * PIECES), expected, strict=True):
        assert step == wanted and timeless(metrics) == timeless(values)
    assert torch.equal(other.weight, learner.weight) and not again.schedule.refilled


def test_a_checkpoint_without_replay_is_refilled():
    loop, _ = build()
    run(loop, 2)
    state = {name: part for name, part in loop.state_dict().items() if name != "replay"}
    again, _ = build()
    again.load_state_dict(state)
    assert again.schedule.refilled


def test_rehearsal():
    loop, _ = build()
    assert loop.rehearse(3, 2) == (3.0, 0.5)
    assert loop.whole(10, 2.0, 1.0) == 10 * (2.0 + PIECES - 1)


def test_errors():
    with pytest.raises(ValueError, match=r"log_interval .* got 0"):
        build(log_interval=0)
    build_with = functools.partial(MetaOffPolicyLoop, NavigationSuite(), schedule=Counting)
    plain = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"Linear .*gin/runners/off_policy\.gin"):
        build_with(plain)
    plain.adapt = None
    with pytest.raises(ValueError, match=r"Linear .*gin/runners/meta_on_policy\.gin"):
        build_with(plain)
