"""Tests of PEARL's schedule; numbers of invariants are those of its specification."""

import copy
import functools

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from buffers.context_replay import ContextReplay
from buffers.task_replay import TaskReplay
from envs.point_robots import PointRobotSuite
from runners.health import HealthWatch
from runners.ledger import Ledger
from runners.meta_off_policy import MetaOffPolicyLoop
from runners.posterior_schedule import PosteriorSchedule

HORIZON = 5
REPLAY = {"capacity": 10_000, "context_capacity": 500, "meta_batch": 2, "batch_size": 4}
SMALL = {
    "tasks_per_iteration": 3,
    "initial_steps": 10,
    "prior_steps": 10,
    "posterior_steps": 15,
    "extra_steps": 10,
    "updates_per_iteration": 4,
}


class Marker(nn.Module):
    """Every latent is another one, and is the action: a transition tells its latent."""

    latent_dim, window = 2, None

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.calls, self.contexts, self.phases = [], [], []

    def prior(self, num_tasks):
        return self._latents("prior", num_tasks)

    def adapt(self, experience, prior):
        self.contexts.append(experience)
        return self._latents("adapt", len(prior))

    def _latents(self, kind, number):
        latent = 2 * torch.rand(number, 2) - 1
        self.calls.append((kind, latent))
        return TensorDict({"latent": latent}, [number])

    def act(self, td, explore):
        assert explore
        return td.set("action", td["latent"].expand(*td["observation"].shape))

    def update(self, batch):
        with torch.no_grad():
            self.weight += batch["transitions"]["next", "reward"].mean() + torch.rand(())
        return {"loss": self.weight.detach().clone(), "health/nonfinite": torch.zeros(())}

    def begin_phase(self, context):
        self.phases.append("begin")
        return {}

    def end_phase(self, context):
        self.phases.append("end")
        return {}


def build(sizes=(4, 2), kind="point-robot", replay=None, learner=None, seed=0, **options):
    suite = PointRobotSuite(kind, sizes=sizes, horizon=HORIZON)
    learner = learner or Marker()
    given = {"context_size": 40, "seed": 3, **REPLAY, **(replay or {})}
    make = functools.partial(ContextReplay, **given)
    schedule = PosteriorSchedule(suite, learner, seed=seed, replay=make, **{**SMALL, **options})
    return schedule, learner, Ledger(HealthWatch(torch.device("cpu")))


def fill(schedule, ledger):
    while min(schedule._filled) < schedule.initial_steps:
        assert not schedule.advance(ledger)


def iterate(schedule, ledger):
    while not schedule.advance(ledger):
        pass


def held(schedule, task, recent):
    """The actions, which are latents, that a task's ring holds, as a set of pairs."""
    rings = schedule.replay._recent if recent else schedule.replay._all
    count = int(rings.held[task])
    rows = rings.block[task * rings.capacity : task * rings.capacity + count]
    return {tuple(row) for row in rows[:, 2:4].tolist()}


def pairs(latents):
    return {tuple(row) for row in latents.tolist()}


