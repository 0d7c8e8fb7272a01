"""The published runs of CAVIA, MAML and their neuromodulated forms: every number of their table.

Ben-Iwhiwhu et al., "Context meta-reinforcement learning via neuromodulation", 2022. Suite, learner,
loop and evaluator are put together as a run puts them together; no environment is built.
"""

import importlib
from pathlib import Path
from typing import NamedTuple

import gin
import pytest

from envs.tree_graph import TreeGraph
from envs.tree_labels import TreeLabels
from envs.tree_pictures import OneHotPictures
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


def tree(depth):
    """What the protocol of a CT-graph says of it."""
    graph = TreeGraph(
        depth=depth,
        branching=2,
        delay=0.0,
        high_reward=1.0,
        crash_reward=-0.01,
        reward="needle_in_haystack",
        reward_std=0.0,
    )
    labels = TreeLabels(mdp_waits=True, mdp_decisions=True, leaf_shift=True)
    parts = {"graph": graph, "labels": labels, "pictures": OneHotPictures(noise=0)}
    return {name: repr(part) for name, part in parts.items()}


META_WORLD = {"reward_version": "v2", "goals_per_task": 50, "goal_hidden": True}
PROTOCOLS = {
    NAVIGATION: {"goals": "uniform in [-0.5, 0.5]^2, not seen by the agent"},
    DIRECTION: {"goals": "1 and -1, not seen by the agent"},
    VELOCITY: {"goals": "uniform in [0, 2.0], not seen by the agent"},
    PUSH: {**META_WORLD, "tasks": ["push-v3"], "test_tasks": ["push-v3"]},
    "ML45": META_WORLD,
    D2: tree(2),
    D3: tree(3),
    D4: tree(4),
}
PICTURES = {D2: 16, D3: 32, D4: 64}
UNSEEN = ["bin-picking-v3", "box-close-v3", "hand-insert-v3", "door-lock-v3", "door-unlock-v3"]


def built(file):
    """The bindings of a run, its learner and its loop."""
    importlib.import_module("runners.training")  # as the entry point does
    config.parse([file])
    with config.config_errors():
        parts = gin.get_bindings("train")
        learner = parts["algorithm"](parts["suite"].spec)
        loop = parts["loop"](parts["suite"], learner)
    return parts, learner, loop


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
    parts, learner, loop = built(FOLDER / f"{name}.gin")
    suite, evaluator = parts["suite"], parts["evaluator"]
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
    halved = "after_first" if name == "ctd2_maml" else None
    assert (learner.adapts_weights, learner.halve_lr) == (maml, halved)
    assert (learner.discount, learner.gae_lambda, learner.first_order) == (0.95, 1.0, False)
    assert (learner.outer_baseline, learner.kl_reduce) == ("before", "mean")
    assert (region.max_kl, region.cg_iterations, region.damping) == (0.01, 10, 1e-5)
    assert (region.max_backtracks, region.backtrack_ratio) == (15, 0.8)
    assert (evaluator.interval, evaluator.adaptations) == (10, 4)
    assert evaluator.splits == ("train", "test")  # the last one is the headline
    assert policy.activation.__name__ == "relu"
    assert policy.distribution == ("categorical" if suite.spec.discrete else "gaussian")

    count = sum(parameter.numel() for parameter in policy.parameters())
    modulators = wanted.gate[0] if wanted.gate else 0
    sizes = (suite.spec.observation_dim, wanted.context, wanted.hidden, suite.spec.action_dim)
    assert count == wanted.parameters == formula(*sizes, modulators, not suite.spec.discrete)


@pytest.mark.parametrize("name", RUNS)
def test_tasks_and_rewards_of_a_published_run(name):
    suite = built(FOLDER / f"{name}.gin")[0]["suite"]
    protocol, expected = suite.protocol(), PROTOCOLS[suite.name]
    assert {key: protocol[key] for key in expected} == expected
    if suite.name in PICTURES:
        pictures = PICTURES[suite.name]
        assert suite.spec.observation_dim == pictures + 1 and suite.spec.action_dim == 3
        assert suite.dynamics.num_pictures == pictures
    if suite.name == "ML45":
        assert sorted(protocol["test_tasks"]) == sorted(UNSEEN)
        assert len(protocol["tasks"]) == 45 and not set(protocol["tasks"]) & set(UNSEEN)


class Small(NamedTuple):
    """A row of the sizes for a CPU."""

    suite: str
    horizon: int
    episodes: int
    test_episodes: int
    steps: int


SMALL_RUNS = {
    "cavia_navigation": Small(NAVIGATION, 100, 10, 10, 2),
    "cavia_ct_graph": Small(D2, 7, 20, 20, 4),
}


@pytest.mark.parametrize("name", SMALL_RUNS)
def test_every_number_of_a_run_for_a_cpu(name):
    wanted = SMALL_RUNS[name]
    parts, learner, loop = built(ROOT / f"gin/quick/{name}.gin")
    spec, evaluator = parts["suite"].spec, parts["evaluator"]
    assert (parts["suite"].name, spec.horizon) == (wanted.suite, wanted.horizon)
    assert (learner.policy.num_context, learner.fast_lr) == (5, 0.5)
    assert [layer.out_features for layer in learner.policy.layers] == [64, 64]
    assert (loop.rollouts.num_tasks, loop.rollouts.episodes) == (10, wanted.episodes)
    assert (parts["total_steps"], evaluator.interval) == (150, 25)
    assert (evaluator.num_tasks, evaluator.episodes) == (10, wanted.test_episodes)
    assert (evaluator.adaptations, evaluator.splits) == (wanted.steps, ("train", "test"))


def test_maml_on_navigation_takes_the_step_of_its_paper():
    """0.1 at first, half of it later: Finn et al., 2017."""
    _, learner, _ = built(ROOT / "gin/maml_navigation.gin")
    assert (learner.adapts_weights, learner.policy.num_context) == (True, 0)
    assert (learner.fast_lr, learner.halve_lr) == (0.1, "after_first")
