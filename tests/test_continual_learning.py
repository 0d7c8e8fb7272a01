"""Active dendrites forget less: tasks learnt in sequence, without a label of the task."""

import statistics

import pytest

from benchmarks.continual_learning import NETS, run

SEEDS = (0, 1, 2)


@pytest.mark.slow
def test_gated_sparse_networks_forget_less():
    names = ("dendrites and k-winners 0.10", "k-winners 0.10, no dendrites", "dense MLP, rate 5e-4")
    runs = {name: [run(NETS[name], seed) for seed in SEEDS] for name in names}
    full, sparse, dense = (statistics.mean(r["final"] for r in rs) for rs in runs.values())
    assert full >= 0.85
    assert full - dense >= 0.15
    assert full > sparse > dense
    for each in runs.values():  # each task alone is no difficulty for any of them
        assert all(r["fresh"] > 0.95 and r["inferred"] > 0.99 for r in each)