def test_invariant_15_contexts_hold_the_last_collection_without_extra_steps(monkeypatch):
    schedule, learner, ledger = build()
    fill(schedule, ledger)
    before = [held(schedule, task, True) for task in range(4)]
    assert before == [held(schedule, task, False) for task in range(4)]
    for draw in ([2, 0, 2], [1, 2, 0]):
        learner.calls.clear()
        stream = type("Stream", (), {"integers": lambda *a, d=draw, **k: torch.tensor(d)})()
        monkeypatch.setattr(schedule, "_stream", stream)
        rows = schedule.replay.rows.clone()
        schedule._collect(ledger)
        # Rounds with the prior, 2 episodes of each place; then prior and 3 adaptations for the
        # posterior steps, prior and 2 for the extra ones, the last of which nothing is run with.
        assert [kind for kind, _ in learner.calls] == [
            *("prior",) * 2,
            *("prior", "adapt", "adapt", "adapt"),
            *("prior", "adapt", "adapt"),
        ]
        latents = [latent for _, latent in learner.calls]
        first = torch.cat(latents[:2]).view(3, 2, 2)  # place, episode
        for task in range(4):
            places = [place for place in range(3) if draw[place] == task]
            if not places:
                assert held(schedule, task, True) == before[task]
                assert schedule.replay.rows[task] == rows[task]
                continue
            extra = {p for place in places for part in latents[6:8] for p in pairs(part[[place]])}
            recent = pairs(first[places[-1]])
            for part in latents[2:5]:
                recent |= pairs(part[[places[-1]]])
            assert held(schedule, task, True) == recent
            assert not held(schedule, task, True) & extra
            assert extra <= held(schedule, task, False)
            assert before[task] <= held(schedule, task, False)
            assert schedule.replay.rows[task] == rows[task] + 35 * len(places)
            assert schedule.replay.context_rows[task] == 25
        before = [held(schedule, task, True) for task in range(4)]


def test_contexts_of_adaptations_are_of_the_same_place_and_never_of_extra_steps():
    schedule, learner, ledger = build(sizes=(2, 2))  # three places of two tasks: some task twice
    fill(schedule, ledger)
    learner.calls.clear()
    schedule._collect(ledger)
    latents = [latent for _, latent in learner.calls]
    first = torch.cat(latents[:2]).view(3, 2, 2)
    assert len(learner.contexts) == 5 and learner.contexts[0].shape == (3, 40)
    for number, contexts in enumerate(learner.contexts):
        for place in range(3):
            allowed = pairs(first[place])
            for part in latents[2 : 3 + min(number, 2)]:
                allowed |= pairs(part[[place]])
            shown = pairs(contexts["action"][place])
            assert shown <= allowed
            if number in (0, 4):  # 40 draws of 3 and 5 episodes: all of them, all but surely
                assert shown == allowed


@pytest.mark.parametrize("carry", [False, True])
def test_the_first_episode_of_a_posterior_has_a_latent_of_the_prior_unless_carried(carry):
    schedule, learner, ledger = build(carry_posterior=carry)
    fill(schedule, ledger)
    learner.calls.clear()
    schedule._collect(ledger)
    kinds = [kind for kind, _ in learner.calls][2:]
    expected = ["prior", *("adapt",) * (4 if carry else 3)]
    assert kinds == [*expected, "prior", *("adapt",) * (3 if carry else 2)]
    run = learner.calls[3 if carry else 2]  # what the first posterior episode was run with
    assert run[0] == ("adapt" if carry else "prior")
    task_actions = set().union(*(held(schedule, task, False) for task in range(4)))
    assert pairs(run[1]) <= task_actions


# Columns of the table of configurations: tasks, drawn, and a fraction of the steps: initial, prior,
# posterior, extra; then the steps after the first iteration, and of each later one.
ROWS = {
    "cheetah-velocity": (100, 5, 50, 10, 0, 15, 5_125, 125),  # of 205,000 and 5,000
    "cheetah-direction": (2, 5, 50, 25, 0, 25, 350, 250),  # of 14,000 and 10,000
    "point-robot": (8, 5, 10, 10, 0, 10, 180, 100),
    "sparse-point-robot": (8, 10, 10, 5, 45, 0, 580, 500),
}


@pytest.mark.parametrize("name", ROWS)
def test_invariant_16_step_counts(name):
    tasks, drawn, initial, prior, posterior, extra, first, later = ROWS[name]
    schedule, learner, ledger = build(
        sizes=(tasks, 2),
        tasks_per_iteration=drawn,
        initial_steps=initial,
        prior_steps=prior,
        posterior_steps=posterior,
        extra_steps=extra,
        updates_per_iteration=1,
        replay={"capacity": 100_000},
    )
    for number in range(3):
        iterate(schedule, ledger)
        assert ledger.counts["env_steps"] == first + number * later
        assert int(schedule.replay.rows.sum()) == ledger.counts["env_steps"]
        assert ledger.counts["updates"] == number + 1
    assert learner.phases == ["begin", "end"] * 3


