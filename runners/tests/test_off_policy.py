"""The loop's state machine against small fakes: counts, order of calls, exact resume."""

import copy
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from runners.health import CHECK_EVERY, MAX_NONFINITE, DivergenceError
from runners.off_policy import OffPolicyLoop
from runners.reward_scaler import RewardScaler

SPEC = SimpleNamespace(observation_dim=3, action_dim=2, num_tasks=2, horizon=4)


class Vector:
    """Two counters; an episode is four steps, and succeeds in task 1."""

    def __init__(self):
        self.num_envs, self.t, self.closed = 2, 0, False
        self.tasks = [SimpleNamespace(name="zero"), SimpleNamespace(name="one")]
        self.faults = {"worker_restarts": 0}

    def reset(self):
        return self.current()

    def current(self):
        observation = torch.full((2, 3), float(self.t))
        return TensorDict({"observation": observation, "task_id": torch.arange(2)}, [2])

    def step(self, td):
        self.t += 1
        done = torch.full((2, 1), self.t % 4 == 0)
        td["next"] = TensorDict(
            {
                "observation": torch.full((2, 3), float(self.t)),
                "reward": td["action"].sum(1, keepdim=True),
                "terminated": torch.zeros(2, 1, dtype=torch.bool),
                "truncated": done,
                "done": done,
                "success": done & torch.tensor([[False], [True]]),
                "valid": torch.ones(2, 1, dtype=torch.bool),
            },
            [2],
        )
        return td

    def state_dict(self):
        return {"t": self.t}

    def load_state_dict(self, state):
        self.t = state["t"]

    def close(self):
        self.closed = True


class Suite:
    spec = SPEC

    def vector(self, seed, purpose):
        assert purpose == "train"
        self.built = Vector()
        return self.built


class Replay:
    def __init__(self, *sizes):
        self.rows, self.rewards = [], []

    def extend(self, td):
        self.rows.append(td["action"].clone())
        self.rewards.append(td["next", "reward"].clone())

    def sample(self):
        return TensorDict({"action": torch.stack(self.rows[-2:], 1)}, [2, 2])

    def state_dict(self):
        return {"rows": list(self.rows)}

    def load_state_dict(self, state):
        self.rows = list(state["rows"])


class Trajectories:
    def __init__(self, observation_dim, num_tasks, horizon):
        assert (observation_dim, num_tasks, horizon) == (3, 2, 4)
        self.count = 0

    def extend(self, td):
        self.count += 1

    def context(self):
        return TensorDict({"observation": torch.full((2, 5), float(self.count))}, [2, 5])

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Learner(nn.Module):
    def __init__(self, refuse=False, losses=()):
        super().__init__()
        self.losses = iter(losses)
        self.weight = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.calls, self.refuse = [], refuse

    def check_trajectories(self, kept):
        self.kept = kept

    def act(self, td, explore):
        assert explore
        return td.set("action", torch.randn(2, 2) * 0.1 + self.weight)

    def observe(self, td):
        self.calls.append("observe")

    def begin_phase(self, context):
        self.calls.append("begin")
        return {}

    def update(self, batch):
        self.calls.append("update")
        self.weight += 0.01 * batch["action"].mean((0, 1))
        if "context" in batch.keys():
            self.weight += 1e-3 * batch["context"]["observation"].mean()
        metrics = {"loss": self.weight.sum(), "health/nonfinite": torch.tensor(float(self.refuse))}
        loss = next(self.losses, None)
        return metrics if loss is None else {**metrics, "loss/critic": torch.tensor(loss)}

    def end_phase(self, context):
        self.calls.append("end")
        return {}


def make(learner=None, **options):
    options = {"replay": Replay, "warmup_steps": 3, "log_interval": 10, **options}
    return OffPolicyLoop(Suite(), learner or Learner(), **options)


def word(calls):
    return "".join({"observe": "o", "begin": "(", "update": "u", "end": ")"}[c] for c in calls)


def run(loop, yields):
    return [next(loop) for _ in range(yields)]


def test_one_update_per_step():
    loop = make()
    run(loop, 9)
    assert word(loop.learner.calls) == "ooo" + 3 * "o(u)"


def test_half_an_update_per_step_comes_every_second_step():
    loop = make(updates_per_step=0.5)
    run(loop, 9)
    assert word(loop.learner.calls) == "ooo" + 2 * "oo(u)"


