"""The published runs of PEARL and of its neuromodulated form: every number of their table.

Rakelly et al. 2019; Ben-Iwhiwhu et al. 2022; as the baseline of TIGR, Bing et al. 2021. Suite,
learner, loop and evaluator are put together as a run puts them together; no environment is built.
"""

import importlib
from pathlib import Path
from typing import NamedTuple

import gin
import pytest

from runners import config

ROOT = Path(__file__).resolve().parents[1]


class Run(NamedTuple):
    """A row of the table; what most rows have in common has a default."""

    suite: str
    observation: int
    action: int
    train: int
    test: int
    meta_batch: int
    initial: int
    prior: int
    posterior: int
    extra: int
    updates: int
    context: int
    reward_scale: float
    kl: float
    evaluation: int
    prior_episodes: int
    repetitions: int
    discount: float = 0.99
    horizon: int = 200
    latent: int = 5
    drawn: int = 5
    iterations: int = 500
    interval: int = 1
    sparse: bool = False
    next_observation: bool = False
    gated: bool = False


BODY = (600, 2)  # steps of an evaluation, episodes of them with the prior
ANT = (4, 2000, 400, 0, 600, 4000, 256, 5, 0.1, *BODY, 4)
PARAMETERS = (10, 2000, 400, 0, 600, 4000, 100, 5, 0.1, *BODY, 2)
FAMILIES = (16, 2000, 400, 0, 400, 2000, 64, 5, 0.1, 600, 1, 1)
MANIPULATION = (16, 4000, 750, 0, 750, 4000, 64)
ORIGIN = Run(
    "point-robot-origin", 2, 2, 100, 40, 16, 1000, 400, 0, 600, 1000, 100, 5, 0.1, *BODY, 1
)._replace(horizon=100)
PUSH = Run("ML1-push-v3", 39, 4, 50, 50, *MANIPULATION, 10, 0.1, *BODY, 1)
PUSH = PUSH._replace(latent=7, iterations=1000)
ML45 = Run("ML45", 39, 4, 225, 25, *MANIPULATION, 5, 0.1, *BODY, 1)
ML45 = ML45._replace(latent=7, iterations=1000)
DIRECTION = Run(
    "cheetah-direction", 20, 6, 2, 2, 4, 2000, 1000, 0, 1000, 2000, 256, 5, 0.1, *BODY, 4
)
VELOCITY = Run(
    "cheetah-velocity", 20, 6, 100, 30, 16, 2000, 400, 0, 600, 2000, 100, 5, 0.1, *BODY, 1
)
RUNS = {
    "pearl/point_robot": Run(
        "point-robot", 2, 2, 80, 20, 16, 200, 200, 0, 200, 1000, 64, 100, 0.1, 60, 1, 2
    )._replace(horizon=20),
    "pearl/sparse_point_robot": Run(
        "point-robot-sparse", 2, 2, 80, 20, 16, 200, 100, 900, 0, 1000, 1024, 100, 1.0, 400, 5, 2
    )._replace(horizon=20, discount=0.9, drawn=10, sparse=True),
    "pearl/cheetah_direction": DIRECTION,
    "pearl/cheetah_velocity": VELOCITY,
    "pearl/ant_forward_back": Run("ant-forward-back", 27, 8, 2, 2, *ANT),
    "pearl/ant_direction": Run("ant-direction", 27, 8, 2, 2, *ANT),
    "pearl/ant_goal": Run(
        "ant-goal", 29, 8, 150, 30, 10, 2000, 400, 0, 600, 4000, 256, 5, 1.0, *BODY, 1
    ),
    "pearl/humanoid_direction": Run(
        "humanoid-direction", 376, 17, 100, 30, 16, 2000, 400, 0, 600, 4000, 256, 5, 0.1, *BODY, 1
    ),
    "pearl/walker_parameters": Run(
        "walker-parameters", 17, 6, 40, 10, *PARAMETERS, next_observation=True
    ),
    "pearl/hopper_parameters": Run(
        "hopper-parameters", 11, 3, 40, 10, *PARAMETERS, next_observation=True
    ),
    "pearl/tigr_cheetah_eight": Run(
        "cheetah-families", 20, 6, 80, 40, *FAMILIES, latent=8, drawn=80, interval=5
    ),
    "pearl/tigr_ant_nine": Run("ant-families", 29, 8, 90, 45, *FAMILIES, latent=9, drawn=90),
    "nm_pearl/cheetah_direction_nm": DIRECTION._replace(gated=True),
    "nm_pearl/cheetah_velocity_nm": VELOCITY._replace(gated=True),
    "nm_pearl/point_robot_pearl": ORIGIN,
    "nm_pearl/point_robot_nm": ORIGIN._replace(gated=True),
    "nm_pearl/ml1push_pearl": PUSH,
    "nm_pearl/ml1push_nm": PUSH._replace(gated=True),
    "nm_pearl/ml45_pearl": ML45,
    "nm_pearl/ml45_nm": ML45._replace(gated=True),
}
# Environment steps after the first iteration, and of each later one, that stored runs report.
STORED = {
    "pearl/cheetah_velocity": (205_000, 5_000),
    "pearl/cheetah_direction": (14_000, 10_000),
}