def test_invariant_18_contexts_show_the_sparse_reward_and_updates_the_dense():
    schedule, learner, ledger = build(kind="point-robot-sparse", replay={"sparse_context": True})
    iterate(schedule, ledger)
    batch = schedule.replay.sample(torch.arange(4))
    dense = batch["transitions"]["next", "reward"]
    assert (dense < 0).all()
    goals = torch.tensor([schedule.suite.specification(task).tolist() for task in schedule.tasks])
    for context, where in ((batch["context"], goals), *((c, None) for c in learner.contexts)):
        reward = context["next", "reward"]
        assert (reward >= 0).all()
        if where is not None:
            distance = (context["next", "observation"] - where[:, None]).norm(dim=-1, keepdim=True)
            outside = distance > 0.2
            assert outside.any() and (reward[outside] == 0).all()
            assert not torch.isclose(-distance, reward).any()


class Brief:
    """Episodes of random length in place of those of environments."""

    def __init__(self, rollouts):
        self.num_tasks, self.calls, self.faults = rollouts.num_tasks, 0, {}
        self.lengths = torch.Generator().manual_seed(0)

    def collect(self, learner, tasks, latent):
        self.calls += 1
        n, shape = len(tasks), (len(tasks), 1, HORIZON)
        length = torch.randint(1, HORIZON + 1, (n, 1, 1), generator=self.lengths)
        following = {
            "observation": torch.zeros(*shape, 2),
            "reward": torch.zeros(*shape, 1),
            "success": torch.zeros(*shape, 1, dtype=torch.bool),
            "terminated": torch.zeros(*shape, 1, dtype=torch.bool),
        }
        fields = {
            "observation": torch.zeros(*shape, 2),
            "action": latent[:, None, None].expand(*shape, 2).clone(),
            "mask": torch.arange(HORIZON) < length,
            "next": TensorDict(following, shape),
        }
        return TensorDict(fields, shape)


def test_short_episodes_are_more_and_surplus_ones_are_neither_kept_nor_counted():
    schedule, _, ledger = build()
    schedule.collector.rollouts = Brief(schedule.collector.rollouts)
    fill(schedule, ledger)
    assert int(schedule.replay.rows.sum()) == ledger.counts["env_steps"]
    assert all(10 <= steps < 10 + HORIZON for steps in schedule._filled)
    assert schedule.replay.rows.tolist() == schedule._filled
    before = schedule.replay.rows.clone()
    numbers = schedule._collect(ledger)
    assert int(schedule.replay.rows.sum()) == ledger.counts["env_steps"]
    for task in set(numbers):
        new = int(schedule.replay.rows[task] - before[task])
        assert 35 * numbers.count(task) <= new < (35 + 3 * HORIZON) * numbers.count(task)
        assert 25 <= schedule.replay.context_rows[task] < 25 + 2 * HORIZON


def make_loop(learner, seed=5):
    suite = PointRobotSuite("point-robot-sparse", sizes=(4, 2), horizon=HORIZON)
    replay = functools.partial(ContextReplay, **REPLAY, seed=1, sparse_context=True)
    schedule = functools.partial(PosteriorSchedule, replay=replay, **SMALL)
    return MetaOffPolicyLoop(suite, learner, seed=seed, schedule=schedule)


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def timeless(metrics):
    return {name: float(v) for name, v in metrics.items() if not name.startswith("perf/")}