@pytest.mark.parametrize("ratio", [0.1, 0.3, 1 / 3, 0.7, 1.5])
@pytest.mark.parametrize("each", [1, 4])
def test_fractional_ratios_add_up_exactly(ratio, each):
    loop = make(updates_per_step=ratio, steps_per_iteration=each)
    while loop.step < 2 * (3 + 300) or loop.pending:
        next(loop)
    assert abs(loop.updates - ratio * 300) < 1e-6


@pytest.mark.parametrize("each", [1, 2, 5])
def test_catching_up_makes_the_warm_ups_updates_at_its_end(each):
    loop = make(catch_up=True, steps_per_iteration=each, updates_per_step=1.5, warmup_steps=3)
    while loop.step < 2 * (3 + 2 * each) or loop.pending:
        next(loop)
    first = (9 + 3 * each) // 2 - 4
    second = (9 + 6 * each) // 2 - 4 - first
    expected = "ooo(uuuu)" + each * "o" + f"({first * 'u'})" + each * "o" + f"({second * 'u'})"
    assert word(loop.learner.calls) == expected


def test_invariant_17_updates_are_steps_minus_one_and_begin_with_a_burst():
    """PTSL: the first update at vector step 1500, 1500 of them there, then one for each step."""
    loop = make(catch_up=True, warmup_steps=1500)
    while loop.counts["steps"] < 1600:  # the reference stops with its last step
        next(loop)
    assert loop.updates == 1600 - 1
    calls = word(loop.learner.calls)
    assert calls.index("u") == 1500 + len("(")
    assert calls == 1500 * "o" + f"({1500 * 'u'})" + 99 * "o(u)" + "o"


def test_catching_up_after_a_restart_without_replay_goes_on_with_the_phase():
    """It warms up again, and the updates for that come on top of those that were left."""
    one = make(catch_up=True, warmup_steps=4)
    run(one, 6)
    state = one.state_dict()
    del state["replay"]
    other = make(catch_up=True, warmup_steps=4)
    other.load_state_dict(state)
    run(other, 4 + 6 + 2)
    assert word(other.learner.calls) == "oooo" + "uuuuuu)" + "o(u)"
    assert other.updates == other.counts["steps"] == 9


def test_stored_rewards_are_scaled_and_reported_ones_are_not():
    raw, scaled = (make(reward_scaler=choice) for choice in (None, RewardScaler))
    for loop in (raw, scaled):
        torch.manual_seed(0)
        while loop.step < 40:
            _, loop.report = next(loop)
    assert scaled.report["train/return"] == raw.report["train/return"]
    plain = RewardScaler(2)
    valid = torch.ones(2, 1, dtype=torch.bool)
    for got, reward in zip(scaled.replay.rewards, raw.replay.rewards, strict=True):
        assert torch.equal(got, plain(reward, valid))
    assert "reward_scale" not in raw.report
    assert torch.equal(scaled.report["reward_scale"], plain.scale)


class Mixing(Replay):
    """A replay whose batches mix the tasks."""

    stratified = False


def test_mixed_batches_are_refused_where_rows_go_by_task():
    learner = Learner()
    learner.grouped = False
    assert make(learner, replay=Mixing).replay.stratified is False
    with pytest.raises(ValueError, match="trajectories needs .* TaskReplay.stratified is False"):
        make(learner, replay=Mixing, trajectories=Trajectories)
    learner.grouped = True
    with pytest.raises(ValueError, match="Learner needs .* TaskReplay.stratified is False"):
        make(learner, replay=Mixing)
    make(learner, trajectories=Trajectories)


def test_phases_surround_the_updates_of_an_iteration():
    loop = make(steps_per_iteration=2, updates_per_step=1.5)
    run(loop, 3 + 2 * 5)
    assert word(loop.learner.calls) == "ooo" + 2 * "oo(uuu)"


def test_step_counts_all_environments():
    loop = make()
    assert [step for step, _ in run(loop, 5)] == [2, 4, 6, 8, 8]


def test_metrics_once_per_interval():
    loop = make(log_interval=10)
    reported = {step: metrics for step, metrics in run(loop, 40) if metrics}
    assert list(reported) == [10, 20, 30, 40]
    metrics = reported[20]
    assert {"loss", "updates", "step_per_task", "perf/env_steps_per_s"} <= metrics.keys()
    assert metrics["train/success"] == 0.5
    assert metrics["train/success/one"] == 1 and metrics["train/success/zero"] == 0
    assert metrics["train/episode_length"] == 4


def test_no_environment_before_the_first_step():
    loop = make()
    assert not hasattr(loop.suite, "built")
    next(loop)
    assert loop.suite.built is not None
    loop.close()
    assert loop.suite.built.closed


