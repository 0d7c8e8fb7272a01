"""The published runs of TIGR and CEMRL: every number of their tables.

TIGR: Bing et al., "Meta-Reinforcement Learning in Broad and Non-Parametric Environments", 2021.
CEMRL: Bing et al., "Meta-Reinforcement Learning in Non-Stationary and Dynamic Environments", 2022.
Suite, learner, loop and evaluator are put together as a run puts them together; no environment is
built.
"""

import importlib
from pathlib import Path
from typing import NamedTuple

import gin
import pytest
import torch

from networks.window_backbones import GRUBackbone, PerceptronBackbone
from runners import config

ROOT = Path(__file__).resolve().parents[1]


class TIGRRun(NamedTuple):
    """A row of the table, then the environment steps of an epoch and, in millions, of the run."""

    length: int  # T
    components: int  # K
    latent: int  # L
    tasks: tuple[int, int]
    drawn: int
    epochs: int
    steps: int
    millions: float
    kl: float = 1e-3
    separation: float = 5e-4
    sparsity: float = 1e-3
    label: float = 0.1
    normalised: bool = True
    validation: float = 0.2


EIGHT = TIGRRun(64, 8, 8, (80, 40), 80, 2001, 16_000, 32.03)
TIGR_RUNS = {
    "cheetah_eight": EIGHT,
    "cheetah_eight_no_classification": EIGHT._replace(label=0.0),
    "cheetah_eight_no_euclid": EIGHT._replace(separation=0.0),
    "cheetah_eight_no_sparsity": EIGHT._replace(sparsity=0.0),
    "cheetah_velocity": TIGRRun(16, 1, 1, (100, 30), 20, 501, 4_000, 2.02),
    "cheetah_direction": TIGRRun(16, 2, 1, (2, 2), 20, 501, 4_000, 2.00),
    "ant_nine": TIGRRun(64, 9, 9, (90, 45), 90, 2001, 18_000, 36.04),
    "melts_gauss": TIGRRun(
        16, 1, 8, (80, 40), 80, 6001, 16_000, 96.03, 5e-4, label=0, normalised=False, validation=0
    ),
}


class CEMRLRun(NamedTuple):
    """A row of the table."""

    length: int
    components: int
    latent: int
    weights: tuple[float, float]  # alpha and beta
    horizon: int
    tasks: tuple[int, int]
    transitions: tuple[int, int]  # of each task, at the start and in an epoch
    drawn: int
    epochs: int
    policy_steps: int = 2000
    batches: int = 256
    merge: str = "mean_prob"
    prior: str = "class_index"
    reconstructed: int = 8
    episodes: int = 2  # of each task in an evaluation
    newest: int | None = None


