"""Tests of what iterations leave behind."""

import pytest
import torch
from tensordict import TensorDict

from runners.health import CHECK_EVERY, MAX_NONFINITE, DivergenceError, HealthWatch
from runners.ledger import Ledger

BATCH = TensorDict({}, [2])
CPU = torch.device("cpu")


def test_counts_means_and_shares():
    ledger = Ledger(HealthWatch(CPU))
    with ledger.timed("collect"):
        ledger.collected(torch.tensor([[True, False], [True, True]]))
    with ledger.timed("update"):
        for loss in (1.0, 3.0):
            ledger.updated({"loss": torch.tensor(loss)}, BATCH)
    ledger.note({"return": torch.tensor(5.0)})
    metrics = ledger.read({"worker_restarts": 2})
    assert (metrics["env_steps"], metrics["updates"]) == (3, 2)
    assert (metrics["loss"], metrics["return"]) == (2.0, 5.0)
    assert abs(metrics["perf/collect_fraction"] + metrics["perf/update_fraction"] - 1.0) < 1e-9
    assert metrics["health/worker_restarts"] == 2
    rate = metrics["perf/updates_per_s"] / metrics["perf/env_steps_per_s"]
    assert rate == pytest.approx(2 / 3)
    assert "loss" not in ledger.read({})


def test_restored_goes_on():
    one, other = Ledger(HealthWatch(CPU)), Ledger(HealthWatch(CPU))
    one.collected(torch.ones(4))
    one.updated({"loss": torch.tensor(1.0)}, BATCH)
    other.load_state_dict(one.state_dict())
    for ledger in (one, other):
        ledger.updated({"loss": torch.tensor(2.0)}, BATCH)
        assert ledger.read({})["loss"] == 1.5 and ledger.counts["updates"] == 2
        assert ledger.counts["env_steps"] == 4


def test_refused_updates_in_a_row_stop_the_run():
    ledger = Ledger(HealthWatch(CPU))
    with pytest.raises(DivergenceError):
        for _ in range(MAX_NONFINITE + CHECK_EVERY):
            ledger.updated({"health/nonfinite": torch.ones(())}, BATCH)
    assert ledger.counts["updates"] >= MAX_NONFINITE