@pytest.mark.parametrize("pieces", [1, 3, 4, 5, 9])
def test_resumed_equals_uninterrupted(pieces):
    """Within the first collection, before an iteration's, and among its updates."""
    torch.manual_seed(3)
    learner = Marker()
    loop = make_loop(learner)
    for _ in range(pieces):
        next(loop)
    saved = copy.deepcopy((loop.state_dict(), learner.state_dict(), torch.get_rng_state()))
    expected = [next(loop) for _ in range(8)]
    other = Marker()
    again = make_loop(other, seed=6)  # everything that the seed decides is restored
    again.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    torch.set_rng_state(saved[2])
    resumed = [next(again) for _ in range(8)]
    for (step, metrics), (wanted, values) in zip(resumed, expected, strict=True):
        assert step == wanted and timeless(metrics) == timeless(values)
    assert same(loop.state_dict(), again.state_dict())
    assert torch.equal(learner.weight, other.weight)
    loop.close(), again.close()


def test_without_a_replay_the_start_is_collected_again():
    loop = make_loop(Marker())
    while loop.step < 1:
        next(loop)
    state = {name: part for name, part in loop.state_dict().items() if name != "replay"}
    again = make_loop(Marker())
    again.load_state_dict(state)
    assert not again.pending and not again.replay.rows.any()
    while again.step < 2:
        next(again)
    assert (again.replay.rows >= 10).all()


def test_the_seed_decides_tasks_and_environments():
    firsts = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        schedule, _, ledger = build(seed=seed)
        fill(schedule, ledger)
        numbers = [schedule._collect(ledger) for _ in range(3)]
        firsts.append((numbers, schedule.replay._all.state_dict()["rows"]))
    assert firsts[0][0] == firsts[1][0] and torch.equal(firsts[0][1], firsts[1][1])
    assert firsts[0][0] != firsts[2][0] and not torch.equal(firsts[0][1][:8], firsts[2][1][:8])


def test_metrics_tell_prior_from_posterior():
    schedule, _, ledger = build()
    iterate(schedule, ledger)
    metrics = ledger.read({})
    for when in ("prior", "posterior"):
        assert metrics[f"train/return_{when}"] < 0
        assert metrics[f"train/episode_length_{when}"] == HORIZON


def test_rehearsal():
    schedule, _, ledger = build()
    collection, update = schedule.rehearse(ledger, 2)
    assert collection > 0 and update > 0
    # 4 tasks of 10 steps at the start are 40 / 105 of an iteration's collection.
    assert schedule.whole(10, 3.0, 0.5) == pytest.approx((10 + 40 / 105) * 3.0 + 10 * 4 * 0.5)
    assert "10 steps of each of 4 tasks" in schedule.about


class Plain(nn.Module):
    pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks_per_iteration": 0}, r"tasks_per_iteration must be at least 1, got 0"),
        ({"initial_steps": 0}, r"initial_steps must be at least 1, got 0"),
        ({"extra_steps": -1}, r"extra_steps must be at least 0, got -1"),
        ({"updates_per_iteration": 0}, r"updates_per_iteration must be at least 1, got 0"),
        ({"prior_steps": 0, "posterior_steps": 0}, r"prior_steps and posterior_steps are 0"),
        ({"learner": Plain()}, r"PosteriorSchedule: Plain .*gin/runners/off_policy\.gin"),
        ({"replay": {"capacity": 40}}, r"ContextReplay\.capacity holds 10 .*set it to 56"),
        ({"replay": {"context_capacity": 32}}, r"context_capacity holds 32 .*set it to 33"),
        ({"replay": {"sparse_context": True}}, r"sparse_context is True.*no sparse reward"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_a_learner_with_a_window_and_another_replay_are_refused():
    learner = Marker()
    learner.window = 16
    with pytest.raises(ValueError, match=r"Marker .*last 16; use gin/runners/window_schedule\.gin"):
        build(learner=learner)
    suite = PointRobotSuite(sizes=(4, 2))
    replay = functools.partial(TaskReplay, capacity=400, batch_size=8)
    with pytest.raises(ValueError, match=r"TaskReplay keeps no contexts.*@ContextReplay"):
        PosteriorSchedule(suite, Marker(), replay=replay)
