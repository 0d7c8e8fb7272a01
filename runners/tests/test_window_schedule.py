"""The epochs of TIGR and CEMRL, with the learners themselves on point robots."""

import copy
from functools import partial

import pytest
import torch

from algorithms.cemrl import CEMRL
from algorithms.latent_sac import LatentSAC
from algorithms.tigr import TIGR
from buffers.rolling_window import RollingWindow
from buffers.window_replay import WindowReplay
from envs.point_robots import PointRobotSuite
from envs.robots import RobotSuite
from networks.actor import Actor
from networks.critic import Critic
from networks.gru_mixture import GRUMixtureEncoder
from networks.latent_mlp import LatentMLP
from networks.transition_decoder import TransitionDecoder
from networks.transition_normalizer import TransitionNormalizer
from runners.meta_off_policy import MetaOffPolicyLoop
from runners.window_schedule import WindowSchedule

SUITE = PointRobotSuite("point-robot-families", sizes=(6, 4), horizon=5)
SMALL = {
    "tasks_per_epoch": 4,
    "inference_steps": 5,
    "inference_batch": 8,
    "validation_interval": 2,
    "policy_steps": 3,
    "policy_batch": 8,
}
PIECES = 1 + 5 + 3  # of an epoch with one round of episodes


def build(kind=TIGR, seed=0, suite=SUITE, capacity=1000, share=0.2, log_interval=1, **options):
    doors = {"actor": Actor, "critic": Critic}
    trunk = partial(LatentMLP, hidden=(8, 8))
    doors = {name: partial(door, trunk=trunk, task_key="latent") for name, door in doors.items()}
    torch.manual_seed(seed)
    learner = kind(
        suite.spec,
        encoder=partial(
            GRUMixtureEncoder, length=3, latent_dim=2, num_components=2, complexity=1.0
        ),
        decoder=partial(TransitionDecoder, complexity=1.0, state_error="sum"),
        normalizer=TransitionNormalizer,
        agent=partial(LatentSAC, **doors),
    )
    schedule = partial(
        WindowSchedule,
        replay=partial(WindowReplay, capacity=capacity, validation_share=share),
        window=RollingWindow,
        **{**SMALL, **options},
    )
    loop = MetaOffPolicyLoop(
        suite, learner, seed=seed, schedule=schedule, log_interval=log_interval
    )
    return loop, learner


def run(loop, number):
    return [next(loop) for _ in range(number)]


def test_an_epoch_piece_by_piece():
    loop, learner = build()
    schedule, phases = loop.schedule, []
    initial = 2  # six training tasks, four at a time
    for _ in range(initial + PIECES):
        phases.append("initial" if schedule.collector.initial else schedule.phase)
        assert loop.pending == (len(phases) not in (1, 3))
        step, metrics = next(loop)
    assert phases == ["initial"] * 2 + ["collect"] + ["infer"] * 5 + ["update"] * 3
    assert step == loop.step == 1 and loop.updates == 8 and not loop.pending
    assert metrics["env_steps"] == 5 * (6 + 4) == len(schedule.replay)
    assert {"train/return", "loss/inference", "validation/state", "loss/actor"} <= set(metrics)
    shares = [metrics[f"perf/{name}_fraction"] for name in ("collect", "infer", "update")]
    assert abs(sum(shares) - 1.0) < 1e-9
    assert schedule.phase == "collect"
    run(loop, PIECES)
    assert loop.step == 2 and loop.counts["env_steps"] == 5 * (6 + 4 + 4)
    loop.close()


def test_every_training_task_first_then_different_ones(monkeypatch):
    loop, _ = build()
    seen = []
    original = type(loop.schedule.collector.rollouts).run

    def spy(self, learner, tasks, explore=True):
        seen.append([(task.name, task.goals) for task in tasks])
        return original(self, learner, tasks, explore)

    monkeypatch.setattr(type(loop.schedule.collector.rollouts), "run", spy)
    run(loop, 2 + 2 * PIECES)
    known = [(task.name, task.goals) for task in SUITE.each("train")]
    assert seen[0] + seen[1] == known
    for epoch in seen[2:]:
        assert len(epoch) == 4 and len(set(epoch)) == 4 and set(epoch) <= set(known)
    assert seen[2] != seen[3]