LOW, HIGH = (0.001, 0.001), (0.01, 0.01)
SUM, STEP = "softmax_sum_prob", "per_step_argmax"
CEMRL_RUNS = {
    "cheetah_stationary_direction": CEMRLRun(
        10, 2, 1, HIGH, 200, (2, 2), (600, 600), 2, 1001, merge=SUM
    ),
    "cheetah_stationary_velocity": CEMRLRun(10, 1, 1, LOW, 200, (100, 30), (0, 200), 20, 501),
    "cheetah_changing_direction": CEMRLRun(10, 2, 1, HIGH, 800, (2, 2), (3200, 1600), 2, 501),
    "cheetah_changing_velocity": CEMRLRun(10, 1, 1, LOW, 800, (100, 30), (800, 800), 20, 301),
    "cheetah_continual_direction": CEMRLRun(
        10, 2, 1, (0.01, 0.1), 800, (1, 1), (1600, 1600), 1, 251
    ),
    "cheetah_five": CEMRLRun(
        10, 4, 1, (0.1, 1.0), 200, (60, 30), (200, 200), 60, 1001, prior="learned", episodes=1
    ),
    "ant_changing_direction": CEMRLRun(
        20, 2, 1, HIGH, 800, (2, 2), (16_000, 8_000), 2, 501, 4000, 128, reconstructed=13
    ),
    "ant_changing_velocity": CEMRLRun(
        30, 1, 1, LOW, 800, (100, 30), (800, 800), 20, 401, batches=512, reconstructed=13
    ),
    "walker_stationary_velocity": CEMRLRun(10, 1, 1, LOW, 200, (100, 30), (0, 200), 20, 501),
    "hopper_stationary_velocity": CEMRLRun(
        10, 1, 1, LOW, 200, (100, 30), (0, 200), 20, 501, reconstructed=5
    ),
    "walker_changing_velocity": CEMRLRun(30, 1, 1, LOW, 800, (100, 30), (800, 800), 25, 301),
    "hopper_changing_velocity": CEMRLRun(
        30, 1, 1, LOW, 800, (100, 30), (800, 800), 25, 251, reconstructed=5
    ),
    "humanoid_direction": CEMRLRun(
        10, 2, 1, HIGH, 200, (100, 30), (600, 600), 2, 1001, merge=SUM, reconstructed=24
    ),
    "ml1_push": CEMRLRun(
        30,
        1,
        6,
        LOW,
        150,
        (50, 50),
        (0, 300),
        50,
        501,
        5000,
        reconstructed=36,
        episodes=1,
        newest=30_000,
    ),
    "ml10": CEMRLRun(
        30,
        5,
        6,
        (0.1, 0.1),
        150,
        (500, 250),
        (150, 600),
        50,
        251,
        4000,
        512,
        STEP,
        "learned",
        36,
        1,
    ),
    "ml45": CEMRLRun(
        30,
        10,
        6,
        (0.1, 0.1),
        150,
        (2250, 250),
        (150, 600),
        250,
        501,
        4000,
        512,
        STEP,
        "learned",
        36,
        1,
    ),
}


@pytest.mark.parametrize(("folder", "runs"), [("tigr", TIGR_RUNS), ("cemrl", CEMRL_RUNS)])
def test_one_file_for_each_row(folder, runs):
    assert {file.stem for file in (ROOT / "gin/papers" / folder).glob("*.gin")} == runs.keys()


def put_together(file):
    importlib.import_module("runners.training")  # as the entry point does
    config.parse([ROOT / "gin/papers" / f"{file}.gin"])
    with config.config_errors():
        parts = gin.get_bindings("train")
        learner = parts["algorithm"](parts["suite"].spec)
        loop = parts["loop"](parts["suite"], learner)
    parts["evaluator"].check(parts["suite"], learner)
    return parts, parts["suite"], learner, loop.schedule


def hidden_of(trunk):
    return [layer.weight.shape[-2] for layer in trunk.linears()[:-1]]


def check_common(parts, learner, schedule, wanted):
    agent, encoder = learner.agent, learner.encoder
    sizes = (wanted.length, wanted.components, wanted.latent)
    assert (encoder.length, encoder.num_components, encoder.latent_dim) == sizes
    counts = tuple(len(parts["suite"].each(split)) for split in ("train", "test"))
    assert counts == wanted.tasks == (len(schedule.collector.known), counts[1])
    assert (schedule.collector.num_drawn, parts["total_steps"]) == (wanted.drawn, wanted.epochs)
    assert hidden_of(agent.actor.trunk) == hidden_of(agent.critic.trunk) == [300] * 3
    assert (agent.discount, agent.smoothing, learner.shifted) == (0.99, 0.005, False)
    groups = {**learner.groups, **agent.groups}
    assert {g.optimizer.param_groups[0]["lr"] for g in groups.values()} == {3e-4}
    assert {g.optimizer.param_groups[0]["eps"] for g in groups.values()} == {1e-8}
    first = len(schedule.collector.known) * schedule.collector.first
    whole = first + wanted.epochs * wanted.drawn * schedule.collector.each
    capacity = schedule.replay.capacity
    assert capacity == 10_000_000 or 10_000_000 > capacity > whole
    assert schedule.validation_interval == 50