def test_one_file_for_each_row():
    folders = (ROOT / "gin/papers" / name for name in ("pearl", "nm_pearl"))
    files = [file for folder in folders for file in folder.glob("*.gin")]
    assert {f"{file.parent.name}/{file.stem}" for file in files} == RUNS.keys()


def perceptron(*widths):
    """Parameters of layers of these widths."""
    return sum(wide * tall + tall for wide, tall in zip(widths[:-1], widths[1:], strict=True))


def gates(*widths, modulators=32):
    """Parameters that gate the layers of these widths: the input first."""
    pairs = zip(widths[:-1], widths[1:], strict=True)
    return sum(perceptron(wide, modulators, tall) for wide, tall in pairs)


def build(name, *bindings):
    importlib.import_module("runners.training")  # as the entry point does
    config.parse([ROOT / f"gin/papers/{name}.gin"], bindings)
    with config.config_errors():
        parts = dict(gin.get_bindings("train"))
        parts["learner"] = parts["algorithm"](parts["suite"].spec)
        parts["made"] = parts["loop"](parts["suite"], parts["learner"])
        parts["evaluator"].check(parts["suite"], parts["learner"])
    return parts


@pytest.mark.parametrize("name", RUNS)
def test_every_number_of_a_published_run(name):
    wanted = RUNS[name]
    parts = build(name, "REPLAY_CAPACITY = 1000000")
    suite, learner, evaluator = parts["suite"], parts["learner"], parts["evaluator"]
    schedule = parts["made"].schedule
    replay, spec = schedule.replay, suite.spec

    found = suite.name, spec.observation_dim, spec.action_dim, spec.horizon
    assert found == (wanted.suite, wanted.observation, wanted.action, wanted.horizon)
    tested = evaluator._tasks["test"]
    assert (len(schedule.tasks), len(tested)) == (wanted.train, wanted.test)
    assert set(evaluator._tasks["train"]) <= set(schedule.tasks)
    assert (replay.meta_batch, replay.batch_size) == (wanted.meta_batch, 256)
    assert (replay.context_size, replay.sparse_context) == (wanted.context, wanted.sparse)
    steps = schedule.initial_steps, schedule.prior_steps, schedule.posterior_steps
    assert steps == (wanted.initial, wanted.prior, wanted.posterior)
    assert (schedule.extra_steps, schedule.num_drawn) == (wanted.extra, wanted.drawn)
    assert (schedule.updates_per_iteration, schedule.carry_posterior) == (wanted.updates, False)
    assert (parts["total_steps"], evaluator.interval) == (wanted.iterations, wanted.interval)
    assert (evaluator.steps, evaluator.prior_episodes) == (wanted.evaluation, wanted.prior_episodes)
    assert (evaluator.repetitions, evaluator.sparse) == (wanted.repetitions, wanted.sparse)
    assert evaluator.context_size is None and evaluator.splits == ("train", "test")

    assert (learner.reward_scale, learner.kl_weight) == (wanted.reward_scale, wanted.kl)
    assert (learner.discount, learner.smoothing) == (wanted.discount, 0.005)
    assert (learner.latent_dim, learner.kl_reduction) == (wanted.latent, "sum")
    assert (learner.loc_penalty, learner.log_std_penalty) == (1e-3, 1e-3)
    rates = {g.optimizer.param_groups[0]["lr"] for g in learner.groups.values()}
    assert rates == {3e-4} and set(learner.groups) == {"encoder", "critic", "actor", "value"}
    assert learner.encoder.next_observation is wanted.next_observation
    assert learner.encoder.bottleneck is True

    if name in STORED:
        each = wanted.drawn * (wanted.prior + wanted.posterior + wanted.extra)
        assert (wanted.train * wanted.initial + each, each) == STORED[name]


@pytest.mark.parametrize("name", RUNS)
def test_widths_and_parameters_of_a_published_run(name):
    wanted = RUNS[name]
    learner = build(name, "REPLAY_CAPACITY = 1000000")["learner"]
    o, a, z = wanted.observation, wanted.action, wanted.latent
    seen = o * (2 if wanted.next_observation else 1) + a + 1
    policy = perceptron(o + z, 300, 300, 300, 2 * a)
    expected = {
        "encoder": perceptron(seen, 200, 200, 200, 2 * z),
        "critic": 2 * perceptron(o + a + z, 300, 300, 300, 1),
        "value": perceptron(o + z, 300, 300, 300, 1),
        "target": perceptron(o + z, 300, 300, 300, 1),
        "actor": policy + (gates(o + z, 300, 300, 300) if wanted.gated else 0),
    }
    counts = {
        part: sum(p.numel() for p in getattr(learner, part).parameters()) for part in expected
    }
    assert counts == expected
    assert sum(p.numel() for p in learner.parameters()) == sum(expected.values())


def test_replays_of_published_runs_hold_every_step_or_a_million_of_each_task():
    """On average over the tasks; of some that are drawn more often the oldest are lost."""
    importlib.import_module("runners.training")
    for name, run in RUNS.items():
        gin.clear_config()
        config.parse([ROOT / f"gin/papers/{name}.gin"])
        each = run.drawn * (run.prior + run.posterior + run.extra)
        total = run.train * run.initial + run.iterations * each
        capacity, most = gin.query_parameter("REPLAY_CAPACITY/macro.value"), run.train * 1_000_000
        assert min(total, most) <= capacity <= most, name