@pytest.mark.parametrize("stop", range(1, 24))
@pytest.mark.parametrize(
    "more", [{}, {"catch_up": True, "warmup_steps": 6, "reward_scaler": RewardScaler}]
)
def test_state_is_exact_at_every_yield(stop, more):
    options = {"steps_per_iteration": 2, "updates_per_step": 1.5, "trajectories": Trajectories}
    options |= more
    torch.manual_seed(0)
    one = make(**options)
    run(one, stop)
    state, weights = copy.deepcopy(one.state_dict()), copy.deepcopy(one.learner.state_dict())
    random = torch.get_rng_state()
    expected = run(one, 30)
    other = make(**options)
    other.learner.load_state_dict(weights)
    other.load_state_dict(state)
    torch.set_rng_state(random)
    for (step_1, metrics_1), (step_2, metrics_2) in zip(expected, run(other, 30), strict=True):
        assert step_1 == step_2 and metrics_1.keys() == metrics_2.keys()
        for name, value in metrics_1.items():
            assert name.startswith("perf/") or torch.equal(value, metrics_2[name]), name
    assert torch.equal(one.learner.weight, other.learner.weight)
    since = one.replay.rewards[-len(other.replay.rewards) :]
    assert all(torch.equal(*pair) for pair in zip(since, other.replay.rewards, strict=True))


def test_without_its_replay_a_restored_loop_warms_up_again():
    one = make()
    run(one, 10)
    state = one.state_dict()
    del state["replay"]
    other = make()
    other.load_state_dict(state)
    run(other, 4)
    assert word(other.learner.calls)[:3] == "ooo"


def test_uniform_warmup_asks_no_policy():
    loop = make(warmup="uniform")
    loop.learner.act = None
    run(loop, 3)
    actions = torch.stack(loop.replay.rows)
    assert actions.abs().max() <= 1 and actions.std() > 0.3


@pytest.mark.parametrize("catch_up", [False, True])
@pytest.mark.parametrize("warmup", [2, 7])
@pytest.mark.parametrize("per_step", [0.15, 1.0, 2.5])
@pytest.mark.parametrize("per_iteration", [1, 4])
def test_when_the_first_update_comes_and_how_many(catch_up, warmup, per_step, per_iteration):
    sizes = {"updates_per_step": per_step, "steps_per_iteration": per_iteration}
    loop = make(catch_up=catch_up, warmup_steps=warmup, **sizes)
    while not loop.pending:
        next(loop)
    assert loop.step == loop.first_update
    while loop.counts["steps"] < 39 + warmup or loop.pending:
        next(loop)
    behind = loop.whole(loop.step, 0.0, 1.0) - loop.updates
    assert -1e-9 < behind < 1 + per_step * (per_iteration - 1)  # a part; an iteration not yet over


def test_refused_updates_in_a_row_stop_the_run():
    loop = make(Learner(refuse=True))
    with pytest.raises(DivergenceError, match="not finite in"):
        run(loop, 3 + 2 * (MAX_NONFINITE + CHECK_EVERY))
    assert MAX_NONFINITE <= loop.updates < MAX_NONFINITE + CHECK_EVERY


def test_a_critic_that_diverges_stops_the_run():
    losses = [1.0, float("nan"), 10.0, 11.0, *[0.0] * 200]
    steps = 3 + 2 * CHECK_EVERY
    run(make(Learner(losses=losses)), steps)
    run(make(Learner(losses=losses), max_critic_loss=11.5), steps)
    half = make(Learner(losses=losses), max_critic_loss=10.5)
    run(half, 20)
    again = make(Learner(losses=[0.0] * 200), max_critic_loss=10.5)
    again.load_state_dict(copy.deepcopy(half.state_dict()))
    for loop in (half, again):
        with pytest.raises(DivergenceError, match=r"reached 11 by.*max_critic_loss = 10\.5; lower"):
            run(loop, steps)
        assert loop.updates == CHECK_EVERY
    with pytest.raises(ValueError, match="logs no loss/critic"):
        run(make(max_critic_loss=1.0), 10)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_critic_loss": 0.0},
        {"max_critic_loss": float("inf")},
        {"steps_per_iteration": 0},
        {"warmup_steps": 0},
        {"updates_per_step": 0.0},
        {"updates_per_step": float("nan")},
        {"updates_per_step": 1e-7},
        {"log_interval": 0},
        {"warmup": "random"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_values_out_of_range(wrong):
    with pytest.raises(ValueError, match=f"OffPolicyLoop.{next(iter(wrong))}"):
        make(**wrong)
