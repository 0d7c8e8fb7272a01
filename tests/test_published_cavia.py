"""The published runs of CAVIA, MAML and their neuromodulated forms: every number of their table.

Ben-Iwhiwhu et al., "Context meta-reinforcement learning via neuromodulation", 2022. Suite, learner,
loop and evaluator are put together as a run puts them together; no environment is built.
"""

import importlib
from pathlib import Path
from typing import NamedTuple

import gin
import pytest

from runners import config

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "gin/papers/nm_cavia"


class Run(NamedTuple):
    """A row of the table, then what follows from it."""

    suite: str
    context: int  # K
    hidden: int  # H, of two layers
    gate: tuple[int, str] | None  # N and its kind
    fast_lr: float
    episodes: int  # B
    tasks: int  # M
    test_episodes: int
    iterations: int
    parameters: int
    seed: int = 42


NAVIGATION, DIRECTION, VELOCITY = "navigation", "half-cheetah-direction", "half-cheetah-velocity"
D2, D3, D4 = (f"ct-graph-d{depth}" for depth in (2, 3, 4))
PUSH = "ML1-push-v3"
RUNS = {
    "2dnav_cavia": Run(NAVIGATION, 5, 100, None, 0.5, 20, 20, 40, 501, 11_104),
    "2dnav_nm": Run(NAVIGATION, 5, 100, (4, "hard"), 0.5, 20, 20, 40, 501, 12_540),
    "2dnav_nm_soft": Run(NAVIGATION, 5, 100, (4, "soft"), 0.5, 20, 20, 40, 501, 12_540),
    "cheetahdir_cavia": Run(DIRECTION, 50, 200, None, 10, 20, 40, 40, 501, 55_612, 378),
    "cheetahdir_nm": Run(DIRECTION, 50, 200, (32, "soft"), 10, 20, 40, 40, 501, 77_516, 378),
    "cheetahvel_cavia": Run(VELOCITY, 50, 200, None, 10, 20, 40, 40, 501, 55_612),
    "cheetahvel_nm": Run(VELOCITY, 50, 200, (32, "soft"), 10, 20, 40, 40, 501, 77_516),
    "ml1push_cavia": Run(PUSH, 50, 200, None, 10, 20, 40, 40, 501, 59_008),
    "ml1push_nm": Run(PUSH, 50, 200, (32, "soft"), 10, 20, 40, 40, 501, 81_520),
    "ml45_cavia": Run("ML45", 100, 200, None, 10, 10, 45, 20, 501, 69_008, 378),
    "ml45_cavia_large": Run("ML45", 100, 250, None, 10, 10, 45, 20, 501, 98_758, 378),
    "ml45_nm": Run("ML45", 100, 200, (32, "soft"), 10, 10, 45, 20, 501, 93_120, 378),
    "ctd2_cavia": Run(D2, 5, 200, None, 0.5, 20, 20, 40, 501, 45_403),
    "ctd2_nm": Run(D2, 5, 200, (8, "hard"), 0.5, 20, 20, 40, 501, 50_795),
    "ctd2_maml": Run(D2, 0, 200, None, 0.01, 20, 20, 40, 501, 44_403),
    "ctd2_nm_maml": Run(D2, 0, 200, (8, "hard"), 0.01, 20, 20, 40, 501, 49_755),
    "ctd3_cavia": Run(D3, 10, 300, None, 0.5, 25, 40, 40, 1001, 104_403),
    "ctd3_nm": Run(D3, 10, 300, (16, "hard"), 0.5, 25, 40, 40, 1001, 120_123),
    "ctd4_cavia": Run(D4, 20, 600, None, 0.5, 60, 20, 100, 1501, 414_003),
    "ctd4_cavia_large": Run(D4, 20, 647, None, 0.5, 60, 20, 100, 1501, 476_842),
    "ctd4_nm": Run(D4, 20, 600, (32, "hard"), 0.5, 60, 20, 100, 1501, 475_587),
}
HORIZONS = {NAVIGATION: 100, DIRECTION: 200, VELOCITY: 200, PUSH: 200, "ML45": 200}
HORIZONS |= {D2: 7, D3: 9, D4: 11}


def test_one_file_for_each_row():
    assert {file.stem for file in FOLDER.glob("*.gin")} == RUNS.keys()


def formula(d, k, h, a, n, gaussian):
    """Parameters: two hidden layers, which n modulators gate where n is not 0, head and spread."""
    layers = [(d + k) * h + h, h * h + h]
    if n:
        layers += [wide * n + n + n * h + h for wide in (d + k, h)]
    return sum(layers) + h * a + a + (a if gaussian else 0)


@pytest.mark.parametrize("name", RUNS)
def test_every_number_of_a_published_run(name):
    wanted = RUNS[name]
    importlib.import_module("runners.training")  # as the entry point does
    config.parse([FOLDER / f"{name}.gin"])
    with config.config_errors():
        parts = gin.get_bindings("train")
        suite, evaluator = parts["suite"], parts["evaluator"]
        learner = parts["algorithm"](suite.spec)
        loop = parts["loop"](suite, learner)
    policy, region = learner.policy, learner.trust_region
    layers = list(policy.layers)

    assert (suite.name, suite.spec.horizon) == (wanted.suite, HORIZONS[wanted.suite])
    assert policy.num_context == wanted.context and learner.fast_lr == wanted.fast_lr
    widths = [getattr(layer, "standard", layer).out_features for layer in layers]
    assert widths == [wanted.hidden] * 2
    for layer in layers:
        gated = hasattr(layer, "gate")
        assert ((layer.modulators.out_features, layer.gate) if gated else None) == wanted.gate
    assert (loop.rollouts.episodes, loop.rollouts.num_tasks) == (wanted.episodes, wanted.tasks)
    assert (evaluator.episodes, evaluator.num_tasks) == (wanted.test_episodes, wanted.tasks)
    assert (parts["total_steps"], parts["seed"]) == (wanted.iterations, wanted.seed)

    maml = "maml" in name
    assert (learner.adapts_weights, learner.halve_lr) == (maml, "after_first" if maml else None)
    assert (learner.discount, learner.gae_lambda, learner.first_order) == (0.95, 1.0, False)
    assert (learner.outer_baseline, learner.kl_reduce) == ("before", "mean")
    assert (region.max_kl, region.cg_iterations, region.damping) == (0.01, 10, 1e-5)
    assert (region.max_backtracks, region.backtrack_ratio) == (15, 0.8)
    assert (evaluator.interval, evaluator.adaptations) == (10, 4)
    assert policy.activation.__name__ == "relu"
    assert policy.distribution == ("categorical" if suite.spec.discrete else "gaussian")

    count = sum(parameter.numel() for parameter in policy.parameters())
    modulators = wanted.gate[0] if wanted.gate else 0
    sizes = (suite.spec.observation_dim, wanted.context, wanted.hidden, suite.spec.action_dim)
    assert count == wanted.parameters == formula(*sizes, modulators, not suite.spec.discrete)