@pytest.mark.parametrize("name", TIGR_RUNS)
def test_every_number_of_a_run_of_tigr(name):
    wanted = TIGR_RUNS[name]
    parts, suite, learner, schedule = put_together(f"tigr/{name}")
    check_common(parts, learner, schedule, wanted)
    assert suite.spec.horizon == schedule.collector.each == schedule.collector.first == 200
    steps = wanted.drawn * schedule.collector.each
    total = len(schedule.collector.known) * schedule.collector.first + wanted.epochs * steps
    assert (steps, round(total / 1e6, 2)) == (wanted.steps, wanted.millions)
    terms = {"kl": wanted.kl, "separation": wanted.separation}
    terms |= {"sparsity": wanted.sparsity, "label": wanted.label}
    assert learner.term_weights == terms
    assert (learner.weighting, learner.weights.tolist()) == ("inverse", pytest.approx([1 / 3] * 2))
    assert (learner.normalizer is not None) == wanted.normalised
    assert (schedule.inference_steps, schedule.inference_batch) == (128, 4096)
    assert (schedule.policy_steps, schedule.policy_batch) == (2048, 256)
    assert schedule.replay._table.share == wanted.validation and schedule.patience is None
    assert not schedule.collector.exact
    assert not learner.agent.learns_alpha
    assert learner.agent.log_alpha.exp().item() == pytest.approx(0.2)
    assert isinstance(learner.encoder.backbone, GRUBackbone)
    evaluator = parts["evaluator"]
    assert (evaluator.interval, evaluator.episodes, evaluator.num_tasks) == (1, 1, None)
    runs = ("train/deterministic", "test/stochastic", "test/deterministic")
    assert evaluator.runs == runs


def test_widths_of_the_half_cheetah_of_eight_families():
    _, suite, learner, _ = put_together("tigr/cheetah_eight")
    assert (suite.spec.observation_dim, suite.spec.action_dim) == (20, 6)
    gru = learner.encoder.backbone.gru
    assert (gru.input_size, gru.hidden_size) == (47, 235)
    assert learner.encoder.head.last.out_features == 136
    layers = {name: getattr(learner.decoder, name).linears() for name in ("state", "reward")}
    widths = {name: [x.in_features for x in each] for name, each in layers.items()}
    assert widths == {"state": [34, 170, 170], "reward": [34, 170, 170, 85]}
    assert [each[-1].out_features for each in layers.values()] == [20, 1]
    agent = learner.agent
    assert agent.actor.trunk.linears()[0].in_features == 28
    assert agent.critic.trunk.linears()[0].weight.shape == torch.Size((2, 300, 34))


@pytest.mark.parametrize("name", CEMRL_RUNS)
def test_every_number_of_a_run_of_cemrl(name):
    wanted = CEMRL_RUNS[name]
    parts, suite, learner, schedule = put_together(f"cemrl/{name}")
    check_common(parts, learner, schedule, wanted)
    assert suite.spec.horizon == wanted.horizon
    assert (schedule.collector.first, schedule.collector.each) == wanted.transitions
    assert schedule.collector.exact
    assert (learner.kl_weight, learner.class_weight) == wanted.weights
    dims = wanted.reconstructed
    assert learner.decoder.kept.tolist() == list(range(dims))
    assert learner.weights.tolist() == pytest.approx([1 / (1 + dims), dims / (1 + dims)])
    assert (schedule.inference_steps, schedule.patience) == (5000, 500)
    batches = (schedule.inference_batch, schedule.policy_batch)
    assert (schedule.policy_steps, *batches) == (
        wanted.policy_steps,
        wanted.batches,
        wanted.batches,
    )
    merge, prior = learner.encoder.merge, learner.encoder.prior
    assert (merge.logits, prior.kind) == (wanted.merge, wanted.prior)
    assert learner.per_step == (wanted.merge == STEP)
    assert (learner.encoder.scale, learner.encoder.selection) == ("std", "argmax")
    assert isinstance(learner.encoder.backbone, PerceptronBackbone)
    spec = suite.spec
    width = 2 * spec.observation_dim + spec.action_dim + 1
    first = learner.encoder.backbone.layers.linears()[0]
    assert (first.in_features, first.out_features) == (width, 10 * width)
    hidden = 10 * (spec.observation_dim + spec.action_dim + wanted.latent)
    for net in (learner.decoder.state, learner.decoder.reward):
        assert [layer.out_features for layer in net.linears()[:-1]] == [hidden] * 2
    agent = learner.agent
    assert agent.learns_alpha and agent.target_entropy == -spec.action_dim
    assert parts["evaluator"].episodes == wanted.episodes
    assert schedule.replay.newest == wanted.newest