def test_more_tasks_than_there_are_come_again():
    loop, _ = build(tasks_per_epoch=9)
    run(loop, 1)
    assert len(loop.schedule.collector.tasks) == 9


@pytest.mark.parametrize(("initial", "each", "rounds"), [(0, 12, 3), (5, 5, 1), (11, 6, 2)])
def test_transitions_of_each_task(initial, each, rounds):
    """Whole episodes of 5 steps until there are as many on average."""
    loop, _ = build(initial_transitions=initial, transitions=each, episodes_at_once=2)
    schedule, phases = loop.schedule, []
    while not phases or phases[-1] != "infer":
        phases.append("initial" if schedule.collector.initial else schedule.phase)
        next(loop)
    assert phases.count("initial") == 3 * -(-initial // 5)
    assert phases.count("collect") == 2 * rounds


@pytest.mark.parametrize("exact", [False, True])
def test_transitions_of_tasks_whose_episodes_end_early(exact, monkeypatch):
    """As many of each task by itself, or at least as many of all together."""
    suite = RobotSuite("hopper-velocity", sizes=(3, 1), horizon=30, terminates=True, workers=0)
    loop, _ = build(
        suite=suite, exact=exact, initial_transitions=0, transitions=50, episodes_at_once=2
    )
    schedule, stored, original = loop.schedule, {}, loop.schedule.replay.extend

    def spy(experience):
        mask = experience["mask"][:, 0]
        assert (mask[:, 1:] <= mask[:, :-1]).all() and mask.shape[1] <= 30
        for speed, steps in zip(chosen[-1], mask.sum(1).tolist(), strict=True):
            stored[speed] = stored.get(speed, 0) + steps
        original(experience)

    chosen, whole = [], schedule.collector.rollouts.run

    def told(learner, tasks):
        chosen.append([task.goals for task in tasks])
        return whole(learner, tasks)

    monkeypatch.setattr(schedule.replay, "extend", spy)
    monkeypatch.setattr(schedule.collector.rollouts, "run", told)
    while schedule.phase != "infer":
        next(loop)
    assert len(schedule.replay) == loop.counts["env_steps"] == sum(stored.values())
    if exact:  # of four drawn tasks there are only three: one came twice
        assert sorted(stored.values()) == [50, 50, 100]
    else:
        assert sum(stored.values()) >= 200 and sorted(stored.values()) != [50, 50, 100]
    loop.close()


def test_statistics_are_those_of_what_is_stored():
    """From the initial collection on."""
    loop, learner = build()
    run(loop, 1)
    assert (learner.normalizer.mean == 0).all()
    run(loop, 1)
    for _ in range(2):
        statistics = loop.schedule.replay.statistics()
        assert torch.equal(learner.normalizer.mean[:2], statistics["mean", "observation"])
        assert torch.equal(learner.normalizer.std[2:4], statistics["std", "action"])
        run(loop, 1)


def test_invariant_11_no_training_window_is_of_a_validation_episode(monkeypatch):
    """And the split of an episode is the same in all epochs."""
    loop, learner = build(inference_batch=40)
    kept = {"infer": {}, "validate": {}}
    for name, seen in kept.items():
        original = getattr(learner, name)

        def spy(batch, *others, original=original, seen=seen):
            ends = batch["observation"][:, -1].tolist()
            seen |= {tuple(end): loop.step for end in ends}
            return original(batch, *others)

        monkeypatch.setattr(learner, name, spy)
    run(loop, 2 + 4 * PIECES)
    assert kept["infer"] and kept["validate"]
    assert not set(kept["infer"]) & set(kept["validate"])


def test_without_a_validation_split_training_windows_are_validated_on():
    loop, _ = build(share=0.0)
    metrics = run(loop, 2 + PIECES)[-1][1]
    assert metrics["validation/state"] > 0


@pytest.mark.parametrize(("patience", "steps"), [(None, 5), (1, 3), (2, 5), (3, 5)])
def test_patience(patience, steps, monkeypatch):
    """The first validation is the best: it is 2 steps ago at the next one, 4 at the last."""
    loop, learner = build(kind=CEMRL, patience=patience)

    begun, original = [], learner.validate

    def validate(*batches):
        report = original(*batches)
        begun.append(len(begun))
        learner.stale.fill_(float(len(begun) - 1))
        return report

    monkeypatch.setattr(learner, "validate", validate)
    run(loop, 3)
    count = 0
    while loop.schedule.phase == "infer":
        next(loop)
        count += 1
    assert count == steps


@pytest.mark.parametrize("kind", [TIGR, CEMRL])
@pytest.mark.parametrize("number", [1, 2, 3, 5, 9, 13])
def test_resumed_equals_uninterrupted(kind, number):
    """After any piece: in the middle of the first collection, of inference, of an epoch."""
    options = {"kind": kind, "log_interval": 2, "episodes_at_once": 2, "exact": kind is CEMRL}
    loop, learner = build(seed=5, **options)
    run(loop, number)
    saved = copy.deepcopy((loop.state_dict(), learner.state_dict(), torch.get_rng_state()))
    expected = run(loop, 22)
    again, other = build(seed=6, **options)
    other.load_state_dict(saved[1])
    again.load_state_dict(saved[0])
    torch.set_rng_state(saved[2])
    for (step, metrics), (wanted, values) in zip(run(again, 22), expected, strict=True):
        assert step == wanted and metrics.keys() == values.keys()
        for name in metrics:
            assert name.startswith("perf/") or torch.equal(metrics[name], values[name]), name
    assert_same(other.state_dict(), learner.state_dict())
    assert_same(again.state_dict(), loop.state_dict())
    loop.close(), again.close()


def assert_same(one, two, path=""):
    assert type(one) is type(two), path
    if isinstance(one, dict):
        assert one.keys() == two.keys(), path
        for key in one:
            assert_same(one[key], two[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        for index, parts in enumerate(zip(one, two, strict=True)):
            assert_same(*parts, f"{path}/{index}")
    elif torch.is_tensor(one):
        assert torch.equal(one.nan_to_num(), two.nan_to_num()), path
    else:
        assert one == two, path


def test_a_run_without_its_replay_collects_anew():
    loop, learner = build()
    run(loop, 2 + 3)
    state = {name: part for name, part in loop.state_dict().items() if name != "replay"}
    again, _ = build()
    again.load_state_dict(state)
    tasks = loop.schedule.collector.tasks
    assert again.schedule.collector.initial and len(again.replay) == 0
    run(again, 2)
    assert not again.schedule.collector.initial and again.schedule.collector.tasks == tasks


def test_rehearsal():
    loop, _ = build(transitions=10)
    collect, update = loop.rehearse(3, 3)
    assert collect > 0 and update > 0
    loop.rehearse(3, 3)
    run(loop, 1)
    # two rounds an epoch; at the start two groups of one round
    assert loop.whole(10, 4.0, 1.0) == 10 * (4.0 + 8) + 4.0
    assert "4 tasks" in loop.about


@pytest.mark.parametrize("name", [*SMALL, "transitions", "episodes_at_once", "patience"])
def test_numbers_below_one(name):
    with pytest.raises(ValueError, match=f"WindowSchedule.{name} must be at least 1, got 0"):
        build(**{name: 0})


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="initial_transitions must be at least 0"):
        build(initial_transitions=-1)
    with pytest.raises(ValueError, match=r"holds 29 transitions.*bring 30.*REPLAY_CAPACITY"):
        build(capacity=29)
    with pytest.raises(ValueError, match=r"holds 5 transitions, no two .*REPLAY_CAPACITY"):
        build(capacity=5, transitions=1, initial_transitions=0)
    with pytest.raises(ValueError, match="TIGR does not look for its best encoder; .*PATIENCE"):
        build(patience=3)

    class Other(torch.nn.Linear):
        window, adapt = None, None

    with pytest.raises(ValueError, match="Other .*posterior_schedule.gin"):
        WindowSchedule(SUITE, Other(1, 1), replay=WindowReplay, window=RollingWindow)
